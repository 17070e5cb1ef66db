"""What a store holds and how it was made (:class:`Inspection`), without reading its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..manifests.base import Frozen
from ..manifests.errors import StoreError
from ..manifests.reader import BlendStore
from ..manifests.shards import shard_file
from ..manifests.store import CategoryStrategy, ShardManifest
from ..manifests.writer import recorded

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
    """A pixel array on disk: the bytes of its written shards, and those of their samples' raw canvases."""

    array: str
    stored: int
    raw: int


class Inspection(Frozen):
    """What ``fbind inspect --json`` prints; a field may be added within a version, none changes its meaning."""

    version: Literal[1] = 1
    path: str
    manifest: dict[str, Any]
    """The store's manifest without the id table, as written."""
    images: int
    """Length of the id table."""
    shards: int
    written_shards: int
    """Those with a record and all their files."""
    written_samples: int
    categories: tuple[CategoryCount, ...]
    """In the order of the label set; empty in a store of plain images."""
    delta: Range
    delta_histogram: tuple[DeltaBin, ...]
    """Equal bins over the strategy's range; empty where every δ is the same."""
    height: Range
    width: Range
    bytes: tuple[ArrayBytes, ...]
    stored_bytes: int
    """All files of the store, metadata included."""
    bytes_per_sample: float
    """Of the pixel arrays; 0 while no shard is written."""
    stored_per_raw: float
    """Stored bytes of the pixel arrays over their raw bytes; 0 while no shard is written."""


def inspect_store(path: Path) -> Inspection:
    """Gather the facts about a store, complete or not.

    Raises what :meth:`~fbind.manifests.reader.BlendStore.open` raises for a store that can't be read, and
    :class:`~fbind.manifests.errors.CorruptStoreError` when one of its columns is damaged or missing.
    """
    store = BlendStore.open(path, allow_incomplete=True)
    manifest = store.manifest
    written = [shard for shard in sorted(recorded(path, manifest)) if all(_shard_sizes(path, manifest, shard))]
    samples = sum(len(manifest.rows_of(shard)) for shard in written)
    arrays = tuple(_array_bytes(path, manifest, written, samples))
    stored, raw = sum(array.stored for array in arrays), sum(array.raw for array in arrays)
    size = store.column("size")
    return Inspection(
        path=str(path),
        manifest=manifest.model_dump(mode="json", exclude={"images"}),
        images=len(manifest.images),
        shards=manifest.shards,
        written_shards=len(written),
        written_samples=samples,
        categories=_categories(store) if manifest.blended else (),
        delta=_range(store.column("delta")),
        delta_histogram=_delta_histogram(manifest, store.column("delta")),
        height=_range(size[:, 0]),
        width=_range(size[:, 1]),
        bytes=arrays,
        stored_bytes=sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file()),
        bytes_per_sample=stored / samples if samples else 0.0,
        stored_per_raw=stored / raw if raw else 0.0,
    )


def _categories(store: BlendStore) -> tuple[CategoryCount, ...]:
    labels = store.manifest.labels
    dominant = np.bincount(store.column("recipe/dominant_class"), minlength=256)
    phantom = np.bincount(store.column("recipe/phantom_class"), minlength=256)
    return tuple(
        CategoryCount(name=labels.names[category], dominant=int(dominant[category]), phantom=int(phantom[category]))
        for category in labels.categories
    )


def _delta_histogram(manifest: ShardManifest, delta: np.ndarray) -> tuple[DeltaBin, ...]:
    strategy = manifest.strategy
    if not isinstance(strategy, CategoryStrategy) or strategy.delta[0] == strategy.delta[1]:
        return ()
    edges = np.linspace(*strategy.delta, DELTA_BINS + 1)
    # Clipped, because a bound that was rounded to float32 may lie just outside.
    counts, _ = np.histogram(np.clip(delta.astype(np.float64), *strategy.delta), edges)
    return tuple(
        DeltaBin(low=round(float(low), 6), high=round(float(high), 6), samples=int(count))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    )


def _array_bytes(path: Path, manifest: ShardManifest, written: list[int], samples: int) -> list[ArrayBytes]:
    counted = []
    for array in manifest.pixel_arrays():
        stored = sum(_size(shard_file(path / array.name, shard, array.ndim)) for shard in written)
        counted.append(ArrayBytes(array=array.name, stored=stored, raw=samples * int(np.prod(array.sample_shape))))
    return counted


def _shard_sizes(path: Path, manifest: ShardManifest, shard: int) -> list[int]:
    return [_size(shard_file(path / array.name, shard, array.ndim)) for array in manifest.pixel_arrays()]


def _size(file: Path) -> int:
    """The bytes of a file, 0 when it is not there."""
    try:
        return file.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise StoreError(f"can't read {file}: {error.strerror}") from error


def _range(values: np.ndarray) -> Range:
    return Range(
        smallest=round(float(values.min()), 6),
        median=round(float(np.median(values)), 6),
        largest=round(float(values.max()), 6),
    )
