"""Memory does not grow with the scene; block widths, `--max-memory` and `--dry-run`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window
from support import RGBD, UTM, write_raster, write_scene

from mfnet_runtime.cli.main import main
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import UsageError
from mfnet_runtime.scene.discovery import Scene
from mfnet_runtime.scene.reader import SceneReader
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.memory import (
    STEP,
    PixelMemory,
    block_width,
    bytes_from_text,
    pixel_memory,
)

STUB = Path(__file__).with_name("stub_run.py")
CONTRACT = Contract(256, RGBD)
TILES = {"tiled": True, "blockxsize": 256, "blockysize": 256}


def sparse_scene(folder: Path, height: int, width: int) -> Scene:
    """Without data but for a place every 4096 px; what is not written takes no disk."""
    kept: dict[str, dict[str, Any]] = {
        "image": {"count": 3, "dtype": "uint8", "nodata": 0},
        "dsm": {"count": 1, "dtype": "float32", "nodata": -9999},
    }
    rng, files = np.random.default_rng(0), {}
    for name, what in kept.items():
        files[name] = folder / f"{name}-{height}-{width}.tif"
        size = {"height": height, "width": width, "compress": "deflate", "sparse_ok": True}
        with rasterio.open(files[name], "w", driver="GTiff", **what, **TILES, **size, **UTM) as out:
            for top in range(0, height, 4096):
                for left in range(0, width, 4096):
                    side = (min(300, height - top), min(300, width - left))
                    values = rng.integers(1, 255, (what["count"], *side)).astype(what["dtype"])
                    out.write(values, window=Window(left, top, side[1], side[0]))
    return Scene("a", files["image"], files["dsm"])


def measure(folder: Path, height: int, width: int) -> dict[str, Any]:
    """Run a process on a sparse scene and return its counts and its peak memory."""
    scene = sparse_scene(folder, height, width)
    words: list[str | Path] = [
        sys.executable,
        STUB,
        str(scene.image),
        str(scene.dsm),
        folder / "out",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    assert 0 < found["windows"] - found["skipped"] < found["windows"] / 5
    return found


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ((2000, 5_000), (2000, 40_000)),
        pytest.param((5_000, 5_000), (20_000, 20_000), marks=pytest.mark.slow),
    ],
)
def test_memory_does_not_grow_with_the_scene(
    tmp_path: Path, small: tuple[int, int], large: tuple[int, int]
) -> None:
    one, other = measure(tmp_path, *small), measure(tmp_path, *large)
    assert other["blocks"] > one["blocks"]
    assert other["rss"] - one["rss"] < 100 << 20


def memory_of(folder: Path, width: int, stride: int) -> tuple[WindowGrid, PixelMemory]:
    """Windows of a scene of 300 rows, and the memory that its pixels need."""
    image = write_raster(folder / "i.tif", np.zeros((3, 300, width), np.uint8), **TILES)
    dsm = write_raster(folder / "d.tif", np.zeros((300, width), np.float32), **TILES)
    grid = WindowGrid(300, width, 256, stride)
    with SceneReader(Scene("a", image, dsm)) as reader:
        return grid, pixel_memory(reader, grid, CONTRACT, 4, "hann")


@pytest.mark.parametrize("stride", [16, 32, 128, 256])
def test_blocks_infer_few_windows_twice(tmp_path: Path, stride: int) -> None:
    grid, needs = memory_of(tmp_path, 30_000, stride)
    blocks = grid.blocks(block_width(grid, needs))
    assert needs.of(max(len(block.under) for block in blocks)) < 256 << 20
    assert len(blocks) > 1
    assert sum(map(len, blocks)) <= 1.05 * len(grid)
    assert all(block.made.start % STEP == 0 for block in blocks)


def test_blocks_fit_in_the_memory_allowed(tmp_path: Path) -> None:
    limits = (100 << 20, 150 << 20, 250 << 20)
    grid, needs = memory_of(tmp_path, 9_000, 128)
    assert block_width(grid, needs, needs.of(9_000)) == 9_000
    widths = [block_width(grid, needs, limit) for limit in limits]
    assert widths == sorted(set(widths))
    for limit, width in zip(limits, widths, strict=True):
        most = max(len(block.under) for block in grid.blocks(width))
        assert needs.of(most) <= limit
    with pytest.raises(UsageError, match=r"--max-memory 40M: the pixels of .*i\.tif need \d\dM"):
        block_width(grid, needs, 40 << 20)


def test_a_file_of_huge_blocks_gets_what_it_needs_unless_limited(tmp_path: Path) -> None:
    grid, needs = memory_of(tmp_path, 3_000, 128)
    odd = replace(needs, column=1 << 20)
    assert block_width(grid, odd) == STEP
    with pytest.raises(UsageError):
        block_width(grid, odd, 512 << 20)


@pytest.mark.parametrize(
    ("text", "size"), [("800M", 800 << 20), ("2G", 2 << 30), ("1.5gib", 3 << 29), ("64KB", 1 << 16)]
)
def test_sizes(text: str, size: int) -> None:
    assert bytes_from_text(text) == size


@pytest.mark.parametrize("text", ["", "12", "-1G", "1T", "many"])
def test_other_texts_are_not_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="expected a size such as 800M or 2G"):
        bytes_from_text(text)


def test_a_dry_run_writes_nothing(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "scenes", tmp_path / "out"
    write_scene(folder, "a", 300, 2000)
    write_scene(folder, "b")
    (folder / "dsm" / "b.tif").write_bytes(b"no raster")
    before = sorted(tmp_path.rglob("*"))
    words = f"{model} {folder} -o {out}".split()
    assert main([*words, "--dry-run", "--json", "--probabilities"]) == 4
    assert sorted(tmp_path.rglob("*")) == before
    good, bad = json.loads(capsys.readouterr().out)["scenes"]
    assert (good["status"], bad["status"]) == ("estimated", "failed")
    assert main([*words, "--only", "a", "--json"]) == 0
    (real,) = json.loads(capsys.readouterr().out)["scenes"]
    assert [good[key] for key in ("windows", "blocks")] == [real["windows"], real["blocks"]]
    written = sum(path.stat().st_size for path in out.iterdir())
    assert written < good["disk_bytes"] < 20 * 300 * 2000
    assert 0 < good["memory_bytes"] < 256 << 20
    assert 0 < good["backend_s"] < 60
    assert main([*words, "--only", "a", "--dry-run"]) == 0
    assert "2000 x 300 px, 2232 windows in 1 block; at most" in capsys.readouterr().out


def test_max_memory_makes_narrow_blocks(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = write_scene(tmp_path, "a", 60, 3000)
    words = f"{model} {scene.image} --dsm {scene.dsm} --json"
    found = []
    for memory in ("38M", "1G"):
        out = tmp_path / memory
        assert main(f"{words} -o {out} --max-memory {memory}".split()) == 0
        row = json.loads(capsys.readouterr().out)["scenes"][0]
        found.append((row["blocks"], (out / "a.tif").read_bytes()))
    assert found[0][0] > found[1][0] == 1
    assert found[0][1] == found[1][1]
