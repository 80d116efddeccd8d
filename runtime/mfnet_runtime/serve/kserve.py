"""Routes of the KServe v2 inference protocol: arrays in, classes out.

Tensors are JSON, or bytes after the JSON (the extension `binary_tensor_data`), which Triton's
clients use by default.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from mfnet_runtime.errors import UsageError
from mfnet_runtime.run.model import Model
from mfnet_runtime.serve.gate import Intake
from mfnet_runtime.serve.worker import Worker
from mfnet_runtime.tiling.options import SegmentOptions
from mfnet_runtime.tiling.pipeline import Tick
from mfnet_runtime.version import installed_version

MAX_BODY = 256 << 20  # bytes; unlike an uploaded file, all of it is held in memory
MAX_JSON = 16 << 20  # bytes; parsed numbers take ten times as much
HEADER = "Inference-Header-Content-Length"
TYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
Array = npt.NDArray[Any]


def add_kserve_routes(app: FastAPI, model: Model, worker: Worker, intake: Intake) -> None:
    """Add `/v2` and what is below it."""
    name, options = model.path.stem, intake.options

    def require_model(asked: str) -> None:
        if asked != name:
            raise HTTPException(404, f"no model named {asked!r:.80}; there is {name!r}")

    @app.get("/v2")
    async def server() -> dict[str, Any]:
        """Describe the server."""
        version = installed_version("mfnet")
        return {"name": "mfnet", "version": version, "extensions": ["binary_tensor_data"]}

    @app.get("/v2/health/live")
    async def live() -> Response:
        """Answer 200."""
        return Response()

    @app.get("/v2/health/ready")
    async def ready() -> Response:
        """Answer as `/health`."""
        return Response(status_code=503 if intake.draining else 200)

    @app.get("/v2/models/{asked}/ready")
    async def model_ready(asked: str) -> Response:
        """Answer as `/health`."""
        require_model(asked)
        return await ready()

    @app.get("/v2/models/{asked}")
    async def metadata(asked: str) -> dict[str, Any]:
        """Describe the tensors."""
        require_model(asked)
        return describe(model, name)

    @app.post("/v2/models/{asked}/infer", response_class=Response)
    async def infer(asked: str, request: Request) -> Response:
        """Segment an image and its DSM, given as tensors."""
        require_model(asked)
        body = await _body(request)
        given = request.headers.get(HEADER)
        head, tail = await worker.run(
            lambda tick: answer(model, name, body, given, options.max_pixels, options.segment, tick)
        )
        if not tail:
            return Response(head, media_type="application/json")
        return Response(head + tail, headers={HEADER: str(len(head))})


def describe(model: Model, name: str) -> dict[str, Any]:
    """Return the metadata of the model; sizes of -1 are free."""
    classes = len(model.classes)
    return {
        "name": name,
        "versions": ["1"],
        "platform": "mfnet",
        "inputs": [
            {"name": "image", "datatype": "FP32", "shape": [3, -1, -1]},
            {"name": "dsm", "datatype": "FP32", "shape": [-1, -1]},
        ],
        "outputs": [
            {"name": "classes", "datatype": "UINT8", "shape": [-1, -1]},
            {"name": "probabilities", "datatype": "UINT8", "shape": [classes, -1, -1]},
        ],
    }


def answer(
    model: Model,
    name: str,
    body: bytes,
    given: str | None,
    max_pixels: int,
    options: SegmentOptions,
    tick: Tick,
) -> tuple[bytes, bytes]:
    """Return the JSON of an answer, and the tensors that are bytes.

    Args:
        model: The network.
        name: Of the model.
        body: Of the request.
        given: Length of its JSON; None: all of it.
        max_pixels: Larger images are refused.
        options: How to segment.
        tick: Called with the number of windows just done; may raise.

    Raises:
        UsageError: The request is malformed, or its tensors do not fit the model.
        ModelError: The network returned NaN.
    """
    tick(0)
    request, rest = _parse(body, given)
    inputs = _tensors(request.get("inputs"), rest)
    if not {"image", "dsm"} <= inputs.keys() <= {"image", "dsm", "valid"}:
        names = ", ".join(inputs) or "none"
        raise UsageError(f"inputs are {names:.200}; expected image, dsm and optionally valid")
    if inputs["dsm"].size > max_pixels:
        shape = inputs["dsm"].shape
        raise UsageError(f"dsm has the shape {shape}, more than {max_pixels} px (--max-pixels)")
    wanted, default = _wanted(request)
    both = "probabilities" in wanted
    found = model.predict(
        inputs["image"],
        inputs["dsm"],
        valid=inputs.get("valid"),
        probabilities=both,
        options=options,
        tick=tick,
    )
    arrays = dict(zip(("classes", "probabilities"), found if both else (found,), strict=False))
    outputs, tail = [], b""
    for output, binary in wanted.items():
        array = arrays[output]
        described = {"name": output, "datatype": "UINT8", "shape": list(array.shape)}
        if binary if binary is not None else default:
            outputs.append({**described, "parameters": {"binary_data_size": array.nbytes}})
            tail += array.tobytes()
        else:
            outputs.append({**described, "data": array.ravel().tolist()})
    said = {"id": request["id"]} if isinstance(request.get("id"), str) else {}
    head = {**said, "model_name": name, "model_version": "1", "outputs": outputs}
    return json.dumps(head).encode(), tail


async def _body(request: Request) -> bytes:
    """Read a body of bounded size."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise HTTPException(
                413, f"tensors of more than {MAX_BODY >> 20} MiB; send files to /segment"
            )
    return bytes(body)


