"""What tests build: scenes on disk, and a tiny ONNX model whose answer is known exactly."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import rasterio
from onnx import TensorProto, helper
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import from_origin

from mfnet_runtime.backends.base import HALF
from mfnet_runtime.backends.tensorrt.plan_file import LayerCounts, PlanFacts, Profile
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.run.manifest import FILE as MANIFEST
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.tiling.blend import window_profile
from mfnet_runtime.tiling.options import BlendName

SHARED = Path(__file__).parents[2] / "shared"
UTM = {"crs": "EPSG:32632", "transform": from_origin(500000.0, 5400000.0, 0.5, 0.5)}
RGBD = ClassTable(
    ("red", "green", "blue", "high"),
    ((220, 40, 40), (40, 200, 60), (50, 80, 230), (240, 240, 240)),
)


if TYPE_CHECKING:

    @dataclass(frozen=True)
    class LocalScene(Scene):
        """A scene of which no file is on the network."""

        image: Path
        dsm: Path
else:
    LocalScene = Scene


def write_raster(path: Path, array: npt.NDArray[Any], **profile: Any) -> Path:
    """Write (band, row, column) or (row, column); the driver follows the suffix."""
    bands = array if array.ndim == 3 else array[None]
    driver = {".png": "PNG", ".jpg": "JPEG"}.get(path.suffix, "GTiff")
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": bands.shape[0], "height": bands.shape[1], "width": bands.shape[2]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver=driver, dtype=bands.dtype, **shape, **profile) as out:
            out.write(bands)
    return path


def write_scene(
    folder: Path,
    name: str = "a",
    height: int = 40,
    width: int = 48,
    *,
    seed: int = 0,
    label: bool = False,
    image_profile: dict[str, Any] | None = None,
    dsm_profile: dict[str, Any] | None = None,
    place: dict[str, Any] | None = None,
) -> LocalScene:
    """A scene of random coloured rectangles, some of them high; its label is `rgbd_classes`."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 40, (3, height, width), dtype=np.uint8)
    dsm = rng.uniform(100.0, 101.0, (height, width)).astype(np.float32)
    for _ in range(12):
        top, left = rng.integers(0, height), rng.integers(0, width)
        box = (slice(top, top + height // 3), slice(left, left + width // 3))
        image[(rng.integers(0, 3), *box)] = 200
        dsm[box] += rng.choice([0.0, 30.0])
    place = UTM if place is None else place
    scene = LocalScene(
        name,
        write_raster(folder / "image" / f"{name}.tif", image, **place, **(image_profile or {})),
        write_raster(folder / "dsm" / f"{name}.tif", dsm, **place, **(dsm_profile or {})),
    )
    if not label:
        return scene
    span = dsm.max() - dsm.min()
    truth = rgbd_classes(image, (dsm - dsm.min()) / span)
    path = write_raster(folder / "label" / f"{name}.tif", truth, nodata=255, **place)
    return LocalScene(name, scene.image, scene.dsm, path)


def rgbd_classes(image: npt.NDArray[np.uint8], dsm: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """What the model of `write_rgbd_model` answers: the brightest of red, green, blue, height."""
    stack = np.concatenate([image.astype(np.float32) * np.float32(1 / 255), dsm[None]])
    return np.asarray(stack.argmax(axis=0), np.uint8)


def write_rgbd_model(path: Path, window: int = 32, **changes: Any) -> Path:
    """An ONNX file with a contract: logits = [image; dsm], so a class a band."""
    contract = Contract(window, RGBD, **changes)
    kind = TensorProto.FLOAT16 if contract.precision in HALF else TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info("image", kind, ["N", 3, window, window]),
        helper.make_tensor_value_info("dsm", kind, ["N", 1, window, window]),
    ]
    output = helper.make_tensor_value_info("logits", kind, ["N", 4, window, window])
    node = helper.make_node("Concat", ["image", "dsm"], ["logits"], axis=1)
    model = helper.make_model(
        helper.make_graph([node], "rgbd", inputs, [output]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=10,
    )
    helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    onnx.save(model, path)
    return path


def read(path: Path, band: int | None = 1) -> npt.NDArray[Any]:
    """A band of a raster, the first if not told; None reads all, (band, row, column)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as source:
            return np.asarray(source.read(band))


def results_in(folder: Path) -> list[str]:
    """Names of what a run left, hidden ones too, besides its manifest."""
    return sorted(path.name for path in folder.glob("*") if path.name != MANIFEST)


def outside() -> dict[str, str]:
    """Return the environment without Python's variables, which may lead to the source tree."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run_python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run code in a new process that finds the modules this one finds."""
    words = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}"]
    return subprocess.run(words, capture_output=True, text=True, **options)


def window_weights(blend: BlendName, window: int) -> npt.NDArray[np.float32]:
    """Weight of each pixel of a window, (window, window) float32: the profile in both axes."""
    profile = window_profile(blend, window)
    return np.outer(profile, profile).astype(np.float32)


def plan_facts(contract: Contract, **facts: Any) -> PlanFacts:
    """What stands beside a plan built on some GPU.

    Args:
        contract: Of the graph.
        facts: Fields that are to differ.
    """
    known: dict[str, Any] = {
        "contract": contract,
        "plan_sha256": "ab" * 32,
        "onnx_sha256": "cd" * 32,
        "flavour": "tensorrt",
        "version": "10.13.3.9",
        "targets": ("sm90",),
        "cuda": "12.6",
        "driver": "13.0",
        "gpu": "NVIDIA H200",
        "profile": Profile(1, 16, 16),
        "attentions": 48,
        "counts": LayerCounts(612, 48),
    }
    return PlanFacts(**{**known, **facts})
