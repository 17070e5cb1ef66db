"""Checking one shard of a store against its record: every checksum, every value (:class:`ShardCheck`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..manifests.base import Frozen
from ..manifests.codecs import CRC_BYTES
from ..manifests.errors import CorruptStoreError, ResourceError
from ..manifests.labels import VOID
from ..manifests.layout import RECORDS, chunk_codec
from ..manifests.records import read_record, record_key, shard_record, with_checksum
from ..manifests.shards import ABSENT, digest, index_bytes, read_index, shard_key
from ..manifests.storage import Storage
from ..manifests.store import PixelArray, ShardManifest

SPAN = 8 << 20
"""Bytes read at a time: enough that a request to an object store is worth its while."""


class Finding(Frozen):
    """Something that is wrong in a store."""

    shard: int | None
    """The shard to which it is confined; ``None`` when it concerns the whole store."""
    array: str
    """The array it was found in; empty when it is not in an array."""
    file: str
    """The file, relative to the store."""
    what: str
    """What is wrong with it."""


class ShardCheck(NamedTuple):
    """What was found in one shard."""

    record: bytes | None
    """The record as stored; ``None`` when it is missing, damaged, or of another plan."""
    made: bytes | None
    """The record that its files give; ``None`` when one of them is missing or damaged."""
    problems: list[Finding]


class Rows(NamedTuple):
    """What the columns say about the rows of the pixel arrays; ``None`` where a column can't be read."""

    sizes: np.ndarray | None
    """(rows, 2) height and width of each."""
    used: np.ndarray | None
    """(rows,) bool: whether a row is stored. A virtual store leaves out the images that no recipe needs."""


def check_shard(storage: Storage, manifest: ShardManifest, shard: int, rows: Rows) -> ShardCheck:
    """Check one shard of every pixel array, and compare it with its record."""
    record, problems = _check_record(storage, manifest, shard)
    if record is None and not manifest.complete:
        return ShardCheck(None, None, problems)  # going on writes it, whatever is there of it
    digests: list[tuple[str, bytes]] = []
    wrong_files: list[Finding] = []
    for array in manifest.pixel_arrays():
        key = shard_key(array.name, shard, array.ndim)
        try:
            found, wrong = _check_file(storage, manifest, array, shard, rows)
        except CorruptStoreError as error:
            wrong = [str(error).replace(f"shard {storage.where(key)}", "the file")]
        except OSError as error:
            wrong = [f"can't be read: {error.strerror or error}"]
        else:
            digests.append((array.name, found))
        wrong_files += [Finding(shard=shard, array=array.name, file=key, what=what) for what in wrong]
    made = None if wrong_files else shard_record(manifest, shard, digests)
    if record is not None and made is not None and made != record:
        what = "the shard's files are intact, but not those that were recorded when it was written"
        problems.append(Finding(shard=shard, array=RECORDS, file=record_key(shard), what=what))
    return ShardCheck(record, made, problems + wrong_files)


def _check_record(storage: Storage, manifest: ShardManifest, shard: int) -> tuple[bytes | None, list[Finding]]:
    """A shard's record, and what is wrong with it."""
    key = record_key(shard)
    try:
        record = read_record(storage, manifest, shard)
    except CorruptStoreError:
        record, what = None, "the record is damaged"
    except ResourceError:
        record, what = None, "the record can't be read"
    else:
        if record is not None:
            return record, []
        if storage.size(key) is not None:
            what = "the record belongs to another shard, or to another plan"
        else:
            what = "the shard's record is missing" if manifest.complete else "the shard is not written yet"
    return record, [Finding(shard=shard, array=RECORDS, file=key, what=what)]


def _check_file(
    storage: Storage, manifest: ShardManifest, array: PixelArray, shard: int, known: Rows
) -> tuple[bytes, list[str]]:
    """A shard file's digest, and what is wrong with it."""
    key, rows = shard_key(array.name, shard, array.ndim), manifest.rows_of(shard)
    index = read_index(storage, key, manifest.samples_per_shard)
    data_bytes = (storage.size(key) or 0) - index_bytes(manifest.samples_per_shard)
    present = np.zeros(len(index), bool)
    present[: len(rows)] = True if manifest.layout == "full" else _expected(index, rows, known.used)
    # Chunks lie one after the other: no byte of the file is outside a checksum.
    ends = np.cumsum(index[present, 1])
    starts = np.concatenate(([np.uint64(0)], ends[:-1]))
    whole = int(ends[-1]) == data_bytes if len(ends) else data_bytes == 0
    if not whole or np.any(index[present, 0] != starts[: len(ends)]) or np.any(index[~present] != ABSENT):
        raise CorruptStoreError("the index does not list the chunks of all rows one after the other")
    codec = chunk_codec(manifest, array)
    checksums: list[bytes] = []
    wrong: list[str] = []
    numbers = np.flatnonzero(present)
    for number, stored in zip(numbers, _chunks(storage, key, index[numbers], data_bytes), strict=True):
        row = rows[int(number)]
        checksums.append(stored[-CRC_BYTES:])
        try:
            canvas = codec.decode(stored, array.sample_shape)
        except (ValueError, RuntimeError) as error:
            wrong.append(f"row {row}: {error}")
            continue
        size = None if known.sizes is None else (int(known.sizes[row][0]), int(known.sizes[row][1]))
        wrong += [f"row {row}: {what}" for what in _check_pixels(canvas, array, size, len(manifest.labels))]
    return digest(with_checksum(index.tobytes()), checksums), _brief(wrong, len(rows))


def _expected(index: np.ndarray, rows: range, used: np.ndarray | None) -> np.ndarray:
    """(rows,) bool: which rows of a shard of a virtual store have chunks; when unknown, those that do."""
    return index[: len(rows), 0] != ABSENT if used is None else used[rows.start : rows.stop]


def _chunks(storage: Storage, key: str, entries: np.ndarray, data_bytes: int) -> Iterator[bytes]:
    """The stored bytes of chunks that lie one after the other, read many at a time."""
    buffer, begin = b"", 0
    for offset, length in entries.tolist():
        if offset + length > begin + len(buffer):
            begin = offset
            buffer = storage.read_range(key, begin, max(length, min(SPAN, data_bytes - begin)))
        yield buffer[offset - begin : offset - begin + length]


def _check_pixels(canvas: np.ndarray, array: PixelArray, size: tuple[int, int] | None, classes: int) -> Iterator[str]:
    """What is wrong with the values of one row: labels outside the label set, pixels in the padding."""
    if array.labels:
        # void + 1 wraps around to 0, so one comparison covers "below the number of classes, or void"
        shifted = canvas + np.uint8(1)
        if shifted.max() > classes:
            value = int(shifted.max()) - 1
            yield f"label {value} is neither below {classes} nor void ({VOID})"
    if size is not None:
        height, width = size
        if np.any(canvas[height:] != array.padding) or np.any(canvas[:height, width:] != array.padding):
            yield f"the canvas outside its {height} x {width} pixels is not {array.padding}"


def _brief(wrong: list[str], rows: int) -> list[str]:
    """One line for whatever is wrong with a shard's rows."""
    if len(wrong) <= 1:
        return wrong
    return [f"{len(wrong)} problems in {rows} rows, the first in {wrong[0]}"]
