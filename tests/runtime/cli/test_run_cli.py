"""`mfnet-run` end to end, good and bad input: exit code, one line, no partial outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import rasterio
from support import RGBD, UTM, read, results_in, write_scene

from mfnet_runtime.backends import BACKENDS, RUNS
from mfnet_runtime.cli.main import main
from mfnet_runtime.files import sha256_from_file
from mfnet_runtime.tiling.options import QUALITIES

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "scenes"


def run(*words: object) -> int:
    return main([str(word) for word in words])


def assert_refused(capsys: Capture, code: int, expected: int, *parts: str) -> None:
    """Check exit code and the one error line, without a traceback."""
    err = capsys.readouterr().err
    assert code == expected, err
    (error,) = [line for line in err.splitlines() if "rror" in line]
    assert "Traceback" not in err
    for part in parts:
        assert part in error


def test_folder_of_scenes(tmp_path: Path, model: Path, folder: Path, capsys: Capture) -> None:
    scenes = [write_scene(folder, name, seed=n, label=True) for n, name in enumerate("ab")]
    assert run(model, folder, "-o", tmp_path / "out", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["schema"], summary["model"]) == ("mfnet-run/1", model.name)
    assert summary["model_sha256"] == sha256_from_file(model)
    assert summary["seconds"] >= 0
    assert summary["failed"] == 0
    assert "CPU" in summary["device"]
    assert summary["backend"] in BACKENDS
    assert (summary["model"], summary["precision"]) == ("rgbd.onnx", "fp32")
    assert summary["threads"] >= 1
    for scene, row in zip(scenes, summary["scenes"], strict=True):
        assert scene.label is not None
        np.testing.assert_array_equal(read(Path(row["output"])), read(scene.label))
        assert row["valid_pixels"] == 40 * 48
        assert set(row["class_pixels"]) == set(RGBD.names)
        assert 0 < row["backend_s"] < row["total_s"]
        assert row["dsm_low"] < row["dsm_high"]
    with rasterio.open(tmp_path / "out" / "a.tif") as found:
        assert (found.crs, found.transform) == (UTM["crs"], UTM["transform"])
        assert found.tags()["MFNET_BLEND"] == "hann"


@pytest.mark.parametrize(
    ("words", "stride", "blend"),
    [
        *((f"--quality {name}", 4 * eighths, "hann") for name, eighths in QUALITIES.items()),
        ("--quality fast --stride 9 --blend centre", 9, "centre"),
    ],
)
def test_quality_sets_a_stride_unless_one_is_given(
    tmp_path: Path, model: Path, folder: Path, words: str, stride: int, blend: str
) -> None:
    """The model's windows have 32 px."""
    write_scene(folder)
    assert run(model, folder, "-o", tmp_path, *words.split(), "--backend", "onnxruntime") == 0
    with rasterio.open(tmp_path / "a.tif") as found:
        tags = found.tags()
    assert (tags["MFNET_STRIDE"], tags["MFNET_BLEND"]) == (str(stride), blend)


@pytest.mark.parametrize("backend", RUNS[".onnx", "cpu"])
def test_backend_threads_and_precision(
    tmp_path: Path, model: Path, folder: Path, capsys: Capture, backend: str
) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    scene = write_scene(folder, label=True)
    words = f"--backend {backend} --threads 1 --precision fp32 --batch auto --json".split()
    assert run(model, folder, "-o", tmp_path / "out", *words) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert (summary["backend"], summary["threads"], summary["precision"]) == (backend, 1, "fp32")
    assert summary["scenes"][0]["batch"] >= 1
    assert f"rgbd.onnx in fp32 on {summary['device']}, threads 1" in err
    assert scene.label is not None
    np.testing.assert_array_equal(read(tmp_path / "out" / "a.tif"), read(scene.label))


def test_one_image(tmp_path: Path, model: Path, folder: Path, capsys: Capture) -> None:
    scene = write_scene(folder, "n" * 240)
    assert run(model, scene.image, "--dsm", scene.dsm, "-o", tmp_path / "out", "--stride", 8) == 0
    assert (tmp_path / "out" / f"{scene.name}.tif").is_file()
    assert f"{scene.name}: " in capsys.readouterr().out


