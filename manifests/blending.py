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


def align_image(image: np.ndarray, size: tuple[int, int], how: Align) -> np.ndarray:
    """Bring an image (h, w, 3) to ``size`` = (height, width).

    ``resize``: bilinear, sampled at pixel centres like the labels, so that the two stay on top of each other, by
    OpenCV's bit-exact variant, so the result does not depend on the processor.
    ``pad``: no resampling; what is too large is cut at the bottom and right, what is missing there is black.
    """
    if image.shape[:2] == size:
        return image
    if how == "pad":
        return _pad(image, size, 0)
    import cv2

    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR_EXACT)


def align_labels(labels: np.ndarray, size: tuple[int, int], how: Align) -> np.ndarray:
    """Bring a label map (h, w) to ``size``, as :func:`align_image` does its image: nearest, or cut and void."""
    if labels.shape == size:
        return labels
    if how == "pad":
        return _pad(labels, size, VOID)
    import cv2

    return cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def blend_images(image: np.ndarray, partner: np.ndarray, delta: float, out: np.ndarray | None = None) -> np.ndarray:
    """Eq. 1: ``I = δ·I₁ + (1 - δ)·I₂``, rounded to the nearest grey level.

    Both images are (h, w, 3) uint8, ``delta`` lies in [0, 1]; ``out``, an array of the same shape, receives the blend.
    """
    import cv2

    return cv2.addWeighted(image, delta, partner, 1.0 - delta, 0.0, dst=out)


def blend(
    dominant: tuple[np.ndarray, np.ndarray],
    phantom: tuple[np.ndarray, np.ndarray],
    delta: float,
    how: Align = "resize",
) -> Blend:
    """A blended sample from two (image (h, w, 3) uint8, labels (h, w) uint8) pairs.

    The phantom is aligned to the dominant, then Eq. 1 (:func:`blend_images`).
    """
    image, labels = dominant
    size = (image.shape[0], image.shape[1])
    blended = blend_images(image, align_image(phantom[0], size, how), delta)
    return Blend(blended, labels, align_labels(phantom[1], size, how))


def _pad(pixels: np.ndarray, size: tuple[int, int], padding: int) -> np.ndarray:
    padded = np.full((*size, *pixels.shape[2:]), padding, np.uint8)
    rows, columns = min(size[0], pixels.shape[0]), min(size[1], pixels.shape[1])
    padded[:rows, :columns] = pixels[:rows, :columns]
    return padded
