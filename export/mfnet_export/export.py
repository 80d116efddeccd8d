"""Checkpoint to proven ONNX file: the whole pipeline, one visible function."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mfnet.checkpoints.checkpoint import Checkpoint, load_checkpoint, network_from_checkpoint
from mfnet.data.labels import classes_from_file
from mfnet.model.network import MFNet
from mfnet.model.torch_backend import TorchBackend
from mfnet_export.errors import ExportError
from mfnet_export.files import size_of_files, size_text, staged
from mfnet_export.graph.export import onnx_from_network
from mfnet_export.precision.accuracy import Bounds
from mfnet_export.precision.calibration import calibration_set
from mfnet_export.precision.fp16 import Fp16Report, fp16_beside, fp16_from_onnx
from mfnet_export.precision.int8 import Int8Options, Int8Report, int8_beside, int8_from_onnx
from mfnet_export.rewrites.steps import Work, merged
from mfnet_export.tensorrt.build import PlanReport, plan_from_onnx
from mfnet_export.tensorrt.machine import NoBuilderError, require_builder
from mfnet_export.tensorrt.options import PlanWish, plan_beside
from mfnet_export.validation.parity import ParityReport, compared
from mfnet_export.validation.sample_windows import Windows, sample_windows
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import MFNetError, ModelError, UsageError
from mfnet_runtime.files import sha256_from_file

SUFFIX = ".onnx"  # by which the runtime knows what runs a file


@dataclass(frozen=True)
class ExportRequest:
    """What to export, where to, and what to prove it on."""

    checkpoint: Path  # ours, or an official .pth
    output: Path | None = None  # None: the checkpoint's name ending in .onnx
    scenes: Path | None = None  # folder of real scenes for parity; None draws some
    windows: int = 4  # for parity, noise aside
    window: int | None = None  # pixels a side, for an official file, which does not say it
    classes: Path | None = None  # JSON class table in place of the checkpoint's
    bands: Sequence[int] | None = None  # 1-based, of the scenes
    without: tuple[str, ...] = ()  # names of rewrites to leave out
    int8: Int8Options | None = None  # also write an INT8 file
    fp16: Bounds | None = None  # also write an FP16 file, for GPUs
    plan: PlanWish | None = None  # of the FP16 file, or else of the FP32 file

    @property
    def target(self) -> Path:
        """The file to write."""
        return self.output or self.checkpoint.with_suffix(SUFFIX)


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how equal it is."""

    output: Path
    size: int  # bytes, weights beside the file included
    rewrites: tuple[Work, ...]  # those that changed something
    parity: ParityReport
    contract: Contract
    seconds: float
    int8: Int8Report | None = None
    fp16: Fp16Report | None = None
    plan: PlanReport | None = None
    no_plan: str = ""  # what this machine lacks to build one that was not required

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return {
            "output": str(self.output),
            "bytes": self.size,
            "rewrites": [asdict(step) for step in self.rewrites],
            "parity": self.parity.to_json(),
            "contract": self.contract.to_dict(),
            "seconds": round(self.seconds, 2),
            **({"int8": self.int8.to_json()} if self.int8 else {}),
            **({"fp16": self.fp16.to_json()} if self.fp16 else {}),
            **({"plan": self.plan.to_json()} if self.plan else {}),
            **({"no_plan": self.no_plan} if self.no_plan else {}),
        }

    def lines(self) -> list[str]:
        """The report for people, ending in what to do next."""
        return [
            *(f"{'rewrites' if not i else '':8}  {s}" for i, s in enumerate(self._rewrite_lines())),
            f"written   {self.output}  {size_text(self.size)}, in {self.seconds:.0f} s",
            *(f"{'parity' if not i else '':8}  {s}" for i, s in enumerate(self.parity.lines())),
            *(self.int8.lines() if self.int8 else ()),
            *(self.fp16.lines() if self.fp16 else ()),
            *(self.plan.lines() if self.plan else [f"next: {self._next_command()}"]),
        ]

    def _next_command(self) -> str:
        if self.fp16:
            command = f"mfnet-export --onnx {self.fp16.output} --plan"
            return f"on the GPU's machine, {command} (not here: {self.no_plan})"
        return f"mfnet-run {self.int8.output if self.int8 else self.output} SCENES -o OUT"

    def _rewrite_lines(self) -> list[str]:
        """A line a rewrite, with what it saves, and the sum."""
        if not self.rewrites:
            return ["none"]
        changes = [step.after - step.before for step in self.rewrites]
        lines = [
            f"{step.name:15}  {f'{change:+7.3f} GFLOP' if change else '':13}  {step.says}"
            for step, change in zip(self.rewrites, changes, strict=True)
        ]
        first, last = self.rewrites[0].before, self.rewrites[-1].after
        return [*lines, f"{first:.2f} -> {last:.2f} GFLOP a window"]


