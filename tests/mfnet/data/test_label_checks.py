"""Labels that mean something else than they seem to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from support import read, write_scene

from mfnet.cli import main as train
from mfnet.data.label_checks import odd_values
from mfnet_bench.cli import main as bench
from mfnet_runtime.labels import ClassTable

TINY = "--from-scratch --backbone tiny --window 32 --epochs 1 --steps 1 --batch 2".split()
CLASSES = ClassTable(("ground", "roof", "tree"), ((10, 10, 10), (200, 0, 0), (0, 200, 0)))


def write_label(
    path: Path,
    values: npt.NDArray[np.uint8],
    nodata: int | None = None,
    palette: dict[int, tuple[int, ...]] | None = None,
) -> Path:
    height, width = values.shape
    kind: dict[str, Any] = {"count": 1, "dtype": "uint8", "nodata": nodata}
    with rasterio.open(path, "w", "GTiff", height=height, width=width, **kind) as raster:
        raster.write(values, 1)
        if palette:
            raster.write_colormap(1, palette)
    return path


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("counts", "nodata", "palette", "part"),
    [
        ((50, 30, 20, 0), None, None, ""),
        ((50, 30, 15, 5), None, None, ""),  # a few unlabelled pixels
        ((20, 5, 5, 70), 255, None, ""),  # declared
        ((50, 30, 20, 0), 255, [(10, 10, 10), (200, 0, 0), (0, 200, 0)], ""),
        ((50, 30, 20, 0), None, [(1, 1, 1), (2, 2, 2), (3, 3, 3)], ""),  # other colours, any order
        ((60, 0, 0, 40), None, None, r'40.0% of the pixels are 255.*"where(A==255,1,A)"'),
        ((30, 10, 0, 60), None, None, r'60.0% of the pixels are 255.*"where(A==255,2,A)"'),
        ((50, 30, 20, 0), 0, None, "nodata value 0 is the class 'ground', so 50.0% of the pixels"),
        (
            (50, 30, 20, 0),
            None,
            [(10, 10, 10), (0, 200, 0), (200, 0, 0)],
            "gives index 1 the colour of 'tree', the class table calls it 'roof'",
        ),
    ],
)
def test_odd_values(
    tmp_path: Path,
    counts: tuple[int, ...],
    nodata: int | None,
    palette: list[tuple[int, ...]] | None,
    part: str,
) -> None:
    values = np.repeat(np.array([0, 1, 2, 255], np.uint8), counts).reshape(10, 10)
    table = {index: (*colour, 255) for index, colour in enumerate(palette)} if palette else None
    path = write_label(tmp_path / "a.tif", values, nodata, table)
    found = list(odd_values(path, CLASSES))
    assert len(found) == bool(part)
    for piece in part.split(".*"):
        assert piece in "".join(found)


Change = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]


def write_town(folder: Path, change: Change) -> Path:
    """Write a scene with changed labels and a table of its four classes."""
    scene = write_scene(folder, height=64, width=64, label=True)
    assert scene.label is not None
    values = change(read(scene.label))
    with rasterio.open(scene.label, "r+") as raster:
        raster.write(values, 1)
        raster.nodata = None
    table = [{"name": name, "colour": [i, i, i]} for i, name in enumerate("abcd")]
    (folder / "classes.json").write_text(json.dumps(table))
    return folder


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_town(tmp_path / "scenes", lambda label: label)
    assert train([str(folder), "-o", str(tmp_path / "run"), *TINY]) == 0
    head, training, validation = capsys.readouterr().out.splitlines()[:3]
    assert head.split() == ["labelled", "pixels", "pixels", "a", "b", "c", "d"]
    assert training.startswith("training, all ")
    assert validation.startswith("validation, all ")
    shares = [float(word.rstrip("%")) for word in training.split()[3:]]
    assert sum(shares) == pytest.approx(100, abs=0.03)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda label: np.zeros_like(label), "every labelled pixel of the training scenes is 'a'"),
        (
            lambda label: np.where(label == 2, 1, label),
            "no pixel of the training scenes is ",
        ),
        (lambda label: np.where(label > 0, 255, label), "% of the pixels are 255, which counts as"),
    ],
)
def test_odd_labels_stop_a_training_unless_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, part: str
) -> None:
    words = [str(write_town(tmp_path / "scenes", change)), "-o", str(tmp_path / "run"), *TINY]
    assert train(words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert part in last
    assert last.endswith("--allow-odd-labels goes on as it is")
    assert not (tmp_path / "run").exists()
    assert train([*words, "--allow-odd-labels"]) == 0
    assert f"warning: {part[:10]}" in capsys.readouterr().err or part.startswith("%")


def test_scoring_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_town(tmp_path / "scenes", lambda label: label)
    assert train([str(folder), "-o", str(tmp_path / "run"), *TINY]) == 0
    write_town(folder, lambda label: np.where(label > 0, 255, label))
    capsys.readouterr()
    assert bench(["miou", str(tmp_path / "run" / "best.pt"), str(folder)]) == 0
    assert "of the pixels are 255, which counts as unlabelled" in capsys.readouterr().err
