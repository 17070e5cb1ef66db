"""What runs in a worker process: decode sources into the machine's cache, and write one shard."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Not left to the first blend: OpenCV's start-up rearranges sys.modules, and has failed when a worker's threads met
# in it.
import cv2
import numpy as np

from ..manifests.blending import blend
from ..manifests.clusters import ImageRecord, SourceSpec
from ..manifests.errors import ManifestError, SourceError
from ..manifests.reader import BlendStore
from ..manifests.store import CategoryStrategy
from ..manifests.writer import PixelSample, write_shard
from .cache import SourceCache
from .counting import count_pixels
from .sources import Source, open_source


class Run(NamedTuple):
    """What all tasks of a run share; small enough to travel with each."""

    name: str
    cache_dir: str | None
    spec: SourceSpec
    convert: bool

    def cache(self) -> SourceCache:
        """The cache of this run on the machine where this is called."""
        return SourceCache.of_run(self.name, self.cache_dir)


class Problem(NamedTuple):
    """An image that can't be used, and the error that says why."""

    image_id: str
    error: SourceError | ManifestError


class ShardReport(NamedTuple):
    """What writing a shard took."""

    shard: int
    samples: int
    bytes: int
    seconds: float


def check_sources(batch: list[tuple[int, ImageRecord]], run: Run) -> tuple[int, list[Problem]]:
    """Decode a batch of images into the cache and compare them with the clusters file.

    ``batch`` holds (row in the image table, record) pairs. Returns its length and the :class:`Problem` of every file
    that is missing, damaged or changed; what is wrong with the machine (disk full, say) is raised.
    """
    _one_thread_each()
    source, cache = _source(run), run.cache()
    problems = []
    for row, record in batch:
        try:
            _, labels = cache.get(source, row, record.id, convert=run.convert)
            _check_unchanged(record, labels, run.spec)
        except (SourceError, ManifestError) as error:
            problems.append(Problem(record.id, error))
    return len(batch), problems


def make_shard(shard: int, store: str, run: Run) -> ShardReport:
    """Write one shard of the store: all its samples, of every array, then its record."""
    _one_thread_each()
    begin = time.perf_counter()
    opened = _store(run.name, store)
    count = write_shard(opened.path, opened.manifest, shard, samples_of(opened, shard, run))
    return ShardReport(shard, len(opened.manifest.rows_of(shard)), count, time.perf_counter() - begin)


def remove_cache(run: Run) -> None:
    """Delete this machine's decoded sources; runs where they are, as temporary folders differ between machines."""
    run.cache().remove()


def samples_of(store: BlendStore, shard: int, run: Run) -> Iterator[PixelSample]:
    """Make the pixels of a shard's samples from their recipes (Eq. 1).

    Every blend is computed into the same memory: use a sample before asking for the next.
    """
    source, cache, ids = _source(run), run.cache(), store.manifest.images

    def pixels(row: int) -> tuple[np.ndarray, np.ndarray]:
        return cache.get(source, row, ids[row], convert=run.convert)

    strategy = store.manifest.strategy
    dominant = store.column("recipe/dominant_image")
    scratch = np.empty(3 * math.prod(store.manifest.canvas), np.uint8)
    for index in store.manifest.rows_of(shard):
        image, labels = pixels(int(dominant[index]))
        if isinstance(strategy, CategoryStrategy):
            partner = pixels(int(store.column("recipe/phantom_image")[index]))
            delta = float(store.column("delta")[index])
            out = scratch[: image.size].reshape(image.shape)
            yield PixelSample(*blend((image, labels), partner, delta, strategy.align, out))
        else:
            yield PixelSample(image, labels)


def _check_unchanged(record: ImageRecord, labels: np.ndarray, spec: SourceSpec) -> None:
    where = f"image {record.id} of {spec.root}"
    again = "run `fbind build-clusters` on this dataset again"
    if labels.shape != (record.height, record.width):
        raise ManifestError(
            f"{where} is {labels.shape[1]}x{labels.shape[0]} (width x height), the clusters file says "
            f"{record.width}x{record.height}, so it belongs to another dataset or the images changed: {again}"
        )
    if count_pixels(labels) != record.pixels:
        raise ManifestError(f"the label map of {where} is not the one the clusters file counted: {again}")


# Opened once per run and process. The run's name is part of the key because workers of a long-lived cluster see many
# runs, and the same path may hold another store the next time.


_sources: dict[str, Source] = {}


def _source(run: Run) -> Source:
    if run.name not in _sources:
        _sources.clear()
        _sources[run.name] = open_source(run.spec)
    return _sources[run.name]


@functools.lru_cache(maxsize=1)
def _store(_run: str, path: str) -> BlendStore:
    return BlendStore.open(Path(path), allow_incomplete=True)


def _one_thread_each() -> None:
    # The processes share the cores already; OpenCV's own threads would only take them from one another.
    cv2.setNumThreads(1)
