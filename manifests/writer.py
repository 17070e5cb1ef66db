"""Writing a store: create it with its recipes, write whole shards in any order from any process, seal it.

create_store(storage, manifest, columns)       once; the store is there, incomplete
open_shard(storage, manifest, shard)           for every shard; atomic, records itself
seal(storage, manifest)                        once; refuses while a record or a file is missing
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from .base import TEMPORARY
from .codecs import ChunkCodec
from .columns import encode_column, plan_fingerprint
from .errors import CorruptStoreError, IncompleteStoreError, StoreError
from .layout import TWIN, chunk_codec, metadata_files
from .records import PLAN_KEY, plan_bytes, read_plan, read_record, record_key, shard_record, store_digest, with_checksum
from .shards import ShardIndex, shard_key
from .storage import LocalStorage, Storage, Upload
from .store import PixelArray, ShardManifest

REQUESTS = 16
"""How many records are asked for at the same time, where a network lies between."""

T = TypeVar("T")


class PixelSample(NamedTuple):
    """The pixels of one row in its own size: image (h, w, 3), label maps (h, w), all uint8."""

    image: np.ndarray
    dominant: np.ndarray
    phantom: np.ndarray | None = None


class Chunk(NamedTuple):
    """One row of one array, encoded."""

    body: bytes
    checksum: bytes


class ShardWritten(NamedTuple):
    """What writing a shard gave."""

    record: bytes
    bytes: int


def create_store(storage: Storage, manifest: ShardManifest, columns: Mapping[str, np.ndarray]) -> ShardManifest:
    """Create a store with all metadata and columns, and no shards yet; returns its manifest, with the plan in it.

    The group's own metadata is written last: without it, nobody takes the place for a store. ``columns`` holds an
    array for each of ``manifest.columns()``. Raises :class:`~fbind.manifests.errors.ResourceError` when the place
    can't be written.
    """
    for column in manifest.columns():
        shape, expected = np.shape(columns[column.name]), manifest.column_shape(column)
        if shape != expected:
            raise ValueError(f"column {column.name} has shape {shape}, expected {expected}")
    manifest = manifest.model_copy(update={"plan": plan_fingerprint(manifest, columns)})
    *files, (group, content) = metadata_files(manifest).items()
    storage.create()
    for key, data in files:
        storage.write(key, data)
    for column in manifest.columns():
        storage.write(column.key, encode_column(np.asarray(columns[column.name], column.dtype)))
    storage.write(PLAN_KEY, plan_bytes(manifest))
    storage.write(group, content)
    return manifest


def clear_store(storage: Storage) -> None:
    """Delete a store. What makes it one goes first, so that it is never taken for a whole one meanwhile.

    The copy of its manifest goes last, as it came first: until then whatever is there can be told to be a store's.
    """
    storage.remove("zarr.json")
    storage.remove(PLAN_KEY)
    storage.clear(last=TWIN)


class ArrayWriter:
    """One shard of one pixel array: a canvas to draw the next row on, the codec, and the index."""

    def __init__(self, array: PixelArray, manifest: ShardManifest, upload: Upload) -> None:
        self.array = array
        self.upload = upload
        self.index = ShardIndex(manifest.samples_per_shard)
        self._codec: ChunkCodec = chunk_codec(manifest, array)
        self._canvas = np.empty(array.sample_shape, np.uint8)

    def view(self, height: int, width: int) -> np.ndarray:
        """The (height, width, …) corner of the canvas that the next row is drawn on."""
        return self._canvas[:height, :width]

    def draw(self, pixels: np.ndarray, height: int, width: int) -> Chunk:
        """The next row from its (height, width, …) pixels."""
        self.view(height, width)[:] = pixels
        return self.encode(height, width)

    def encode(self, height: int, width: int) -> Chunk:
        """What has been drawn, padded to the canvas and encoded."""
        self._canvas[height:] = self.array.padding
        self._canvas[:height, width:] = self.array.padding
        return Chunk(*self._codec.encode(self._canvas))


class ShardWriter:
    """Writes one shard of every pixel array, row by row, so memory holds one sample whatever the size of a shard.

    Each chunk is handed to the operating system while it is still in the processor's cache; that, and not this process,
    waits for the disk meanwhile. Use :func:`open_shard`.
    """

    def __init__(self, storage: Storage, manifest: ShardManifest, shard: int) -> None:
        self._storage, self._manifest, self._shard = storage, manifest, shard
        self._rows = 0
        self.arrays: dict[str, ArrayWriter] = {}
        try:
            for array in manifest.pixel_arrays():
                upload = storage.upload(shard_key(array.name, shard, array.ndim))
                self.arrays[array.name] = ArrayWriter(array, manifest, upload)
        except BaseException:
            self.close()
            raise

    def append(self, chunks: Iterable[Chunk] | None) -> None:
        """Add the next row: a chunk for each array, or ``None`` for a row that stays empty.

        Raises :class:`~fbind.manifests.errors.ResourceError` when it can't be written.
        """
        if chunks is None:
            for writer in self.arrays.values():
                writer.index.skip()
        else:
            for writer, chunk in zip(self.arrays.values(), chunks, strict=True):
                writer.index.append(*chunk)
                writer.upload.write(*chunk)
        self._rows += 1

    def commit(self) -> ShardWritten:
        """Give the files their names, and record the shard.

        Raises :class:`StoreError` when the store was removed or replaced meanwhile (then the shard is not recorded), or
        is sealed with another record of this shard: then nothing is changed.
        """
        expected = len(self._manifest.rows_of(self._shard))
        if self._rows != expected:
            raise ValueError(f"shard {self._shard} takes {expected} rows, got {self._rows}")
        digests, written = [], 0
        for name, writer in self.arrays.items():
            index, digest = writer.index.finish()
            writer.upload.write(index)
            digests.append((name, digest))
            written += writer.index.offset + len(index)
        record = shard_record(self._manifest, self._shard, digests)
        check_plan(self._storage, self._manifest)
        if self._manifest.complete:
            self._check_sealed(record)
        for writer in self.arrays.values():
            writer.upload.commit()
        check_plan(self._storage, self._manifest)  # again: sending large files to an object store takes its time
        self._storage.write(record_key(self._shard), with_checksum(record))
        return ShardWritten(record, written)

    def _check_sealed(self, record: bytes) -> None:
        """Whatever is done to a store that is sealed, a shard is only ever replaced by itself."""
        try:
            sealed = read_record(self._storage, self._manifest, self._shard)
        except CorruptStoreError:
            return  # the store's digest decides
        if sealed is not None and sealed != record:
            raise StoreError(
                f"shard {self._shard} of {self._storage.root} comes out with other bytes than those that were sealed"
            )

    def close(self) -> None:
        """Forget what has not been committed."""
        for writer in self.arrays.values():
            writer.upload.abort()


@contextlib.contextmanager
def open_shard(storage: Storage, manifest: ShardManifest, shard: int) -> Iterator[ShardWriter]:
    """Write one whole shard of every pixel array: append all its rows, then commit.

    Raises :class:`~fbind.manifests.errors.ResourceError` when the disk is full or the place can't be written.
    """
    writer = ShardWriter(storage, manifest, shard)
    try:
        yield writer
    finally:
        writer.close()


def write_shard(
    storage: Storage, manifest: ShardManifest, shard: int, rows: Iterable[PixelSample | None]
) -> ShardWritten:
    """Write one whole shard from the pixels of its rows, in order; ``None`` leaves a row empty."""
    with open_shard(storage, manifest, shard) as writer:
        for pixels in rows:
            if pixels is None:
                writer.append(None)
                continue
            height, width = pixels.image.shape[:2]
            chunks = []
            for array, drawn in zip(writer.arrays.values(), pixels, strict=False):
                if drawn is None:
                    raise ValueError(f"shard {shard}: a store of blends takes phantom label maps")
                chunks.append(array.draw(drawn, height, width))
            writer.append(chunks)
        return writer.commit()


def check_plan(storage: Storage, manifest: ShardManifest) -> None:
    """Raise :class:`StoreError` unless the store is still there and being written to this plan."""
    if read_plan(storage) != manifest.plan:
        raise StoreError(
            f"{storage.root} was removed or replaced while it was being written: run the command again if that was "
            "not intended"
        )


def recorded(storage: Storage, manifest: ShardManifest) -> set[int]:
    """The shards that are written and recorded; a damaged record counts as none, so that its shard is written again.

    Raises :class:`~fbind.manifests.errors.ResourceError` when a record can't be read.
    """

    def has_record(shard: int) -> bool:
        try:
            return read_record(storage, manifest, shard) is not None
        except CorruptStoreError:
            return False

    return {shard for shard, has in enumerate(_of_shards(storage, manifest, has_record)) if has}


def _of_shards(storage: Storage, manifest: ShardManifest, question: Callable[[int], T]) -> list[T]:
    """The answers for all shards in order; several at a time when they come over a network."""
    shards = range(manifest.shards)
    if isinstance(storage, LocalStorage):
        return list(map(question, shards))
    with ThreadPoolExecutor(REQUESTS) as threads:
        return list(threads.map(question, shards))


def seal(storage: Storage, manifest: ShardManifest) -> ShardManifest:
    """Declare the store complete and give it its digest; returns the sealed manifest.

    Everything is made to survive a power failure first. Raises :class:`IncompleteStoreError` while the record or a
    file of any shard is missing.
    """
    records = _of_shards(storage, manifest, lambda shard: read_record(storage, manifest, shard))
    present = dict(storage.sizes())
    files = [
        [shard_key(array.name, shard, array.ndim) for array in manifest.pixel_arrays()]
        for shard in range(manifest.shards)
    ]
    missing = [
        shard
        for shard, (record, keys) in enumerate(zip(records, files, strict=True))
        if record is None or not present.keys() >= set(keys)
    ]
    if missing:
        for shard in missing:
            storage.remove(record_key(shard))  # so that going on writes it again
        raise IncompleteStoreError(
            f"{storage.root} lacks {len(missing)} of {manifest.shards} shards (the first: {missing[0]}): "
            "run `fbind materialize-blends` with the same options again to go on"
        )
    for key in present:
        if key.endswith(TEMPORARY):  # of writers that were killed
            storage.remove(key)
    storage.flush(key for key in present if not key.endswith(TEMPORARY))
    digest = store_digest(manifest, [record for record in records if record is not None])
    sealed = manifest.model_copy(update={"complete": True, "digest": digest})
    metadata = metadata_files(sealed)
    for key in (TWIN, "zarr.json"):
        storage.write(key, metadata[key])
        storage.flush(iter([key]))
    return sealed
