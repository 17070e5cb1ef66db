"""How strategies distribute pairs of categories: which contents meet in one blend, and how unevenly.

Measured by what the images contain, the same way for all strategies, whether they go by categories or not. A blend of
an image with categories A and one with categories B adds 1 / (|A| |B|) to the pair (a, b) for every a in A and b in B,
so that every blend counts once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..manifests.clusters import ClusterManifest
from .recipes import Recipes

AT_ONCE = 1 << 16
"""Blends whose contents are multiplied together, which bounds memory."""


@dataclass(frozen=True)
class PairDistribution:
    """The pairs of categories that a set of recipes brings together; n categories that have images."""

    name: str
    categories: tuple[str, ...]
    samples: int
    blends: int
    """Samples that have a phantom image."""
    pairs: np.ndarray
    """(n, n) float64, blends; rows are the dominant image's categories, columns the phantom's."""
    holder: str
    """The category that most images of the dataset contain."""
    holding: int
    """Blends in which at least one image contains it."""

    @property
    def plain_share(self) -> float:
        """Share of the samples that are not blended, in [0, 1]."""
        return 1 - self.blends / self.samples

    @property
    def share(self) -> np.ndarray:
        """(n, n) float64, ``pairs`` with sum 1; zeros without blends."""
        return self.pairs / max(self.pairs.sum(), 1e-300)

    @property
    def entropy(self) -> float:
        """Of the pair matrix, in bits; 0 without blends."""
        share = self.share[self.share > 0]
        return float(-(share * np.log2(share)).sum()) + 0.0

    @property
    def evenness(self) -> float:
        """The entropy as a share of what n² equally common pairs have, in [0, 1]; 0 where there is but one pair."""
        most = 2 * math.log2(len(self.categories))
        return self.entropy / most if most else 0.0

    @property
    def same(self) -> float:
        """Share of pairs of one and the same category, in [0, 1]."""
        return float(np.trace(self.share))

    @property
    def commonest(self) -> tuple[str, float]:
        """The category with the largest share of the places in the pairs, and that share, in [0, 1]."""
        share = (self.share.sum(axis=0) + self.share.sum(axis=1)) / 2
        return self.categories[int(share.argmax())], float(share.max())

    @property
    def held(self) -> float:
        """Share of the blends that contain ``holder``, in [0, 1]; 0 without blends."""
        return self.holding / self.blends if self.blends else 0.0

    def summary(self) -> dict[str, object]:
        """The same as plain data."""
        name, share = self.commonest
        return {
            "name": self.name,
            "samples": self.samples,
            "blends": self.blends,
            "plain_share": self.plain_share,
            "entropy_bits": self.entropy,
            "entropy_share": self.evenness,
            "same_category_share": self.same,
            "commonest_category": name if self.blends else None,
            "commonest_share": share,
            "held_category": self.holder,
            "held_share": self.held,
            "pairs": np.round(self.pairs, 6).tolist(),
        }


def pair_distribution(name: str, clusters: ClusterManifest, recipes: Recipes) -> PairDistribution:
    """Measure recipes that were planned from these clusters."""
    presence = clusters.presence()[:, clusters.labels.categories]
    images = presence.sum(axis=0)
    there = np.flatnonzero(images)
    presence = presence[:, there]
    weights = presence / np.maximum(presence.sum(axis=1, keepdims=True), 1)
    pairs = np.zeros((len(there), len(there)))
    blends = holding = 0
    commonest = int(images[there].argmax()) if len(there) else 0
    if recipes.phantom_image is not None and len(there):
        blended = np.flatnonzero(recipes.phantom_image >= 0)
        blends = len(blended)
        for first in range(0, blends, AT_ONCE):
            part = blended[first : first + AT_ONCE]
            dominant, phantom = recipes.dominant_image[part], recipes.phantom_image[part]
            pairs += weights[dominant].T @ weights[phantom]
            holding += int((presence[dominant, commonest] | presence[phantom, commonest]).sum())
    names = tuple(clusters.labels.names[clusters.labels.categories[index]] for index in there)
    return PairDistribution(
        name=name,
        categories=names,
        samples=len(recipes),
        blends=blends,
        pairs=pairs,
        holder=names[commonest] if names else "",
        holding=holding,
    )
