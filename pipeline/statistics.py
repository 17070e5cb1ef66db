"""What a set of clusters looks like as numbers (:class:`ClusterStatistics`), for tables and figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from ..manifests.clusters import ClusterManifest


class Pair(NamedTuple):
    """Two categories and the number of images that contain both."""

    first: str
    second: str
    images: int


@dataclass(frozen=True)
class ClusterStatistics:
    """The facts of a :class:`~fbind.manifests.clusters.ClusterManifest` that people ask for.

    K is the number of categories; all arrays are in their order. "Contains" means at least ``min_pixels`` pixels.
    """

    names: tuple[str, ...]
    """The K categories' names."""
    images: np.ndarray
    """(K,) int64: the size of every cluster."""
    pixels: np.ndarray
    """(K,) int64: every category's pixels in the whole split."""
    cooccurrence: np.ndarray
    """(K, K) int64: images that contain both categories; on the diagonal, images that contain the category."""
    categories_per_image: np.ndarray
    """(images,) int64: how many categories every image contains."""
    accompanied: np.ndarray
    """(K,) int64: images that contain the category and at least one other."""
    unclustered: tuple[str, ...]
    """The images that are in no cluster."""

    @classmethod
    def of(cls, manifest: ClusterManifest) -> Self:
        """Compute the statistics of a manifest."""
        categories = list(manifest.labels.categories)
        row = {category: index for index, category in enumerate(categories)}
        presence = np.zeros((len(manifest.images), len(categories)), bool)
        pixels = np.zeros(len(categories), np.int64)
        for index, image in enumerate(manifest.images):
            for value, count in image.pixels.items():
                if value in row:
                    presence[index, row[value]] = count >= manifest.rule.min_pixels
                    pixels[row[value]] += count
        per_image = presence.sum(axis=1)
        members = set().union(*manifest.clusters.values())
        return cls(
            names=tuple(manifest.clusters),
            images=np.array([len(ids) for ids in manifest.clusters.values()], np.int64),
            pixels=pixels,
            cooccurrence=np.asarray(manifest.cooccurrence, np.int64)[np.ix_(categories, categories)],
            categories_per_image=per_image,
            accompanied=presence[per_image >= 2].sum(axis=0),
            unclustered=tuple(image.id for image in manifest.images if image.id not in members),
        )

    @property
    def memberships(self) -> int:
        """The number of (image, cluster) pairs: each of them is blended with the other clusters."""
        return int(self.images.sum())

    @property
    def empty(self) -> tuple[str, ...]:
        """The categories whose clusters have no image."""
        return tuple(name for name, count in zip(self.names, self.images, strict=True) if count == 0)

    def pairs(self, count: int) -> list[Pair]:
        """The ``count`` pairs of categories that most images contain together, the most frequent first."""
        first, second = np.triu_indices(len(self.names), 1)
        together = self.cooccurrence[first, second]
        order = np.argsort(-together, kind="stable")[:count]
        return [
            Pair(self.names[first[index]], self.names[second[index]], int(together[index]))
            for index in order
            if together[index] > 0
        ]
