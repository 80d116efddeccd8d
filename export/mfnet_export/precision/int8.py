"""Write the INT8 graph of an FP32 file: calibrate, smooth, quantise, search, check.

Quantisation is static and explicit: any engine reads the QuantizeLinear/DequantizeLinear pairs.
Differences are measured in ONNX Runtime; OpenVINO gives the same logits within rounding.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection
from dataclasses import asdict, replace
from functools import partial as bound
from pathlib import Path

import onnx_ir as ir

from mfnet_export.files import ExportError, folder_size, require_valid, staged_output
from mfnet_export.graph.export import save
from mfnet_export.options import ExportOptions
from mfnet_export.precision.accuracy import (
    Difference,
    PrecisionReport,
    logits_of,
    measure_difference,
    require_scores,
    scores_row,
)
from mfnet_export.precision.calibration import CalibrationSet, Probe, measure_peaks
from mfnet_export.precision.int8_search import group_layers, search_float_layers
from mfnet_export.precision.qdq import linear_layers, quantise, smooth
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.version import installed_version

logger = logging.getLogger(__name__)

SUFFIX = ".int8.onnx"


def int8_from_onnx(
    source: Path, target: Path, windows: CalibrationSet, options: ExportOptions, threads: int = 0
) -> PrecisionReport:
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
        kept = [group.name for group in search.kept]
        facts = {
            "quantiser": f"mfnet {installed_version('mfnet')}, static, symmetric, "
            "weights by channel",
            "calibrated": windows.fit.source,
            "linear_layers": len(kinds),
            "float_layers": kept,
            "difference": asdict(search.difference),
            "scores": scores.to_json() if scores else None,
        }
        inside = len(kinds) - len(search.layers)
        rows = [
            f"calibrated on {windows.fit.source}; {inside} of {len(kinds)} linear layers in INT8",
            f"in float    {', '.join(kept) or 'nothing'}",
            search.difference.line(),
            scores_row(scores, "INT8"),
        ]
        write(search.layers, partial, contract.with_provenance(int8=facts))
        require_valid(partial, "INT8")
        return PrecisionReport("int8", target, folder_size(partial.parent), facts, rows)
