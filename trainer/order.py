"""The order of samples, in plain numpy: which samples make up every global batch of an epoch."""

from __future__ import annotations

import numpy as np

_ORDER, _AUGMENTATION = 0, 1  # names of independent random streams of one seed


def epoch_batches(seed: int, epoch: int, samples: int, batch: int) -> np.ndarray:
    """(samples // batch, batch) int64: the sample indices of every global batch of ``epoch``.

    A full shuffle that depends on the arguments alone, not on threads, processes or earlier epochs. The last
    ``samples % batch`` indices of an epoch's permutation are left out, so that every batch has the same size.
    """
    permutation = np.random.default_rng([_ORDER, seed, epoch]).permutation(samples)
    steps = samples // batch
    return permutation[: steps * batch].reshape(steps, batch)


def sample_generator(seed: int, epoch: int, position: int) -> np.random.Generator:
    """The generator behind the crop and the flip of the sample at ``position`` of an epoch's order."""
    return np.random.default_rng([_AUGMENTATION, seed, epoch, position])