def _parse(body: bytes, given: str | None) -> tuple[dict[str, Any], memoryview]:
    """Split a body into its JSON and the bytes behind it."""
    length = len(body) if given is None else int(given) if given.isdecimal() else -1
    if not 0 <= length <= len(body):
        raise UsageError(f"{HEADER} is {given!r:.40}; the body has {len(body)} bytes")
    if length > MAX_JSON:
        raise UsageError(
            f"{length} bytes of JSON; at most {MAX_JSON >> 20} MiB are read; send tensors as bytes "
            "(binary_data_size), or files to /segment"
        )
    try:
        request = json.loads(body[:length])
    except (ValueError, RecursionError) as fault:
        raise UsageError(f"the request is not JSON ({fault})") from fault
    if not isinstance(request, dict):
        raise UsageError("the request is not a JSON object")
    return request, memoryview(body)[length:]


def _tensors(inputs: Any, rest: memoryview) -> dict[str, Array]:
    """Return the arrays of a request."""
    found = {}
    for tensor in inputs if isinstance(inputs, list) else []:
        if not isinstance(tensor, dict):
            raise UsageError("an input is not a JSON object")
        shape: Any = tensor.get("shape")
        name, kind = tensor.get("name"), tensor.get("datatype")
        if not isinstance(name, str) or kind not in TYPES or not _is_shape(shape):
            raise UsageError(
                f"input {name!r:.40} of datatype {kind!r:.20} and shape {shape!r:.80}: expected a "
                f"name, a shape and one of {', '.join(TYPES)}"
            )
        count, dtype = math.prod(shape), np.dtype(TYPES[kind])
        size = _parameters(tensor).get("binary_data_size")
        if size is None:
            flat = _from_numbers(name, tensor.get("data"), dtype)
        else:
            if size != count * dtype.itemsize or size > len(rest):
                raise UsageError(
                    f"input {name}: binary_data_size is {size!r:.40}, {len(rest)} bytes are left; "
                    f"{kind} of shape {shape} takes {count * dtype.itemsize}"
                )
            flat, rest = np.frombuffer(rest[:size], dtype.newbyteorder("<")), rest[size:]
        if flat.size != count:
            raise UsageError(f"input {name}: {flat.size} values for the shape {shape}")
        found[name] = flat.reshape(shape)
    if len(rest):
        raise UsageError(f"{len(rest)} bytes behind the inputs belong to none")
    return found


def _from_numbers(name: str, data: Any, dtype: np.dtype[Any]) -> Array:
    try:
        return np.asarray(data, dtype).ravel()
    except (TypeError, ValueError, OverflowError) as fault:
        raise UsageError(f"input {name}: its data are not {dtype} ({fault})") from fault


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and 2 <= len(shape) <= 3
        and all(type(side) is int and side > 0 for side in shape)
    )


def _wanted(request: dict[str, Any]) -> tuple[dict[str, bool | None], bool]:
    """Return the outputs asked for, whether each is to be bytes, and the same for the others."""
    wanted: dict[str, bool | None] = {}
    for output in request.get("outputs") or [{"name": "classes"}]:
        name = output.get("name") if isinstance(output, dict) else None
        if name not in ("classes", "probabilities"):
            raise UsageError(f"no output {name!r:.40}; there are classes and probabilities")
        wanted[name] = _parameters(output).get("binary_data")
    return wanted, bool(_parameters(request).get("binary_data_output"))


def _parameters(part: Mapping[str, Any]) -> Mapping[str, Any]:
    found = part.get("parameters")
    return found if isinstance(found, dict) else {}
