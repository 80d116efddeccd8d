"""`mfnet-export --fp16` end to end: one file, proven by emulation, or none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from networks import onnx_with_outlier
from support import write_raster, write_scene

from mfnet_export.cli import main
from mfnet_export.errors import ExportError
from mfnet_export.inspect import inspected
from mfnet_export.precision import fp16
from mfnet_export.precision.accuracy import Bounds, SceneScores
from mfnet_export.precision.fp16 import Fp16Report, fp16_from_onnx
from mfnet_export.precision.fp16_ranges import ranges_of
from mfnet_export.validation.sample_windows import Windows, sample_windows
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.contract import METADATA_KEY, Contract
from mfnet_runtime.errors import ModelError

if TYPE_CHECKING:
    from export.conftest import Made

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def windows(made: Made) -> Windows:
    return sample_windows(made.contract, count=2)


@pytest.fixture(scope="module")
def made_fp16(made: Made, windows: Windows, tmp_path_factory: pytest.TempPathFactory) -> Fp16Report:
    target = tmp_path_factory.mktemp("fp16") / "best.fp16.onnx"
    return fp16_from_onnx(made.onnx, target, windows, Bounds(), threads=1)


def test_the_file_says_what_it_is(made: Made, made_fp16: Fp16Report) -> None:
    path = made_fp16.output
    assert os.listdir(path.parent) == [path.name]
    assert made_fp16.size == path.stat().st_size < 0.6 * made.onnx.stat().st_size
    model = onnx.load(path)
    assert ([e.version for e in model.opset_import], model.ir_version) == ([17], 8)
    contract = Contract.from_json({e.key: e.value for e in model.metadata_props}[METADATA_KEY])
    assert (contract.precision, contract.classes) == ("fp16", made.contract.classes)
    facts = contract.provenance["fp16"]
    assert facts["windows"] == "2 of a synthetic town, 2 of noise"
    assert facts["float_parts"] == facts["lossy_weights"] == []
    assert 0.998 < facts["emulated_difference"]["agreement"] < 1
    assert set(facts["peaks"]) >= {"block 0 image", "block 1 DSM", "decoder"}
    assert contract.provenance["dataset"] == "town"


def test_inspect_tells_number_types(made: Made, made_fp16: Fp16Report) -> None:
    before, after = (inspected(path)["graph"] for path in (made.onnx, made_fp16.output))
    assert after["inputs"][0] == "image float16 (N, 3, 64, 64)"
    assert list(before["activations"]) == ["float32"]
    # A BatchNormalization in each of three attentions has become two nodes.
    assert after["activations"] == {"float16": before["activations"]["float32"] + 3}


def test_a_cpu_refuses_it_with_the_remedy(made_fp16: Fp16Report) -> None:
    for name in ("onnxruntime", "openvino"):
        with pytest.raises(ModelError, match=r"mfnet-export --onnx \S*best.fp16.onnx --plan"):
            backend_from_file(made_fp16.output, name)


def test_the_report_is_lines_for_people(made_fp16: Fp16Report) -> None:
    first, *rest = made_fp16.lines()
    assert first.startswith(f"fp16      {made_fp16.output}  1.4 MB")
    text = "\n".join(rest)
    assert "of 65504; on 2 of a synthetic town, 2 of noise" in text
    assert "stay float  none had to" in text
    assert "of the pixels of 4 windows; logits differ by" in text
    assert text.endswith("mIoU        not measured: no label/ there")


@pytest.mark.slow
def test_a_large_stream_is_raised_and_right(made: Made, windows: Windows, tmp_path: Path) -> None:
    source = onnx_with_outlier(made.onnx, tmp_path / "outlier.onnx", 20_000)
    report = fp16_from_onnx(source, tmp_path / "a.fp16.onnx", windows, Bounds(), threads=1)
    assert report.float_parts == ("block 0 image", "block 0 DSM", "block 1 image", "block 1 DSM")
    assert "stay float  residual sums and means of block 0 image, block 0 DSM" in "\n".join(
        report.lines()
    )
    assert report.difference.agreement > 0.99
    activations = inspected(report.output)["graph"]["activations"]
    assert activations["float16"] > activations["float32"] > len(ranges_of(source, windows).large)


@pytest.mark.usefixtures("above_2_gib")
def test_weights_may_lie_beside(
    made: Made, made_fp16: Fp16Report, windows: Windows, tmp_path: Path
) -> None:
    source = tmp_path / "fp32" / "big.onnx"
    source.parent.mkdir()
    ir.save(ir.load(made.onnx), source, external_data="big.onnx.data")
    report = fp16_from_onnx(source, tmp_path / "big.fp16.onnx", windows, Bounds(), threads=1)
    assert sorted(os.listdir(tmp_path)) == ["big.fp16.onnx", "big.fp16.onnx.data", "fp32"]
    assert report.size == sum(
        (tmp_path / f"big.fp16.onnx{e}").stat().st_size for e in ("", ".data")
    )
    assert report.difference == made_fp16.difference


def test_a_refusal_leaves_the_old_file(made: Made, windows: Windows, tmp_path: Path) -> None:
    target = tmp_path / "best.fp16.onnx"
    target.write_text("old")
    with pytest.raises(ExportError, match=r"FP16 is refused: same class .* raise --max-disagree"):
        fp16_from_onnx(made.onnx, target, windows, Bounds(max_disagree=0), threads=1)
    assert os.listdir(tmp_path) == ["best.fp16.onnx"]
    assert target.read_text() == "old"


def test_a_drop_of_miou_is_refused(
    made: Made, windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fp16, "scores_on_scenes", lambda *_: SceneScores(2, (0.62, 0.61)))
    (tmp_path / "label").mkdir()
    with pytest.raises(
        ExportError,
        match=r"0\.6200 in FP32, 0\.6100 in FP16 \(-1\.00 points\) on 2 labelled scenes, "
        r"allowed are 0\.9 points less",
    ):
        fp16_from_onnx(
            made.onnx,
            tmp_path / "best.fp16.onnx",
            windows,
            Bounds(max_drop=0.9),
            judge=tmp_path,
            threads=1,
        )
    assert os.listdir(tmp_path) == ["label"]


@pytest.fixture
def folder(best: Path, cheap: None, tmp_path: Path) -> Path:
    """A checkpoint and a labelled scene, and an export that copies."""
    scene = write_scene(tmp_path / "scenes", height=96, width=96)
    label = np.random.default_rng(0).integers(0, 3, (96, 96)).astype(np.uint8)
    write_raster(tmp_path / "scenes" / "label" / scene.image.name, label)
    return tmp_path


def run(folder: Path, *words: object) -> int:
    return main(["--ckpt", str(folder / "best.pt"), *(str(word) for word in words)])


def test_command_end_to_end(folder: Path, capsys: Capture) -> None:
    words = ("--fp16", "--scenes", folder / "scenes", "--windows", 1)
    assert run(folder, *words, "--json") == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert sorted(os.listdir(folder)) == ["best.fp16.onnx", "best.onnx", "best.pt", "scenes"]
    assert report["fp16"]["output"] == str(folder / "best.fp16.onnx")
    assert report["fp16"]["bytes"] == (folder / "best.fp16.onnx").stat().st_size
    assert report["bytes"] == (folder / "best.onnx").stat().st_size
    assert report["fp16"]["windows"].endswith("of scenes, 2 of noise")
    assert report["fp16"]["emulated_scores"]["scenes"] == 1
    assert abs(report["fp16"]["emulated_scores"]["drop_points"]) < 0.5
    assert "int8" not in report


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ("--max-disagree 1", 2, "--max-disagree goes with --fp16 or --int8; add one"),
        ("--fp16 --max-disagree 101", 2, "--max-disagree 101: expected 0 to 100"),
        ("--fp16 --calibrate scenes", 2, "--calibrate goes with --int8"),
    ],
)
def test_refusals_leave_nothing(
    folder: Path, capsys: Capture, words: str, code: int, part: str
) -> None:
    assert run(folder, *words.split()) == code
    captured = capsys.readouterr()
    (error,) = (line for line in captured.err.splitlines() if "error:" in line)
    assert part in error
    assert sorted(os.listdir(folder)) == ["best.pt", "scenes"]
