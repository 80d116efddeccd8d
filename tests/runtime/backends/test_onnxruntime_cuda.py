"""ONNX Runtime on a simulated GPU, without falling back; and which device a file runs on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fakes.fake_ort_cuda import FakeOrtCuda
from support import read, write_rgbd_model, write_scene

from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.cli.main import main
from mfnet_runtime.errors import DeviceLostError, ModelError, ResourceError, UsageError

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def ort(monkeypatch: pytest.MonkeyPatch) -> FakeOrtCuda:
    return FakeOrtCuda().install(monkeypatch)


@pytest.fixture
def half(tmp_path: Path) -> Path:
    return write_rgbd_model(tmp_path / "best.fp16.onnx", precision="fp16")


def wide(batch: int) -> dict[str, np.ndarray]:
    return {key: np.repeat(array, 2, axis=-1) for key, array in feed(batch).items()}


def feed(batch: int, dtype: type = np.float32, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng((seed, batch))
    return {
        "image": rng.random((batch, 3, 32, 32)).astype(dtype),
        "dsm": rng.random((batch, 1, 32, 32)).astype(dtype),
    }


def test_every_batch_is_answered_and_memory_is_reserved_when_it_changes(
    ort: FakeOrtCuda, model: Path, capsys: Capture
) -> None:
    with backend_from_file(model, device="cuda") as backend:
        assert capsys.readouterr().out == ""  # what ONNX Runtime prints is not output
        for count in (3, 3, 1, 1, 3):
            given = {key: array[..., ::2] for key, array in wide(count).items()}  # views
            logits = backend.infer(given)["logits"]
            np.testing.assert_array_equal(logits, np.concatenate([given["image"], given["dsm"]], 1))
        assert backend.device.startswith("GPU 0 by CUDA, ONNX Runtime ")
        assert (backend.name, backend.precision, backend.threads) == ("onnxruntime", "fp32", 0)
    assert [shape for shape in ort.reserved if shape[1] == 3] == [
        (count, 3, 32, 32) for count in (3, 1, 3)
    ]
    assert ort.sessions == [{"use_tf32": "0"}]


def test_an_fp16_file_goes_to_the_gpu_by_itself(ort: FakeOrtCuda, half: Path) -> None:
    with backend_from_file(half) as backend:
        given = feed(2, np.float16)
        logits = backend.infer(given)["logits"]
        assert logits.dtype == np.float16
        np.testing.assert_array_equal(logits[:, :3], given["image"])
        assert backend.precision == "fp16"
        with pytest.raises(ModelError, match=r"'image' is float32"):
            backend.infer(feed(2))


def test_an_fp16_file_without_a_gpu_names_the_ways_out(half: Path) -> None:
    remedies = r"FP32 file.*mfnet-export --onnx best\.fp16\.onnx --plan.*onnxruntime-gpu"
    for name in ("auto", "onnxruntime"):
        with pytest.raises(ModelError, match=remedies):
            backend_from_file(half, name)


def test_an_fp32_file_stays_on_the_cpu_unless_told(ort: FakeOrtCuda, model: Path) -> None:
    pytest.importorskip("openvino")
    with backend_from_file(model) as backend:
        assert "CPU" in backend.device
    assert ort.sessions == []


def test_the_installed_onnx_runtime_is_built_for_cpus(
    model: Path, tmp_path: Path, capsys: Capture
) -> None:
    write_scene(tmp_path / "scenes")
    words = [model, tmp_path / "scenes", "-o", tmp_path / "out", "--device", "cuda"]
    assert main([str(word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no CUDA provider" in line
    assert "pip install 'onnxruntime-gpu" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("starts", ["refused", "silent"])
def test_a_session_that_would_run_on_the_cpu_is_refused(
    ort: FakeOrtCuda, model: Path, starts: str
) -> None:
    ort.starts = starts
    with pytest.raises(UsageError, match=r"would run it on the CPU.*onnxruntime-gpu"):
        backend_from_file(model, device="cuda")


def test_memory_that_does_not_suffice(ort: FakeOrtCuda, model: Path) -> None:
    with backend_from_file(model, device="cuda") as backend:
        ort.fault = RuntimeError("CUDA failure 2: out of memory ; GPU=0")
        with pytest.raises(ResourceError, match=r"a batch of 4 windows does not fit") as caught:
            backend.infer(feed(4))
        assert not isinstance(caught.value, DeviceLostError)
        assert len(backend.infer(feed(2))["logits"]) == 2


def test_a_gpu_that_failed_is_not_asked_again(ort: FakeOrtCuda, model: Path) -> None:
    with backend_from_file(model, device="cuda") as backend:
        ort.fault = RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        for _ in range(2):
            with pytest.raises(DeviceLostError, match=r"stopped working .*illegal memory access"):
                backend.infer(feed(1))
        assert ort.runs == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"device": "cuda", "name": "openvino"}, "openvino runs on CPUs only"),
        ({"device": "cuda", "name": "tensorrt"}, "TensorRT runs plans; build one: mfnet-export"),
        ({"name": "tensorrt"}, "TensorRT runs plans; build one: mfnet-export --onnx rgbd.onnx"),
        ({"device": "tpu"}, "no device named 'tpu'; choose from cpu, cuda"),
        ({"trust_plan": True}, "not a plan; leave out --trust-plan"),
        ({"device": "cuda", "precision": "bf16"}, "--precision cannot change fp32 on a GPU"),
        ({"device": "cuda", "precision": "fp99"}, "no precision named"),
    ],
)
def test_what_does_not_go_together(
    ort: FakeOrtCuda, model: Path, words: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        backend_from_file(model, **words)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"device": "cpu"}, "a plan runs on a GPU; leave out --device cpu"),
        ({"name": "openvino"}, "a plan runs on TensorRT; leave out --backend openvino"),
    ],
)
def test_what_does_not_go_with_a_plan(
    tmp_path: Path, words: dict[str, object], message: str
) -> None:
    plan = tmp_path / "a.plan"
    plan.touch()
    with pytest.raises(UsageError, match=message):
        backend_from_file(plan, **words)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("int8", r"runs int8 on a CPU only"),
        ("int8+fp16", r"not run INT8 on a GPU; run the FP16 file, or .* --onnx i.onnx --plan"),
    ],
)
def test_int8_does_not_run_on_a_gpu(
    ort: FakeOrtCuda, tmp_path: Path, precision: str, message: str
) -> None:
    model = write_rgbd_model(tmp_path / "i.onnx", precision=precision)
    with pytest.raises(ModelError, match=message):
        backend_from_file(model, device="cuda")


def test_the_device_is_printed_and_in_the_summary(
    ort: FakeOrtCuda, half: Path, tmp_path: Path, capsys: Capture
) -> None:
    scene = write_scene(tmp_path / "scenes", label=True)
    words = [half, tmp_path / "scenes", "-o", tmp_path / "out", "--json"]
    assert main([str(word) for word in words]) == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert summary["device"].startswith("GPU 0 by CUDA")
    assert (summary["precision"], summary["preprocess"]) == ("fp16", "cpu")
    assert "best.fp16.onnx in fp16 on GPU 0 by CUDA, ONNX Runtime" in said.err
    assert scene.label is not None
    found = read(tmp_path / "out" / "a.tif")
    assert np.mean(found == read(scene.label)) > 0.99
