"""Which files make a scene: layouts, names, tables, and what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.scene.discovery import Scene, require_files, scenes_from

VAIHINGEN = ("top_mosaic_09cm_area{}.tif", "dsm_09cm_matching_area{}.tif")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def pairs(scenes: list[Scene], root: Path) -> list[tuple[str, str, str]]:
    return [
        (one.name, os.path.relpath(str(one.image), root), os.path.relpath(str(one.dsm), root))
        for one in scenes
    ]


def test_equal_stems_in_order_of_their_names(tmp_path: Path) -> None:
    root = touch(tmp_path, "image/b.tif", "image/a.PNG", "dsm/a.tiff", "dsm/b.jpg", "label/a.png")
    touch(root, "label/b.tif", "image/notes.txt", "image/.hidden.tif", "image/a.tif.aux.xml")
    found = scenes_from(root)
    assert pairs(found, root) == [
        ("a", "image/a.PNG", "dsm/a.tiff"),
        ("b", "image/b.tif", "dsm/b.jpg"),
    ]
    assert [scene.label for scene in found] == [None, None]
    labels = [scene.label for scene in scenes_from(root, labelled=True)]
    assert labels == [root / "label/a.png", root / "label/b.tif"]
    for scene in found:
        require_files(scene)


@pytest.mark.parametrize("part", ["dsm", "label"])
def test_a_scene_with_a_missing_part_is_listed_and_fails_by_itself(
    tmp_path: Path, part: str
) -> None:
    names = {f"{folder}/{stem}.tif" for folder in ("image", "dsm", "label") for stem in "ab"}
    broken, whole = scenes_from(touch(tmp_path, *(names - {f"{part}/a.tif"})), labelled=True)
    require_files(whole)
    with pytest.raises(SceneError, match=rf"{part}/a\.tif: scene 'a' has no {part} there"):
        require_files(broken)


@pytest.mark.parametrize("part", ["image", "dsm"])
def test_two_files_of_one_stem(tmp_path: Path, part: str) -> None:
    with pytest.raises(UsageError, match="same stem; keep one"):
        scenes_from(touch(tmp_path, "image/a.tif", "dsm/a.tif", f"{part}/a.tiff"))


def test_a_picture_beside_a_raster_is_its_preview(tmp_path: Path) -> None:
    root = touch(tmp_path / "tree", "image/a.tif", "image/a.jpg", "dsm/a.tif", "dsm/a.PNG")
    touch(root, "label/a.png", "label/a.tif", "image/b.jpg", "dsm/b.png", "label/b.png")
    a, b = scenes_from(root, labelled=True)
    assert [path.name for path in (a.image, a.dsm, a.label or root)] == ["a.tif"] * 3
    assert [path.name for path in (b.image, b.dsm, b.label or root)] == ["b.jpg", "b.png", "b.png"]
    root = touch(tmp_path / "flat", "a.tif", "a.png", "a_dsm.tif", "a_dsm.jpeg")
    assert pairs(scenes_from(root), root) == [("a", "a.tif", "a_dsm.tif")]


def test_formats_of_other_drivers(tmp_path: Path) -> None:
    root = touch(tmp_path, "image/a.JP2", "image/a.jpg", "dsm/a.asc", "dsm/a.prj")
    touch(root, "image/a.aux.xml", "flat/c.jp2", "flat/c_dsm.asc")
    drivers = ("JP2OpenJPEG", "AAIGrid")
    assert pairs(scenes_from(root, drivers=drivers), root) == [("a", "image/a.JP2", "dsm/a.asc")]
    assert pairs(scenes_from(root / "flat", drivers=drivers), root / "flat") == [
        ("c", "c.jp2", "c_dsm.asc")
    ]
    touch(root, "image/a.img")
    with pytest.raises(UsageError, match="same stem"):
        scenes_from(root, drivers=(*drivers, "HFA"))
    (scene,) = scenes_from(root, drivers=("JP2OpenJPEG",))
    with pytest.raises(SceneError, match=r"no dsm there; .*to read a\.asc, add --allow-driver AAI"):
        require_files(scene)
    with pytest.raises(UsageError, match=r"no pairs .*to read c\.jp2, add --allow-driver JP2Open"):
        scenes_from(root / "flat")
    (root / "image/a.jpg").unlink()
    with pytest.raises(UsageError, match=r"no rasters .*to read a\.JP2, add --allow-driver JP2Op"):
        scenes_from(root)


def test_one_image_with_its_dsm(tmp_path: Path) -> None:
    image, dsm = touch(tmp_path, "town.tif") / "town.tif", tmp_path / "heights.tif"
    assert scenes_from(image, dsm) == [Scene("town", image, dsm)]
    with pytest.raises(UsageError, match="add --dsm FILE"):
        scenes_from(image)


def test_sources_of_another_layout(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file or folder"):
        scenes_from(tmp_path / "none")
    with pytest.raises(UsageError, match="has no folder image/"):
        scenes_from(tmp_path)
    (tmp_path / "image").mkdir()
    (tmp_path / "dsm").mkdir()
    with pytest.raises(UsageError, match="holds no rasters"):
        scenes_from(tmp_path)
    with pytest.raises(UsageError, match="its own dsm/"):
        scenes_from(tmp_path, tmp_path / "dsm.tif")
    with pytest.raises(UsageError, match="has no folder label/"):
        scenes_from(tmp_path, labelled=True)


def test_side_by_side(tmp_path: Path) -> None:
    root = touch(tmp_path, "b.tif", "b_dsm.tif", "a.PNG", "a_DSM.tiff", "c_ndsm.tif", "c.jpg")
    touch(root, "notes.txt", "a_label.png", ".hidden.tif")
    assert pairs(scenes_from(root), root) == [
        ("a", "a.PNG", "a_DSM.tiff"),
        ("b", "b.tif", "b_dsm.tif"),
        ("c", "c.jpg", "c_ndsm.tif"),
    ]


def test_vaihingen_in_one_folder_or_as_distributed(tmp_path: Path) -> None:
    names = [name.format(area) for area in (1, 21) for name in VAIHINGEN]
    root = touch(tmp_path / "flat", *names, "top_mosaic_09cm_area1_noBoundary.tif")
    assert pairs(scenes_from(root), root) == [
        (f"top_mosaic_09cm_area{area}", *(name.format(area) for name in VAIHINGEN))
        for area in (1, 21)
    ]
    root = touch(
        tmp_path / "tree",
        *(f"{'dsm' if 'matching' in name else 'top'}/{name}" for name in names),
        "gts_for_participants/labels.tif",
    )
    assert [Path(str(scene.dsm)).parent.name for scene in scenes_from(root)] == ["dsm", "dsm"]


@pytest.mark.parametrize("kind", ["RGB", "RGBIR", "IRRG"])
@pytest.mark.parametrize(
    "heights", ["dsm_potsdam_{:02}_{:02}.tif", "dsm_potsdam_{:02}_{:02}_normalized_lastools.jpg"]
)
def test_potsdam_pads_numbers_in_dsms_only(tmp_path: Path, kind: str, heights: str) -> None:
    tiles = [(2, 10), (6, 7)]
    images = [f"2_Ortho/top_potsdam_{row}_{column}_{kind}.tif" for row, column in tiles]
    dsms = [f"1_DSM/{heights.format(*tile)}" for tile in tiles]
    root = touch(tmp_path, *images, *dsms, "5_Labels/top_potsdam_2_10_label.tif")
    expected = [(Path(image).stem, image, dsm) for image, dsm in zip(images, dsms, strict=True)]
    assert pairs(scenes_from(root), root) == expected
    assert pairs(scenes_from(root / "2_Ortho", root / "1_DSM"), root) == expected


def test_two_folders(tmp_path: Path) -> None:
    root = touch(tmp_path, "ortho/a.tif", "ortho/b.tif", "heights/a.tif", "heights/b_dsm.tif")
    assert pairs(scenes_from(root / "ortho", root / "heights"), root) == [
        ("a", "ortho/a.tif", "heights/a.tif"),
        ("b", "ortho/b.tif", "heights/b_dsm.tif"),
    ]
    touch(root, "other/c.tif")
    with pytest.raises(UsageError, match=r"other: holds no DSM of an image in .*ortho"):
        scenes_from(root / "ortho", root / "other")
    with pytest.raises(UsageError, match=r"other/c\.tif: is no folder"):
        scenes_from(root / "ortho", root / "other/c.tif")


@pytest.mark.parametrize(
    ("names", "found", "other"),
    [
        (["a.tif", "a.tiff", "a_dsm.tif"], "a.tif", "a.tiff"),
        (["a.tif", "a_dsm.tif", "a_ndsm.tif"], "a_ndsm.tif", "a_dsm.tif"),
        (
            [
                "rgb/top_potsdam_2_10_RGB.tif",
                "irrg/top_potsdam_2_10_IRRG.tif",
                "dsm/dsm_potsdam_02_10.tif",
            ],
            "top_potsdam_2_10_RGB.tif",
            "top_potsdam_2_10_IRRG.tif",
        ),
    ],
)
def test_two_candidates_are_refused_by_name(
    tmp_path: Path, names: list[str], found: str, other: str
) -> None:
    with pytest.raises(UsageError, match="keep one of them, give one folder of images") as raised:
        scenes_from(touch(tmp_path, *names))
    assert found in str(raised.value)
    assert other in str(raised.value)


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["a.tif", "b.tif", "b_dsm.tif"], "a_dsm.tif"),
        ([VAIHINGEN[0].format(3), *(name.format(5) for name in VAIHINGEN)], VAIHINGEN[1].format(3)),
        (
            ["top_potsdam_2_9_RGB.tif", "top_potsdam_7_7_RGB.tif", "dsm_potsdam_07_07.tif"],
            "dsm_potsdam_02_09.tif",
        ),
    ],
)
def test_a_missing_dsm_is_expected_by_name(tmp_path: Path, names: list[str], missing: str) -> None:
    broken, whole = scenes_from(touch(tmp_path, *names))
    require_files(whole)
    assert broken.dsm == tmp_path / missing


@pytest.mark.parametrize("names", [[], ["a.tif", "b.tif"], ["a_dsm.tif"], ["sub/a.tif"]])
def test_a_folder_without_pairs(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(UsageError, match=r"no pairs by name; expected image/ and dsm/ .*--dsm"):
        scenes_from(touch(tmp_path, *names))


def test_a_band_of_the_image_or_of_the_dsm(tmp_path: Path) -> None:
    root = touch(tmp_path, "flat/a.tif", "flat/b.tif", "tree/image/c.tif", "d.tif", "e.tif")
    for source, names in (("flat", "ab"), ("tree", "c"), ("d.tif", "d")):
        found = scenes_from(root / source, dsm_band=4)
        assert [scene.name for scene in found] == list(names)
        assert all(scene.dsm == scene.image and scene.dsm_band == 4 for scene in found)
    touch(root, "tree/dsm/c.tif")
    apart = [
        *scenes_from(root / "tree", dsm_band=2),
        *scenes_from(root / "d.tif", root / "e.tif", dsm_band=2),
    ]
    assert [(scene.dsm.name, scene.dsm_band) for scene in apart] == [("c.tif", 2), ("e.tif", 2)]


def table(root: Path, text: str) -> Path:
    path = root / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_of_pairs(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "\ufeffimage, dsm ,name,remark\n"
        "ortho/a.tif, heights/x.tif,,\n\n"
        f"{tmp_path}/b.tif,dsm.tif, town ,old\n"
        "c.tif,dsm.tif\n",
    )
    assert pairs(scenes_from(path), tmp_path) == [
        ("a", "ortho/a.tif", "heights/x.tif"),
        ("town", "b.tif", "dsm.tif"),
        ("c", "c.tif", "dsm.tif"),
    ]
    assert [scene.name for scene in scenes_from(path, only=["town"])] == ["town"]
    with pytest.raises(UsageError, match="no scene named 'x'; there are a, town, c"):
        scenes_from(path, only=["x"])
    with pytest.raises(UsageError, match="a table names its own DSMs"):
        scenes_from(path, tmp_path / "dsm.tif")


@pytest.mark.parametrize("text", [
    "\ufeffimage;dsm;name\r\nsub/a, b.tif;c.tif;x\r\n",
    "Name\tIMAGE\tDsm\nx\tsub/a, b.tif\tc.tif\n",
    'image,DSM,name\n"sub\\a, b.tif",.\\c.tif,x\n',
])  # fmt: skip
def test_tables_as_programs_write_them(tmp_path: Path, text: str) -> None:
    assert pairs(scenes_from(table(tmp_path, text)), tmp_path) == [("x", "sub/a, b.tif", "c.tif")]


def test_a_backslash_may_be_in_a_name(tmp_path: Path) -> None:
    touch(tmp_path, "a\\b.tif")
    (scene,) = scenes_from(table(tmp_path, "image,dsm,name\na\\b.tif,c.tif,x\n"))
    assert scene.image.name == "a\\b.tif"


def test_a_table_of_images_with_their_own_heights(tmp_path: Path) -> None:
    path = table(tmp_path, "image\na.tif\n")
    (scene,) = scenes_from(path, dsm_band=4)
    assert scene.dsm == scene.image == tmp_path / "a.tif"
    with pytest.raises(UsageError, match=r"a\.tif: the table names no DSM for it; .*--dsm-band N"):
        scenes_from(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "has no column image; the first line is '', .* expected image,dsm"),
        (b"Bild;Hoehen\n", "no column image; the first line is 'Bild;Hoehen', separated by ';'"),
        (b"image,dsm\n", "holds no pairs"),
        (b"image,dsm\na.tif,b.tif\n,c.tif\n", "line 3 names no image"),
        (b"image,dsm\na.tif,b.tif\nsub/a.tif,c.tif\n", "line 3: there is a scene named 'a'"),
        (b"image,dsm,name\na.tif,b.tif,../x\n", "line 2: name '../x' cannot name an output"),
        (b"image,dsm,name\na.tif,b.tif,.x\n", "cannot name an output"),
        (b"image,dsm,name\na.tif,b.tif,\x1b[2Jx\n", "cannot name an output"),
        (b'image,dsm\n"a.tif,b.tif\n', "is not a table of pairs"),
        (b"image,dsm\n\xff.tif,b.tif\n", "is not a table of pairs"),
    ],
)
def test_bad_tables(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=message) as raised:
        scenes_from(path)
    assert str(raised.value).startswith(f"{path}: ")
