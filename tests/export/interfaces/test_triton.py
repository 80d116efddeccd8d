"""`mfnet-export --for triton`: its configuration, its scaling, and a real server."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from support import RGBD, plan_facts, write_rgbd_model

from mfnet_export.cli import main
from mfnet_runtime.backends.tensorrt.plan_file import Profile, sidecar_of
from mfnet_runtime.contract import Contract, DsmRule, ImageRule
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.scene.normalize import DsmRange, scale_dsm, scale_image

if TYPE_CHECKING:
    from export.conftest import Made

EVERYWHERE = np.ones((32, 32), bool)
# Triton's ONNX Runtime backend is in no Python package, so its Python backend runs the file.
RUN_ONNX = """
import os
import onnxruntime
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        names = [each.name for each in self.session.get_inputs()]
        feeds = [
            {name: triton.get_input_tensor_by_name(each, name).as_numpy() for name in names}
            for each in requests
        ]
        results = [self.session.run(None, feed)[0] for feed in feeds]
        return [triton.InferenceResponse([triton.Tensor("logits", each)]) for each in results]
"""


def write(model: Path, folder: Path, *words: str) -> int:
    return main(["--onnx", str(model), "--for", "triton", "-o", str(folder), *words])


def write_plan(path: Path, **facts: Any) -> Path:
    path.write_bytes(b"plan")
    known = {"plan_sha256": sha256_from_file(path), **facts}
    sidecar_of(path).write_text(plan_facts(Contract(32, RGBD, precision="fp16"), **known).to_json())
    return path


def model_config_messages() -> ModuleType:
    """Triton's own messages, without tritonclient's package, which imports gRPC."""
    found = importlib.util.find_spec("tritonclient")
    if found is None or found.origin is None:
        pytest.skip("tritonclient is not installed")
    path = Path(found.origin).parent / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(folder: Path) -> Any:
    from google.protobuf import text_format

    text = (folder / "triton" / "mfnet" / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_messages().ModelConfig())


def shapes(values: Any) -> dict[str, tuple[str, list[int]]]:
    kinds = model_config_messages().DataType
    return {each.name: (kinds.Name(each.data_type), list(each.dims)) for each in values}


def test_configuration_of_an_onnx_file(tmp_path: Path) -> None:
    assert write(write_rgbd_model(tmp_path / "m.onnx"), tmp_path) == 0
    config = parsed(tmp_path)
    assert (config.name, config.backend, config.max_batch_size) == ("mfnet", "onnxruntime", 16)
    assert shapes(config.input) == {
        "image": ("TYPE_FP32", [3, 32, 32]),
        "dsm": ("TYPE_FP32", [1, 32, 32]),
    }
    assert shapes(config.output) == {"logits": ("TYPE_FP32", [4, 32, 32])}
    assert list(config.dynamic_batching.preferred_batch_size) == [16]
    assert [each.batch_size for each in config.model_warmup] == [1, 16]
    assert set(config.model_warmup[0].inputs) == {"image", "dsm"}
    repository = tmp_path / "triton" / "mfnet"
    labels = (repository / config.output[0].label_filename).read_text()
    assert labels == "red\ngreen\nblue\nhigh\n"
    assert (repository / "1" / "model.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()


def test_configuration_of_raw_inputs(tmp_path: Path) -> None:
    assert write(write_rgbd_model(tmp_path / "m.onnx"), tmp_path, "--raw-inputs") == 0
    assert shapes(parsed(tmp_path).input) == {
        "image": ("TYPE_UINT8", [3, 32, 32]),
        "dsm": ("TYPE_FP32", [1, 32, 32]),
        "dsm_range": ("TYPE_FP32", [2]),
    }


def test_configuration_of_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = write_plan(tmp_path / "m.plan", profile=Profile(1, 8, 12))
    assert write(plan, tmp_path) == 0
    assert "TensorRT 10.13.3.9, on sm90" in capsys.readouterr().out
    config = parsed(tmp_path)
    assert (config.platform, config.max_batch_size) == ("tensorrt_plan", 12)
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert shapes(config.input)["image"] == ("TYPE_FP16", [3, 32, 32])
    assert (tmp_path / "triton" / "mfnet" / "1" / "model.plan").read_bytes() == b"plan"


@pytest.mark.parametrize("rule", [DsmRule(), DsmRule("range", 100.0, 130.0)])
@pytest.mark.parametrize(("precision", "full_scale"), [("fp32", 255), ("fp16", 255), ("fp32", 4e4)])
def test_raw_inputs_are_scaled_as_by_the_runtime(
    tmp_path: Path, rule: DsmRule, precision: str, full_scale: float
) -> None:
    image_rule = ImageRule(full_scale=full_scale)
    model = write_rgbd_model(tmp_path / "m.onnx", precision=precision, dsm=rule, image=image_rule)
    assert write(model, tmp_path, "--raw-inputs") == 0
    path = tmp_path / "triton" / "mfnet" / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = {each.name: each.type for each in session.get_inputs()}
    pixels = np.uint8 if full_scale == 255 else np.uint16
    assert inputs["image"] == f"tensor({pixels.__name__})"
    assert ("dsm_range" in inputs) == (rule.name != "range")

    rng = np.random.default_rng(0)
    image = rng.integers(0, np.iinfo(pixels).max, (2, 3, 32, 32)).astype(pixels)
    dsm = rng.uniform(90, 140, (2, 1, 32, 32)).astype(np.float32)
    dsm[1] = 7.0  # a scene of one height
    spans = np.array([[101.5, 128.25], [7.0, 7.0]], np.float32)
    feeds = {"image": image, "dsm": dsm, "dsm_range": spans}
    (logits,) = session.run(None, {name: feeds[name] for name in inputs})
    half = np.float16 if precision == "fp16" else np.float32
    for window in range(2):
        low, high = (rule.low, rule.high) if rule.name == "range" else spans[window].tolist()
        heights = scale_dsm(dsm[window, 0], EVERYWHERE, DsmRange(low, high))
        colours = scale_image(image[window], EVERYWHERE, image_rule)
        assert (logits[window, :3] == colours.astype(half)).all()
        assert np.abs(logits[window, 3] - heights.astype(half)).max() < 1e-6


@pytest.mark.parametrize(
    ("facts", "words", "code", "text"),
    [
        ({"flavour": "rtx"}, [], 2, "no plans of TensorRT for RTX"),
        ({"profile": Profile(4, 8, 8)}, [], 2, "batches from 4"),
        ({}, ["--raw-inputs"], 2, "a plan reveals"),
        ({"plan_sha256": "ab" * 32}, [], 3, "SHA-256"),
    ],
)
def test_refused_plans(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    facts: dict[str, Any],
    words: list[str],
    code: int,
    text: str,
) -> None:
    assert write(write_plan(tmp_path / "m.plan", **facts), tmp_path / "out", *words) == code
    assert text in capsys.readouterr().err


def test_pixels_that_are_no_integers_stay_scaled_by_the_client(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_rgbd_model(tmp_path / "m.onnx", image=ImageRule(full_scale=1.0))
    assert write(model, tmp_path, "--raw-inputs") == 2
    assert "pixels end at 1" in capsys.readouterr().err


@contextmanager
def served(repository: Path, folder: Path) -> Iterator[str]:
    """Serve a repository by the server that nvidia-pytriton carries; yields its address."""
    python = Path(os.environ.get("PYTRITON_PYTHON", ""))
    if not python.is_file():
        pytest.skip(
            "PYTRITON_PYTHON does not name a Python with nvidia-pytriton (450 MB, numpy 1) and "
            "onnxruntime"
        )
    pytest.importorskip("gevent", reason="tritonclient[http] is not installed")
    find = "import pytriton, sys; print(pytriton.__path__[0], *sys.version_info[:2])"
    found = subprocess.run([python, "-c", find], capture_output=True, text=True, check=True)
    package, major, minor = found.stdout.split()
    server = Path(package) / "tritonserver"
    shutil.copytree(server / "backends", folder / "backends")
    stub = server / "python_backend_stubs" / f"{major}.{minor}" / "triton_python_backend_stub"
    shutil.copy(stub, folder / "backends" / "python")
    config = repository / "mfnet" / "config.pbtxt"
    text = config.read_text()
    assert 'backend: "onnxruntime"' in text
    text = text.replace('backend: "onnxruntime"', 'backend: "python"')
    # Enough for a busy machine to send the requests of one batch.
    config.write_text(text.replace(": 5000", ": 1000000"))
    (repository / "mfnet" / "1" / "model.py").write_text(RUN_ONNX)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [server / "bin" / "tritonserver", "--model-repository", repository]
    words += ["--backend-directory", folder / "backends", "--strict-readiness", "true"]
    words += ["--disable-auto-complete-config", "--http-address", "127.0.0.1"]
    words += ["--http-port", str(port), "--allow-grpc", "false", "--allow-metrics", "false"]
    # The backend finds its packages by the first Python on the path.
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    libraries = server.parents[1] / "nvidia_pytriton.libs"
    env = {**os.environ, "PATH": path, "LD_LIBRARY_PATH": str(libraries)}
    with (folder / "log").open("w") as log:
        running = subprocess.Popen([str(word) for word in words], stdout=log, stderr=log, env=env)
        try:
            deadline = time.monotonic() + 60
            while not _answers(f"http://127.0.0.1:{port}/v2/health/ready"):
                alive = running.poll() is None and time.monotonic() < deadline
                assert alive, (folder / "log").read_text()[-3000:]
                time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            running.terminate()
            running.wait(60)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("raw", [False, True])
def test_a_real_server_answers_as_onnx_runtime(made: Made, tmp_path: Path, raw: bool) -> None:
    assert write(made.onnx, tmp_path, *(["--raw-inputs"] if raw else [])) == 0
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (12, 3, 64, 64), np.uint8)
    dsm = rng.uniform(100, 130, (12, 1, 64, 64)).astype(np.float32)
    scaled: dict[str, Any] = {"image": image * np.float32(1 / 255), "dsm": (dsm - 100) / 30}
    feeds = scaled
    if raw:
        spans = np.tile(np.array([100, 130], np.float32), (12, 1))
        feeds = {"image": image, "dsm": dsm, "dsm_range": spans}
    own = onnxruntime.InferenceSession(made.onnx, providers=["CPUExecutionProvider"])
    (expected,) = own.run(None, scaled)
    with served(tmp_path / "triton", tmp_path) as address:
        from tritonclient import http

        client = http.InferenceServerClient(address, concurrency=12)
        kinds = {"uint8": "UINT8", "float32": "FP32"}
        waiting = []
        for index in range(12):
            inputs = []
            for name, values in feeds.items():
                one = values[index : index + 1]
                inputs.append(http.InferInput(name, one.shape, kinds[one.dtype.name]))
                inputs[-1].set_data_from_numpy(one)
            waiting.append(client.async_infer("mfnet", inputs))
        logits = np.concatenate([each.get_result().as_numpy("logits") for each in waiting])
        (statistics,) = client.get_inference_statistics("mfnet")["model_stats"]
    assert np.abs(logits - expected).max() < 1e-5
    windows, batches = statistics["inference_count"], statistics["execution_count"]
    assert windows == 12 + 16 + 1, "expected those of the warm-up as well"
    assert batches < 12 + 2, "no windows were batched"
