"""`benchmarks/gpu_check.py`: its dry run, and all of it on a fake GPU."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.fake_ort_cuda import FakeOrtCuda
from fakes.fake_tensorrt import VERSIONS
from rgbd_plans import Rig, rig

from mfnet_bench.gpu import conformance, kernels
from mfnet_bench.gpu.check import checked
from mfnet_bench.gpu.parity import parity_facts
from mfnet_bench.gpu.report import (
    DONE,
    FAILED,
    NOT_RUN,
    CheckReport,
    report_from_folder,
    write_report,
)
from mfnet_bench.gpu.request import STEPS, CheckRequest, dry, origin
from mfnet_bench.gpu.summary import MARK, summary_from_folder
from mfnet_bench.table import with_table
from mfnet_export.validation.parity import ParityReport
from mfnet_runtime.backends.base import Arrays, Feed
from mfnet_runtime.backends.tensorrt.backend import TensorRtBackend
from mfnet_runtime.errors import UsageError
from mfnet_runtime.files import sha256_from_file

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the networks, made by a dry run as a user starts it."""
    folder = tmp_path_factory.mktemp("gpu")
    words = ["benchmarks/gpu_check.py", "--work", folder, "-o", folder / "out", "--dry-run"]
    program = [sys.executable, *map(str, words)]
    found = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return folder


def status(report: CheckReport) -> dict[str, str]:
    return {step.step: step.status for step in report.steps}


