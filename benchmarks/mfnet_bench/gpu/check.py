"""The whole check, network by network and step by step: what fails is reported, the rest runs."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from mfnet_bench.gpu.conformance import conformance
from mfnet_bench.gpu.engines import NotHereError, build_plan, gpu_facts, opened, run_of, why_no_gpu
from mfnet_bench.gpu.kernels import kernels_agree
from mfnet_bench.gpu.parity import parity_facts, parity_of
from mfnet_bench.gpu.report import DONE, FAILED, NOT_RUN, CheckReport, StepResult
from mfnet_bench.gpu.request import CheckRequest, NetworkFiles, making
from mfnet_bench.gpu.scene import scene_rows
from mfnet_bench.gpu.speed import TimedPlan, speed_of
from mfnet_bench.machine import machine_facts
from mfnet_runtime.errors import MFNetError, ModelError

AGREEMENT = {"fp32": 0.9999, "fp16": 0.999}  # least share of pixels that keep PyTorch's class
PRECISIONS = tuple(AGREEMENT)

Facts = dict[str, Any]
Tell = Callable[[str], None]
Keep = Callable[[CheckReport], None]
Step = Callable[[CheckRequest, NetworkFiles, CheckReport, Tell], Facts]


def checked(request: CheckRequest, tell: Tell, keep: Keep = lambda _: None) -> CheckReport:
    """Run the steps asked for.

    Args:
        request: What to do.
        tell: Told what is being done, a few words each.
        keep: Given the report after every step, so that a machine taken away loses little.
    """
    started = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    stand_in = {"dry run": "FP32 files on the CPU in place of plans"} if request.dry else {}
    report = CheckReport(started, {**stand_in, **machine_facts(), **gpu_facts()})

    def attempt(step: str, network: str, run: Callable[[], Facts]) -> None:
        tell(f"{network or 'device'}: {step}")
        result, start = StepResult(step, network, DONE), time.perf_counter()
        try:
            result.facts = run()
        except NotHereError as reason:
            result.status, result.why = NOT_RUN, str(reason)
        except (MFNetError, OSError) as fault:
            result.status, result.why = FAILED, " ".join(str(fault).split())
        if not result.facts.get("held", True):
            result.status = FAILED
        result.seconds = time.perf_counter() - start
        report.steps.append(result)
        keep(report)

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
    if not files.facts.is_file():
        ended = subprocess.run(making(files, request), capture_output=True, text=True)
        if ended.returncode:
            last = ended.stderr.strip().rpartition("\n")[2]
            raise ModelError(f"{files.name}: its files cannot be made: {last}")
    facts = _facts_of(files)
    said = {name: facts[name] for name in ("gflop", "gflop_published", "source", "torch")}
    return {**said, "FP16 agreement, emulated": facts["fp16"]["emulated_difference"]["agreement"]}


def _plans(request: CheckRequest, files: NetworkFiles, report: CheckReport, tell: Tell) -> Facts:
    if reason := why_no_gpu():
        raise NotHereError(reason)
    built = {
        precision: build_plan(files, precision, request, lambda note: tell(f"{files.name}: {note}"))
        for precision in PRECISIONS
        if not files.plan(precision).is_file()
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
            facts = parity_facts(parity_of(engine.backend, files.windows), bound)
        found[precision] = {**facts, "engine": engine.name}
    return {
        "held": all(facts["held"] for facts in found.values()),
        **{f"{name} agreement": facts["agreement"] for name, facts in found.items()},
        **found,
    }


def _conformance(
    request: CheckRequest, files: NetworkFiles, report: CheckReport, tell: Tell
) -> Facts:
    with opened(files, "fp16", request) as engine:
        found = conformance(engine.backend, request.largest_batch)
    return {"held": all(found.values()), "checks": found, "engine": engine.name}


def _speed(request: CheckRequest, files: NetworkFiles, report: CheckReport, tell: Tell) -> Facts:
    with opened(files, "fp16", request) as engine:
        agreement = parity_of(engine.backend, files.windows).agreement
        timed = TimedPlan(run_of(engine, files), engine.backend.device, agreement)
        rows, rates = speed_of(files, _facts_of(files), request, {engine.name: timed}, tell)
    report.speed += rows
    best = max((row.floor_share or 0.0 for row in rows if row.engine == engine.name), default=0.0)
    return {"best share of the floor": best, "GFLOP/s of products": rates}


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
