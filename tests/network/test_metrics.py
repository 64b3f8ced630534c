"""Confusion matrix and intersection over union."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_icnet.metrics import IGNORED, confusion_matrix, score


def test_by_hand():
    labels = np.array([[0, 0, 1], [1, 11, 11]])
    predictions = np.array([[0, 1, 1], [11, 0, 1]])
    result = score(confusion_matrix(labels, predictions))
    # Class 0: 1 right of 1 + 1 missed.  Class 1: 1 right, 1 false alarm, 1 missed (predicted as unlabelled).
    assert result.iou[:2] == (1 / 2, 1 / 3)
    assert result.mean == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert result.accuracy == 2 / 4
    assert result.pixels == 4
    assert result.absent == tuple(range(2, 11))
    assert result.iou[IGNORED] is None


def test_false_alarm_of_an_absent_class_counts_only_as_a_miss():
    result = score(confusion_matrix(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 5])))
    assert result.iou[0] == 3 / 4
    assert result.iou[5] is None
    assert 5 in result.absent
    assert result.mean == 3 / 4


def test_ignored_none_counts_every_class():
    result = score(confusion_matrix(np.array([0, 1]), np.array([0, 1]), classes=2), ignored=None)
    assert result.mean == 1.0
    assert result.absent == ()


@given(st.integers(0, 2**32 - 1), st.integers(2, 13), st.integers(1, 200))
def test_equals_sets(seed, classes, pixels):
    """Against the definition: |label and prediction| / |label or prediction| over the pixels that count."""
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(0, classes, (2, pixels))
    labels[0] = 0
    ignored = classes - 1
    result = score(confusion_matrix(labels, predictions, classes), ignored)
    counted = labels != ignored
    for c in range(classes):
        truth, found = (labels == c) & counted, (predictions == c) & counted
        if truth.any():
            assert result.iou[c] == (truth & found).sum() / (truth | found).sum()
        else:
            assert result.iou[c] is None
    assert result.accuracy == (labels == predictions)[counted].mean()


def test_accumulates_over_images():
    rng = np.random.default_rng(1)
    labels, predictions = rng.integers(0, 12, (2, 3, 5, 7))
    parts = sum(confusion_matrix(a, b) for a, b in zip(labels, predictions, strict=True))
    assert np.array_equal(parts, confusion_matrix(labels, predictions))


def test_uint8_does_not_overflow():
    labels = np.full((4, 4), 11, np.uint8)
    assert confusion_matrix(labels, labels)[11, 11] == 16


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        (np.zeros(3, int), np.zeros(4, int), r"one shape, found \(3,\) and \(4,\)"),
        (np.array([0, 255]), np.array([0, 0]), r"labels must lie in 0\.\.11, found 0\.\.255"),
        (np.array([0, 0]), np.array([-1, 0]), r"predictions must lie in 0\.\.11, found -1\.\.0"),
    ],
)
def test_refuses(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(labels, predictions)


def test_refuses_floats():
    with pytest.raises(TypeError, match="labels must be integers, found float64"):
        confusion_matrix(np.zeros(3), np.zeros(3, int))


def test_nothing_to_score():
    with pytest.raises(ValueError, match="no labelled pixel"):
        score(confusion_matrix(np.array([11]), np.array([0])))
