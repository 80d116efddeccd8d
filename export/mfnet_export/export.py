"""Checkpoint to ONNX files and TensorRT plans: the whole export."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

import torch

from mfnet.checkpoints.checkpoint import (
    Checkpoint,
    is_from_official,
    load_checkpoint,
    network_from_checkpoint,
)
from mfnet.checkpoints.torch_file import SUFFIXES
from mfnet.data.labels import classes_from_file
from mfnet.model.network import MFNet
from mfnet.model.torch_backend import TorchBackend
from mfnet_export.export_report import ExportReport
from mfnet_export.files import ExportError, folder_size, staged_output
from mfnet_export.graph.export import onnx_from_network
from mfnet_export.options import ExportOptions
from mfnet_export.precision import fp16, int8
from mfnet_export.precision.accuracy import PrecisionReport
from mfnet_export.precision.calibration import CalibrationSet, calibration_set
from mfnet_export.precision.fp16 import fp16_from_onnx
from mfnet_export.precision.int8 import int8_from_onnx
from mfnet_export.rewrites.steps import merge
from mfnet_export.tensorrt.build import plan_from_onnx
from mfnet_export.tensorrt.machine import NoBuilderError, require_builder
from mfnet_export.tensorrt.options import PlanOptions, plan_beside
from mfnet_export.validation.parity import ParityReport, compare
from mfnet_export.validation.sample_windows import Windows, sample_windows
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import MFNetError, ModelError, UsageError
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.labels import ClassTable
from mfnet_runtime.scene.layouts import LAYOUTS

logger = logging.getLogger(__name__)

SCORES = ("mean_iou", "mean_f1", "oa")  # of the trainer's validation
SUFFIX = ".onnx"  # the runtime chooses its backend by the suffix


def export_checkpoint(
    checkpoint: Path,
    output: Path | None = None,
    options: ExportOptions = ExportOptions(),  # noqa: B008 (frozen)
    plan_options: PlanOptions = PlanOptions(),  # noqa: B008 (frozen)
) -> ExportReport:
    """Write the network of a checkpoint as ONNX files, and build plans if wanted.

    The FP32 file, and the FP16 and INT8 files with it, appear or are replaced only if all pass
    their checks. Then a plan is built of each file with FP16 parts, or else of the FP32 file: with
    `options.plan`, and with `options.fp16` on a machine that can build one.

    Args:
        checkpoint: Our best.pt, or an official .pth.
        output: The FP32 file; None takes that of `onnx_beside`.
        options: What to write and how to validate it.
        plan_options: How to build the plans.

    Raises:
        UsageError: A file or folder is missing, or options do not fit the checkpoint.
        ModelError: The checkpoint is damaged, untrusted or contradicts itself.
        ExportError: The graph cannot be exported, or its logits differ; or TensorRT cannot build
            a plan, in which case the ONNX files are written.
        NoBuilderError: A plan is required that this machine cannot build.
        ResourceError: The output folder cannot be written, or the disk or GPU memory is full.
    """
    started = time.perf_counter()
    target = output or onnx_beside(checkpoint)
    _require_target(target, checkpoint, options)
    if options.plan:
        require_builder(plan_options.for_rtx)
    with staged_output(target) as partial:
        logger.info("loading %s", checkpoint.name)
        loaded = load_for_export(checkpoint, options)
        windows = sample_windows(loaded.contract, options.scenes, options.windows, options.read)
        calibration = None
        if options.calibrate:
            calibration = calibration_set(
                loaded.contract, options.calibrate, options.calibration_windows, options.read
            )
        network = _network(loaded, checkpoint)
        merged = merge(network, without=options.no_rewrite)
        scores = {key: loaded.metrics[key] for key in SCORES if key in loaded.metrics}
        contract = loaded.contract.with_provenance(
            checkpoint_sha256=sha256_from_file(checkpoint),
            rewrites=list(merged.steps),
            **({"validation": scores} if scores else {}),
        )
        costs = merged.costs()
        logger.info("exporting to ONNX")
        contract = onnx_from_network(merged.network, contract, partial)
        logger.info("comparing on %d windows", len(windows))
        parity = _parity(network, contract, partial, windows)
        if not parity.passed:
            raise ExportError(
                f"{checkpoint}: not exported, {parity.failure()}; nothing was written "
                f"(--no-rewrite leaves out a rewrite: {', '.join(merged.steps) or 'none ran'})"
            )
        report = ExportReport(
            target,
            folder_size(partial.parent),
            costs,
            parity,
            contract,
            seconds=0,
            assumed=_assumptions(loaded.contract, options),
        )
        made = _convert(partial, windows, calibration, options)
    converted = tuple(replace(each, output=target.with_name(each.output.name)) for each in made)
    seconds = time.perf_counter() - started
    report = replace(report, converted=converted, seconds=seconds)
    if not (options.plan or options.fp16):
        return report
    sources = [each.output for each in converted if each.name.endswith("fp16")] or [target]
    for source in sources:
        try:
            plan = plan_from_onnx(source, plan_beside(source), plan_options)
        except NoBuilderError as fault:
            if options.plan:
                raise
            return replace(report, no_plan=str(fault))
        except MFNetError as fault:
            raise type(fault)(f"{fault} ({source.name} is written)") from fault
        report = replace(report, plans=(*report.plans, plan))
    return report


def _convert(
    source: Path, windows: Windows, calibration: CalibrationSet | None, options: ExportOptions
) -> list[PrecisionReport]:
    """Write the FP16 and INT8 files of an FP32 file beside it."""
    threads, made = torch.get_num_threads(), []
    quantised = source.with_suffix(int8.SUFFIX)
    if calibration:
        made.append(int8_from_onnx(source, quantised, calibration, options, threads))
    if options.fp16:
        path = source.with_suffix(fp16.SUFFIX)
        made.append(fp16_from_onnx(source, path, windows, options, threads))
    if calibration and options.fp16:
        # Of the held-out windows, because noise is outside the calibrated ranges.
        path, held = quantised.with_suffix(fp16.SUFFIX), calibration.held
        made.append(fp16_from_onnx(quantised, path, held, options, threads, reference=source))
    return made


def onnx_beside(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's ONNX file: best.pt -> best.onnx.

    Official names have no suffix: epoch37_0.8412 -> epoch37_0.8412.onnx.
    """
    known = checkpoint.suffix.lower() in SUFFIXES
    return checkpoint.with_name((checkpoint.stem if known else checkpoint.name) + SUFFIX)


