from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fbind.trainer.order import epoch_batches, sample_generator

seeds = st.integers(0, 2**63 - 1)


@given(seed=seeds, epoch=st.integers(0, 1000), samples=st.integers(1, 200), batch=st.integers(1, 50))
def test_an_epoch_visits_each_sample_at_most_once(seed: int, epoch: int, samples: int, batch: int) -> None:
    batches = epoch_batches(seed, epoch, samples, batch)
    assert batches.shape == (samples // batch, batch)
    assert len(np.unique(batches)) == batches.size
    assert batches.size == 0 or (batches.min() >= 0 and batches.max() < samples)


@given(seed=seeds, epoch=st.integers(0, 1000))
def test_order_is_a_function_of_its_arguments(seed: int, epoch: int) -> None:
    first = epoch_batches(seed, epoch, 100, 10)
    assert np.array_equal(first, epoch_batches(seed, epoch, 100, 10))
    assert not np.array_equal(first, epoch_batches(seed, epoch + 1, 100, 10))
    assert not np.array_equal(first, epoch_batches(seed ^ 1, epoch, 100, 10))


def test_full_shuffle_moves_samples_across_the_whole_epoch() -> None:
    order = epoch_batches(0, 0, 10_000, 10).ravel()
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05


def test_batch_size_does_not_change_the_permutation() -> None:
    assert np.array_equal(epoch_batches(3, 1, 60, 5).ravel(), epoch_batches(3, 1, 60, 12).ravel())


def test_augmentation_differs_by_position_epoch_and_seed_and_from_the_order() -> None:
    def draw(*arguments: int) -> int:
        return int(sample_generator(*arguments).integers(2**62))

    drawn = {draw(0, 0, 0), draw(1, 0, 0), draw(0, 1, 0), draw(0, 0, 1)}
    assert len(drawn) == 4
    assert draw(0, 0, 0) == draw(0, 0, 0)
    order = np.random.default_rng([0, 0, 0, 0])  # the order's stream, were its name the augmentation's
    assert draw(0, 0, 0) != int(order.integers(2**62))
