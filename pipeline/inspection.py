"""What a store holds and how it was made (:class:`Inspection`), without reading its pixels."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..manifests.base import Frozen
from ..manifests.errors import StoreError
from ..manifests.reader import BlendStore
from ..manifests.shards import shard_key
from ..manifests.storage import Place, Storage
from ..manifests.store import ShardManifest
from ..manifests.writer import recorded
from .pixels import used_images
from .plan import estimated_bytes, stored_bytes

DELTA_BINS = 10


class CategoryCount(Frozen):
    """How many samples a category brought about, as the dominant and as the phantom one."""

    name: str
    dominant: int
    phantom: int


class DeltaBin(Frozen):
    """The samples whose δ lies from ``low`` up to ``high`` (the last bin includes it)."""

    low: float
    high: float
    samples: int


class Range(Frozen):
    """Smallest, median and largest value."""

    smallest: float
    median: float
    largest: float


class ArrayBytes(Frozen):
    """A pixel array on disk: the bytes of its written shards, and those of their rows' raw canvases."""

    array: str
    stored: int
    raw: int


class Inspection(Frozen):
    """What ``fbind inspect --json`` prints; a field may be added within a version, none changes its meaning."""

    version: Literal[1] = 1
    path: str
    """Its path or URL."""
    manifest: dict[str, Any]
    """The store's manifest without the id table, as written."""
    images: int
    """Length of the id table."""
    shards: int
    written_shards: int
    """Those with a record and all their files."""
    written_samples: int
    """The samples of those; all or none of a virtual store, whose shards hold images."""
    written_images: int
    """The source images in those shards of a virtual store; 0 in a full one."""
    categories: tuple[CategoryCount, ...]
    """In the order of the label set; empty where no category brings the images together."""
    delta: Range
    delta_histogram: tuple[DeltaBin, ...]
    """Equal bins over the strategy's range; empty where every δ is the same."""
    height: Range
    width: Range
    bytes: tuple[ArrayBytes, ...]
    stored_bytes: int
    """All files of the store, metadata included."""
    other_layout_bytes: int
    """About what the same samples would take in the other layout: ``virtual`` for a full store, ``full`` for a virtual
    one."""
    bytes_per_sample: float
    """Of the pixel arrays; 0 while no sample is written."""
    stored_per_raw: float
    """Stored bytes of the pixel arrays over their raw bytes; 0 while no shard is written."""


def inspect_store(place: Place) -> Inspection:
    """Gather the facts about a store, complete or not.

    Raises what :meth:`~fbind.manifests.reader.BlendStore.open` raises for a store that can't be read, and
    :class:`~fbind.manifests.errors.CorruptStoreError` when one of its columns is damaged or missing.
    """
    store = BlendStore.open(place, allow_incomplete=True)
    manifest, columns = store.manifest, store.columns()
    written = [shard for shard in sorted(recorded(store.storage, manifest)) if all(_shard_sizes(store, shard))]
    samples, rows = _written(store, written)
    arrays = tuple(_array_bytes(store, written, rows))
    stored, raw = sum(array.stored for array in arrays), sum(array.raw for array in arrays)
    other = manifest.model_copy(update={"layout": "full" if manifest.layout == "virtual" else "virtual"})
    return Inspection(
        path=store.place,
        manifest=manifest.model_dump(mode="json", exclude={"images"}),
        images=len(manifest.images),
        shards=manifest.shards,
        written_shards=len(written),
        written_samples=samples,
        written_images=rows if manifest.layout == "virtual" else 0,
        categories=_categories(store) if manifest.strategy.grouped else (),
        delta=_range(columns["delta"]),
        delta_histogram=_delta_histogram(manifest, columns["delta"]),
        height=_range(columns["size"][:, 0]),
        width=_range(columns["size"][:, 1]),
        bytes=arrays,
        stored_bytes=stored_bytes(store.storage),
        other_layout_bytes=estimated_bytes(other, columns),
        bytes_per_sample=stored / samples if samples else 0.0,
        stored_per_raw=stored / raw if raw else 0.0,
    )


def _written(store: BlendStore, shards: list[int]) -> tuple[int, int]:
    """How many samples can be read from these shards, and how many rows of the pixel arrays they hold."""
    manifest = store.manifest
    if manifest.layout == "full":
        samples = sum(len(manifest.rows_of(shard)) for shard in shards)
        return samples, samples
    used = used_images(store)
    images = sum(int(used[list(manifest.rows_of(shard))].sum()) for shard in shards)
    return (manifest.samples if len(shards) == manifest.shards else 0), images


def _categories(store: BlendStore) -> tuple[CategoryCount, ...]:
    labels = store.manifest.labels
    dominant = np.bincount(store.column("recipe/dominant_class"), minlength=256)
    phantom = np.bincount(store.column("recipe/phantom_class"), minlength=256)
    return tuple(
        CategoryCount(name=labels.names[category], dominant=int(dominant[category]), phantom=int(phantom[category]))
        for category in labels.categories
    )


def _delta_histogram(manifest: ShardManifest, delta: np.ndarray) -> tuple[DeltaBin, ...]:
    low, high = manifest.strategy.delta
    if low == high:
        return ()
    edges = np.linspace(low, high, DELTA_BINS + 1)
    # Clipped, because a bound that was rounded to float32 may lie just outside.
    counts, _ = np.histogram(np.clip(delta.astype(np.float64), low, high), edges)
    return tuple(
        DeltaBin(low=round(float(low), 6), high=round(float(high), 6), samples=int(count))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    )


def _array_bytes(store: BlendStore, written: list[int], rows: int) -> list[ArrayBytes]:
    counted = []
    for array in store.manifest.pixel_arrays():
        stored = sum(_size(store.storage, shard_key(array.name, shard, array.ndim)) for shard in written)
        counted.append(ArrayBytes(array=array.name, stored=stored, raw=rows * int(np.prod(array.sample_shape))))
    return counted


def _shard_sizes(store: BlendStore, shard: int) -> list[int]:
    arrays = store.manifest.pixel_arrays()
    return [_size(store.storage, shard_key(array.name, shard, array.ndim)) for array in arrays]


def _size(storage: Storage, key: str) -> int:
    """The bytes of a file, 0 when it is not there."""
    try:
        return storage.size(key) or 0
    except OSError as error:
        raise StoreError(f"can't read {storage.where(key)}: {error.strerror or error}") from error


def _range(values: np.ndarray) -> Range:
    return Range(
        smallest=round(float(values.min()), 6),
        median=round(float(np.median(values)), 6),
        largest=round(float(values.max()), 6),
    )
