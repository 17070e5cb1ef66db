from __future__ import annotations

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fbind.manifests.errors import ConfigError, CorruptStoreError
from fbind.manifests.reader import BlendStore
from fbind.trainer.order import epoch_batches
from fbind.trainer.pixels import MEAN_COLOR, normalise
from fbind.trainer.stream import Batch, BlendStream, Crop

from .conftest import MakeStore


def batches(store: BlendStore, **options: int | bool) -> list[Batch]:
    arguments = {"batch": 5, "crop": 24, "steps": 4, "seed": 0, **options}
    with BlendStream(store, **arguments) as stream:  # pyright: ignore[reportArgumentType]
        return list(stream)


def same(one: Batch, other: Batch) -> bool:
    tensors = ((one.image, other.image), (one.dominant, other.dominant), (one.delta, other.delta))
    phantoms = one.phantom is other.phantom is None or (
        one.phantom is not None and other.phantom is not None and torch.equal(one.phantom, other.phantom)
    )
    return phantoms and all(torch.equal(a, b) for a, b in tensors) and np.array_equal(one.indices, other.indices)


def test_shapes_and_types(opened: BlendStore) -> None:
    batch = batches(opened, steps=1)[0]
    assert batch.image.shape == (5, 3, 24, 24)
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert batch.dominant.shape == (5, 24, 24)
    assert batch.phantom is not None
    assert batch.phantom.shape == (5, 24, 24)
    assert {batch.image.dtype, batch.dominant.dtype, batch.phantom.dtype} == {torch.uint8}
    assert batch.delta.dtype == torch.float32
    assert torch.equal(batch.delta, torch.from_numpy(opened.column("delta")[batch.indices]))


def test_content_depends_on_neither_threads_nor_timing(opened: BlendStore) -> None:
    one, four = batches(opened, threads=1), batches(opened, threads=4)
    assert len(one) == 4
    assert all(same(a, b) for a, b in zip(one, four, strict=True))
    assert not same(one[0], batches(opened, seed=1)[0])


def test_steps_follow_the_order_across_epochs(opened: BlendStore) -> None:
    expected = np.concatenate([epoch_batches(0, epoch, 12, 5) for epoch in (0, 1)])
    assert np.array_equal([batch.indices for batch in batches(opened)], expected)


def test_a_stream_can_begin_in_the_middle(opened: BlendStore) -> None:
    assert all(same(a, b) for a, b in zip(batches(opened, first=2), batches(opened)[2:], strict=True))


def test_image_and_labels_are_cut_alike(opened: BlendStore) -> None:
    for batch in batches(opened, steps=2):
        for place, index in enumerate(batch.indices):
            sample = opened.read(int(index))
            crop = batch.image[place].permute(1, 2, 0).numpy()
            assert batch.phantom is not None
            found = [
                (top, left, step)
                for top, left, step in itertools.product(range(17), range(25), (1, -1))
                if np.array_equal(sample.image[top : top + 24, left : left + 24][:, ::step], crop)
            ]
            assert len(found) == 1
            top, left, step = found[0]
            for label_map, cut in ((sample.dominant, batch.dominant), (sample.phantom, batch.phantom)):
                assert label_map is not None
                assert np.array_equal(label_map[top : top + 24, left : left + 24][:, ::step], cut[place].numpy())


def test_no_flip_keeps_images_as_they_are(opened: BlendStore) -> None:
    batch = batches(opened, crop=64, flip=False, steps=1)[0]
    for place, index in enumerate(batch.indices):
        assert np.array_equal(batch.image[place, :, :40, :48].permute(1, 2, 0).numpy(), opened.read(int(index)).image)


def test_crop_larger_than_the_image_pads_with_mean_and_void(opened: BlendStore) -> None:
    batch = batches(opened, crop=64, steps=1)[0]
    for label_map in (batch.dominant, batch.phantom):
        assert label_map is not None
        assert (label_map[:, 40:] == 255).all()
        assert (label_map[:, :, 48:] == 255).all()
        assert (label_map[:, :40, :48] != 255).any()
    beyond = batch.image.permute(0, 2, 3, 1)[:, 40:].reshape(-1, 3)
    assert torch.equal(beyond.unique(dim=0), torch.tensor([MEAN_COLOR], dtype=torch.uint8))
    assert normalise(batch.image)[:, :, 40:].abs().max() < 0.02


@given(height=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 100), flip=...)
def test_a_crop_stays_inside_the_image(height: int, width: int, size: int, seed: int, flip: bool) -> None:
    crop = Crop.draw(np.random.default_rng(seed), height, width, size, flip=flip)
    assert 0 <= crop.top <= max(height - size, 0)
    assert 0 <= crop.left <= max(width - size, 0)
    assert flip or not crop.mirrored


def test_every_window_is_drawn() -> None:
    generator = np.random.default_rng(0)
    drawn = {Crop.draw(generator, 5, 4, 3, flip=True) for _ in range(500)}
    assert len(drawn) == 3 * 2 * 2


def test_plain_store_has_no_phantom(plain: Path) -> None:
    batch = batches(BlendStore.open(plain), steps=1)[0]
    assert batch.phantom is None
    assert batch.delta.tolist() == [1.0] * 5


def test_normalise_by_hand() -> None:
    grey = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert normalise(grey).flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_damaged_shard_surfaces_in_the_consumer(make_store: MakeStore) -> None:
    path = make_store()
    shard = next((path / "image" / "c").rglob("0/0/0/0"))
    data = bytearray(shard.read_bytes())
    data[100] ^= 0xFF
    shard.write_bytes(data)
    with pytest.raises(CorruptStoreError, match="sample"):
        batches(BlendStore.open(path), steps=20)
    assert not streaming_threads()


def test_label_outside_the_set_is_named(make_store: MakeStore) -> None:
    path = make_store(dominant=np.full((40, 48), 7, np.uint8))
    with pytest.raises(CorruptStoreError, match=r"sample \d+ of .*label 7.*ends at 3.*fbind verify"):
        batches(BlendStore.open(path), steps=1)


def test_close_ends_the_threads_with_batches_unread(opened: BlendStore) -> None:
    stream = BlendStream(opened, batch=4, crop=16, steps=1000, seed=0, threads=3)
    next(stream)
    assert streaming_threads()
    stream.close()
    assert not streaming_threads()


def test_a_closed_stream_says_so(opened: BlendStore) -> None:
    stream = BlendStream(opened, batch=4, crop=16, steps=9, seed=0)
    next(stream)
    stream.close()
    with pytest.raises(RuntimeError, match="the stream is closed"):
        next(stream)


@pytest.mark.parametrize("option", ["batch", "threads", "crop"])
def test_numbers_below_one(opened: BlendStore, option: str) -> None:
    with pytest.raises(ConfigError, match=f"--{option} must be at least 1, got 0"):
        batches(opened, **{option: 0})


def streaming_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fbind-stream")]


def test_batch_larger_than_the_store(opened: BlendStore) -> None:
    with pytest.raises(ConfigError, match=r"--batch 13 .* 12 samples"):
        batches(opened, batch=13)


def test_waiting_time_is_counted(opened: BlendStore) -> None:
    with BlendStream(opened, batch=4, crop=16, steps=3, seed=0) as stream:
        assert stream.waited == 0
        list(stream)
        assert stream.waited > 0
