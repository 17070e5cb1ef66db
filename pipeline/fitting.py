"""Large source images, scaled down before anything else happens to them: ``--max-side`` and ``--canvas``."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image


def fitted_sizes(sizes: np.ndarray, canvas: tuple[int, int] | None, max_side: int | None) -> np.ndarray:
    """(n, 2) int64 heights and widths after scaling, from those before.

    An image shrinks, keeping its proportions, until its longer side is at most ``max_side`` and it fits into
    ``canvas`` = (height, width); none grows, none vanishes.
    """
    sizes = sizes.astype(np.int64)
    scale = np.ones(len(sizes))
    if max_side is not None:
        scale = np.minimum(scale, max_side / sizes.max(axis=1))
    if canvas is not None:
        scale = np.minimum(scale, (np.array(canvas) / sizes).min(axis=1))
    return np.maximum(np.floor(sizes * scale[:, None] + 0.5).astype(np.int64), 1)


def fit(image: np.ndarray, labels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Scale an image (h, w, 3) and its label map (h, w) down to ``size`` = (height, width).

    The image is averaged (bilinear over the whole area that a pixel covers, in Pillow's integer arithmetic, so that
    every machine gets the same bytes); labels are nearest, at pixel centres.
    """
    if labels.shape == size:
        return image, labels
    height, width = size
    small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    return small, cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
