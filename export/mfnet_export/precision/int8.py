"""FP32 ONNX file to proven INT8 file: calibrate, smooth, quantise, search, judge.

Static and explicit: QuantizeLinear/DequantizeLinear pairs that any engine reads. The FP32 file is
only read. Measured through ONNX Runtime; OpenVINO gives the same logits within rounding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial as bound
from pathlib import Path
from typing import Any

import onnx_ir as ir

from mfnet_export.errors import ExportError
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
from mfnet_export.precision.calibration import CalibrationSet, channel_peaks
from mfnet_export.precision.int8_search import Found, groups_of, layers_to_keep
from mfnet_export.precision.qdq import Layer, layers_of, quantise, smooth
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.errors import UsageError
from mfnet_runtime.version import installed_version

SUFFIX = ".int8.onnx"


@dataclass(frozen=True)
class Int8Options(Bounds):
    """What to calibrate on, and how far INT8 may be from FP32 on windows held out."""

    calibrate: Path  # folder of scenes
    windows: int = 32  # to calibrate on; a third as many again are held out


def options_from_flags(
    int8: bool, calibrate: Path | None, windows: int | None, bounds: Bounds
) -> Int8Options | None:
    """What the options of a command line mean together; None: no INT8.

    Raises:
        UsageError: INT8 without scenes to calibrate on, or options of INT8 without it.
    """
    given = {"calibrate": calibrate, "calibration-windows": windows}
    if not int8:
        for flag, value in given.items():
            if value is not None:
                raise UsageError(f"--{flag} goes with --int8; add --int8 or leave it out")
        return None
    if calibrate is None:
        raise UsageError("--int8 needs real windows; name scenes with --calibrate SCENES")
    count = Int8Options.windows if windows is None else windows
    return Int8Options(calibrate, count, **asdict(bounds))


def int8_beside(path: Path) -> Path:
    """best.onnx -> best.int8.onnx."""
    return path.with_suffix(SUFFIX)


@dataclass(frozen=True)
class Int8Report:
    """What was written, and how far it is from FP32."""

    output: Path
    size: int  # bytes
    calibrated: str  # on what, in words
    layers: int  # linear layers in the graph
    search: Found
    scores: SceneScores | None  # None without labels

    @property
    def difference(self) -> Difference:
        """On windows held out."""
        return self.search.difference

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return {"output": str(self.output), "bytes": self.size, **self.facts()}

    def facts(self) -> dict[str, Any]:
        """What the contract's provenance holds."""
        return {
            "quantiser": f"mfnet {installed_version('mfnet')}, static, symmetric, "
            "weights by channel",
            "calibrated": self.calibrated,
            "linear_layers": self.layers,
            "float_layers": [group.name for group in self.search.kept],
            "difference": asdict(self.difference),
            "scores": self.scores.to_json() if self.scores else None,
        }

    def lines(self) -> list[str]:
        """For people."""
        inside = self.layers - len(self.search.layers)
        kept = ", ".join(group.name for group in self.search.kept) or "none had to"
        rows = [
            f"{self.output}  {size_text(self.size)}",
            f"calibrated on {self.calibrated}; {inside} of {self.layers} linear layers in INT8",
            f"stay float  {kept}",
            self.difference.line(),
            self.scores.line("INT8") if self.scores else NO_LABELS,
        ]
        return [f"{'int8' if not index else '':8}  {row}" for index, row in enumerate(rows)]


def int8_from_onnx(
    source: Path,
    target: Path,
    windows: CalibrationSet,
    options: Int8Options,
    *,
    judge: Path | None = None,
    bands: Sequence[int] | None = None,
    threads: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Int8Report:
    """Write the INT8 graph of an FP32 file, if it is close enough.

    Args:
        source: FP32 ONNX file with a contract.
        target: Appears, or is replaced, only on success.
        windows: From `calibration_set`.
        options: The bounds.
        judge: Folder of scenes to score on; without it or its labels, those calibrated on.
        bands: 1-based image bands of the scenes.
        threads: Of ONNX Runtime; 0 takes the physical cores.
        tell: Told what is being done, a few words each.

    Raises:
        ExportError: no layer to quantise, or a bound is exceeded; nothing was written.
        UsageError, SceneError: scenes to judge on are missing or damaged.
        ResourceError: the disk is full.
    """
    engine = bound(backend_from_file, name="onnxruntime", threads=threads)
    layers = layers_of(ir.load(source))
    if not layers:
        raise ExportError(f"{source.name}: no linear layer in it that INT8 could run")
    kinds, sizes = zip(*((layer.kind, layer.weight.size) for layer in layers), strict=True)
    tell(f"calibrating on {len(windows.fit)} windows")
    peaks = channel_peaks(source, _sources(layers), windows.fit, threads)
    del layers
    with staged(target) as partial, tempfile.TemporaryDirectory(dir=partial.parent) as folder:
        tell(f"measuring on {len(windows.held)} windows held out")
        with engine(source) as reference:
            contract, expected = reference.contract, logits_of(reference, windows.held)
        contract = replace(contract, precision="int8")

        def write(kept: Collection[int], path: Path, contract: Contract) -> None:
            model = ir.load(source)
            quantise(model, smooth(model, peaks), kept)
            model.metadata_props[METADATA_KEY] = contract.to_json()
            save(model, path)

        def measure(kept: Collection[int]) -> Difference:
            trial = Path(folder) / "trial.onnx"
            write(kept, trial, contract)
            with engine(trial) as candidate:
                return difference(expected, logits_of(candidate, windows.held))

        # Half of what is allowed: windows held out are few.
        aim = 1 - options.max_disagree / 200
        search = layers_to_keep(groups_of(kinds, sizes), measure, aim, tell)
        require_close(
            "INT8",
            search.difference.agreement >= 1 - options.max_disagree / 100,
            f"{1 - search.difference.agreement:.2%} of the pixels held out change their class "
            f"(allowed {options.max_disagree:g} %), {len(search.layers)} of {len(kinds)} layers "
            "in float; calibrate on scenes like those to run on, or raise --max-disagree",
        )
        write(search.layers, partial, contract)
        tell("scoring FP32 and INT8 on the scenes")
        folders = (given for given in (judge, options.calibrate) if given is not None)
        labelled = (given for given in folders if (given / "label").is_dir())
        scores = scores_on_scenes(
            lambda: engine(source),
            lambda: engine(partial),
            next(labelled, options.calibrate),
            bands,
        )
        require_scores("INT8", scores, options)
        report = Int8Report(target, 0, windows.fit.source, len(kinds), search, scores)
        write(search.layers, partial, contract.with_provenance(int8=report.facts()))
        require_valid(partial, "INT8")
        return replace(report, size=size_of_files(partial.parent))


def _sources(layers: Sequence[Layer]) -> list[str]:
    return list(dict.fromkeys(layer.source for layer in layers))
