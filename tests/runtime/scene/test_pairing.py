"""Images and their heights, paired by names or by a table; nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mfnet_runtime.errors import SceneError, UsageError
from mfnet_runtime.scene.discovery import Scene, require_files, scenes_from


def touched(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def pairs(scenes: list[Scene], root: Path) -> list[tuple[str, str, str]]:
    return [
        (one.name, str(one.image.relative_to(root)), str(one.dsm.relative_to(root)))
        for one in scenes
    ]


def test_side_by_side(tmp_path: Path) -> None:
    root = touched(tmp_path, "b.tif", "b_dsm.tif", "a.PNG", "a_DSM.tiff", "c_ndsm.tif", "c.jpg")
    touched(root, "notes.txt", "a_label.png", ".hidden.tif")
    assert pairs(scenes_from(root), root) == [
        ("a", "a.PNG", "a_DSM.tiff"),
        ("b", "b.tif", "b_dsm.tif"),
        ("c", "c.jpg", "c_ndsm.tif"),
    ]


def test_vaihingen_in_one_folder_or_as_it_comes(tmp_path: Path) -> None:
    image, dsm = "top_mosaic_09cm_area{}.tif", "dsm_09cm_matching_area{}.tif"
    names = [name.format(area) for area in (1, 21) for name in (image, dsm)]
    root = touched(tmp_path / "flat", *names, "top_mosaic_09cm_area1_noBoundary.tif")
    assert pairs(scenes_from(root), root) == [
        (f"top_mosaic_09cm_area{area}", image.format(area), dsm.format(area)) for area in (1, 21)
    ]
    root = touched(
        tmp_path / "tree",
        *(f"{'dsm' if 'matching' in name else 'top'}/{name}" for name in names),
        "gts_for_participants/labels.tif",
    )
    assert [scene.dsm.parent.name for scene in scenes_from(root)] == ["dsm", "dsm"]


@pytest.mark.parametrize("kind", ["RGB", "RGBIR", "IRRG"])
@pytest.mark.parametrize(
    "heights", ["dsm_potsdam_{:02}_{:02}.tif", "dsm_potsdam_{:02}_{:02}_normalized_lastools.jpg"]
)
def test_potsdam_pads_its_numbers_in_dsms_only(tmp_path: Path, kind: str, heights: str) -> None:
    tiles = [(2, 10), (6, 7)]
    images = [f"2_Ortho/top_potsdam_{row}_{column}_{kind}.tif" for row, column in tiles]
    dsms = [f"1_DSM/{heights.format(*tile)}" for tile in tiles]
    root = touched(tmp_path, *images, *dsms, "5_Labels/top_potsdam_2_10_label.tif")
    expected = [(Path(image).stem, image, dsm) for image, dsm in zip(images, dsms, strict=True)]
    assert pairs(scenes_from(root), root) == expected
    assert pairs(scenes_from(root / "2_Ortho", root / "1_DSM"), root) == expected


def test_two_folders_of_equal_stems(tmp_path: Path) -> None:
    root = touched(tmp_path, "ortho/a.tif", "ortho/b.tif", "heights/a.tif", "heights/b_dsm.tif")
    found = scenes_from(root / "ortho", root / "heights")
    assert pairs(found, root) == [
        ("a", "ortho/a.tif", "heights/a.tif"),
        ("b", "ortho/b.tif", "heights/b_dsm.tif"),
    ]


@pytest.mark.parametrize(
    ("names", "found", "other"),
    [
        (["a.tif", "a.png", "a_dsm.tif"], "a.tif", "a.png"),
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
        (
            [
                "top_potsdam_2_10_RGB.tif",
                "dsm_potsdam_02_10.tif",
                "dsm_potsdam_02_10_normalized_lastools.jpg",
            ],
            "lastools.jpg",
            "dsm_potsdam_02_10.tif",
        ),
    ],
)
def test_two_candidates_are_refused_by_name(
    tmp_path: Path, names: list[str], found: str, other: str
) -> None:
    root = touched(tmp_path, *names)
    with pytest.raises(UsageError, match="keep one of them, give one folder of images") as raised:
        scenes_from(root)
    assert found in str(raised.value)
    assert other in str(raised.value)


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["a.tif", "b.tif", "b_dsm.tif"], "a_dsm.tif"),
        (
            [
                "top_mosaic_09cm_area3.tif",
                "top_mosaic_09cm_area5.tif",
                "dsm_09cm_matching_area5.tif",
            ],
            "dsm_09cm_matching_area3.tif",
        ),
        (
            ["top_potsdam_2_9_RGB.tif", "top_potsdam_7_7_RGB.tif", "dsm_potsdam_07_07.tif"],
            "dsm_potsdam_02_09.tif",
        ),
    ],
)
def test_a_missing_dsm_fails_its_scene_by_name(
    tmp_path: Path, names: list[str], missing: str
) -> None:
    root = touched(tmp_path, *names)
    broken, whole = scenes_from(root)
    require_files(whole)
    with pytest.raises(SceneError, match=rf"{missing}: scene '{broken.name}' has no dsm there"):
        require_files(broken)


@pytest.mark.parametrize("names", [[], ["a.tif", "b.tif"], ["a_dsm.tif"], ["sub/a.tif"]])
def test_a_folder_without_pairs(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(UsageError, match=r"no pairs by name; expected image/ and dsm/ .*--dsm"):
        scenes_from(touched(tmp_path, *names))


def test_two_folders_without_pairs(tmp_path: Path) -> None:
    root = touched(tmp_path, "ortho/a.tif", "heights/b.tif")
    with pytest.raises(UsageError, match=r"heights: holds no DSM of an image in .*ortho"):
        scenes_from(root / "ortho", root / "heights")
    with pytest.raises(UsageError, match=r"heights/b\.tif: is no folder"):
        scenes_from(root / "ortho", root / "heights/b.tif")


def test_heights_in_a_band_of_the_image(tmp_path: Path) -> None:
    root = touched(tmp_path, "flat/a.tif", "flat/b.tif", "tree/image/c.tif", "d.tif")
    for source, names in (("flat", "ab"), ("tree", "c"), ("d.tif", "d")):
        found = scenes_from(root / source, dsm_band=4)
        assert [scene.name for scene in found] == list(names)
        assert all(scene.dsm == scene.image and scene.dsm_band == 4 for scene in found)


def test_a_band_of_dsms_of_many(tmp_path: Path) -> None:
    root = touched(tmp_path, "image/a.tif", "dsm/a.tif", "b.tif", "c.tif")
    for scene in (
        *scenes_from(root, dsm_band=2),
        *scenes_from(root / "b.tif", root / "c.tif", dsm_band=2),
    ):
        assert scene.dsm != scene.image
        assert scene.dsm_band == 2


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


def test_a_table_of_images_with_their_own_heights(tmp_path: Path) -> None:
    path = table(tmp_path, "image\na.tif\n")
    (scene,) = scenes_from(path, dsm_band=4)
    assert scene.dsm == scene.image == tmp_path / "a.tif"
    with pytest.raises(UsageError, match=r"a\.tif: the table names no DSM for it; .*--dsm-band N"):
        scenes_from(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column image; expected a first line image,dsm"),
        ("image;dsm\na.tif;b.tif\n", "has no column image"),
        ("image,dsm\n", "holds no pairs"),
        ("image,dsm\na.tif,b.tif\n,c.tif\n", "line 3 names no image"),
        ("image,dsm\na.tif,b.tif\nsub/a.tif,c.tif\n", "line 3: there is a scene named 'a'"),
        ("image,dsm,name\na.tif,b.tif,../x\n", "line 2: name '../x' cannot name an output"),
        ("image,dsm,name\na.tif,b.tif,.x\n", "cannot name an output"),
        ("image,dsm,name\na.tif,b.tif,\x1b[2Jx\n", "cannot name an output"),
        ('image,dsm\n"a.tif,b.tif\n', "is not a table of pairs"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        scenes_from(table(tmp_path, text))
    assert str(raised.value).startswith(f"{tmp_path}/pairs.csv: ")


def test_a_table_in_another_encoding_or_with_a_dsm(tmp_path: Path) -> None:
    path = table(tmp_path, "image,dsm\na.tif,b.tif\n")
    with pytest.raises(UsageError, match="a table names its own DSMs"):
        scenes_from(path, tmp_path / "dsm.tif")
    path.write_bytes(b"image,dsm\n\xff.tif,b.tif\n")
    with pytest.raises(UsageError, match="is not a table of pairs"):
        scenes_from(path)
