"""Scores: numbers worked out by hand, a slow reference, and sums of matrices."""

from __future__ import annotations

import json
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mfnet_runtime import metrics
from mfnet_runtime.errors import SceneError
from mfnet_runtime.labels import IGNORE, ISPRS, MMHUNAN, ClassTable
from mfnet_runtime.metrics import ConfusionMatrix, paper_classes

Labels = npt.NDArray[np.uint8]


def row(*values: int) -> Labels:
    return np.array([values], np.uint8)


def test_scores_by_hand() -> None:
    matrix = ConfusionMatrix(3)
    matrix.add(row(0, 0, 0, 0, 1, 1, 2, 255), row(0, 0, 0, 1, 1, 0, 2, 2))
    assert matrix.counts.tolist() == [[3, 1, 0], [1, 1, 0], [0, 0, 1]]
    scores = matrix.scores()
    assert scores.pixels == 7
    assert scores.oa == pytest.approx(5 / 7)
    chance = (4 * 4 + 2 * 2 + 1 * 1) / 49
    assert scores.kappa == pytest.approx((5 / 7 - chance) / (1 - chance))
    assert scores.iou == pytest.approx((3 / 5, 1 / 3, 1))
    assert scores.f1 == pytest.approx((6 / 8, 2 / 4, 1))
    assert scores.precision == pytest.approx((3 / 4, 1 / 2, 1))
    assert scores.recall == pytest.approx((3 / 4, 1 / 2, 1))
    assert scores.mean_iou == pytest.approx((3 / 5 + 1 / 3 + 1) / 3)
    assert scores.mean_f1 == pytest.approx((6 / 8 + 2 / 4 + 1) / 3)


def test_means_over_the_counted_classes_but_accuracy_over_all() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(row(0, 0, 1, 1), row(0, 0, 0, 1))
    scores = matrix.scores(counted=(0,))
    assert scores.counted == (0,)
    assert scores.mean_iou == pytest.approx(2 / 3)
    assert scores.oa == pytest.approx(3 / 4)


def test_pixels_without_prediction_are_told_apart_from_wrong_ones() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(row(0, 1, 1, 255), row(0, 255, 255, 255))
    assert matrix.unpredicted == 2
    assert matrix.counts.sum() == 1
    assert matrix.scores().oa == 1
    assert matrix.scores().unpredicted == 2


def test_absent_missed_and_invented_classes() -> None:
    matrix = ConfusionMatrix(4)  # 0 right, 1 only in the truth, 2 only predicted, 3 nowhere
    matrix.add(row(0, 0, 1), row(0, 2, 0))
    scores = matrix.scores()
    assert scores.iou[1:3] == (0, 0)
    assert math.isnan(scores.iou[3])
    assert math.isnan(scores.precision[1])
    assert math.isnan(scores.recall[2])
    assert scores.mean_iou == pytest.approx((1 / 3 + 0 + 0) / 3)


def test_an_empty_matrix_has_no_scores_and_is_valid_json() -> None:
    found = ConfusionMatrix(2).scores().to_dict()
    assert found["oa"] is None
    assert found["iou"] == [None, None]
    assert found["pixels"] == 0
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_one_class_everywhere_leaves_kappa_undefined() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(row(0, 0), row(0, 0))
    assert matrix.scores().oa == 1
    assert math.isnan(matrix.scores().kappa)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (row(0, 2), row(0, 0), "label has class index 2; expected 0 to 1"),
        (row(0, 1), row(0, 254), "class map has class index 254"),
        (row(255), row(7), "class map has class index 7"),
        (row(0, 1), row(0), "label is 2 x 1 px and class map 1 x 1; they must lie on one grid"),
        (np.zeros((1, 2), np.int64), row(0, 0), "expected uint8"),
    ],
)
def test_what_does_not_fit_is_refused_and_not_counted(
    truth: Labels, prediction: Labels, message: str
) -> None:
    matrix = ConfusionMatrix(2)
    with pytest.raises(SceneError, match=message):
        matrix.add(truth, prediction)
    assert matrix.counts.sum() == 0


@pytest.mark.parametrize(
    ("classes", "counted"),
    [(ISPRS, range(5)), (MMHUNAN, range(7)), (ClassTable.numbered(3), range(3))],
)
def test_published_means(classes: ClassTable, counted: range) -> None:
    assert paper_classes(classes) == tuple(counted)


def slow_counts(truth: Labels, prediction: Labels, classes: int) -> tuple[list[list[int]], int]:
    counts, unpredicted = [[0] * classes for _ in range(classes)], 0
    for true, predicted in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if true != IGNORE and predicted == IGNORE:
            unpredicted += 1
        elif true != IGNORE:
            counts[true][predicted] += 1
    return counts, unpredicted


LABELS = st.one_of(st.integers(0, 3), st.just(IGNORE))
PAIRS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(
        arrays(np.uint8, shape, elements=LABELS), arrays(np.uint8, shape, elements=LABELS)
    )
)


@given(PAIRS)
def test_counts_equal_a_slow_reference(pair: tuple[Labels, Labels]) -> None:
    matrix = ConfusionMatrix(4)
    matrix.add(*pair)
    assert (matrix.counts.tolist(), matrix.unpredicted) == slow_counts(*pair, 4)
    scores = matrix.scores()
    shares = (scores.oa, scores.mean_iou, scores.mean_f1, *scores.iou, *scores.f1)
    assert all(math.isnan(share) or 0 <= share <= 1 for share in shares)
    for iou, f1 in zip(scores.iou, scores.f1, strict=True):
        assert math.isnan(iou) == math.isnan(f1)
        if not math.isnan(iou):
            assert f1 == pytest.approx(2 * iou / (1 + iou))


@given(st.lists(PAIRS, max_size=4))
def test_scenes_apart_and_merged_equal_scenes_together(pairs: list[tuple[Labels, Labels]]) -> None:
    together, merged = ConfusionMatrix(4), ConfusionMatrix(4)
    for pair in pairs:
        together.add(*pair)
        part = ConfusionMatrix(4)
        part.add(*pair)
        merged.merge(part)
    np.testing.assert_array_equal(together.counts, merged.counts)
    assert together.unpredicted == merged.unpredicted


def test_matrices_over_other_classes_do_not_merge() -> None:
    with pytest.raises(SceneError, match="2 and 3 classes"):
        ConfusionMatrix(2).merge(ConfusionMatrix(3))


def test_counting_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    truth, prediction = rng.integers(0, 5, (2, 50, 70)).astype(np.uint8)
    whole, pieces = ConfusionMatrix(5), ConfusionMatrix(5)
    whole.add(truth, prediction)
    monkeypatch.setattr(metrics, "CHUNK", 97)
    pieces.add(truth[:, ::-1], prediction[:, ::-1])  # not contiguous either
    np.testing.assert_array_equal(whole.counts, pieces.counts)
