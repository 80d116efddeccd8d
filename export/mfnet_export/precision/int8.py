"""Write the INT8 graph of an FP32 file: calibrate, smooth, quantise, search, check.

Quantisation is static and explicit: any engine reads the QuantizeLinear/DequantizeLinear pairs.
Differences are measured in ONNX Runtime; OpenVINO gives the same logits within rounding.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from functools import partial as bound
from pathlib import Path
from typing import Any

import onnx_ir as ir

from mfnet_export.files import ExportError, folder_size, staged_output
from mfnet_export.graph.export import require_valid, save
from mfnet_export.options import ExportOptions
from mfnet_export.precision.accuracy import (
    NO_LABELS,
    Difference,
    SceneScores,
    logits_of,
    measure_difference,
    require_scores,
)
from mfnet_export.precision.calibration import CalibrationSet, Probe, measure_peaks
from mfnet_export.precision.int8_search import SearchResult, group_layers, search_float_layers
from mfnet_export.precision.qdq import linear_layers, quantise, smooth
from mfnet_export.report import labelled, size_text
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.version import installed_version

logger = logging.getLogger(__name__)

SUFFIX = ".int8.onnx"


@dataclass(frozen=True)
class Int8Report:
    """The INT8 file and its difference from FP32."""

    output: Path
    size: int  # bytes, including weights beside the file
    calibrated: str  # origin of the calibration windows
    layers: int  # linear layers in the graph
    search: SearchResult
    scores: SceneScores | None  # None without labels

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"output": str(self.output), "bytes": self.size, **self.facts()}

    def facts(self) -> dict[str, Any]:
        """Return the facts for the provenance in the contract."""
        return {
            "quantiser": f"mfnet {installed_version('mfnet')}, static, symmetric, "
            "weights by channel",
            "calibrated": self.calibrated,
            "linear_layers": self.layers,
            "float_layers": [group.name for group in self.search.kept],
            "difference": asdict(self.search.difference),
            "scores": self.scores.to_json() if self.scores else None,
        }

    def lines(self) -> list[str]:
        """Return the report as text."""
        inside = self.layers - len(self.search.layers)
        rows = [
            f"{self.output}  {size_text(self.size)}",
            f"calibrated on {self.calibrated}; {inside} of {self.layers} linear layers in INT8",
            f"in float    {', '.join(group.name for group in self.search.kept) or 'nothing'}",
            self.search.difference.line(),
            self.scores.line("INT8") if self.scores else NO_LABELS,
        ]
        return labelled("int8", rows)


def int8_from_onnx(
    source: Path, target: Path, windows: CalibrationSet, options: ExportOptions, threads: int = 0
) -> Int8Report:
    """Write the INT8 graph of an FP32 file if it is close enough to it.

    Args:
        source: FP32 ONNX file with a contract; only read.
        target: Replaced only on success.
        windows: Windows to calibrate and to measure on, from `calibration_set`.
        options: Allowed differences, and the scenes to score on if they have labels: `scenes`, or
            else `calibrate`.
        threads: Threads of ONNX Runtime; 0 takes the physical cores.

    Raises:
        ExportError: The graph has no layer to quantise, or differs too much.
        UsageError: The labels have no pixel of one of the model's classes.
        SceneError: A scene to score on is missing or damaged.
        ResourceError: The disk is full.
    """
    engine = bound(backend_from_file, name="onnxruntime", threads=threads)
    layers = linear_layers(ir.load(source))
    if not layers:
        raise ExportError(f"{source.name}: no linear layer that could run in INT8")
    kinds, sizes = zip(*((layer.kind, layer.weight.size) for layer in layers), strict=True)
    probes = [Probe(layer.source, channels=True) for layer in layers]
    del layers  # and the weights of the graph
    logger.info("calibrating on %d windows", len(windows.fit))
    found = measure_peaks(source, probes, windows.fit, threads)
    peaks = {probe.name: peak for probe, peak in found.items()}
    with staged_output(target) as partial, tempfile.TemporaryDirectory(dir=partial.parent) as temp:
        logger.info("measuring on %d held-out windows", len(windows.held))
        with engine(source) as reference:
            contract, expected = reference.contract, logits_of(reference, windows.held)
        contract = replace(contract, precision="int8")

        def write(kept: Collection[int], path: Path, contract: Contract) -> None:
            model = ir.load(source)
            quantise(model, smooth(model, peaks), kept)
            model.metadata_props[METADATA_KEY] = contract.to_json()
            save(model, path)

        def measure(kept: Collection[int]) -> Difference:
            trial = Path(temp) / "trial.onnx"
            write(kept, trial, contract)
            with engine(trial) as candidate:
                return measure_difference(expected, logits_of(candidate, windows.held))

        # Aim at half of what is allowed, because the held-out windows are few.
        aim = 1 - options.max_disagree / 200
        search = search_float_layers(group_layers(kinds, sizes), measure, aim)
        if search.difference.agreement < 1 - options.max_disagree / 100:
            raise ExportError(
                f"INT8 is refused: {1 - search.difference.agreement:.2%} of the held-out pixels "
                f"change their class (allowed {options.max_disagree:g} %) with "
                f"{len(search.layers)} of {len(kinds)} layers in float; calibrate on scenes like "
                "those to run on, or raise --max-disagree; nothing was written"
            )
        write(search.layers, partial, contract)
        folders = [options.scenes, options.calibrate]
        scores = require_scores("INT8", engine, (source, partial), folders, options)
        report = Int8Report(target, 0, windows.fit.source, len(kinds), search, scores)
        write(search.layers, partial, contract.with_provenance(int8=report.facts()))
        require_valid(partial, "INT8")
        return replace(report, size=folder_size(partial.parent))
