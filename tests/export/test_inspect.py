from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
import torch
from networks import INDEX, reference_state, references
from support import plan_facts

from mfnet_export.inspect import inspect_file, lines_from_facts
from mfnet_export.inspect_cli import main
from mfnet_runtime.contract import Contract, DsmRule
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.labels import ISPRS

if TYPE_CHECKING:
    from export.conftest import Made

Capture = pytest.CaptureFixture[str]


def test_checkpoint(made: Made) -> None:
    facts = inspect_file(made.checkpoint)
    assert facts["file"] == {
        "name": "best.pt",
        "kind": "mfnet checkpoint",
        "bytes": made.checkpoint.stat().st_size,
        "sha256": sha256_from_file(made.checkpoint),
    }
    assert facts["network"] == {**made.network.config.to_dict(), "relative_position": "real"}
    numbers = sum(parameter.numel() for parameter in made.network.parameters())
    assert sum(facts["parameters"].values()) == numbers
    assert 0 < facts["parameters"]["tuning"] < facts["parameters"]["sam_encoder"]
    assert Contract.from_dict(facts["contract"]) == made.contract
    assert facts["metrics"] == {"mean_iou": 0.5}
    assert facts["training"]["epochs"] == 2
    assert json.loads(json.dumps(facts)) == facts


@references
def test_official_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "official.pth"
    torch.save(reference_state(name), path)
    facts = inspect_file(path)
    assert facts["file"]["kind"] == "official MFNet weights"
    assert facts["network"]["tuning"] == INDEX[name]["tuning"]
    tables = {"zero": "zero", "random": "real"}[INDEX[name]["relpos"]]
    assert facts["network"]["relative_position"] == tables
    assert "neither window, bands nor classes" in lines_from_facts(facts)[-1]


def test_onnx(made: Made) -> None:
    facts = inspect_file(made.onnx)
    assert facts["file"]["kind"] == "ONNX"
    assert facts["file"]["sha256"] == sha256_from_file(made.onnx)
    graph = facts["graph"]
    assert graph["inputs"] == ["image float32 (N, 3, 64, 64)", "dsm float32 (N, 1, 64, 64)"]
    assert graph["outputs"] == ["logits float32 (N, 3, 64, 64)"]
    assert (graph["opset"], graph["ir_version"]) == ({"onnx": 17}, 8)
    assert len(graph["operators"]) == 8
    assert graph["parameters"] * 4 < made.onnx.stat().st_size < graph["parameters"] * 4 * 1.2
    assert graph["weights"] == "inside the file"
    assert facts["contract"] == made.report["contract"]
    assert "note" not in facts


def test_onnx_in_the_base_install(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = inspect_file(made.onnx)
    monkeypatch.setitem(sys.modules, "onnx", None)
    facts = inspect_file(made.onnx)
    assert facts["contract"] == expected["contract"]
    note = "note: the graph is not shown, which needs onnx; install it with: pip install"
    assert lines_from_facts(facts)[-1].startswith(note)


def test_onnx_without_contract_and_with_weights_beside(made: Made, tmp_path: Path) -> None:
    model, path = onnx.load(made.onnx), tmp_path / "large.onnx"
    del model.metadata_props[:]
    onnx.save(model, path, save_as_external_data=True, location="large.onnx.data")
    (tmp_path / "large.onnx.data").unlink()  # weights are not read
    facts = inspect_file(path)
    assert facts["graph"]["weights"] == "large.onnx.data"
    assert facts["graph"]["parameters"] == inspect_file(made.onnx)["graph"]["parameters"]
    assert "contract" not in facts
    assert "mfnet-run refuses it" in lines_from_facts(facts)[-1]


def test_plan_facts_come_from_its_sidecar(tmp_path: Path, capsys: Capture) -> None:
    path, sidecar = tmp_path / "best.fp16.plan", tmp_path / "best.fp16.plan.json"
    path.write_bytes(b"engine")
    assert main([str(path)]) == 3
    err = capsys.readouterr().err
    assert "best.fp16.plan: best.fp16.plan.json cannot be read (No such file" in err
    contract = Contract(256, ISPRS, dsm=DsmRule("scene_percentile", 1, 99), pixel_size=0.09)
    built = plan_facts(contract, plan_sha256=sha256_from_file(path))
    sidecar.write_text(built.to_json())
    facts = inspect_file(path)
    assert facts["file"]["kind"] == "TensorRT plan"
    assert Contract.from_dict(facts["contract"]) == contract
    assert "note" not in facts
    lines = lines_from_facts(facts)
    for line in (
        "  flavour             tensorrt",
        "  version             10.13.3.9",
        "  gpu                 NVIDIA H200",
        "  targets             sm90",
        "  profile.largest     16",
        "  version compatible  no",
        "  layers              612 layers, 48 of 48 attentions fused",
        "  DSM         scene_percentile: 1 to 99 % of each scene's heights",
        "  pixel size  0.09 m",
    ):
        assert line in lines
    path.write_bytes(b"another engine")
    note = lines_from_facts(inspect_file(path))[-1]
    assert note.startswith(f"note: these facts belong to another plan (sha256 {built.plan_sha256})")
    sidecar.write_text("{}")
    assert main([str(path)]) == 3
    assert "best.fp16.plan.json: plan facts have format None" in capsys.readouterr().err


def test_output_is_aligned_text_or_json(made: Made, capsys: Capture) -> None:
    assert main([str(made.onnx)]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == [
        "file",
        "graph",
        "contract",
        "provenance",
        "classes",
    ]
    assert "  precision   fp32" in lines
    assert "  image       red, green, blue; value / 255" in lines
    assert "  opset        onnx 17" in lines
    assert any("#00ff00  tree" in line for line in lines)
    assert all(line == line.rstrip() for line in lines)
    assert "{" not in text
    assert main([str(made.onnx), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == inspect_file(made.onnx)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"II*\0tiff", "starts with b'II*\\x00tiff', which is no known format; expected"),
        (b"", "starts with b''"),
        (b"\x08\x07garbage", "damaged, or not ONNX"),
        (b"\x08\x0a", "ONNX without a graph"),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, capsys: Capture, content: bytes, part: str
) -> None:
    path = tmp_path / "file.onnx"
    path.write_bytes(content)
    assert main([str(path)]) == 3
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "file.onnx" in err
    assert part in err


def test_control_characters_of_a_file_are_not_printed() -> None:
    lines = lines_from_facts({"training": {"no\x1b[1mte": "a\x1b[2J", "list": ["\x07"]}})
    assert lines == ["training", "  no?[1mte  a?[2J", "  list      ?"]
