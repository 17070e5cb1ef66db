"""What runs in a worker process: decode and check sources, and write one shard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

# Not left to the first blend: OpenCV's start-up rearranges sys.modules, and has failed when a worker's threads met
# in it.
import cv2
import numpy as np

from ..manifests.blending import Align, align_image, align_labels, blend_images
from ..manifests.clusters import ImageRecord, SourceSpec
from ..manifests.errors import ManifestError, SourceError, StoreError
from ..manifests.labels import VOID
from ..manifests.reader import BlendStore
from ..manifests.writer import ArrayWriter, Chunk, ShardWriter, open_shard
from .counting import count_pixels
from .pixels import FilePixels, Origin, SourceImage, SourcePixels, remove_cache, used_images
from .stopwatch import Stopwatch

LABEL_CHUNKS_BYTES = 64 << 20
"""How much of encoded label maps a worker remembers: the same map is needed for every blend its image takes part in."""


class Problem(NamedTuple):
    """An image that can't be used, and the error that says why."""

    image_id: str
    error: SourceError | ManifestError


class CheckReport(NamedTuple):
    """What checking a batch of sources gave."""

    images: int
    problems: list[Problem]
    digests: list[tuple[str, bytes]]
    """(image id, digest of its pixels) of those that can be used."""
    stages: dict[str, float]


class ShardReport(NamedTuple):
    """What writing a shard took."""

    shard: int
    samples: int
    """How many rows it has: samples, or in a virtual store images."""
    bytes: int
    seconds: float
    stages: dict[str, float]
    """Seconds spent in each stage."""
    record: bytes


def check_sources(batch: list[tuple[SourceImage, ImageRecord | None]], origin: Origin, cache_bytes: int) -> CheckReport:
    """Decode a batch of images into the cache and compare them with their records of the clusters file, if given.

    Returns the :class:`Problem` of every file that is missing, damaged or changed; what is wrong with the machine
    (disk full, say) is raised. What an earlier run has decoded is taken over if its files have not been touched.
    """
    _one_thread_each()
    stopwatch = Stopwatch()
    pixels = _recent(_files, (origin, cache_bytes), FilePixels)
    problems, digests = [], []
    for image, record in batch:
        try:
            entry = pixels.current(image)
            stopwatch.lap("look up")
            if entry is None:
                decoded = pixels.decode(image.id)
                if record is not None:
                    _check_unchanged(record, decoded.labels, origin.spec)
                stopwatch.lap("decode")
                entry = pixels.keep(image, decoded)
                stopwatch.lap("keep")
            digests.append((image.id, entry.digest))
        except (SourceError, ManifestError) as error:
            problems.append(Problem(image.id, error))
    return CheckReport(len(batch), problems, digests, stopwatch.seconds)


def make_shard(shard: int, place: str, plan: str, origin: Origin) -> ShardReport:
    """Write one shard of the store: all its rows, of every array, then its record.

    Raises :class:`StoreError` when the store is not, or no longer, the one of this plan.
    """
    _one_thread_each()
    begin = time.perf_counter()
    stopwatch = Stopwatch()
    job = _recent(_jobs, (place, plan, origin), Job)
    with open_shard(job.store.storage, job.store.manifest, shard) as writer:
        stopwatch.lap("open")
        for row in job.store.manifest.rows_of(shard):
            job.add(row, writer, stopwatch)
        written = writer.commit()
        stopwatch.lap("finish")
    count = len(job.store.manifest.rows_of(shard))
    return ShardReport(shard, count, written.bytes, time.perf_counter() - begin, stopwatch.seconds, written.record)


