"""The HTTP service: routes, and errors as answers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mfnet_runtime.console import parse_bands
from mfnet_runtime.errors import MFNetError, ModelError, ResourceError, UsageError
from mfnet_runtime.raster.limits import keep_gdal_local
from mfnet_runtime.run.model import Model
from mfnet_runtime.run.options import VectorOptions
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.serve.gate import Gate, Intake, error_response
from mfnet_runtime.serve.kserve import add_kserve_routes
from mfnet_runtime.serve.options import ServeOptions
from mfnet_runtime.serve.upload import MEDIA_TYPES, Format, Upload, segment_upload
from mfnet_runtime.serve.worker import Worker
from mfnet_runtime.version import installed_version

logger = logging.getLogger(__name__)

DEFAULTS = ServeOptions()
PAGE = Path(__file__).with_name("page.html")
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; form-action 'none'; frame-ancestors 'none'"
)
Pair = Annotated[list[float] | None, Field(min_length=2, max_length=2)]


class SegmentQuery(BaseModel):
    """Parameters of a request, named and meant as the options of `mfnet-run`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    format: Format | None = Field(None, description="Of the answer; by default from Accept.")
    align: bool = Field(False, description="Warp a DSM on another grid to the image's grid.")
    bands: str | None = Field(None, description="Image bands to use, for example 1,2,3.")
    ignore_alpha: bool = Field(False, description="Treat the alpha band as data.")
    dsm_band: int | None = Field(None, ge=1, description="Band with the heights.")
    image_range: Pair = Field(None, description="Pixel values scaled to 0 and the full scale.")
    image_percentiles: Pair = Field(None, description="The same by percentiles of the scene.")
    nodata_image: float | None = Field(None, description="Pixel value without data.")
    nodata_dsm: float | None = Field(None, description="Height without data.")
    sieve: int | None = Field(
        None, ge=0, le=1 << 30, description="For GeoJSON: smallest patch, px."
    )
    min_area: float | None = Field(None, ge=0, description="For GeoJSON: smallest polygon, m2.")
    simplify: float | None = Field(None, ge=0, description="For GeoJSON: tolerance in metres.")

    def read_options(self, max_pixels: int) -> ReadOptions:
        """Return how to read the upload; GeoTIFF only."""
        return ReadOptions(
            bands=parse_bands(self.bands) if self.bands else None,
            ignore_alpha=self.ignore_alpha,
            align=self.align,
            image_range=_pair(self.image_range),
            image_percentiles=_pair(self.image_percentiles),
            nodata_image=self.nodata_image,
            nodata_dsm=self.nodata_dsm,
            allow_driver=(),
            max_pixels=max_pixels,
        )


def create_app(model: Model, options: ServeOptions = DEFAULTS) -> FastAPI:
    """Return the service of a model.

    GDAL is kept from the network in this process, as by the commands.

    Args:
        model: Loaded; the caller closes it after the service has ended.
        options: Limits.

    Returns:
        An ASGI application; `app.state.intake` counts its requests.
    """
    keep_gdal_local()
    intake = Intake(options)
    worker = Worker(intake.metrics.windows.inc)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()

    app = FastAPI(
        title=f"mfnet: {model.path.name}",
        version=installed_version("mfnet"),
        lifespan=lifespan,
        description="Class maps of an image and its digital surface model (DSM).",
    )
    app.state.intake = intake
    app.add_middleware(Gate, intake=intake)
    _add_error_handlers(app)
    add_kserve_routes(app, model, worker, intake)

    @app.post(
        "/segment", response_class=Response, responses=_RESPONSES, openapi_extra=_REQUEST_BODY
    )
    async def segment(
        request: Request,
        query: Annotated[SegmentQuery, Query()],
        accept: Annotated[str, Header()] = "",
    ) -> Response:
        """Segment a GeoTIFF and its DSM; answers a GeoTIFF, GeoJSON, or JSON with previews."""
        format = query.format or _format_from(accept)
        read = query.read_options(options.max_pixels)
        kind: Literal["geojson"] | None = "geojson" if format == "geojson" else None
        vectors = VectorOptions(kind, query.sieve, query.min_area, query.simplify)
        # parsed here, not by FastAPI, so that a form has no more parts than are used: each part may
        # hold a megabyte of memory
        async with request.form(max_files=2, max_fields=0) as form:
            image, dsm = (form.get(name) for name in ("image", "dsm"))
            if not isinstance(image, UploadFile):
                raise UsageError("image: expected a file of this name in a multipart form")
            file = dsm.file if isinstance(dsm, UploadFile) else None
            upload = Upload(image.file, file, query.dsm_band, read, format, vectors)
            body = await worker.run(
                lambda tick: segment_upload(model, upload, options.segment, tick)
            )
        name = {"Content-Disposition": f'attachment; filename="classes.{format}"'}
        return Response(body, media_type=MEDIA_TYPES[format], headers=name)

    @app.get("/health")
    async def health() -> JSONResponse:
        """Answer 200 if the service takes requests, 503 while it shuts down."""
        status = "draining" if intake.draining else "ready"
        facts = {"status": status, "model": model.path.name, "device": model.device}
        return JSONResponse(facts, 503 if intake.draining else 200)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        text = generate_latest(intake.metrics.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        headers = {"Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=headers)

    return app


_FILE = {"type": "string", "format": "binary"}
_REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": _FILE, "dsm": _FILE},
                    "required": ["image"],
                }
            }
        },
    }
}
_RESPONSES: dict[int | str, dict[str, object]] = {
    200: {"content": {media.partition(";")[0]: {} for media in MEDIA_TYPES.values()}},
    **{
        status: {"description": text}
        for status, text in {
            400: "Malformed request",
            413: "Too large",
            422: "Rasters or parameters that do not fit, with the sentence of mfnet-run",
            429: "Too many requests",
            503: "Shutting down, or out of disk or memory",
            504: "Not done in time",
        }.items()
    },
}


def _pair(given: list[float] | None) -> tuple[float, float] | None:
    return (given[0], given[1]) if given else None


def _format_from(accept: str) -> Format:
    """Choose the first format that a client names."""
    for part in accept.split(","):
        for format, media in MEDIA_TYPES.items():
            if part.partition(";")[0].strip() == media.partition(";")[0]:
                return format
    return "tif"


def _add_error_handlers(app: FastAPI) -> None:
    """Answer each error with one sentence."""

    @app.exception_handler(MFNetError)
    async def refused(request: Request, fault: MFNetError) -> JSONResponse:
        status = {ResourceError: 503, ModelError: 500}
        found = (code for kind, code in status.items() if isinstance(fault, kind))
        return error_response(next(found, 422), str(fault))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, fault: HTTPException) -> JSONResponse:
        return error_response(fault.status_code, str(fault.detail), dict(fault.headers or {}))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, fault: ClientDisconnect) -> JSONResponse:
        return error_response(400, "the upload is incomplete")  # nobody reads it

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, fault: RequestValidationError) -> JSONResponse:
        first = fault.errors()[0]
        return error_response(422, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")

    @app.exception_handler(Exception)
    async def bug(request: Request, fault: Exception) -> JSONResponse:
        logger.error("bug: %r", fault, exc_info=fault)
        return error_response(500, "bug; the log of the service has the details")
