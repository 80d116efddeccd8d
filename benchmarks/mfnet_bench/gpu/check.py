"""The whole check, network by network and step by step: what fails is reported, the rest runs."""

from __future__ import annotations

import json
import subprocess
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from mfnet_bench.gpu.conformance import conformance
from mfnet_bench.gpu.engines import (
    NotHereError,
    backend_of,
    build_plan,
    gpu_facts,
    gpu_held,
    opened,
    plan_is_there,
    rivals,
    run_of,
    why_no_gpu,
)
from mfnet_bench.gpu.kernels import kernels_agree
from mfnet_bench.gpu.parity import parity_facts, parity_of
from mfnet_bench.gpu.report import DONE, FAILED, NOT_RUN, CheckReport, StepResult
from mfnet_bench.gpu.request import CheckRequest, NetworkFiles, making, origin
from mfnet_bench.gpu.scene import scene_rows
from mfnet_bench.gpu.speed import TimedPlan, speed_of
from mfnet_bench.latency.machine import machine_facts
from mfnet_export.precision.accuracy import scores_on_scenes
from mfnet_runtime.console import one_line
from mfnet_runtime.errors import MFNetError, ModelError

AGREEMENT = {"fp32": 0.9999, "fp16": 0.999}  # least share of pixels that keep PyTorch's class
PRECISIONS = tuple(AGREEMENT)
MAX_DROP = 0.1  # points of mIoU that FP16 may lose
MACHINE = ("dry run", "gpu", "driver", "tensorrt")  # results of another are not kept

Facts = dict[str, Any]
Tell = Callable[[str], None]
Keep = Callable[[CheckReport], None]
Step = Callable[[CheckRequest, NetworkFiles, CheckReport, Tell], Facts]


def checked(
    request: CheckRequest,
    tell: Tell,
    keep: Keep = lambda _: None,
    earlier: CheckReport | None = None,
) -> CheckReport:
    """Run the steps asked for.

    Args:
        request: What to do.
        tell: Told what is being done, a few words each.
        keep: Given the report after every step, so that a machine taken away loses little.
        earlier: Results of this GPU and TensorRT, kept where no step replaces them.
    """
    started = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    stand_in = {"dry run": "FP32 files on the CPU in place of plans"} if request.dry else {}
    report = CheckReport(started, {**stand_in, **machine_facts(), **gpu_facts()})
    if earlier is not None and all(
        earlier.machine.get(name) == report.machine.get(name) for name in MACHINE
    ):
        report = replace(earlier, started=started, machine=report.machine)

    def attempt(step: str, network: str, run: Callable[[], Facts]) -> None:
        tell(f"{network or 'device'}: {step}")
        report.forget(step, network)
        result, start = StepResult(step, network, DONE), time.perf_counter()
        try:
            result.facts = run()
        except NotHereError as reason:
            result.status, result.why = NOT_RUN, str(reason)
        except (MFNetError, OSError) as fault:
            result.status, result.why = FAILED, one_line(str(fault))
        except Exception as fault:  # a bug, or what a library raises: the other steps still run
            tell(traceback.format_exc())
            result.status, result.why = FAILED, one_line(f"{type(fault).__name__}: {fault}")
        if not result.facts.get("held", True):
            result.status = FAILED
        result.seconds = time.perf_counter() - start
        report.steps.append(result)
        keep(report)

    with gpu_held():
        if "kernels" in request.steps:
            attempt("kernels", "", lambda: _kernels(request))
        for files in request.files:
            for name, step in STEPS_OF_A_NETWORK.items():
                if name in request.steps:
                    attempt(name, files.name, lambda: step(request, files, report, tell))  # noqa: B023
    return report


def _kernels(request: CheckRequest) -> Facts:
    if reason := why_no_gpu():
        raise NotHereError(reason)
    found = kernels_agree()
    return {**found, "held": all(found.values())}


def _networks(request: CheckRequest, files: NetworkFiles, report: CheckReport, tell: Tell) -> Facts:
    """Make the files, in the Python that has torch, unless they are there."""
    if not files.facts.is_file() or _facts_of(files).get("origin") != origin(files, request):
        _make(files, request, tell)
    facts = _facts_of(files)
    said = {name: facts[name] for name in ("gflop", "gflop_published", "source", "torch")}
    return {**said, "FP16 agreement, emulated": facts["fp16"]["emulated_difference"]["agreement"]}


