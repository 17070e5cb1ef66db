"""Pairings: the meetings that a strategy asks for, numbered from 0 without being written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...manifests.clusters import ClusterManifest
from ...manifests.strategies import NO_CLASS
from .order import Order


@dataclass(frozen=True)
class Groups:
    """G groups of images, none of them empty, with M memberships in all: category clusters, or one group of all."""

    categories: np.ndarray
    """(G,) uint8: the category of each group."""
    first: np.ndarray
    """(G + 1,) int64: where each group's members begin in ``images``, and where the last one's end."""
    images: np.ndarray
    """(M,) int32: rows of the image table, ascending within each group."""

    @classmethod
    def clusters(cls, clusters: ClusterManifest) -> Groups:
        """One group for each category that has images."""
        members = {category: rows for category, rows in clusters.rows().items() if len(rows)}
        return cls(
            np.array(list(members), np.uint8),
            np.concatenate([[0], np.cumsum([len(rows) for rows in members.values()], dtype=np.int64)]),
            np.concatenate([np.empty(0, np.int32), *members.values()]),
        )

    @classmethod
    def everyone(cls, clusters: ClusterManifest) -> Groups:
        """All images as one group of no category."""
        count = len(clusters.images)
        return cls(np.array([NO_CLASS], np.uint8), np.array([0, count]), np.arange(count, dtype=np.int32))

    def __len__(self) -> int:
        """The number of groups."""
        return len(self.categories)

    @property
    def sizes(self) -> np.ndarray:
        """(G,) int64: members of each group."""
        return np.diff(self.first)


class Place(NamedTuple):
    """n pairings taken apart, each (n,) int64."""

    group: np.ndarray
    membership: np.ndarray
    """Index into ``Groups.images``."""
    slot: np.ndarray
    """Which of the membership's pairings it is, from 0."""


class Pairings:
    """Every member of group g asks for ``slots[g]`` partners; the pairings are numbered by group, member and slot.

    Under a cap, a uniform choice of so many pairings of each group is left and numbered anew.
    """

    def __init__(self, groups: Groups, slots: np.ndarray, cap: int | None, seed: np.random.SeedSequence) -> None:
        """Number the pairings; ``slots`` is (G,) int64, ``seed`` feeds the choice under ``cap``."""
        self.groups = groups
        self._slots = slots
        asked = groups.sizes * slots
        kept = asked if cap is None else np.minimum(asked, cap)
        self._first = np.concatenate([[0], np.cumsum(kept)])
        self._chosen = {
            group: Order(int(asked[group]), child).part(0, int(kept[group]))
            for group, child in enumerate(seed.spawn(len(groups)))
            if kept[group] < asked[group]
        }

    def __len__(self) -> int:
        """How many there are."""
        return int(self._first[-1])

    def locate(self, pairings: np.ndarray) -> Place:
        """Take (n,) pairing numbers apart."""
        group = np.searchsorted(self._first, pairings, side="right") - 1
        within = pairings - self._first[group]
        for number, chosen in self._chosen.items():
            here = np.flatnonzero(group == number)
            within[here] = chosen[within[here]]
        member, slot = np.divmod(within, self._slots[group])
        return Place(group, self.groups.first[group] + member, slot)
