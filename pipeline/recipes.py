"""Recipes: which two images meet, for which categories, with which δ, and in which order (paper, section 3.1).

Everything is planned at once, from one seed, in vectorised numpy; pixels play no part. The seed feeds three
independent generators, for partners, δ and order, so changing the range of δ does not change who meets whom.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..manifests.clusters import ClusterManifest
from ..manifests.errors import ConfigError
from ..manifests.store import CategoryStrategy, PlainStrategy, Strategy


@dataclass(frozen=True)
class Recipes:
    """N recipes as columns. Images are rows of the manifest's image table, classes are label values.

    The last three columns are ``None`` for plain images. ``unmatched`` counts the pairings the strategy asked for and
    no image could fill: an image alone in its cluster has no partner there, and ``disjoint`` may leave none.
    """

    dominant_image: np.ndarray
    """(N,) int32."""
    delta: np.ndarray
    """(N,) float32, the weight of the dominant image."""
    phantom_image: np.ndarray | None = None
    """(N,) int32."""
    dominant_class: np.ndarray | None = None
    """(N,) uint8, the cluster that brought the dominant image."""
    phantom_class: np.ndarray | None = None
    """(N,) uint8, the cluster that brought the phantom image."""
    unmatched: int = 0

    def __len__(self) -> int:
        """The number of recipes."""
        return len(self.dominant_image)

    def take(self, rows: np.ndarray) -> Recipes:
        """Return the recipes at ``rows``, in that order."""

        def pick(column: np.ndarray | None) -> np.ndarray | None:
            return None if column is None else column[rows]

        return replace(
            self,
            dominant_image=self.dominant_image[rows],
            delta=self.delta[rows],
            phantom_image=pick(self.phantom_image),
            dominant_class=pick(self.dominant_class),
            phantom_class=pick(self.phantom_class),
        )

    def images(self) -> np.ndarray:
        """Rows of all images that take part, ascending."""
        if self.phantom_image is None:
            return np.unique(self.dominant_image)
        return np.union1d(self.dominant_image, self.phantom_image)

    def columns(self, sizes: np.ndarray) -> dict[str, np.ndarray]:
        """The store's columns; ``sizes`` is (images, 2): height and width of every row of the image table."""
        columns = {
            "delta": self.delta,
            "size": sizes[self.dominant_image].astype(np.uint16),
            "recipe/dominant_image": self.dominant_image,
        }
        optional = {
            "recipe/phantom_image": self.phantom_image,
            "recipe/dominant_class": self.dominant_class,
            "recipe/phantom_class": self.phantom_class,
        }
        return columns | {name: column for name, column in optional.items() if column is not None}


def plan_recipes(clusters: ClusterManifest, strategy: Strategy, seed: int, limit: int | None = None) -> Recipes:
    """Plan all recipes of a strategy, shuffle them once, and keep the first ``limit``.

    Because the order is a good shuffle already, reading a store's shards in sequence is too, and a limited store is a
    uniform sample of the whole one. Raises :class:`ConfigError` when the clusters allow no recipe at all.
    """
    partners, deltas, order = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3))
    if isinstance(strategy, PlainStrategy):
        recipes = plain(clusters)
    else:
        recipes = across_categories(clusters, strategy, partners)
        recipes = replace(recipes, delta=uniform_delta(len(recipes), *strategy.delta, deltas))
    if len(recipes) == 0:
        raise ConfigError(
            "these clusters allow no blends: at least two categories with images are needed"
            + (" that share no category (--disjoint)" if getattr(strategy, "disjoint", False) else "")
        )
    return recipes.take(order.permutation(len(recipes))[:limit])


def plain(clusters: ClusterManifest) -> Recipes:
    """Every image of the split once, unblended."""
    count = len(clusters.images)
    return Recipes(np.arange(count, dtype=np.int32), np.ones(count, np.float32))


