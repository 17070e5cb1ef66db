"""Recipes as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Recipes:
    """N recipes as columns. Images are rows of the manifest's image table, classes are label values.

    The last three columns are ``None`` for plain images.
    """

    dominant_image: np.ndarray
    """(N,) int32."""
    delta: np.ndarray
    """(N,) float32, the weight of the dominant image."""
    phantom_image: np.ndarray | None = None
    """(N,) int32; -1 for a plain image among blends."""
    dominant_class: np.ndarray | None = None
    """(N,) uint8, the cluster that brought the dominant image; 255 where categories play no part."""
    phantom_class: np.ndarray | None = None
    """(N,) uint8, the cluster that brought the phantom image; 255 where categories play no part or there is none."""
    asked: int = 0
    """How many recipes the strategy asks for without a limit, those that no image can fill included."""
    askers: int = 0
    """How many memberships (or images, where categories play no part) share these among them."""
    unmatched: int = 0
    """Pairings left out on the way because no image could fill them: an image alone in its cluster has no partner
    there, and ``disjoint`` may leave none."""

    def __len__(self) -> int:
        """The number of recipes."""
        return len(self.dominant_image)

    def images(self) -> np.ndarray:
        """Rows of all images that take part, ascending."""
        if self.phantom_image is None:
            return np.unique(self.dominant_image)
        return np.union1d(self.dominant_image, self.phantom_image[self.phantom_image >= 0])

    def columns(self, sizes: np.ndarray) -> dict[str, np.ndarray]:
        """The store's columns; ``sizes`` is (images, 2): height and width of every row of the image table."""
        columns = {
            "delta": self.delta,
            "size": sizes.astype(np.uint16)[self.dominant_image],
            "recipe/dominant_image": self.dominant_image,
        }
        optional = {
            "recipe/phantom_image": self.phantom_image,
            "recipe/dominant_class": self.dominant_class,
            "recipe/phantom_class": self.phantom_class,
        }
        return columns | {name: column for name, column in optional.items() if column is not None}
