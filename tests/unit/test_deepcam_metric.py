"""Intersection over union of samples and classes, and its accumulation over batches and ranks."""

import pytest
import torch

from stormbench.core.errors import UserError
from stormbench.deepcam.metric import IoU, class_iou, confusion, iou


def frame(*rows):
    return torch.tensor([[int(pixel) for pixel in row] for row in rows])[None]


def test_a_perfect_prediction_scores_1():
    label_nhw = torch.randint(0, 3, (4, 8, 9))
    assert iou(label_nhw, label_nhw) == 1.0


def test_a_worked_example():
    label_nhw = frame("0011", "0022")
    prediction_nhw = frame("0001", "0222")
    # background 3 of 5, cyclone 1 of 2, river 2 of 3
    assert iou(prediction_nhw, label_nhw) == pytest.approx((3 / 5 + 1 / 2 + 2 / 3) / 3, rel=1e-15)


def test_a_class_that_is_neither_labelled_nor_predicted_scores_1():
    assert iou(frame("0000"), frame("0000")) == 1.0
    assert iou(frame("0001"), frame("0000")) == pytest.approx((3 / 4 + 0 + 1) / 3, rel=1e-15)


def test_samples_are_averaged_rather_than_their_pixels_pooled():
    label_nhw = torch.cat([frame("0000"), frame("1110")])
    prediction_nhw = torch.cat([frame("0000"), frame("0000")])
    assert iou(prediction_nhw, label_nhw) == pytest.approx((1 + (1 / 4 + 0 + 1) / 3) / 2, rel=1e-15)


def test_the_number_of_classes_may_differ():
    assert iou(frame("0011"), frame("0001"), n_classes=2) == pytest.approx((2 / 3 + 1 / 2) / 2, rel=1e-15)
    assert iou(frame("0000"), frame("0000"), n_classes=5) == 1.0


def test_confusion_counts_label_by_prediction_for_each_sample():
    label_nhw = torch.cat([frame("0012"), frame("2222")])
    prediction_nhw = torch.cat([frame("0112"), frame("0122")])
    found_ncc = confusion(prediction_nhw, label_nhw, 3)
    assert found_ncc.dtype == torch.int64
    assert found_ncc.tolist() == [[[1, 1, 0], [0, 1, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 0], [1, 1, 2]]]
    assert class_iou(found_ncc).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16])
def test_any_integer_type_is_taken(dtype):
    label_nhw, prediction_nhw = torch.randint(0, 3, (2, 3, 6, 5))
    expected = iou(prediction_nhw, label_nhw)
    assert iou(prediction_nhw.to(dtype), label_nhw) == iou(prediction_nhw, label_nhw.to(dtype)) == expected


def test_strided_views_are_counted_as_their_copies():
    label_nhw, prediction_nhw = torch.randint(0, 3, (2, 3, 6, 5))
    assert iou(prediction_nhw.transpose(1, 2), label_nhw.transpose(1, 2)) == iou(prediction_nhw, label_nhw)


@pytest.mark.parametrize(("name", "number"), [("predictions", 3), ("predictions", -1), ("labels", 255), ("labels", -2)])
def test_a_number_that_is_no_class_is_refused(name, number):
    tensors = {"predictions": torch.zeros(1, 2, 2, dtype=torch.int64), "labels": torch.zeros(1, 2, 2, dtype=torch.int64)}
    tensors[name][0, 0, 0] = number
    with pytest.raises(UserError, match=rf"{name} go from .*{number}.*3 classes, 0 to 2"):
        iou(tensors["predictions"], tensors["labels"])


def test_shapes_that_differ_types_and_empty_sets_are_refused():
    zeros = torch.zeros(1, 4, 4, dtype=torch.int64)
    for prediction, label, message in (
        (zeros, zeros[:, :3], "same shape"),
        (zeros[0], zeros[0], "same shape"),
        (zeros.float(), zeros, "integer"),
        (zeros, zeros.float(), "integer"),
        (zeros[:0], zeros[:0], "at least one sample"),
    ):
        with pytest.raises(ValueError, match=message):
            iou(prediction, label)
    with pytest.raises(UserError, match="at least one sample"):
        IoU().result()


def test_the_accumulator_agrees_with_the_metric_and_names_the_classes_in_order():
    label_nhw, prediction_nhw = torch.randint(0, 3, (2, 6, 9, 11))
    score = IoU()
    for i in (slice(0, 1), slice(1, 4), slice(4, 6)):
        score.update(prediction_nhw[i], label_nhw[i])
    found = score.result()
    assert found.samples == 6
    assert found.mean == pytest.approx(iou(prediction_nhw, label_nhw), abs=1e-15)
    assert found.per_class == pytest.approx(class_iou(confusion(prediction_nhw, label_nhw)).mean(0).tolist(), abs=1e-15)


def test_a_rank_without_samples_changes_nothing():
    label_nhw, prediction_nhw = torch.randint(0, 3, (2, 2, 4, 4))
    score = IoU()
    score.update(prediction_nhw, label_nhw)
    assert IoU.from_state(score.state() + IoU().state()).result() == score.result()


def test_a_state_is_a_copy():
    score = IoU()
    state = score.state()
    score.update(frame("0120"), frame("0120"))
    assert state.dtype == torch.float64
    assert state.tolist() == [0.0] * len(state)
