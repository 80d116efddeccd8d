"""Calibration: real windows, and the range of each activation over them in the FP32 graph.

Ranges are of whole tensors and of their channels, which `quantise` balances. Knows neither
what is quantised with them nor how good it will be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mfnet_export.precision.probe import Floats, Probe, measured
from mfnet_export.validation.sample_windows import Windows, windows_from_scenes
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import UsageError
from mfnet_runtime.scene.discovery import scenes_from

# Over windows of the autzen scene, 1 and 4 windows now and then missed a range and cost up to
# 1.4 % of the classes; from 16 on, the choice of windows no longer mattered.
MIN_WINDOWS = 8
HELD_OUT = 4  # of this many windows one measures what the others calibrate


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Windows to calibrate on, and others of the same scenes to measure on."""

    fit: Windows
    held: Windows


def calibration_set(
    contract: Contract, scenes: Path, count: int, bands: Sequence[int] | None = None
) -> CalibrationSet:
    """`count` windows spread over scenes, and a third as many between them, held out.

    The last windows of a row and of a column are moved back into the scene, over those before
    them, so that some held out may share pixels with some calibrated on.

    Args:
        contract: Gives window and scaling.
        scenes: A folder with image/ and dsm/.
        count: Windows to calibrate on; small scenes may hold fewer.
        bands: 1-based image bands; None takes all but alpha.

    Raises:
        UsageError: no scenes, no valid pixel, or fewer than `MIN_WINDOWS` windows.
        SceneError: a scene is damaged or does not fit the contract.
    """
    why = f"with fewer than {MIN_WINDOWS} the ranges of activations are left to chance"
    if count < MIN_WINDOWS:
        raise UsageError(f"--calibration-windows {count}: expected at least {MIN_WINDOWS}; {why}")
    wanted = count + -(-count // (HELD_OUT - 1))
    found = windows_from_scenes(scenes_from(scenes), contract, wanted, bands)
    if not found:
        raise UsageError(f"{scenes}: no window with a valid pixel; choose other scenes")
    held = found[HELD_OUT // 2 :: HELD_OUT]
    fit = [pair for index, pair in enumerate(found) if index % HELD_OUT != HELD_OUT // 2]
    if len(fit) < MIN_WINDOWS:
        least = MIN_WINDOWS + -(-MIN_WINDOWS // (HELD_OUT - 1))
        raise UsageError(
            f"{scenes}: {len(found)} windows of {contract.window} px with valid pixels; INT8 "
            f"needs {least}, one in {HELD_OUT} of them to measure on: {why}; add scenes"
        )
    return CalibrationSet(*(_stacked(pairs, scenes.name) for pairs in (fit, held)))


def channel_peaks(
    model: Path, names: Sequence[str], windows: Windows, threads: int = 0
) -> dict[str, Floats]:
    """Largest magnitude that each channel of some activations takes over the windows.

    Args:
        model: FP32 ONNX file; read only.
        names: Activations (..., channel).
        windows: Run one by one, so that memory does not grow with their number.
        threads: Of ONNX Runtime; 0 leaves it to that.

    Returns:
        (channel,) for each name; its largest element is the peak of the tensor.

    Raises:
        ResourceError: no room for a temporary copy of the graph.
    """
    probes = [Probe(name, channels=True) for name in names]
    found = measured(model, probes, windows, threads)
    return {probe.name: found[probe] for probe in probes}


def _stacked(pairs: Sequence[tuple[Floats, Floats]], name: str) -> Windows:
    images, heights = zip(*pairs, strict=True)
    return Windows(np.stack(images), np.stack(heights), f"{len(pairs)} windows of {name}")
