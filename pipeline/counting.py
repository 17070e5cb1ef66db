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
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1)
    lengths = ends.copy()  # np.diff would do, at twice the price of the subtraction
    lengths[0] += 1
    lengths[1:] -= ends[:-1]
    counts = np.bincount(flat[ends], weights=lengths).tolist()
    return {value: int(count) for value, count in enumerate(counts) if count and value != VOID}
