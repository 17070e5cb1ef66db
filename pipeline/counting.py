"""Counting the pixels of each class in a label map."""

from __future__ import annotations

import numpy as np

from ..manifests.labels import VOID


def count_pixels(label_map: np.ndarray) -> dict[int, int]:
    """Pixels per class in a (h, w) uint8 label map, ascending by class, void and absent classes left out.

    Label maps consist of long runs of one value, so finding where the value changes and adding up run lengths is
    several times faster than a histogram of all pixels.
    """
    flat = label_map.reshape(-1)
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(starts, append=flat.size)
    counts = np.bincount(flat[starts], weights=lengths, minlength=256)
    counts[VOID] = 0
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