def _make(files: NetworkFiles, request: CheckRequest, tell: Tell) -> None:
    note, command = "", making(files, request)
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        for line in child.stderr:
            note = line.strip() or note
            tell(f"{files.name}: {line.rstrip()}")
    if child.returncode:
        raise ModelError(f"{files.name}: its files cannot be made: {note}")


def _plans(request: CheckRequest, files: NetworkFiles, report: CheckReport, tell: Tell) -> Facts:
    if reason := why_no_gpu():
        raise NotHereError(reason)
    built = {
        precision: build_plan(files, precision, request, lambda note: tell(f"{files.name}: {note}"))
        for precision in PRECISIONS
        if not plan_is_there(files, precision, request, report.machine)
    }
    return {
        f"{precision} {name}": fact
        for precision, facts in built.items()
        for name, fact in facts.items()
    }


def _parity(request: CheckRequest, files: NetworkFiles, report: CheckReport, tell: Tell) -> Facts:
    found = {}
    for precision in PRECISIONS[:1] if request.dry else PRECISIONS:
        bound = AGREEMENT[precision]
        with opened(files, precision, request) as engine:
            undecided = precision == "fp16" and files.given is None
            facts = parity_facts(parity_of(engine.backend, files.windows), bound, undecided)
        found[precision] = {**facts, "engine": engine.name}
    lost = _points_lost(request, files)
    return {
        "held": all(facts["held"] for facts in found.values()) and (lost or 0) <= MAX_DROP,
        **{f"{name} agreement": facts["agreement"] for name, facts in found.items()},
        **({} if lost is None else {"points of mIoU lost in FP16": lost}),
        **found,
    }


def _points_lost(request: CheckRequest, files: NetworkFiles) -> float | None:
    """By FP16 against FP32 on labelled scenes; None without any, or without training."""
    if request.scenes is None or files.given is None:
        return None
    scores = scores_on_scenes(
        lambda: backend_of(files, "fp32", request),
        lambda: backend_of(files, "fp16", request),
        request.scenes,
    )
    return None if scores is None else scores.drop


def _conformance(
    request: CheckRequest, files: NetworkFiles, report: CheckReport, tell: Tell
) -> Facts:
    with opened(files, "fp16", request) as engine:
        found = conformance(engine.backend, request.largest_batch)
    return {"held": all(found.values()), "checks": found, "engine": engine.name}


def _speed(request: CheckRequest, files: NetworkFiles, report: CheckReport, tell: Tell) -> Facts:
    with opened(files, "fp16", request) as engine, rivals(files, request) as others:
        timed = {
            name: TimedPlan(
                run_of(one, files),
                one.backend.device,
                parity_of(one.backend, files.windows).agreement,
            )
            for name, one in {engine.name: engine, **others}.items()
        }
        rows, rates = speed_of(files, _facts_of(files), request, timed, tell)
    report.speed += rows
    shares = [row.floor_share for row in rows if row.engine == engine.name and row.floor_share]
    best = {"best share of the floor": max(shares)} if shares else {}
    return {**best, "GFLOP/s of products": rates}


def _scene(request: CheckRequest, files: NetworkFiles, report: CheckReport, tell: Tell) -> Facts:
    batch = request.best_batch
    with opened(files, "fp16", request, batch) as engine:
        run = run_of(engine, files)
        rows = scene_rows(
            files.name, engine.backend, request, lambda: min(run(batch, 5)) / batch, engine.ways
        )
    report.scenes += rows
    return {f"stride {row.stride} {row.preprocess}, s": row.total_s for row in rows}


STEPS_OF_A_NETWORK: dict[str, Step] = {
    "networks": _networks,
    "plans": _plans,
    "parity": _parity,
    "conformance": _conformance,
    "speed": _speed,
    "scene": _scene,
}


def _facts_of(files: NetworkFiles) -> Facts:
    """What was written when the files were made.

    Raises:
        ModelError: they were not made.
    """
    if not files.facts.is_file():
        raise ModelError(f"{files.name}: no files in {files.folder}; run the step `networks`")
    facts: Facts = json.loads(files.facts.read_text(encoding="utf-8"))
    return facts
