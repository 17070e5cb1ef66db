"""Batches of crops, read ahead by threads (:class:`BlendStream`)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from ..manifests.errors import ConfigError, CorruptStoreError
from ..manifests.labels import VOID
from ..manifests.reader import BlendStore
from .order import epoch_batches, sample_generator
from .pixels import MEAN_COLOR


class Batch(NamedTuple):
    """One global batch of B crops."""

    image: Tensor
    """(B, 3, H, W) uint8 RGB, channels last in memory."""
    dominant: Tensor
    """(B, H, W) uint8 label maps; 255 is void."""
    phantom: Tensor | None
    """(B, H, W) uint8 label maps; ``None`` from a store of plain images."""
    delta: Tensor
    """(B,) float32 in [0, 1]."""
    indices: np.ndarray
    """(B,) int64: the samples of the store."""

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on ``device``."""
        phantom = None if self.phantom is None else self.phantom.to(device)
        image, dominant, delta = (tensor.to(device) for tensor in (self.image, self.dominant, self.delta))
        return Batch(image, dominant, phantom, delta, self.indices)


class Crop(NamedTuple):
    """A square window of an image and whether it is mirrored; ``top`` and ``left`` are 0 where the image is smaller."""

    top: int
    left: int
    size: int
    mirrored: bool

    @classmethod
    def draw(cls, generator: np.random.Generator, height: int, width: int, size: int, *, flip: bool) -> Crop:
        """A uniformly random window of a ``height`` x ``width`` image, mirrored half the time if ``flip``."""
        top = int(generator.integers(max(height - size, 0) + 1))
        left = int(generator.integers(max(width - size, 0) + 1))
        return cls(top, left, size, flip and bool(generator.integers(2)))

    def cut(self, pixels: np.ndarray, out: np.ndarray) -> None:
        """Copy the window of (h, w, …) ``pixels`` into (size, size, …) ``out``, which keeps what lies beyond them."""
        window = pixels[self.top : self.top + self.size, self.left : self.left + self.size]
        rows, columns = window.shape[:2]
        out[:rows, :columns] = window[:, ::-1] if self.mirrored else window


class BlendStream:
    """Iterates over the batches of a run, steps ``first`` to ``steps - 1``, cropped and flipped at random.

    What a batch holds depends on ``seed`` and its step alone, not on ``threads`` or timing. ``threads`` threads (not
    processes: the reader releases the GIL) each assemble a whole batch; at most ``threads + 3`` batches are in
    memory, the one that the consumer holds included.
    An image smaller than ``crop`` is surrounded by the mean colour at the bottom and right, its label maps by void.

    Use it as a context manager, or call :meth:`close`: that ends the threads. ``waited`` is how many seconds the
    consumer has spent waiting for data so far. An error of a thread, such as
    :class:`~fbind.manifests.errors.CorruptStoreError`, is raised where its batch is asked for. Raises
    :class:`~fbind.manifests.errors.ConfigError` when ``batch`` is larger than the store or a number is below 1, and
    ``RuntimeError`` when a closed stream is asked for more.
    """

    def __init__(
        self,
        store: BlendStore,
        *,
        batch: int,
        crop: int,
        steps: int,
        seed: int,
        flip: bool = True,
        threads: int = 2,
        first: int = 0,
    ) -> None:
        for name, value in (("batch", batch), ("crop", crop), ("threads", threads)):
            if value < 1:
                raise ConfigError(f"--{name} must be at least 1, got {value}")
        if batch > len(store):
            raise ConfigError(f"--batch {batch} is larger than the store, which holds {len(store)} samples: lower it")
        self.waited = 0.0
        self._store = store
        self._batch, self._crop, self._flip, self._seed = batch, crop, flip, seed
        self._steps, self._next = steps, first
        self._ahead = threads + 2
        self._classes = len(store.manifest.labels)
        self._epoch = (-1, np.empty((0, 0), np.int64))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fbind-stream")
        self._pending: deque[Future[Batch]] = deque()
        self._closed = False

    @property
    def steps_per_epoch(self) -> int:
        """How many whole batches the store has."""
        return len(self._store) // self._batch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget what was read ahead and end the threads."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next step's batch."""
        if self._closed:
            raise RuntimeError("the stream is closed: open another one, from the step wanted (first)")
        while self._next < self._steps and len(self._pending) < self._ahead:
            self._pending.append(self._submit(self._next))
            self._next += 1
        if not self._pending:
            raise StopIteration
        start = time.perf_counter()
        batch = self._pending.popleft().result()
        self.waited += time.perf_counter() - start
        return batch

    def _submit(self, step: int) -> Future[Batch]:
        epoch, row = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, epoch_batches(self._seed, epoch, len(self._store), self._batch)
        return self._pool.submit(self._assemble, epoch, row, self._epoch[1][row])

    def _assemble(self, epoch: int, row: int, indices: np.ndarray) -> Batch:
        size = (len(indices), self._crop, self._crop)
        image = np.empty((*size, 3), np.uint8)
        image[:] = MEAN_COLOR
        dominant = np.full(size, VOID, np.uint8)
        phantom = np.full(size, VOID, np.uint8) if self._store.manifest.blended else None
        delta = np.empty(len(indices), np.float32)
        for place, index in enumerate(indices):
            sample = self._store.read(int(index))
            generator = sample_generator(self._seed, epoch, row * self._batch + place)
            height, width = sample.dominant.shape
            crop = Crop.draw(generator, height, width, self._crop, flip=self._flip)
            crop.cut(sample.image, image[place])
            crop.cut(sample.dominant, dominant[place])
            check_range(dominant[place], self._classes, int(index), self._store.place)
            if phantom is not None and sample.phantom is not None:
                crop.cut(sample.phantom, phantom[place])
                check_range(phantom[place], self._classes, int(index), self._store.place)
            delta[place] = sample.delta
        return Batch(
            image=torch.from_numpy(image).permute(0, 3, 1, 2),
            dominant=torch.from_numpy(dominant),
            phantom=None if phantom is None else torch.from_numpy(phantom),
            delta=torch.from_numpy(delta),
            indices=indices,
        )


def check_range(labels: np.ndarray, classes: int, sample: int, store: str) -> None:
    """Raise :class:`CorruptStoreError` when a label map has a value outside the label set.

    On a GPU such a value would end the process with an assertion that names nothing.
    """
    strange = labels[(labels >= classes) & (labels != VOID)]
    if strange.size:
        raise CorruptStoreError(
            f"sample {sample} of {store} has label {strange[0]}, but its label set ends at {classes - 1}: "
            "run `fbind verify` on the store"
        )
