"""Every command with every kind of bad input: one line, the file, the code, no partial output."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.checkpoints import Canary, content, cut_in_half
from support import UTM, results_in, write_raster, write_rgbd_model, write_scene

READ_ONLY = Path("/sys/kernel")  # root may not write there either
MAINS: dict[str, Callable[[list[str]], int]] = {
    entry.name: entry.load() for entry in distribution("mfnet").entry_points
}
TINY = "--backbone tiny --window 32 --epochs 1 --steps 1 --batch 1 --device cpu"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sound and bad files of every kind, in which no case changes anything."""
    tmp_path = tmp_path_factory.mktemp("place")
    for name in ("scenes", "broken", "other"):
        write_scene(tmp_path / name, label=True)
    (tmp_path / "broken/image/a.tif").write_bytes(b"II*\x00 broken")
    write_raster(tmp_path / "other/label/a.tif", np.full((40, 48), 7, np.uint8), **UTM)
    for part in ("image", "dsm", "label"):
        (tmp_path / "empty" / part).mkdir(parents=True)
    canary = Canary(tmp_path / "canary")
    for name in ("sound", "truncated"):
        write_rgbd_model(tmp_path / f"{name}.onnx")
        torch.save(content(), tmp_path / f"{name}.pt")
    for suffix in ("onnx", "pt"):
        cut_in_half(tmp_path / f"truncated.{suffix}")
        (tmp_path / f"text.{suffix}").write_text("no model")
    torch.save({"weights": canary}, tmp_path / "malicious.pt")
    torch.save(canary, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "out").mkdir()
    return tmp_path


CASES = [
    *(
        (command.format(name), 2 if name == "none.pt" else 3, name)
        for name in ("none.pt", "truncated.pt", "malicious.pt", "old.pt", "text.pt")
        for command in (
            "mfnet-export --ckpt {} -o out/x.onnx",
            "mfnet-inspect {}",
            "mfnet-bench miou {} scenes -o out/x",
            f"mfnet-train scenes -o out/x --sam {{}} {TINY}",
        )
    ),
    *(
        (command.format(name), 2 if name == "none.onnx" else 3, name)
        for name in ("none.onnx", "truncated.onnx", "text.onnx")
        for command in (
            "mfnet-run {} scenes -o out/x",
            "mfnet-inspect {}",
            "mfnet-bench miou {} scenes -o out/x",
        )
    ),
    *(
        (command.format(scenes), code, part)
        for scenes, part, code in (
            ("nowhere", "nowhere", 2),
            ("empty", "empty/image: holds no rasters", 2),
            ("broken", "image/a.tif", 4),
        )
        for command in (
            f"mfnet-train {{}} -o out/x --from-scratch {TINY}",
            "mfnet-bench miou sound.onnx {} -o out/x",
            "mfnet-export --ckpt sound.pt -o out/x.onnx --scenes {}",
        )
    ),
    ("mfnet-run sound.onnx nowhere -o out/x", 2, "nowhere"),
    ("mfnet-run sound.onnx empty -o out/x", 2, "empty/image: holds no rasters"),
    ("mfnet-run sound.onnx scenes -o file", 2, "file: is a file"),
    (f"mfnet-run sound.onnx scenes -o {READ_ONLY}/x", 5, "/sys/kernel/x"),
    (f"mfnet-train scenes -o file --from-scratch {TINY}", 2, "file: is a file"),
    (f"mfnet-train scenes -o {READ_ONLY}/x --from-scratch {TINY}", 5, "/sys/kernel/x"),
    ("mfnet-export --ckpt sound.pt -o file/x.onnx", 2, "file"),
    (f"mfnet-export --ckpt sound.pt -o {READ_ONLY}/x.onnx", 5, "/sys/kernel/x.onnx"),
    (f"mfnet-bench miou sound.onnx scenes -o {READ_ONLY}/x", 5, "/sys/kernel/x"),
    ("mfnet-bench miou sound.onnx other", 4, "class index 7"),
    ("mfnet-run sound.pt scenes -o out/x", 3, "mfnet-export --ckpt sound.pt"),
    ("mfnet-run scenes scenes -o out/x", 2, "scenes"),
    ("mfnet-export --ckpt sound.onnx -o out/x.onnx", 3, "sound.onnx"),
    ("mfnet-inspect scenes", 2, "scenes"),
]


@pytest.mark.parametrize(("line", "code", "part"), CASES, ids=[case[0] for case in CASES])
def test_refused_in_one_line(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    code: int,
    part: str,
) -> None:
    if str(READ_ONLY) in line and not READ_ONLY.is_dir():
        pytest.skip(f"no {READ_ONLY} here")
    monkeypatch.chdir(place)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    name, *words = line.split()
    found = MAINS[name](words)
    err = capsys.readouterr().err
    assert found == code, err
    (error,) = (text for text in err.splitlines() if "error:" in text)
    assert part in error
    assert "Traceback" not in err
    assert not (place / "canary").exists()
    assert results_in(place / "out") == []
    after = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    assert after == before
