"""A scene, its model and the options of a run, and ways to change them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from support import UTM, read, write_raster, write_rgbd_model, write_scene

from mfnet_runtime.cli.main import main

Capture = pytest.CaptureFixture[str]


def shifted(columns: float) -> dict[str, Any]:
    """The place of a raster that many pixels to the east."""
    return {**UTM, "transform": UTM["transform"] @ Affine.translation(columns, 0)}


@dataclass
class Case:
    """A scene in `folder`, its model, and the options of a run."""

    folder: Path
    model: dict[str, Any] = field(default_factory=dict)
    words: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scene = write_scene(self.folder / "scenes")
        self.image, self.dsm = self.scene.image, self.scene.dsm
        self.out = self.folder / "out"

    def pixels(self, change: Any, **profile: Any) -> None:
        """Write the image again, changed."""
        write_raster(self.image, np.asarray(change(read(self.image, None))), **{**UTM, **profile})

    def heights(self, change: Any, **profile: Any) -> None:
        """Write the DSM again, changed."""
        write_raster(self.dsm, np.asarray(change(read(self.dsm, None))), **{**UTM, **profile})

    def colours(self, *kinds: ColorInterp) -> None:
        with rasterio.open(self.image, "r+") as target:
            target.colorinterp = kinds

    def command(self) -> list[str]:
        path = write_rgbd_model(self.folder / "rgbd.onnx", **self.model)
        words = [path, self.folder / "scenes", "-o", self.out, *self.words]
        return [str(word) for word in words]

    def check(self, capsys: Capture) -> tuple[int, Any]:
        """Return exit code and JSON of `--check`."""
        code = main([*self.command(), "--check", "--json"])
        out, err = capsys.readouterr()
        assert err == ""
        return code, json.loads(out)

    def texts(self, capsys: Capture, *levels: str) -> list[str]:
        """Return the findings of these levels on the one scene."""
        _, summary = self.check(capsys)
        (scene,) = summary["scenes"]
        return [one["text"] for one in scene["findings"] if one["level"] in levels]

    def warnings(self, capsys: Capture) -> list[str]:
        """Return the warnings of `--check`, which a run gives as well."""
        _, summary = self.check(capsys)
        (scene,) = summary["scenes"]
        found = [one for one in scene["findings"] if one["level"] == "warning"]
        assert main([*self.command(), "--json"]) == 0
        out, err = capsys.readouterr()
        (row,) = json.loads(out)["scenes"]
        assert row["warnings"] == [one["text"] for one in found if one["about"] != "run"]
        assert all(f"warning: {row['scene']}: {text}" in err for text in row["warnings"])
        shutil.rmtree(self.out)
        return [one["text"] for one in found]


def words(*more: Any) -> Any:
    return lambda case: case.words.extend(more)


def heights(change: Any = lambda array: array, **profile: Any) -> Any:
    return lambda case: case.heights(change, **profile)


def pixels(change: Any, **profile: Any) -> Any:
    return lambda case: case.pixels(change, **profile)


def all_of(*plants: Any) -> Any:
    return lambda case: [plant(case) for plant in plants]


sixteen_bits = pixels(lambda array: array.astype(np.uint16) * 16)
four_bands = pixels(lambda array: array[[0, 1, 2, 0]], photometric="minisblack")
