"""KServe v2: arrays as JSON and as bytes, from Triton's client too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support import rgbd_classes, write_rgbd_model

import mfnet_runtime as mf

pytest.importorskip("fastapi", reason="the extra serve is not installed")
from fastapi.testclient import TestClient

from mfnet_runtime.serve.app import create_app
from mfnet_runtime.serve.kserve import HEADER, MAX_JSON
from mfnet_runtime.serve.options import ServeOptions

URL = "/v2/models/best/infer"
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (3, 45, 70), dtype=np.uint8)
DSM = RNG.uniform(100, 130, (45, 70)).astype(np.float32)
EXPECTED = rgbd_classes(IMAGE, (DSM - DSM.min()) / (DSM.max() - DSM.min()))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    path = write_rgbd_model(tmp_path_factory.mktemp("model") / "best.onnx")
    with (
        mf.load(path, "onnxruntime", threads=1) as model,
        TestClient(create_app(model, ServeOptions(max_pixels=10_000))) as client,
    ):
        yield client


def tensor(name: str, array: npt.NDArray[Any], kind: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "datatype": kind, **more}


def as_json(**more: Any) -> dict[str, Any]:
    image = tensor("image", IMAGE, "UINT8", data=IMAGE.tolist())  # nested
    dsm = tensor("dsm", DSM, "FP32", data=DSM.ravel().tolist())  # flat
    return {"id": "7", "inputs": [image, dsm], **more}


def as_bytes(**more: Any) -> tuple[bytes, dict[str, str]]:
    sizes = [{"parameters": {"binary_data_size": array.nbytes}} for array in (IMAGE, DSM)]
    inputs = [tensor("image", IMAGE, "UINT8", **sizes[0]), tensor("dsm", DSM, "FP32", **sizes[1])]
    head = json.dumps({"inputs": inputs, **more}).encode()
    return head + IMAGE.tobytes() + DSM.tobytes(), {HEADER: str(len(head))}


def test_json(client: TestClient) -> None:
    answer = client.post(URL, json=as_json()).json()
    (output,) = answer.pop("outputs")
    assert answer == {"id": "7", "model_name": "best", "model_version": "1"}
    assert (output["name"], output["datatype"], output["shape"]) == ("classes", "UINT8", [45, 70])
    np.testing.assert_array_equal(np.reshape(output["data"], (45, 70)), EXPECTED)


def test_bytes(client: TestClient) -> None:
    outputs = [{"name": "classes", "parameters": {"binary_data": True}}, {"name": "probabilities"}]
    body, headers = as_bytes(outputs=outputs)
    answer = client.post(URL, content=body, headers=headers)
    length = int(answer.headers[HEADER])
    classes, probabilities = json.loads(answer.content[:length])["outputs"]
    assert classes["parameters"] == {"binary_data_size": 45 * 70}
    found = np.frombuffer(answer.content[length:], np.uint8).reshape(45, 70)
    np.testing.assert_array_equal(found, EXPECTED)
    percents = np.reshape(probabilities["data"], (4, 45, 70))
    of_class = np.take_along_axis(percents, EXPECTED[None].astype(int), axis=0)[0]
    np.testing.assert_array_equal(of_class, percents.max(axis=0))


def test_pixels_without_data(client: TestClient) -> None:
    valid = np.ones(DSM.shape, np.bool_)
    valid[:9] = False
    request = as_json()
    request["inputs"].append(tensor("valid", valid, "BOOL", data=valid.tolist()))
    (output,) = client.post(URL, json=request).json()["outputs"]
    classes = np.reshape(output["data"], valid.shape)
    np.testing.assert_array_equal(classes == 255, ~valid)


def changed(part: int, **changes: Any) -> dict[str, Any]:
    request = as_json()
    request["inputs"][part].update(changes)
    return request


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ([], "the request is not a JSON object"),
        ({}, "inputs are none; expected image, dsm"),
        ({"inputs": [1]}, "an input is not a JSON object"),
        (changed(0, name="picture"), "inputs are picture, dsm; expected"),
        (changed(0, datatype="BYTES"), "input 'image' of datatype 'BYTES'"),
        (changed(0, shape=[3, -1, 70]), "input 'image' of datatype 'UINT8' and shape [3, -1, 70]"),
        (changed(0, shape=[3, 45, 71]), "input image: 9450 values for the shape [3, 45, 71]"),
        (changed(0, data=[[1], [2, 3]]), "input image: its data are not uint8"),
        (changed(0, data="pixels"), "input image: its data are not uint8"),
        (changed(0, data=[-1] * 9450), "input image: its data are not uint8"),
        (changed(0, data=None), "input image: "),
        (changed(1, shape=[70, 45]), "image (3, 45, 70) and DSM (70, 45): expected"),
        (changed(1, shape=[200, 200], data=[0] * 40_000), "dsm has the shape (200, 200), more"),
        (changed(1, parameters={"binary_data_size": 9}), "input dsm: binary_data_size is 9"),
        (as_json(outputs=[{"name": "logits"}]), "no output 'logits'"),
        (as_json(outputs=[1]), "no output None"),
    ],
)
def test_refused(client: TestClient, request_: Any, sentence: str) -> None:
    answer = client.post(URL, json=request_)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(sentence)


@pytest.mark.parametrize(
    ("body", "header", "sentence"),
    [
        (b"{", None, "the request is not JSON"),
        (b"[" * 100_000, None, "the request is not JSON"),
        (b"{}", "3", f"{HEADER} is '3'; the body has 2 bytes"),
        (b"{}", "-1", f"{HEADER} is '-1'"),
        (b"{}xx", "2", "2 bytes behind the inputs belong to none"),
        (b" " * (MAX_JSON + 1), None, f"{MAX_JSON + 1} bytes of JSON; at most 16 MiB"),
    ],
)
def test_malformed(client: TestClient, body: bytes, header: str | None, sentence: str) -> None:
    headers = {HEADER: header} if header else {}
    answer = client.post(URL, content=body, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(sentence)


def test_metadata(client: TestClient) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    for path in ("health/live", "health/ready", "models/best/ready"):
        assert client.get(f"/v2/{path}").status_code == 200
    found = client.get("/v2/models/best").json()
    assert found["outputs"][1]["shape"] == [4, -1, -1]
    for call in (client.get("/v2/models/other"), client.post("/v2/models/other/infer", json={})):
        assert call.status_code == 404
        assert call.json() == {"error": "no model named 'other'; there is 'best'"}
    client.app.state.intake.draining = True  # type: ignore[attr-defined]
    assert client.get("/v2/health/ready").status_code == 503
    client.app.state.intake.draining = False  # type: ignore[attr-defined]


def test_client_of_triton(address: str) -> None:
    pytest.importorskip("gevent", reason="tritonclient[http] is not installed")
    triton: Any = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
    client = triton.InferenceServerClient(address.removeprefix("http://").rstrip("/"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("best")
    assert client.get_server_metadata()["name"] == "mfnet"
    described = client.get_model_metadata("best")
    assert [each["name"] for each in described["inputs"]] == ["image", "dsm"]
    for binary in (True, False):
        image = triton.InferInput("image", list(IMAGE.shape), "UINT8")
        dsm = triton.InferInput("dsm", list(DSM.shape), "FP32")
        image.set_data_from_numpy(IMAGE, binary_data=binary)
        dsm.set_data_from_numpy(DSM, binary_data=binary)
        for outputs in (None, [triton.InferRequestedOutput("classes", binary_data=binary)]):
            result = client.infer("best", [image, dsm], outputs=outputs, request_id="1")
            np.testing.assert_array_equal(result.as_numpy("classes"), EXPECTED)
    with pytest.raises(Exception, match="no model named 'other'"):
        client.infer("other", [image, dsm])
    client.close()
