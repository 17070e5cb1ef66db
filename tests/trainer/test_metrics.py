from __future__ import annotations

import numpy as np
import pytest
import torch

from fbind.trainer.metrics import Confusion, iou, mean_iou, pixel_accuracy


def test_confusion_is_summed_over_images_without_void() -> None:
    confusion = Confusion(3, torch.device("cpu"))
    confusion.add(torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0, 1], [0, 255]], dtype=torch.uint8))
    confusion.add(torch.tensor([[1, 1, 0]]), torch.tensor([[1, 0, 255]], dtype=torch.uint8))
    assert confusion.counts().tolist() == [[1, 2, 0], [0, 2, 0], [0, 0, 0]]


def test_scores_by_hand() -> None:
    counts = np.array([[1, 2, 0], [0, 2, 0], [0, 0, 0]])
    # class 0: 1 / (1 + 2 + 0); class 1: 2 / (2 + 0 + 2); class 2: nowhere
    assert iou(counts)[:2].tolist() == pytest.approx([1 / 3, 1 / 2])
    assert np.isnan(iou(counts)[2])
    assert mean_iou(counts) == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert pixel_accuracy(counts) == pytest.approx(3 / 5)


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    counts = np.array([[3, 1], [0, 0]])
    assert iou(counts).tolist() == [0.75, 0.0]
    assert mean_iou(counts) == 0.375


def test_nothing_but_void_scores_zero() -> None:
    confusion = Confusion(2, torch.device("cpu"))
    confusion.add(torch.zeros(2, 2, dtype=torch.long), torch.full((2, 2), 255, dtype=torch.uint8))
    assert confusion.counts().sum() == 0
    assert mean_iou(confusion.counts()) == 0.0
    assert pixel_accuracy(confusion.counts()) == 0.0


def test_one_matrix_is_not_a_mean_of_images() -> None:
    one, two = np.array([[9, 0], [0, 1]]), np.array([[1, 0], [9, 0]])
    # By hand: class 0 has 10 / 19, class 1 has 1 / 10; the two images alone have means of 1 and 1 / 20.
    confusion = Confusion(2, torch.device("cpu"))
    for counts in (one, two):
        truth, predicted = np.repeat(np.indices((2, 2)).reshape(2, 4), counts.ravel(), axis=1)
        confusion.add(torch.from_numpy(predicted)[None], torch.from_numpy(truth)[None])
    assert mean_iou(confusion.counts()) == pytest.approx((10 / 19 + 1 / 10) / 2)
