"""What a sample is: alignment and Eq. 1, for the writer and for whoever wants to check or redo a blend.

OpenCV is imported when something is blended, not before, so that readers of a store do not need it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from .labels import VOID

Align = Literal["resize", "pad"]


class Blend(NamedTuple):
    """A blended sample; h, w are the dominant image's."""

    image: np.ndarray
    """(h, w, 3) uint8 RGB."""
    dominant: np.ndarray
    """(h, w) uint8 label map of the dominant image."""
    phantom: np.ndarray
    """(h, w) uint8 label map of the phantom image, aligned as the phantom image is."""


def align(image: np.ndarray, labels: np.ndarray, size: tuple[int, int], how: Align) -> tuple[np.ndarray, np.ndarray]:
    """Bring an image (h, w, 3) and its label map (h, w) to ``size`` = (height, width).

    ``resize``: bilinear for the image, nearest for the labels; both sample at pixel centres, so the two stay on top
    of each other, and both are OpenCV's bit-exact variants, so the result does not depend on the processor.
    ``pad``: no resampling; what is too large is cut at the bottom and right, what is missing there is black and void.
    """
    if image.shape[:2] == size:
        return image, labels
    height, width = size
    if how == "resize":
        import cv2

        return (
            cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR_EXACT),
            cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT),
        )
    padded_image = np.zeros((height, width, 3), np.uint8)
    padded_labels = np.full((height, width), VOID, np.uint8)
    rows, columns = min(height, image.shape[0]), min(width, image.shape[1])
    padded_image[:rows, :columns] = image[:rows, :columns]
    padded_labels[:rows, :columns] = labels[:rows, :columns]
    return padded_image, padded_labels


def blend(
    dominant: tuple[np.ndarray, np.ndarray],
    phantom: tuple[np.ndarray, np.ndarray],
    delta: float,
    how: Align = "resize",
    out: np.ndarray | None = None,
) -> Blend:
    """Eq. 1: ``I = δ·I₁ + (1 - δ)·I₂``, rounded to the nearest grey level.

    ``dominant`` and ``phantom`` are (image (h, w, 3) uint8, labels (h, w) uint8) pairs; the phantom is aligned to the
    dominant first. ``delta`` lies in [0, 1]. ``out``, an array like the dominant image, receives the blend.
    """
    import cv2

    image, labels = dominant
    partner, partner_labels = align(*phantom, (image.shape[0], image.shape[1]), how)
    return Blend(cv2.addWeighted(image, delta, partner, 1.0 - delta, 0.0, dst=out), labels, partner_labels)
