"""Class tables, and class indices from colour-coded labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfnet_runtime.errors import ModelError
from mfnet_runtime.labels import IGNORE, ISPRS, MMHUNAN, ClassTable, labels_from_colours

RED, GREEN = (255, 0, 0), (0, 255, 0)
COLOUR = st.tuples(*[st.integers(0, 255)] * 3)
TABLES = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=64),
    COLOUR,
    min_size=1,
    max_size=20,
).map(lambda rows: ClassTable(tuple(rows), tuple(rows.values())))


@given(TABLES)
def test_json_round_trip(table: ClassTable) -> None:
    assert ClassTable.from_json(table.to_json()) == table


def test_json_is_what_class_files_hold() -> None:
    table = ClassTable(("water",), ((0, 0, 255),))
    assert table.to_json() == [{"name": "water", "colour": [0, 0, 255]}]


@pytest.mark.parametrize(
    ("names", "colours", "message"),
    [
        ((), (), "0 names"),
        (("a", "b"), (RED,), "2 names and 1 colours"),
        (("a", "a"), (RED, GREEN), "repeat"),
        (("",), (RED,), "printable"),
        (("a\n",), (RED,), "printable"),
        (("a" * 65,), (RED,), "64"),
        (("a",), ((256, 0, 0),), r"0\.\.255"),
        (tuple(f"c{i}" for i in range(256)), (RED,) * 256, "1 to 255"),
    ],
)
def test_bad_tables(names: Any, colours: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ClassTable(names, colours)


@pytest.mark.parametrize(
    "rows", [None, 3, [3], [{}], [{"name": "a"}], [{"name": "a", "colour": [1, 2]}]]
)
def test_malformed_json(rows: Any) -> None:
    with pytest.raises(ModelError):
        ClassTable.from_json(rows)


def test_colormap_is_opaque_but_for_nodata() -> None:
    colormap = ISPRS.colormap()
    assert colormap[1] == (0, 0, 255, 255)
    assert colormap[IGNORE] == (0, 0, 0, 0)
    assert len(colormap) == len(ISPRS) + 1


@pytest.mark.parametrize("count", [1, 7, 255])
def test_numbered_classes(count: int) -> None:
    table = ClassTable.numbered(count)
    assert len(table) == count
    assert table.names[-1] == f"class_{count - 1}"
    assert len(set(table.colours[:20])) == min(count, 20)


def test_numbered_classes_with_colours() -> None:
    assert ClassTable.numbered(2, [RED, GREEN]).colours == (RED, GREEN)


@pytest.mark.parametrize("table", [ISPRS, MMHUNAN])
def test_labels_from_colours_invert_the_palette(table: ClassTable) -> None:
    index = np.arange(len(table), dtype=np.uint8)[None].repeat(3, axis=0)
    rgb = np.moveaxis(np.array(table.colours, np.uint8)[index], -1, 0)
    np.testing.assert_array_equal(labels_from_colours(rgb, table), index)


def test_other_colours_are_ignored() -> None:
    rgb = np.array([0, 1, 254], np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    rgb[:, 0, 0] = 0
    assert (labels_from_colours(rgb, ISPRS) == IGNORE).all()