class Job:
    """One store that this process writes shards of: its recipes, its sources, and what is worth remembering."""

    def __init__(self, place: str, plan: str, origin: Origin) -> None:
        self.store = BlendStore.open(place, allow_incomplete=True)
        if self.store.manifest.plan != plan:
            raise StoreError(f"{place} is no longer the store that this run began: another run has replaced it")
        self._pixels = SourcePixels(self.store, origin)
        self._labels: dict[tuple[int, int, int], Chunk] = {}
        self._labels_bytes = 0
        self._align: Align = self.store.manifest.strategy.align
        if self.store.manifest.layout == "virtual":
            self._used = used_images(self.store)

    def add(self, row: int, writer: ShardWriter, stopwatch: Stopwatch) -> None:
        """Make one row of every array and hand it to the writer."""
        if self.store.manifest.layout == "virtual":
            chunks = self._source(row, writer, stopwatch) if self._used[row] else None
        else:
            chunks = self._sample(row, writer, stopwatch)
        writer.append(chunks)
        stopwatch.lap("write")

    def _sample(self, index: int, writer: ShardWriter, stopwatch: Stopwatch) -> list[Chunk]:
        """A blend (Eq. 1), or a plain image."""
        column, arrays = self.store.column, writer.arrays
        dominant = int(column("recipe/dominant_image")[index])
        phantom = int(column("recipe/phantom_image")[index]) if self.store.manifest.blended else -1
        image, labels = self._pixels.get(dominant)
        size = (labels.shape[0], labels.shape[1])
        canvas = arrays["image"].view(*size)
        if phantom < 0:
            partner = partner_labels = None
            stopwatch.lap("sources")
            canvas[:] = image
        else:
            partner, partner_labels = self._pixels.get(phantom)
            stopwatch.lap("sources")
            aligned = align_image(partner, size, self._align)
            stopwatch.lap("resize")
            blend_images(image, aligned, float(column("delta")[index]), canvas)
        stopwatch.lap("blend")
        chunks = [arrays["image"].encode(*size)]
        stopwatch.lap("encode images")
        chunks.append(self._label_chunk(dominant, labels, size, arrays["dominant"]))
        if "phantom" in arrays:
            chunks.append(self._label_chunk(phantom, partner_labels, size, arrays["phantom"]))
        stopwatch.lap("encode labels")
        return chunks

    def _source(self, row: int, writer: ShardWriter, stopwatch: Stopwatch) -> list[Chunk]:
        """A source image and its label map, for a virtual store."""
        pixels = self._pixels.get(row)
        stopwatch.lap("sources")
        size = pixels[1].shape
        chunks = [array.draw(drawn, *size) for array, drawn in zip(writer.arrays.values(), pixels, strict=True)]
        stopwatch.lap("encode images")
        return chunks

    def _label_chunk(self, row: int, labels: np.ndarray | None, size: tuple[int, int], array: ArrayWriter) -> Chunk:
        """An image's label map (``None``: all void) at a size, encoded, and remembered for the next blend."""
        key = (row, *size)
        chunk = self._labels.get(key)
        if chunk is None:
            array.view(*size)[:] = VOID if labels is None else align_labels(labels, size, self._align)
            chunk = array.encode(*size)
            if self._labels_bytes < LABEL_CHUNKS_BYTES:
                self._labels[key] = chunk
                self._labels_bytes += len(chunk.body)
        return chunk


def images_of(store: BlendStore, shards: Iterable[int]) -> np.ndarray:
    """Rows of the id table that some shards of a store are made from, ascending."""
    rows = [np.asarray(store.manifest.rows_of(shard)) for shard in shards]
    if not rows:
        return np.empty(0, np.int64)
    taken = np.concatenate(rows)
    if store.manifest.layout == "virtual":
        return np.intersect1d(taken, np.flatnonzero(used_images(store)))
    used = store.column("recipe/dominant_image")[taken]
    if store.manifest.blended:
        used = np.union1d(used, store.column("recipe/phantom_image")[taken])
    used = np.unique(used)
    return used[used >= 0]


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


Opened = TypeVar("Opened")

KEPT = 4
"""Of how many runs a process remembers what it has opened: the workers of a cluster may serve several at a time."""

# Opened once per process. The plan and the origin are part of the keys because workers of a long-lived cluster see
# many runs, and a store may be replaced by another of the same name.
_files: dict[tuple[Any, ...], FilePixels] = {}
_jobs: dict[tuple[Any, ...], Job] = {}
_opening = threading.RLock()


def _recent(opened: dict[tuple[Any, ...], Opened], key: tuple[Any, ...], make: Callable[..., Opened]) -> Opened:
    """``make(*key)``, made once."""
    with _opening:
        value = opened.pop(key, None)
        opened[key] = value = make(*key) if value is None else value  # the latest is the last
        if len(opened) > KEPT:
            del opened[next(iter(opened))]
        return value


def forget(origin: Origin) -> None:
    """Drop what a run has left in this process and on this machine, and nothing of other runs.

    A process that kept its mapping of a cache that has been deleted would go on with what was in it.
    """
    with _opening:
        for opened in (_files, _jobs):
            for key in [key for key in opened if origin in key]:
                del opened[key]
    remove_cache(origin)


def _one_thread_each() -> None:
    # The processes share the cores already; OpenCV's own threads would only take them from one another.
    cv2.setNumThreads(1)
