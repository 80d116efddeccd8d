"""FP32 ONNX file to proven FP16 file: measure ranges, convert, emulate, judge.

The FP16 file is for a GPU. Here its graph is run as `fp16_emulate` models it, on a CPU, in ONNX
Runtime; what a GPU's kernels make of it is measured where there is one. The FP32 file is only read.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial as bound
from pathlib import Path
from typing import Any

import onnx_ir as ir

from mfnet_export.files import size_of_files, size_text, staged
from mfnet_export.graph.export import require_valid, save
from mfnet_export.precision.accuracy import (
    NO_LABELS,
    Bounds,
    Difference,
    SceneScores,
    difference,
    logits_of,
    require_close,
    require_scores,
    scores_on_scenes,
)
from mfnet_export.precision.fp16_cast import HALF_MAX, halve
from mfnet_export.precision.fp16_emulate import emulate
from mfnet_export.precision.fp16_ranges import Ranges, ranges_of, require_fit
from mfnet_export.validation.sample_windows import Windows
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.backends.base import Backend
from mfnet_runtime.contract import METADATA_KEY
from mfnet_runtime.version import installed_version

SUFFIX = ".fp16.onnx"
# Of the range of the logits. Rounding moves them by 0.2 % at most, whatever the network.
MAX_SHIFT = 0.05


def fp16_beside(path: Path) -> Path:
    """best.onnx -> best.fp16.onnx."""
    return path.with_suffix(SUFFIX)


@dataclass(frozen=True)
class Fp16Report:
    """What was written, and how far it is from FP32."""

    output: Path
    size: int  # bytes, weights beside the file included
    source: str  # of the windows, in words
    peaks: dict[str, float]  # largest magnitude in each part of the network
    float_parts: tuple[str, ...]  # with residual sums, or means, in FP32
    lossy: tuple[str, ...]  # weights too small for FP16
    difference: Difference  # of the emulated graph
    scores: SceneScores | None  # None without labels

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return {"output": str(self.output), "bytes": self.size, **self.facts()}

    def facts(self) -> dict[str, Any]:
        """What the contract's provenance holds."""
        return {
            "converter": f"mfnet {installed_version('mfnet')}",
            "windows": self.source,
            "peaks": {part: float(f"{peak:.4g}") for part, peak in self.peaks.items()},
            "float_parts": list(self.float_parts),
            "lossy_weights": list(self.lossy),
            "emulated_difference": asdict(self.difference),
            "emulated_scores": self.scores.to_json() if self.scores else None,
        }

    def lines(self) -> list[str]:
        """For people."""
        part, peak = max(self.peaks.items(), key=lambda entry: entry[1])
        kept = ", ".join(self.float_parts)
        rows = [
            f"{self.output}  {size_text(self.size)}",
            f"reaches {peak:.4g} in {part}, of {HALF_MAX:.0f}; on {self.source}",
            f"stay float  {f'residual sums and means of {kept}' if kept else 'none had to'}",
            *([f"too small   {', '.join(self.lossy)}"] if self.lossy else []),
            f"{self.difference.line('windows')}; emulated on the CPU",
            f"{self.scores.line('FP16')}, emulated" if self.scores else NO_LABELS,
        ]
        return [f"{'fp16' if not index else '':8}  {row}" for index, row in enumerate(rows)]


def fp16_from_onnx(
    source: Path,
    target: Path,
    windows: Windows,
    bounds: Bounds,
    *,
    judge: Path | None = None,
    bands: Sequence[int] | None = None,
    threads: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Fp16Report:
    """Write the FP16 graph of an FP32 file, if it is close enough.

    Residual sums are FP32 where they are large, see `fp16_ranges`.

    Args:
        source: FP32 ONNX file with a contract, of opset 17.
        target: Appears, or is replaced, only on success; its tensors are all FP16.
        windows: To measure ranges and the difference on.
        bounds: How far FP16 may be from FP32.
        judge: Folder of scenes to score on, where it has labels.
        bands: 1-based image bands of the scenes.
        threads: Of ONNX Runtime; 0 takes the physical cores.
        tell: Told what is being done, a few words each.

    Raises:
        ExportError: FP16 cannot hold an activation or a weight, or a bound is exceeded; nothing
            was written.
        UsageError, SceneError: scenes to judge on are missing or damaged.
        ResourceError: the disk is full.
    """
    engine = bound(backend_from_file, name="onnxruntime", threads=threads)
    tell(f"measuring ranges on {len(windows)} windows")
    ranges = ranges_of(source, windows, threads)
    with engine(source) as reference:
        contract, expected = reference.contract, logits_of(reference, windows)
    with staged(target) as partial, tempfile.TemporaryDirectory(dir=partial.parent) as folder:
        trial = Path(folder) / "emulated.onnx"

        tell("converting to FP16 and emulating it")
        model, lossy = _converted(source, ranges)
        emulate(model)
        model.metadata_props[METADATA_KEY] = contract.to_json()
        save(model, trial)
        del model
        gc.collect()  # a graph holds cycles, and its weights with them
        with engine(trial) as candidate:
            found = difference(expected, logits_of(candidate, windows))
        require_close(
            "FP16",
            # logits that are not finite never pass
            found.max_abs <= MAX_SHIFT * found.span
            and found.agreement >= 1 - bounds.max_disagree / 100,
            f"{found.line('windows')} (allowed {bounds.max_disagree:g} % of the pixels, and "
            f"{MAX_SHIFT:.0%} of the range); keep to FP32, or raise --max-disagree",
        )
        scores = _scores(engine, source, trial, judge, bands, tell)
        require_scores("FP16", scores, bounds)
        report = Fp16Report(
            output=target,
            size=0,
            source=windows.source,
            peaks=ranges.part_peaks(),
            float_parts=ranges.parts_with(ranges.large),
            lossy=lossy,
            difference=found,
            scores=scores,
        )
        model, _ = _converted(source, ranges)
        signed = replace(contract, precision="fp16").with_provenance(fp16=report.facts())
        model.metadata_props[METADATA_KEY] = signed.to_json()
        save(model, partial)
        require_valid(partial, "FP16")
        return replace(report, size=size_of_files(partial.parent))


def _converted(source: Path, ranges: Ranges) -> tuple[ir.Model, tuple[str, ...]]:
    """The FP16 graph, and the weights that are too small for it."""
    model = ir.load(source)
    lossy = halve(model, ranges.large)
    require_fit(model, ranges)
    return model, lossy


def _scores(
    engine: Callable[[Path], Backend],
    source: Path,
    trial: Path,
    judge: Path | None,
    bands: Sequence[int] | None,
    tell: Callable[[str], None],
) -> SceneScores | None:
    if judge is None or not (judge / "label").is_dir():
        return None
    tell("scoring FP32 and FP16 on the scenes")
    return scores_on_scenes(lambda: engine(source), lambda: engine(trial), judge, bands)
