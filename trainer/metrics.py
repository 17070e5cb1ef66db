"""Scores from a confusion matrix: intersection over union and pixel accuracy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from ..manifests.labels import VOID


class Confusion:
    """One confusion matrix over all pixels of all images, void left out; accumulates on ``device`` in int64."""

    def __init__(self, classes: int, device: torch.device) -> None:
        # The labels are checked where they are read; checking every pixel here again would double the time.
        self._matrix = MulticlassConfusionMatrix(classes, ignore_index=VOID, validate_args=False).to(device)

    def add(self, predicted: Tensor, labels: Tensor) -> None:
        """Count the pixels of one image; both (h, w) integer, ``labels`` with 255 for void."""
        # torchmetrics divides nothing here, so a sum over images is exact.
        self._matrix.update(predicted, labels.long())

    def counts(self) -> np.ndarray:
        """(K, K) int64: pixels of class i (row) that were predicted as class j (column)."""
        return self._matrix.confmat.cpu().numpy().astype(np.int64)


def iou(counts: np.ndarray) -> np.ndarray:
    """(K,) float64 in [0, 1]: every class's intersection over union; NaN where truth and prediction both lack it."""
    hits = np.diag(counts).astype(np.float64)
    union = counts.sum(axis=0) + counts.sum(axis=1) - hits
    return np.divide(hits, union, out=np.full(len(counts), np.nan), where=union > 0)


def mean_iou(counts: np.ndarray) -> float:
    """Mean of the classes' IoU, absent ones left out; 0 where there is no valid pixel at all."""
    values = iou(counts)
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0


def pixel_accuracy(counts: np.ndarray) -> float:
    """Share of the valid pixels that are right; 0 where there are none."""
    total = counts.sum()
    return float(np.trace(counts) / total) if total else 0.0
