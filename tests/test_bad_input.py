"""Every command on every kind of bad input: one line, the file, the code, nothing half-written."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_network
from support import UTM, results_in, write_raster, write_rgbd_model, write_scene

from mfnet.checkpoints.checkpoint import Checkpoint, save_checkpoint
from mfnet_runtime.contract import Contract
from mfnet_runtime.labels import ClassTable

READ_ONLY = Path("/sys/kernel")  # not even root may write there
MAINS: dict[str, Callable[[list[str]], int]] = {
    entry.name: entry.load() for entry in distribution("mfnet").entry_points
}
TINY = "--backbone tiny --window 32 --epochs 1 --steps 1 --batch 1 --device cpu"


class _Canary:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Sound and bad files of every kind, by name."""
    write_scene(tmp_path / "scenes", "a", 40, 48, label=True)
    write_scene(tmp_path / "broken", "a", 40, 48, label=True)
    (tmp_path / "broken/image/a.tif").write_bytes(b"II*\x00 broken")
    for part in ("image", "dsm", "label"):
        (tmp_path / "empty" / part).mkdir(parents=True)
    write_scene(tmp_path / "other", "a", 40, 48, label=True)
    write_raster(tmp_path / "other/label/a.tif", np.full((40, 48), 7, np.uint8), **UTM)
    write_rgbd_model(tmp_path / "sound.onnx")
    network = random_network("lora", window=32, classes=4)
    contract = Contract(32, ClassTable.numbered(4))
    save_checkpoint(
        tmp_path / "sound.pt", Checkpoint(network.config, contract, network.state_dict())
    )
    whole = (tmp_path / "sound.pt").read_bytes()
    (tmp_path / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "truncated.onnx").write_bytes((tmp_path / "sound.onnx").read_bytes()[:90])
    torch.save({"weights": _Canary(tmp_path / "canary")}, tmp_path / "malicious.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(_Canary(tmp_path / "canary")))
    (tmp_path / "text.pt").write_text("no model")
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "out").mkdir()
    return tmp_path


BAD_CHECKPOINTS = [
    ("none.pt", 2),
    ("truncated.pt", 3),
    ("malicious.pt", 3),
    ("raw.pt", 3),
    ("text.pt", 3),
]
CASES = [
    *((f"mfnet-export --ckpt {name} -o out/x.onnx", code, name) for name, code in BAD_CHECKPOINTS),
    *((f"mfnet-inspect {name}", code, name) for name, code in BAD_CHECKPOINTS),
    *((f"mfnet-bench miou {name} scenes -o out/x", code, name) for name, code in BAD_CHECKPOINTS),
    *(
        (f"mfnet-train scenes -o out/x --sam {name} {TINY}", code, name)
        for name, code in BAD_CHECKPOINTS
    ),
    *(
        (command.format(name), code, name)
        for name, code in [("none.onnx", 2), ("truncated.onnx", 3), ("text.onnx", 3)]
        for command in (
            "mfnet-run {} scenes -o out/x",
            "mfnet-inspect {}",
            "mfnet-bench miou {} scenes -o out/x",
        )
    ),
    ("mfnet-run sound.pt scenes -o out/x", 3, "mfnet-export --ckpt sound.pt"),
    ("mfnet-run scenes scenes -o out/x", 2, "scenes"),
    ("mfnet-export --ckpt sound.onnx -o out/x.onnx", 3, "sound.onnx"),
    ("mfnet-inspect scenes", 2, "scenes"),
    *(
        (command.format(scenes), code, part)
        for scenes, part, train_code, code in [
            ("nowhere", "nowhere", 2, 2),
            ("empty", "empty/image: no rasters", 2, 2),
            ("broken", "image/a.tif", 4, 4),
        ]
        for command, code in [
            (f"mfnet-train {{}} -o out/x --from-scratch {TINY}", train_code),
            ("mfnet-bench miou sound.onnx {} -o out/x", code),
            ("mfnet-export --ckpt sound.pt -o out/x.onnx --scenes {}", code),
        ]
    ),
    ("mfnet-run sound.onnx nowhere -o out/x", 2, "nowhere"),
    ("mfnet-run sound.onnx empty -o out/x", 2, "empty/image: no rasters"),
    ("mfnet-bench miou sound.onnx other", 4, "class index 7"),
    ("mfnet-train scenes -o file --from-scratch " + TINY, 2, "file: is a file"),
    ("mfnet-run sound.onnx scenes -o file", 2, "file: is a file"),
    ("mfnet-export --ckpt sound.pt -o file/x.onnx", 2, "file"),
    (f"mfnet-train scenes -o {READ_ONLY}/x --from-scratch {TINY}", 5, "/sys/kernel/x"),
    (f"mfnet-run sound.onnx scenes -o {READ_ONLY}/x", 5, "/sys/kernel/x"),
    (f"mfnet-export --ckpt sound.pt -o {READ_ONLY}/x.onnx", 5, "/sys/kernel/x.onnx"),
    (f"mfnet-bench miou sound.onnx scenes -o {READ_ONLY}/x", 5, "/sys/kernel/x"),
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
    errors = [text for text in err.splitlines() if "error:" in text]
    assert len(errors) == 1, err
    assert part in errors[0]
    assert "Traceback" not in err
    assert not (place / "canary").exists()
    assert results_in(place / "out") == []
    after = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    assert after == before