def test_a_dry_run_tells_what_ran_and_what_needs_a_gpu(work: Path) -> None:
    found = json.loads((work / "out/gpu.json").read_text())
    steps = {step["step"]: step for step in found["steps"]}
    assert list(steps) == ["kernels", *(step for step in STEPS if step != "kernels")]
    for step in ("kernels", "plans"):
        assert steps[step]["status"] == NOT_RUN
        assert "tensorrt" in steps[step]["why"]
    for step in ("networks", "parity", "conformance", "speed", "scene"):
        assert steps[step]["status"] == DONE
    assert "in place of plans" in found["machine"]["dry run"]
    engines = {row["engine"] for row in found["speed"]}
    assert engines == {"eager fp32", "autocast fp16", "ONNX Runtime fp32"}
    for row in found["speed"]:
        assert row["median_ms"] > 0
        assert row["ratio_eager"] > 0
        assert row["floor_share"] > 0
    with (work / "out/gpu.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(found["speed"])
    assert "| tiny lora |" in (work / "out/gpu.md").read_text()


def test_a_check_that_ran_nothing_is_no_success(tmp_path: Path) -> None:
    words = ["--work", tmp_path, "--steps", "plans", "--networks", "tiny lora"]
    program = [sys.executable, "benchmarks/gpu_check.py", *map(str, words)]
    found = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 4, found.stderr
    assert "needs tensorrt" in found.stdout


@pytest.fixture(params=VERSIONS)
def machine(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with rig(request.param) as machine:
        yield machine
        machine.check()


def on_gpu(work: Path, tmp_path: Path, *steps: str) -> CheckRequest:
    """The dry run's networks, with plans; what is made goes elsewhere."""
    for path in work.glob("tiny_lora.*"):
        if path.suffix not in (".plan", ".json") or path.name.endswith("facts.json"):
            (tmp_path / path.name).symlink_to(path)
    return replace(dry({"work": tmp_path, "steps": steps}), dry=False)


def test_everything_but_pytorch_on_a_gpu(work: Path, tmp_path: Path, machine: Rig) -> None:
    steps = ("networks", "plans", "parity", "conformance", "kernels", "scene")
    report = checked(on_gpu(work, tmp_path, *steps), lambda note: None)
    assert {step.step: step.why for step in report.steps if step.status != DONE} == {}
    assert report.machine["gpu"] == "NVIDIA Fake"
    assert report.machine["tensorrt"] == machine.trt.version
    facts = {step.step: step.facts for step in report.steps}
    assert facts["parity"]["fp32"]["engine"] == "TensorRT fp32"
    assert facts["parity"]["fp16"]["agreement"] > 0.99
    assert [row.preprocess for row in report.scenes] == ["gpu", "cpu"]
    assert report.scenes[1].agreement == 1
    write_report(tmp_path / "out", report)
    assert "NVIDIA Fake" in (tmp_path / "out/gpu.md").read_text()


@pytest.mark.slow
def test_what_runs_on_the_gpu_is_timed_without_pytorch(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeOrtCuda().install(monkeypatch)
    with rig("10.13") as machine:
        report = checked(on_gpu(work, tmp_path, "plans", "speed"), lambda note: None)
        machine.check()
    assert status(report) == {"plans": DONE, "speed": DONE}
    timed = {row.engine for row in report.speed if row.median_ms is not None}
    assert timed == {"TensorRT fp16", "ONNX Runtime CUDA fp16, with copies"}
    refused = [row for row in report.speed if row.refused is not None]
    assert {row.engine for row in refused} == {"eager fp32", "autocast fp16", "compiled fp16"}


def test_a_step_that_fails_is_reported_and_the_others_run(work: Path, tmp_path: Path) -> None:
    with rig("10.13") as machine:
        machine.trt.script["build"] = lambda: None
        request = on_gpu(work, tmp_path, "networks", "plans", "parity")
        (tmp_path / "tiny_lora.fp16.onnx").unlink()
        report = checked(request, lambda note: None)
    assert status(report) == {"networks": DONE, "plans": FAILED, "parity": NOT_RUN}
    assert "tiny_lora.fp16.onnx" in str(report.failed[0].why)


def test_what_no_step_foresees_fails_that_step_alone(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a library's own")

    monkeypatch.setattr("mfnet_bench.gpu.check.parity_of", broken)
    with rig("10.13"):
        report = checked(on_gpu(work, tmp_path, "plans", "parity", "conformance"), lambda _: None)
    assert status(report) == {"plans": DONE, "parity": FAILED, "conformance": DONE}
    assert report.failed[0].why == "RuntimeError: a library's own"


def test_results_stay_until_their_step_runs_again(work: Path, tmp_path: Path) -> None:
    with rig("10.13"):
        checked(
            on_gpu(work, tmp_path, "plans", "scene"),
            lambda _: None,
            lambda report: write_report(tmp_path, report),
        )
        earlier = report_from_folder(tmp_path)
        assert earlier is not None
        again = replace(dry({"work": tmp_path, "steps": ("plans", "parity")}), dry=False)
        report = checked(again, lambda _: None, earlier=earlier)
    assert [step.step for step in report.steps] == ["scene", "plans", "parity"]
    assert report.steps[1].facts == {}, "the same plans were built again"
    assert len(report.scenes) == 2
    with rig("11.4"):
        report = checked(replace(again, steps=("plans",)), lambda _: None, earlier=earlier)
    assert [step.step for step in report.steps] == ["plans"], "results of another TensorRT"
    assert "fp16 layers" in report.steps[0].facts, "a plan of another TensorRT was kept"


def test_files_of_another_checkpoint_are_made_anew(work: Path, tmp_path: Path) -> None:
    request = on_gpu(work, tmp_path, "networks")
    (files,) = request.files
    changed = replace(request, torch_python="/bin/false", window=96)
    with rig("10.13"):
        assert status(checked(request, lambda _: None)) == {"networks": DONE}
        assert status(checked(changed, lambda _: None)) == {"networks": FAILED}
    given = replace(files, given=work / "tiny_lora.pt")
    assert origin(given, request)["checkpoint"] == sha256_from_file(work / "tiny_lora.pt")


@pytest.mark.parametrize(("moved", "held"), [(0.01, True), (0.1, False), (float("nan"), False)])
def test_fp16_is_judged_by_logits_where_no_class_is_decided(moved: float, held: bool) -> None:
    report = ParityReport(
        reference="", candidate="", source="", windows=1, batches=(1,), max_abs=moved,
        mean_abs=0.0, low=-0.5, high=0.5, agreement=0.9, clear=0.0, clear_agreement=1.0,
    )  # fmt: skip
    assert parity_facts(report, 0.999, undecided=True)["held"] is held
    assert not parity_facts(report, 0.999)["held"]


def test_plans_of_trained_networks_are_scored_on_labels(work: Path, tmp_path: Path) -> None:
    request = on_gpu(work, tmp_path, "plans", "parity")
    town = work / "town_150x200"
    request = replace(request, networks=(), checkpoints=(work / "tiny_lora.pt",), scenes=town)
    with rig("10.13"):
        report = checked(request, lambda _: None)
    parity = report.steps[-1]
    assert abs(parity.facts["points of mIoU lost in FP16"]) < 5, parity.why


def test_kernels_that_are_wrong_are_found(machine: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SIZES", ((20, 41),))
    monkeypatch.setattr(kernels, "HALVES", ("float32",))
    assert all(kernels.kernels_agree().values())
    monkeypatch.setattr(kernels, "scaled_dsm", lambda dsm, valid, span: dsm)
    found = kernels.kernels_agree()
    assert not found["cut uint8 to float32"]
    assert found["blend of float32"]


def test_a_backend_that_mixes_windows_does_not_conform(
    work: Path, tmp_path: Path, machine: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = on_gpu(work, tmp_path, "plans", "conformance")
    honest = TensorRtBackend.infer

    def mixed(backend: TensorRtBackend, feed: Feed) -> Arrays:
        logits = honest(backend, feed)["logits"]
        return {"logits": logits + logits.mean(axis=0, keepdims=True)}

    monkeypatch.setattr(TensorRtBackend, "infer", mixed)
    report = checked(request, lambda note: None)
    assert status(report)["conformance"] == FAILED
    checks = report.steps[-1].facts["checks"]
    assert not checks["a_window_does_not_depend_on_its_neighbours"]
    assert checks["answers_every_batch"]
    assert set(checks) == {check.__name__.strip("_") for check in conformance.CHECKS}


def test_what_means_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="step 'fly'"):
        CheckRequest(work=tmp_path, steps=("fly",))
    with pytest.raises(UsageError, match="network 'vit_x lora'"):
        CheckRequest(work=tmp_path, networks=("vit_x lora",))
    (tmp_path / "tiny_lora.pt").touch()
    with pytest.raises(UsageError, match="two networks named tiny_lora"):
        CheckRequest(
            work=tmp_path, networks=("tiny lora",), checkpoints=(tmp_path / "tiny_lora.pt",)
        )
    with pytest.raises(UsageError, match=r"no such checkpoint"):
        CheckRequest(work=tmp_path, checkpoints=(tmp_path / "best.pt",))


def test_the_readme_says_what_is_known_of_a_gpu() -> None:
    text = (ROOT / "README.md").read_text()
    found = summary_from_folder(ROOT / "benchmarks/results/gpu")
    assert with_table(text, found, MARK, "README.md") == text


def test_a_dry_run_is_no_result_for_a_readme(work: Path) -> None:
    with pytest.raises(UsageError, match="no GPU took part"):
        summary_from_folder(work / "out")


def test_results_of_a_gpu_become_tables(work: Path, tmp_path: Path) -> None:
    found = json.loads((work / "out/gpu.json").read_text())
    found["machine"] |= {"gpu": "NVIDIA Test", "tensorrt": "10.13.3.9"}
    (tmp_path / "gpu.json").write_text(json.dumps(found))
    text = summary_from_folder(tmp_path)
    assert text.count("| tiny lora |") == len(found["speed"]) + len(found["scenes"])
    assert "gpu NVIDIA Test, tensorrt 10.13.3.9" in text