def across_categories(clusters: ClusterManifest, strategy: CategoryStrategy, rng: np.random.Generator) -> Recipes:
    """C_fb of Table 5(a): every member of every cluster meets one image of each other cluster (section 3.1).

    The partner is uniform over the other cluster, never the image itself, and with ``disjoint`` never an image that
    shares a category with it. ``delta`` is left empty.
    """
    rows = clusters.rows()
    kinds, overlap = category_sets(clusters)

    def draw(members: np.ndarray, others: np.ndarray) -> np.ndarray:
        if strategy.disjoint:
            return draw_disjoint(members, others, kinds, overlap, rng)
        return draw_other(members, others, rng)

    dominant, phantom, classes, unmatched = [], [], [], 0
    for own, members in rows.items():
        for other, others in rows.items():
            if own == other or not len(members) or not len(others):
                continue
            partner = draw(members, others)
            found = partner >= 0
            unmatched += int(len(found) - found.sum())
            dominant.append(members[found])
            phantom.append(partner[found])
            classes.append(np.tile(np.array([own, other], np.uint8), (int(found.sum()), 1)))
    pairs = np.concatenate([np.empty((0, 2), np.uint8), *classes])
    return Recipes(
        dominant_image=np.concatenate([np.empty(0, np.int32), *dominant]),
        delta=np.empty(len(pairs), np.float32),
        phantom_image=np.concatenate([np.empty(0, np.int32), *phantom]),
        dominant_class=pairs[:, 0].copy(),
        phantom_class=pairs[:, 1].copy(),
        unmatched=unmatched,
    )


def draw_other(members: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each member, a uniform draw from ``others`` (ascending) without the member itself; -1 where that is empty."""
    place = np.searchsorted(others, members)
    inside = others[np.minimum(place, len(others) - 1)] == members
    choices = len(others) - inside
    # Draw from one fewer and step over the member's own place: uniform over the rest, and no rejection loop.
    drawn = rng.integers(0, np.maximum(choices, 1))
    drawn += inside & (drawn >= place)
    return np.where(choices > 0, others[np.minimum(drawn, len(others) - 1)], -1).astype(np.int32)


def draw_disjoint(
    members: np.ndarray, others: np.ndarray, kinds: np.ndarray, overlap: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """For each member, a uniform draw from the images in ``others`` that share no category with it; -1 for none.

    ``kinds`` gives every image's set of categories as a number, ``overlap`` whether two such sets meet: images with the
    same set have the same choices, and datasets have few different sets.
    """
    drawn = np.full(len(members), -1, np.int32)
    other_kinds = kinds[others]
    for kind in np.unique(kinds[members]):
        choices = others[~overlap[kind, other_kinds]]
        if len(choices):
            here = kinds[members] == kind
            drawn[here] = choices[rng.integers(0, len(choices), int(here.sum()))]
    return drawn


def category_sets(clusters: ClusterManifest) -> tuple[np.ndarray, np.ndarray]:
    """(images,) number of each image's set of categories, and (sets, sets) bool whether two sets share a category."""
    categories = clusters.labels.categories
    least = clusters.rule.min_pixels
    present = np.array([[image.pixels.get(c, 0) >= least for c in categories] for image in clusters.images])
    sets, kinds = np.unique(present, axis=0, return_inverse=True)
    counts = sets.astype(np.int64)
    return kinds.reshape(-1), (counts @ counts.T) > 0


def uniform_delta(count: int, low: float, high: float, rng: np.random.Generator) -> np.ndarray:
    """(count,) float32, uniform in [low, high]; rounding to float32 never leaves the range."""
    values = (low + (high - low) * rng.random(count)).astype(np.float32)
    # Compared as Python floats: against a float32, NumPy would round the bound to float32 first.
    least, most = np.float32(low), np.float32(high)
    if float(least) < low:
        least = np.nextafter(least, np.float32(2))
    if float(most) > high:
        most = np.nextafter(most, np.float32(-1))
    return np.clip(values, least, max(least, most))