def exported(request: ExportRequest, tell: Callable[[str], None] = lambda _: None) -> ExportReport:
    """Write a checkpoint's network as ONNX, once its logits have proven equal.

    An older output is replaced only then; after any failure it is as it was.

    Args:
        request: What to do.
        tell: Told what is being done, a few words each.

    Raises:
        UsageError: missing files or folders, options that do not fit the checkpoint.
        ModelError: the checkpoint is damaged, untrusted or contradicts itself.
        ExportError: the graph cannot be exported, or its logits differ; or TensorRT cannot build
            the plan, when the other files are written.
        NoBuilderError: a plan is required that this machine cannot build.
        ResourceError: the output folder cannot be written, or the disk or the GPU's memory is full.
    """
    started = time.perf_counter()
    _require_output(request)
    if request.plan and request.plan.required:
        require_builder()
    with staged(request.target) as partial:
        tell(f"loading {request.checkpoint.name}")
        checkpoint = _checkpoint_from_request(request)
        windows = sample_windows(
            checkpoint.contract, request.scenes, request.windows, bands=request.bands
        )
        calibration = request.int8 and calibration_set(
            checkpoint.contract, request.int8.calibrate, request.int8.windows, request.bands
        )
        network = _network_from_checkpoint(checkpoint, request.checkpoint)
        rewritten = merged(network, without=request.without)
        contract = checkpoint.contract.with_provenance(
            checkpoint_sha256=sha256_from_file(request.checkpoint), rewrites=list(rewritten.steps)
        )
        work = rewritten.work()
        tell("exporting to ONNX")
        contract = onnx_from_network(rewritten.network, contract, partial)
        tell(f"comparing on {len(windows)} windows")
        parity = _parity(network, contract, partial, windows)
        if not parity.passed:
            raise ExportError(
                f"{request.checkpoint}: not exported, {parity.failure()}; nothing was written "
                f"(--no-rewrite leaves a rewrite out: {', '.join(rewritten.steps) or 'none ran'})"
            )
        size = size_of_files(partial.parent)
        judged: dict[str, Any] = {
            "judge": request.scenes,
            "bands": request.bands,
            "threads": torch.get_num_threads(),
            "tell": tell,
        }
        int8, fp16 = None, None
        if request.int8 and calibration:
            int8 = int8_from_onnx(
                partial, int8_beside(partial), calibration, request.int8, **judged
            )
            int8 = replace(int8, output=int8_beside(request.target))
        if request.fp16:
            fp16 = fp16_from_onnx(partial, fp16_beside(partial), windows, request.fp16, **judged)
            fp16 = replace(fp16, output=fp16_beside(request.target))
    seconds = time.perf_counter() - started
    report = ExportReport(request.target, size, work, parity, contract, seconds, int8, fp16)
    return _with_plan(report, request.plan, tell) if request.plan else report


def _with_plan(report: ExportReport, wish: PlanWish, tell: Callable[[str], None]) -> ExportReport:
    """The plan too, of files that are in their place by now."""
    source = report.fp16.output if report.fp16 else report.output
    try:
        plan = plan_from_onnx(source, plan_beside(source), wish.options, tell)
    except NoBuilderError as fault:
        if wish.required:
            raise
        return replace(report, no_plan=str(fault))
    except MFNetError as fault:
        raise type(fault)(f"{fault} ({source.name} is written)") from fault
    return replace(report, plan=plan)


def _require_output(request: ExportRequest) -> None:
    if not request.checkpoint.is_file():
        raise UsageError(f"{request.checkpoint}: no such file; give a checkpoint with --ckpt")
    if request.target.resolve() == request.checkpoint.resolve():
        raise UsageError(f"{request.target}: is the checkpoint itself; choose another with -o")
    if request.target.suffix != SUFFIX:
        raise UsageError(f"{request.target}: expected a name ending in {SUFFIX}")
    for name, asked in (("fp16", request.fp16), ("int8", request.int8)):
        if asked and request.target.stem.endswith(f".{name}"):
            raise UsageError(
                f"{request.target}: -o names the FP32 file, and the {name.upper()} file after it; "
                f"leave .{name} out"
            )


def _checkpoint_from_request(request: ExportRequest) -> Checkpoint:
    path, window = request.checkpoint, request.window
    checkpoint = load_checkpoint(path) if window is None else load_checkpoint(path, window=window)
    if window not in (None, checkpoint.config.window):
        raise UsageError(
            f"{path}: was trained for windows of {checkpoint.config.window} px, not {window}; "
            "leave --window out, it is for official .pth files"
        )
    if request.classes is None:
        return checkpoint
    classes = classes_from_file(request.classes)
    if len(classes) != checkpoint.config.classes:
        raise UsageError(
            f"{request.classes}: names {len(classes)} classes, {path.name} has "
            f"{checkpoint.config.classes}"
        )
    return replace(checkpoint, contract=replace(checkpoint.contract, classes=classes))


def _network_from_checkpoint(checkpoint: Checkpoint, path: Path) -> MFNet:
    try:
        return network_from_checkpoint(checkpoint)
    except ModelError as fault:
        raise ModelError(f"{path}: {fault}; copy it again, or train anew") from fault


def _parity(network: MFNet, contract: Contract, path: Path, windows: Windows) -> ParityReport:
    """The file as the runtime will run it, against the network as it was trained."""
    with (
        TorchBackend(network, contract) as reference,
        backend_from_file(path, "onnxruntime", threads=torch.get_num_threads()) as candidate,
    ):
        return compared(reference, candidate, windows)
