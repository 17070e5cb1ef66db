"""A random order of numbers, of which a part can be had without making the whole."""

from __future__ import annotations

import numpy as np

PERMUTED = 1 << 20
"""Up to here the whole order is made at once (4 bytes a number, uniform over all orders)."""
ROUNDS = 12
"""Of the Feistel network beyond that; four make it pseudo-random, the others are for the weakness of a mere hash."""


class Order:
    """A random order of ``range(total)``, decided by the seed; memory stays below 4 MiB however large ``total`` is.

    Up to :data:`PERMUTED` numbers it is a uniform permutation. Beyond, it is a keyed bijection, computed where it is
    asked for: a Feistel network over the next power of four, walked on until the value is in range.
    """

    def __init__(self, total: int, seed: np.random.SeedSequence) -> None:
        self.total = total
        self._permuted: np.ndarray | None = None
        if total <= PERMUTED:
            self._permuted = np.arange(total, dtype=np.uint32)
            np.random.default_rng(seed).shuffle(self._permuted)
        self._keys = seed.generate_state(ROUNDS, np.uint64)
        self._bits = np.uint64(-(-max(total - 1, 1).bit_length() // 2))

    def part(self, first: int, stop: int) -> np.ndarray:
        """(stop - first,) int64: what stands at these places of the order; ``stop`` may lie past its end."""
        stop = min(stop, self.total)
        if self._permuted is not None:
            return self._permuted[first:stop].astype(np.int64)
        values = self._scramble(np.arange(first, stop, dtype=np.uint64))
        outside = np.flatnonzero(values >= self.total)
        while len(outside):
            values[outside] = self._scramble(values[outside])
            outside = outside[values[outside] >= self.total]
        return values.astype(np.int64)

    def _scramble(self, values: np.ndarray) -> np.ndarray:
        """The Feistel network: a bijection of the numbers of twice ``_bits`` bits."""
        mask = (np.uint64(1) << self._bits) - np.uint64(1)
        left, right = values >> self._bits, values & mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & mask)
        return (left << self._bits) | right


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: every bit of the (n,) uint64 input has a say in every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
