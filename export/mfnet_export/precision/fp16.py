"""Write the FP16 graph of an FP32 or INT8 file: measure ranges, convert, check by emulation.

Such files are for GPUs. The graph is emulated here on the CPU, in ONNX Runtime; the kernels of a
GPU are measured where there is one.
"""

from __future__ import annotations

import gc
import logging
import tempfile
from dataclasses import asdict, replace
from functools import partial as bound
from pathlib import Path

import onnx_ir as ir

from mfnet_export.files import ExportError, folder_size, require_valid, staged_output
from mfnet_export.graph.export import save
from mfnet_export.graph.passes import allow_half_scales
from mfnet_export.options import ExportOptions
from mfnet_export.precision.accuracy import (
    PrecisionReport,
    logits_of,
    measure_difference,
    require_scores,
    scores_row,
)
from mfnet_export.precision.fp16_cast import HALF_MAX, cast_to_fp16, emulate_fp16
from mfnet_export.precision.fp16_ranges import Ranges, measure_ranges, require_fit
from mfnet_export.precision.qdq import move_biases
from mfnet_export.validation.sample_windows import Windows
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.contract import METADATA_KEY
from mfnet_runtime.version import installed_version

logger = logging.getLogger(__name__)

SUFFIX = ".fp16.onnx"
# Share of the range of the logits. Rounding moves them by 0.2 % at most in any network, and by
# about 1 % in INT8 graphs, where some activations become other integers.
MAX_SHIFT = 0.05


def fp16_from_onnx(
    source: Path,
    target: Path,
    windows: Windows,
    options: ExportOptions,
    threads: int = 0,
    reference: Path | None = None,
) -> PrecisionReport:
    """Write the FP16 graph of an FP32 or INT8 file if it is close enough to FP32.

    Large residual sums and means stay in FP32, see `fp16_ranges`. The integers of an INT8 file are
    kept; its graph becomes opset 19.

    Args:
        source: FP32 or INT8 ONNX file of opset 17 with a contract; only read.
        target: Replaced only on success; all its inputs and outputs are FP16.
        windows: Windows to measure ranges and differences on.
        options: Allowed differences, and the scenes to score on if they have labels: `scenes`, or
            else `calibrate`.
        threads: Threads of ONNX Runtime; 0 takes the physical cores.
        reference: The FP32 file that an INT8 file was made from.

    Raises:
        ExportError: FP16 cannot hold an activation or a weight, or the graph differs too much.
        UsageError: The labels have no pixel of one of the model's classes.
        SceneError: A scene to score on is missing or damaged.
        ResourceError: The disk is full.
    """
    engine = bound(backend_from_file, name="onnxruntime", threads=threads)
    logger.info("measuring activation ranges on %d windows", len(windows))
    ranges = measure_ranges(source, windows, threads)
    with engine(source) as backend:
        contract, exact = backend.contract, logits_of(backend, windows)
    expected, precision = exact, "fp16"
    if reference:
        precision = "int8+fp16"
        with engine(reference) as backend:
            expected = logits_of(backend, windows)
    name = precision.upper()
    with staged_output(target) as partial, tempfile.TemporaryDirectory(dir=partial.parent) as temp:
        trial = Path(temp) / "emulated.onnx"
        logger.info("converting to %s and emulating it", name)
        model, lossy = _convert(source, ranges)
        emulate_fp16(model)
        model.metadata_props[METADATA_KEY] = contract.to_json()
        save(model, trial)
        del model
        gc.collect()  # a graph contains reference cycles that keep its weights alive
        with engine(trial) as candidate:
            logits = logits_of(candidate, windows)
        found, rounding = (measure_difference(first, logits) for first in (expected, exact))
        allowed = 1 - options.max_disagree / 100
        # The comparison is also false for logits that are not finite.
        if not (rounding.max_abs <= MAX_SHIFT * rounding.span and found.agreement >= allowed):
            worse = rounding if found.agreement >= allowed else found
            raise ExportError(
                f"{name} is refused: {worse.line('windows')} (allowed {options.max_disagree:g} % "
                f"of the pixels, and {MAX_SHIFT:.0%} of the range); use the FP32 file, or raise "
                "--max-disagree; nothing was written"
            )
        folders = [options.scenes, options.calibrate]
        scores = require_scores(name, engine, (reference or source, trial), folders, options)
        kept, peaks = ranges.sections_with(ranges.large), ranges.section_peaks()
        sections = ", ".join(kept)
        section, peak = max(peaks.items(), key=lambda entry: entry[1])
        facts = {
            "converter": f"mfnet {installed_version('mfnet')}",
            "windows": windows.source,
            "peaks": {name: float(f"{reached:.4g}") for name, reached in peaks.items()},
            "float_parts": list(kept),
            "lossy_weights": list(lossy),
            "emulated_difference": asdict(found),
            **({"emulated_difference_from_int8": asdict(rounding)} if reference else {}),
            "emulated_scores": scores.to_json() if scores else None,
        }
        rows = [
            f"peak        {peak:.4g} in {section}, limit {HALF_MAX:.0f}; on {windows.source}",
            f"in FP32     {f'residual sums and means of {sections}' if kept else 'nothing'}",
            *([f"lossy       {', '.join(lossy)}"] if lossy else []),
            f"{found.line('windows')}; emulated on the CPU",
            *([f"from INT8   {rounding.line('windows')}"] if reference else []),
            f"{scores_row(scores, name)}{', emulated' if scores else ''}",
        ]
        model, _ = _convert(source, ranges)
        signed = replace(contract, precision=precision).with_provenance(fp16=facts)
        model.metadata_props[METADATA_KEY] = signed.to_json()
        save(model, partial)
        require_valid(partial, name)
        return PrecisionReport(precision, target, folder_size(partial.parent), facts, rows)


def _convert(source: Path, ranges: Ranges) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the FP16 graph and its lossy weights."""
    model = ir.load(source)
    if any(node.op_type == "QuantizeLinear" for node in model.graph):
        allow_half_scales(model)
        move_biases(model)
    lossy = cast_to_fp16(model, ranges.large)
    require_fit(model, ranges)
    return model, lossy
