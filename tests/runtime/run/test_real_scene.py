"""A real scene gives the same bytes in one block, in many, and after a kill."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import onnx
import pytest
from faults.runner import Conditions, ForkServer
from onnx import TensorProto, helper, numpy_helper
from runs import digests
from support import RGBD, SHARED
from undisturbed import wait_for_blocks

from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.run import plan
from mfnet_runtime.run.options import REFUSE_UNFINISHED, ResumeOptions
from mfnet_runtime.run.provenance import model_tags
from mfnet_runtime.run.segment import segment_scenes
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.tiling.pipeline import SegmentOptions

SCENE = SHARED / "data" / "autzen"
WINDOW = 128
pytestmark = pytest.mark.skipif(not SCENE.is_dir(), reason="../shared/data/autzen is not here")


def write_convolution(path: Path) -> Path:
    """Write a model whose logits depend on a pixel's surroundings, and on the rim of the window."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 1, (len(RGBD), 4, 5, 5)).astype(np.float32)
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", bands, WINDOW, WINDOW])
        for name, bands in (("image", 3), ("dsm", 1), ("logits", len(RGBD)))
    ]
    nodes = [
        helper.make_node("Concat", ["image", "dsm"], ["both"], axis=1),
        helper.make_node("Conv", ["both", "weight"], ["logits"], pads=[2] * 4),
    ]
    graph = helper.make_graph(
        nodes, "convolution", given[:2], given[2:], [numpy_helper.from_array(weight, "weight")]
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: Contract(WINDOW, RGBD).to_json()})
    onnx.save(model, path)
    return path


def test_same_bytes(server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_convolution(tmp_path / "convolution.onnx")
    scene = Scene("west", SCENE / "image" / "west.tif", SCENE / "dsm" / "west.tif")

    def run(out: str, block: int | None = None, resume: ResumeOptions = REFUSE_UNFINISHED) -> int:
        options = SegmentOptions(64, confidence=True, block=block)
        with backend_from_file(model, "onnxruntime") as backend:
            (outcome,) = segment_scenes(
                backend,
                [scene],
                tmp_path / out,
                options,
                resume=resume,
                tags=model_tags(model),
                quiet=True,
            )
        return int(outcome.row["blocks"])

    files = [model, scene.image, "--dsm", scene.dsm, "-o", tmp_path / "killed"]
    words = "--confidence --stride 64 --backend onnxruntime --threads 1"
    running = server.start([*files, *words.split()], tmp_path, Conditions(niceness=19))
    wait_for_blocks(tmp_path / "killed")
    running.send(signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL
    run("killed", resume=ResumeOptions(resume=True))

    monkeypatch.setattr(plan, "MIN_ROWS", 10_000)
    assert run("one") == 1
    monkeypatch.setattr(plan, "block_height", lambda grid: 500)
    assert run("many", 350) == 20
    one = digests(tmp_path / "one")
    assert {"west.tif", "west.confidence.tif", "west.qml"} <= one.keys()
    for out in ("many", "killed"):
        assert digests(tmp_path / out) == one, out
