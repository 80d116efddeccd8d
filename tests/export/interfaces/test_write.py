"""`mfnet-export --for`: the command, and what all interfaces share."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support import run_python, write_rgbd_model

from mfnet_export.cli import main

Capture = pytest.CaptureFixture[str]


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--onnx", "m.onnx"], "--plan, or"),
        (["--onnx", "m.onnx", "--for", "deepness", "--plan"], "give one of the two"),
        (["--onnx", "none.onnx", "--for", "deepness"], "none.onnx: no such file"),
        (["--onnx", "m.onnx", "--for", "deepness", "--windows", "2"], "--windows goes with --ckpt"),
        (["--onnx", "m.onnx", "--for", "triton", "--pixel-size", "1"], "goes with --for deepness"),
        (["--onnx", "m.onnx", "--for", "deepness", "--raw-inputs"], "goes with --for triton"),
        (["--onnx", "m.onnx", "--for", "deepness", "-o", "m.onnx"], "names a folder"),
        (["--onnx", "m.onnx", "--for", "deepness", "-o", "new.onnx"], "names a folder"),
    ],
)
def test_refusals(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    words: list[str],
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rgbd_model(tmp_path / "m.onnx")
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert text in error
    assert len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_after_an_export_the_fp32_file_is_written(cheap: None, best: Path, capsys: Capture) -> None:
    assert run("--ckpt", best, "--for", "deepness", "--pixel-size", 0.5, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["output"] == str(best.with_name("best.onnx"))
    (made,) = report["interfaces"]
    assert made["folder"] == str(best.with_name("deepness"))
    assert (best.with_name("deepness") / "best.onnx").stat().st_size == made["files"]["best.onnx"]


def test_a_refusal_after_an_export_says_what_is_written(
    cheap: None, best: Path, capsys: Capture
) -> None:
    assert run("--ckpt", best, "--for", "deepness") == 2
    assert "--pixel-size (best.onnx is written)" in capsys.readouterr().err
    assert best.with_name("best.onnx").is_file()


def test_other_files_of_a_folder_stay(tmp_path: Path) -> None:
    model = write_rgbd_model(tmp_path / "m.onnx", pixel_size=0.5)
    (tmp_path / "deepness").mkdir()
    (tmp_path / "deepness" / "notes.txt").write_text("mine")
    for _ in range(2):  # the second replaces the first
        assert run("--onnx", model, "--for", "deepness") == 0
        names = sorted(path.name for path in (tmp_path / "deepness").iterdir())
        assert names == ["m.onnx", "notes.txt"]


def without(packages: list[str], *words: object) -> subprocess.CompletedProcess[str]:
    block = "; ".join(f"sys.modules[{name!r}] = None" for name in packages)
    words = tuple(str(word) for word in words)
    return run_python(f"{block}; from mfnet_export.cli import main; sys.exit(main({words!r}))")


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("deepness", ["torch", "onnx_ir"]),
        ("triton", ["torch", "onnx", "safetensors"]),
        ("stac", ["torch", "onnx", "safetensors"]),
        ("huggingface", ["torch", "onnx_ir"]),
    ],
)
def test_needs_no_pytorch(tmp_path: Path, name: str, packages: list[str]) -> None:
    model = write_rgbd_model(tmp_path / "m.onnx", pixel_size=0.5)
    done = without(packages, "--onnx", model, "--for", name)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name).is_dir()


@pytest.mark.parametrize(
    ("words", "package"),
    [
        (["deepness"], "onnx"),
        (["triton", "--raw-inputs"], "onnx"),
        (["huggingface"], "onnx"),
        (["huggingface"], "safetensors"),
    ],
)
def test_names_its_extra(tmp_path: Path, words: list[str], package: str) -> None:
    model = write_rgbd_model(tmp_path / "m.onnx", pixel_size=0.5)
    done = without([package], "--onnx", model, "--for", *words)
    assert done.returncode == 2
    remedy = f"needs {package}; install it with: pip install 'mfnet[interfaces]'"
    assert remedy in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [model]
