"""Scores by hand, and where there is nothing to score."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stormbench.cloudmask.metrics import SIZE, as_record, scores, scores_apart


def vector(loss: float, night: list[list[int]], day: list[list[int]]) -> np.ndarray:
    return np.array([loss, *np.ravel(night), *np.ravel(day)], np.float64)


def test_ten_pixels_by_hand() -> None:
    found = scores(vector(5.0, [[0, 0], [0, 0]], [[3, 1], [2, 4]]))
    assert found.loss == 0.5
    assert found.accuracy == 0.7
    assert found.class_recall == (3 / 4, 4 / 6)
    assert found.balanced_accuracy == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert found.f1 == pytest.approx(2 * 4 / (2 * 4 + 1 + 2))
    assert found.class_precision == (3 / 5, 4 / 5)
    assert found.class_iou == (3 / 6, 4 / 7)
    assert found.cloud_share == 0.6
    assert found.pixels == 10


def test_day_and_night_are_told_apart() -> None:
    both = vector(1.0, [[5, 5], [0, 10]], [[1, 0], [0, 3]])
    apart = scores_apart(both)
    assert (apart["night"].accuracy, apart["day"].accuracy) == (0.75, 1.0)
    assert (apart["night"].pixels, apart["day"].pixels) == (20, 4)
    assert scores(both).accuracy == 19 / 24


def test_always_guessing_cloud_is_seen_in_the_balanced_accuracy() -> None:
    found = scores(vector(0.0, [[0, 0], [0, 0]], [[0, 21], [0, 79]]))
    assert found.accuracy == found.cloud_share == 0.79
    assert found.balanced_accuracy == 0.5


def test_nothing_is_invented_where_there_are_no_pixels() -> None:
    nothing = scores(np.zeros(SIZE))
    assert (nothing.loss, nothing.accuracy, nothing.balanced_accuracy, nothing.f1) == (None,) * 4
    one_class = scores(vector(1.0, [[4, 0], [0, 0]], [[0, 0], [0, 0]]))
    assert one_class.accuracy == 1
    assert one_class.balanced_accuracy is None
    assert one_class.f1 is None


def test_the_record_is_json_with_named_classes() -> None:
    record = as_record(vector(1.0, [[1, 1], [1, 1]], [[0, 0], [0, 0]]), "test")
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["test_class_recall"] == {"clear": 0.5, "cloud": 0.5}
    assert record["test_night_accuracy"] == 0.5
    assert record["test_day_accuracy"] is None
    assert "test_day_loss" not in record