def _require_target(target: Path, checkpoint: Path, options: ExportOptions) -> None:
    if not checkpoint.is_file():
        raise UsageError(f"{checkpoint}: no such file; give a checkpoint")
    if target.resolve() == checkpoint.resolve():
        raise UsageError(f"{target}: is the checkpoint itself; choose another output with -o")
    if target.suffix != SUFFIX:
        raise UsageError(f"{target}: expected a name ending in {SUFFIX}")
    for name in ("fp16", "int8"):
        if getattr(options, name) and target.stem.endswith(f".{name}"):
            raise UsageError(
                f"{target}: -o names the FP32 file, from which the name of the {name.upper()} "
                f"file is derived; leave .{name} out"
            )


def load_for_export(path: Path, options: ExportOptions) -> Checkpoint:
    """Load a checkpoint, with the facts that options state of an official one.

    Raises:
        UsageError: The file is missing, or options do not fit it.
        ModelError: The checkpoint is damaged, untrusted or contradicts itself.
    """
    window = options.window
    checkpoint = load_checkpoint(path) if window is None else load_checkpoint(path, window=window)
    if window not in (None, checkpoint.config.window):
        raise UsageError(
            f"{path}: was trained for windows of {checkpoint.config.window} px, not {window}; "
            "leave --window out, it is for official .pth files"
        )
    contract = checkpoint.contract
    if options.dataset is not None:
        if not is_from_official(contract):
            raise UsageError(
                f"{path}: states its bands and classes; leave --dataset out, it is for official "
                "checkpoints"
            )
        layout = LAYOUTS[options.dataset]
        contract = replace(
            contract,
            classes=_fitting(layout.classes, f"--dataset {layout.name}", checkpoint, path),
            image=replace(contract.image, bands=layout.band_names),
            pixel_size=layout.pixel_size,
        ).with_provenance(dataset=layout.name)
    if options.classes is not None:
        classes = classes_from_file(options.classes)
        classes = _fitting(classes, str(options.classes), checkpoint, path)
        contract = replace(contract, classes=classes)
    return replace(checkpoint, contract=contract)


def _fitting(classes: ClassTable, source: str, checkpoint: Checkpoint, path: Path) -> ClassTable:
    """Return classes if they are as many as the network's."""
    if len(classes) != checkpoint.config.classes:
        raise UsageError(
            f"{source}: has {len(classes)} classes, {path.name} has {checkpoint.config.classes}"
        )
    return classes


def _assumptions(contract: Contract, options: ExportOptions) -> tuple[str, ...]:
    """Return what is assumed of an official checkpoint, each with the option that states it."""
    if not is_from_official(contract):
        return ()
    found = []
    if options.dataset is None:
        found.append(f"bands {', '.join(contract.image.bands)}: --dataset")
        if options.classes is None:
            names = ", ".join(contract.classes.names)
            found.append(f"classes {names}, by their number: --dataset or --classes")
    if contract.pixel_size is None:
        found.append("pixel size unknown")
    if options.window is None:
        found.append(f"windows of {contract.window} px: --window")
    return tuple(found)


def _network(checkpoint: Checkpoint, path: Path) -> MFNet:
    try:
        return network_from_checkpoint(checkpoint)
    except ModelError as fault:
        raise ModelError(f"{path}: {fault}; copy it again, or train anew") from fault


def _parity(network: MFNet, contract: Contract, path: Path, windows: Windows) -> ParityReport:
    """Compare the file as the runtime runs it with the network as it was trained."""
    with (
        TorchBackend(network, contract) as reference,
        backend_from_file(path, "onnxruntime", threads=torch.get_num_threads()) as candidate,
    ):
        return compare(reference, candidate, windows)