def test_other_scenes_run_when_one_fails(
    tmp_path: Path, model: Path, folder: Path, capsys: Capture
) -> None:
    for name in "abcd":
        write_scene(folder, name)
    (folder / "dsm" / "b.tif").unlink()
    (folder / "image" / "c.tif").write_bytes(b"broken")
    assert run(model, folder, "-o", tmp_path / "out") == 4
    err = capsys.readouterr().err
    assert f"error: {folder}/dsm/b.tif: scene 'b' has no dsm there" in err
    assert f"error: {folder}/image/c.tif: cannot be opened" in err
    assert "2 of 4 scenes failed; the others are valid" in err
    expected = [f"{name}.{end}" for name in "ad" for end in ("qml", "tif", "tif.aux.xml")]
    assert results_in(tmp_path / "out") == expected


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_the_engine_goes_on_after_a_scene_that_fails_half_way(
    tmp_path: Path, model: Path, folder: Path, capsys: Capture, name: str
) -> None:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    for scene in "abc":
        write_scene(folder, scene, 600, 64)
    sound = (folder / "image" / "b.tif").read_bytes()
    (folder / "image" / "b.tif").write_bytes(sound[: len(sound) * 2 // 3])
    assert run(model, folder, "-o", tmp_path / "out", "--backend", name) == 4
    assert "b.tif: damaged or truncated" in capsys.readouterr().err
    assert [path for path in results_in(tmp_path / "out") if "b" in path] == []
    (folder / "image" / "b.tif").write_bytes(sound)
    assert run(model, folder, "-o", tmp_path / "again", "--backend", name) == 0
    for scene in "ac":
        first, again = (read(tmp_path / out / f"{scene}.tif") for out in ("out", "again"))
        np.testing.assert_array_equal(first, again)


def test_a_batch_is_the_fastest_only_of_those_timed(
    tmp_path: Path, model: Path, folder: Path, capsys: Capture
) -> None:
    write_scene(folder, "a", 20, 20)
    assert run(model, folder, "-o", tmp_path / "out", "--batch", "auto") == 0
    err = capsys.readouterr().err
    assert "too few windows to time others" in err
    assert "the fastest" not in err


@pytest.mark.parametrize(
    "words",
    [
        "--stride 33",
        "--threads 0",
        "--threads 100000",
        "--stride 0",
        "--stride -2",
        "--batch 0",
        "--batch many",
        "--precision int8",
        "--bands 1,x",
        "--bands 1,2",
        "--backend caffe",
        "--max-memory lots",
        "--resume --restart",
        "--dsm-range 5 5",
        "--protocol published --blend hann",
        "--protocol published --quality best",
        "--quality perfect",
        "--backend onnxruntime --precision bf16",
    ],
)
def test_bad_options(
    tmp_path: Path, model: Path, folder: Path, capsys: Capture, words: str
) -> None:
    write_scene(folder)
    code = run(model, folder, "-o", tmp_path / "out", *words.split())
    assert_refused(capsys, code, 2)
    assert results_in(tmp_path / "out") == []


def test_a_backend_that_is_not_installed_names_its_extra(
    tmp_path: Path, model: Path, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    write_scene(folder)
    code = run(model, folder, "-o", tmp_path / "out", "--backend", "openvino")
    assert_refused(capsys, code, 2, "install it with: pip install 'mfnet[openvino]'")
    assert not (tmp_path / "out").exists()


def test_bad_bands_fail_the_scene(
    tmp_path: Path, model: Path, folder: Path, capsys: Capture
) -> None:
    write_scene(folder)
    assert run(model, folder, "-o", tmp_path / "out", "--bands", "1,2,9") == 4
    assert "bands 1,2,9" in capsys.readouterr().err


def test_sources_without_scenes(tmp_path: Path, model: Path, folder: Path, capsys: Capture) -> None:
    out = ("-o", tmp_path / "out")
    assert_refused(capsys, run(model, tmp_path / "nowhere", *out), 2, "nowhere: ")
    (folder / "image").mkdir(parents=True)
    assert_refused(capsys, run(model, folder, *out), 2, "has no folder dsm/; expected")
    (folder / "dsm").mkdir()
    assert_refused(capsys, run(model, folder, *out), 2, "no rasters")
    image = write_scene(folder).image
    assert_refused(capsys, run(model, image, *out), 2, "add --dsm FILE")


def test_damaged_model(tmp_path: Path, folder: Path, capsys: Capture) -> None:
    write_scene(folder)
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"\x08\x07rubbish")
    code = run(bad, folder, "-o", tmp_path / "out")
    assert_refused(capsys, code, 3, "bad.onnx", "mfnet-export")


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda out: out.write_text("mine"), "out: is a file"),
        (lambda out: (out / "a.tif").mkdir(parents=True), "a.tif: is a folder"),
    ],
)
def test_something_in_the_place_of_outputs(
    tmp_path: Path,
    model: Path,
    folder: Path,
    capsys: Capture,
    prepare: Callable[[Path], object],
    said: str,
) -> None:
    write_scene(folder)
    prepare(tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    assert_refused(capsys, run(model, folder, "-o", tmp_path / "out"), 2, said)
    assert sorted(tmp_path.rglob("*")) == before


def test_output_folder_that_cannot_be_created(model: Path, folder: Path, capsys: Capture) -> None:
    write_scene(folder)
    code = run(model, folder, "-o", "/proc/mfnet-cannot-write-here")
    assert_refused(capsys, code, 5, "cannot be created")


def test_inputs_are_never_replaced(model: Path, folder: Path, capsys: Capture) -> None:
    scene = write_scene(folder)
    before = scene.image.read_bytes()
    code = run(model, folder, "-o", folder / "image")
    assert_refused(capsys, code, 2, "holds inputs; choose another folder")
    assert scene.image.read_bytes() == before


def test_one_scene_into_a_named_file(
    tmp_path: Path, model: Path, folder: Path, capsys: Capture
) -> None:
    scene = write_scene(folder, label=True)
    image = scene.image.rename(tmp_path / "ortho.tif")
    heights = scene.dsm.rename(tmp_path / "heights.tif")
    for _ in range(2):  # the second replaces the first
        assert run(model, image, "--dsm", heights, "-o", tmp_path / "map.tif") == 0
    assert scene.label is not None
    np.testing.assert_array_equal(read(tmp_path / "map.tif"), read(scene.label))
    assert not list(tmp_path.glob(".mfnet*"))
    capsys.readouterr()
    for name in ("ortho.tif", "heights.tif"):
        code = run(model, image, "--dsm", heights, "-o", tmp_path / name)
        assert_refused(capsys, code, 2, "holds inputs; choose another folder")
    write_scene(folder, "a")
    write_scene(folder, "b")
    code = run(model, folder, "-o", tmp_path / "map.tif")
    assert_refused(capsys, code, 2, "map.tif: is one file for 2 scenes; give a folder with -o")


def test_an_estimate_needs_no_output(model: Path, folder: Path, capsys: Capture) -> None:
    write_scene(folder)
    assert run(model, folder, "--dry-run") == 0
    assert "a: 48 x 40 px, 4 windows" in capsys.readouterr().out
    assert_refused(capsys, run(model, folder), 2, "--check and --dry-run need none")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("{scenes} {model} -o {out}", "best.onnx: the model comes first; use mfnet-run"),
        ("{model} {scenes} -o {out} --overlap 64", "No such option '--overlap'; use --stride, the"),
        ("{model} {scenes} -o {out} --batch-size 2", "No such option '--batch-size'; use --batch."),
    ],
)
def test_other_words_are_answered_with_ours(
    tmp_path: Path, capsys: Capture, words: str, part: str
) -> None:
    names = {"model": tmp_path / "best.onnx", "scenes": tmp_path, "out": tmp_path / "out"}
    assert_refused(capsys, run(*words.format(**names).split()), 2, part)


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mfnet_runtime.cli.main import main; main(['--help']);"
        "assert not {'rasterio', 'onnxruntime', 'openvino'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Examples:" in done.stdout
    headings = ["Options", "Reading", "Windows", "Outputs", "Engine", "Resuming", "Workers"]
    assert [line[:-1] for line in done.stdout.splitlines() if line[:1].isupper()][1:] == headings


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ("none.onnx scenes -o out", 2, "none.onnx: no such model file"),
        ("none.onnx scenes -o out --stride many", 2, "'many' is not a valid integer"),
        ("none.onnx", 2, "no scenes; use mfnet-run MODEL SCENES"),
    ],
)
def test_errors_as_json(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    words: str,
    code: int,
    part: str,
) -> None:
    write_scene(tmp_path / "scenes")
    monkeypatch.chdir(tmp_path)
    assert main([*words.split(), "--json"]) == code
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["exit_code"] == code
    assert part in found["error"]
    assert part in captured.err
