"""Drawing partners: uniform among those who are allowed, exactly, at the cost of those who are not.

Both draws begin with rejection (draw from all, keep what is allowed, draw again for the rest), which is exact and
costs next to nothing where most candidates are allowed. What is still open after :data:`ROUNDS` rounds is drawn from
the list of its allowed candidates, so that the time is bounded and "nobody is allowed" is found out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ...manifests.clusters import ClusterManifest
from .pairings import Groups

ROUNDS = 32
AT_ONCE = 1 << 20
"""Candidates looked at together, which bounds the memory of the lists."""


class Company:
    """Who may meet whom: never an image itself, and with ``disjoint`` no two images that share a category."""

    def __init__(self, clusters: ClusterManifest, *, disjoint: bool) -> None:
        self.disjoint = disjoint
        presence = clusters.presence()[:, clusters.labels.categories] if disjoint else np.empty((0, 0), bool)
        self._sets = _packed(presence)
        """(images, words): one bit for every category an image contains."""
        # A last column, of no category, for the images that contain none.
        self._presence = np.pad(presence, ((0, 0), (0, 1)))
        ranked = np.append(np.argsort(-presence.sum(axis=0), kind="stable"), presence.shape[1])
        first = self._presence[:, ranked]
        first[:, -1] = True
        self._commonest = ranked[first.argmax(axis=1)]

    def allowed(self, dominant: np.ndarray, phantom: np.ndarray) -> np.ndarray:
        """Whether these images may meet; rows of the image table that broadcast against each other."""
        allowed = dominant != phantom
        if self.disjoint:
            for word in self._sets.T:
                allowed &= (word[dominant] & word[phantom]) == 0
        return allowed

    def commonest(self, images: np.ndarray) -> np.ndarray:
        """(n,) the column of the commonest category of each of (n,) images."""
        return self._commonest[images] if self.disjoint else np.zeros(len(images), np.int64)

    def without(self, category: int, images: np.ndarray) -> np.ndarray:
        """Those of ``images`` that an image whose commonest category stands in this column could be allowed to meet.

        In datasets with categories that are nearly everywhere, they are few, and everyone else need not be looked at.
        """
        return images[~self._presence[images, category]] if self.disjoint else images


class Rule(NamedTuple):
    """Which numbers a row of :func:`draw_distinct` may have, asked in two ways."""

    allowed: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """(n,) bool, from (n,) rows and (n,) numbers."""
    numbers: Callable[[int], np.ndarray]
    """All allowed numbers of a row."""


def draw_partners(
    dominant: np.ndarray, group: np.ndarray, groups: Groups, company: Company, generator: np.random.Generator
) -> np.ndarray:
    """For each dominant image, a uniform draw from the allowed members of its group number; -1 where there are none.

    ``dominant`` is (n,) int32, ``group`` (n,); returns (n,) int32.
    """
    phantom = np.full(len(dominant), -1, np.int32)
    pending = np.arange(len(dominant))
    for _ in range(ROUNDS):
        there = group[pending]
        drawn = groups.images[groups.first[there] + generator.integers(0, groups.sizes[there])]
        allowed = company.allowed(dominant[pending], drawn)
        phantom[pending[allowed]] = drawn[allowed]
        pending = pending[~allowed]
        if not len(pending):
            return phantom
    common = company.commonest(dominant[pending])
    order = np.lexsort((common, group[pending]))
    pending, kind = pending[order], np.stack([group[pending], common], axis=1)[order]
    for alike in np.split(pending, np.flatnonzero(np.any(kind[1:] != kind[:-1], axis=1)) + 1):
        first, stop = groups.first[group[alike[0]]], groups.first[group[alike[0]] + 1]
        members = company.without(int(company.commonest(dominant[alike[:1]])[0]), groups.images[first:stop])
        if not len(members):
            continue
        for few in np.array_split(alike, -(-len(alike) * len(members) // AT_ONCE)):
            allowed = company.allowed(dominant[few, None], members[None, :])
            count = allowed.sum(axis=1)
            nth = generator.integers(0, np.maximum(count, 1))
            column = (np.cumsum(allowed, axis=1, dtype=np.int32) > nth[:, None]).argmax(axis=1)
            phantom[few] = np.where(count > 0, members[column], -1)
    return phantom


def draw_distinct(
    choices: np.ndarray, count: int, generator: np.random.Generator, rule: Rule | None = None
) -> np.ndarray:
    """For each row r, ``count`` different numbers below ``choices[r]``, all such sets equally likely.

    Returns (rows, count) int32; where a row has fewer allowed numbers it has all of them, and -1 in the other places.
    """
    table = np.full((len(choices), count), -1, np.int32)
    few = choices <= count if rule is None else choices == 0
    table[few] = np.where(np.arange(count) < choices[few, None], np.arange(count), -1)
    rows = np.flatnonzero(~few)
    # Which of two equal numbers is drawn again makes no difference, so rows may be sorted to find them, and by
    # symmetry every set of allowed numbers stays equally likely.
    for _ in range(ROUNDS):
        if not len(rows):
            return table
        part = table[rows]
        row, column = np.nonzero(part < 0)
        drawn = generator.integers(0, choices[rows[row]]).astype(np.int32)
        if rule is not None:
            drawn[~rule.allowed(rows[row], drawn)] = -1
        part[row, column] = drawn
        part.sort(axis=1)
        part[:, 1:][part[:, 1:] == part[:, :-1]] = -1
        table[rows] = part
        rows = rows[(part < 0).any(axis=1)]
    for row in rows.tolist():
        numbers = np.arange(choices[row]) if rule is None else rule.numbers(row)
        missing = table[row] < 0
        numbers = numbers[~np.isin(numbers, table[row][~missing])]
        drawn = generator.choice(numbers, min(int(missing.sum()), len(numbers)), replace=False)
        table[row, np.flatnonzero(missing)[: len(drawn)]] = drawn
    return table


def _packed(presence: np.ndarray) -> np.ndarray:
    """(images, categories) bool as (images, words) uint64, one bit a category."""
    packed = np.packbits(presence, axis=1)
    padded = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), np.uint8)
    padded[:, : packed.shape[1]] = packed
    return padded.view(np.uint64)
