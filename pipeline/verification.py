"""Checking every byte of a store against its manifest: :func:`verify` and what it finds (:class:`Verification`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..manifests.base import Frozen
from ..manifests.codecs import CRC_BYTES
from ..manifests.errors import CorruptStoreError, ManifestError, UnknownVersionError
from ..manifests.labels import VOID
from ..manifests.layout import RECORDS, chunk_codec, metadata_files
from ..manifests.reader import BlendStore, read_manifest
from ..manifests.shards import ABSENT, digest, index_bytes, read_index, shard_file
from ..manifests.store import CategoryStrategy, Column, PixelArray, ShardManifest
from ..manifests.writer import read_record, record_file, shard_record, store_digest


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


class Verification(Frozen):
    """The result of :func:`verify`."""

    path: str
    samples: int
    shards: int
    written: int
    """How many shards are there, according to their records."""
    complete: bool
    """Whether the manifest says that the store is complete."""
    bytes: int
    """Size of all the files that belong to the store."""
    problems: tuple[Finding, ...]
    unexpected: tuple[str, ...]
    """Files that do not belong to the store. Nothing reads them, so they are no problem."""

    @property
    def ok(self) -> bool:
        """Whether the store is complete and every byte of it is as it was written."""
        return not self.problems

    @property
    def bad_shards(self) -> tuple[int, ...]:
        """The shards with a problem of their own, ascending."""
        return tuple(sorted({problem.shard for problem in self.problems if problem.shard is not None}))


class ShardCheck(NamedTuple):
    """What was found in one shard: its record as stored, and its problems."""

    record: bytes | None
    problems: list[Finding]


def verify(path: Path, workers: int = 4, advance: Callable[[int], object] | None = None) -> Verification:
    """Check a store completely: metadata, checksums, shapes, value ranges, records, digest and completeness.

    ``workers`` threads check a shard each (reading and decoding release the GIL); ``advance`` is told the number of
    samples whenever a shard is done. Problems are returned, not raised, those of a manifest that can't be read
    included. Raises :class:`~fbind.manifests.errors.MissingFileError` or :class:`~fbind.manifests.errors.StoreError`
    when what is at ``path`` is no store of blends or can't be read, and
    :class:`~fbind.manifests.errors.UnknownVersionError` when another version of fbind wrote it.
    """
    try:
        manifest = read_manifest(path)
    except UnknownVersionError:
        raise
    except (CorruptStoreError, ManifestError) as error:
        return _unreadable(path, str(error))

    store = BlendStore(path, manifest)
    problems = list(_check_metadata(path, manifest))
    columns: dict[str, np.ndarray] = {}
    for column in manifest.columns():
        values, wrong = _check_column(store, column)
        problems += wrong
        if values is not None:
            columns[column.name] = values

    def check(shard: int) -> ShardCheck:
        return check_shard(path, manifest, shard, columns.get("size"))

    records: list[bytes | None] = []
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for shard, (record, wrong) in enumerate(pool.map(check, range(manifest.shards))):
            records.append(record)
            problems += wrong
            if advance is not None:
                advance(len(manifest.rows_of(shard)))
    present = [record for record in records if record is not None]
    problems += _check_completeness(manifest, columns, present)
    expected = set(expected_files(manifest))
    sizes = {entry.relative_to(path).as_posix(): entry.lstat().st_size for entry in path.rglob("*") if _is_file(entry)}
    return Verification(
        path=str(path),
        samples=manifest.samples,
        shards=manifest.shards,
        written=len(present),
        complete=manifest.complete,
        bytes=sum(size for name, size in sizes.items() if name in expected),
        problems=tuple(problems),
        unexpected=tuple(sorted(set(sizes) - expected)),
    )


def expected_files(manifest: ShardManifest) -> Iterator[str]:
    """The relative paths of all files of a complete store."""
    yield from metadata_files(manifest)
    for column in manifest.columns():
        yield column_file(column)
    for shard in range(manifest.shards):
        yield record_file(Path(), shard).as_posix()
        for array in manifest.pixel_arrays():
            yield shard_file(Path(array.name), shard, array.ndim).as_posix()


def column_file(column: Column) -> str:
    """The relative path of a column's only chunk."""
    return f"{column.name}/c/0" + ("/0" if column.width > 1 else "")


def check_shard(path: Path, manifest: ShardManifest, shard: int, sizes: np.ndarray | None) -> ShardCheck:
    """Check one shard of every pixel array against its record.

    ``sizes`` is the column of that name, or ``None`` when it can't be read (then the padding goes unchecked).
    """
    name = record_file(Path(), shard).as_posix()
    try:
        record = read_record(path, shard)
    except CorruptStoreError:
        return ShardCheck(None, [Finding(shard=shard, array=RECORDS, file=name, what="the record is damaged")])
    if record is None:
        what = "the shard's record is missing" if manifest.complete else "the shard is not written yet"
        return ShardCheck(None, [Finding(shard=shard, array=RECORDS, file=name, what=what)])
    problems: list[Finding] = []
    digests: list[tuple[str, bytes]] = []
    for array in manifest.pixel_arrays():
        file = shard_file(path / array.name, shard, array.ndim)
        try:
            found, wrong = _check_shard_file(file, manifest, array, shard, sizes)
        except CorruptStoreError as error:
            wrong = [str(error).replace(f"shard {file}", "the file")]
        except OSError as error:
            wrong = [f"can't be read: {error.strerror}"]
        else:
            digests.append((array.name, found))
        relative = file.relative_to(path).as_posix()
        problems += [Finding(shard=shard, array=array.name, file=relative, what=what) for what in wrong]
    if not problems and shard_record(digests) != record:
        what = "the shard's files are intact, but not those that were recorded when it was written"
        problems.append(Finding(shard=shard, array=RECORDS, file=name, what=what))
    return ShardCheck(record, problems)


def _check_shard_file(
    file: Path, manifest: ShardManifest, array: PixelArray, shard: int, sizes: np.ndarray | None
) -> tuple[bytes, list[str]]:
    """A shard file's digest, and what is wrong with it."""
    rows = manifest.rows_of(shard)
    index = read_index(file, manifest.samples_per_shard)
    data_bytes = file.stat().st_size - index_bytes(manifest.samples_per_shard)
    # Chunks lie one after the other: no byte of the file is outside a checksum.
    ends = np.cumsum(index[: len(rows), 1])
    starts = np.concatenate(([np.uint64(0)], ends[:-1]))
    if np.any(index[: len(rows), 0] != starts) or ends[-1] != data_bytes or np.any(index[len(rows) :] != ABSENT):
        raise CorruptStoreError("the index does not list the samples' chunks one after the other")
    codec = chunk_codec(manifest, array)
    checksums: list[bytes] = []
    wrong: list[str] = []
    with file.open("rb") as stream:
        for row, length in zip(rows, index[: len(rows), 1], strict=True):
            stored = stream.read(int(length))
            checksums.append(stored[-CRC_BYTES:])
            try:
                canvas = codec.decode(stored, array.sample_shape)
            except (ValueError, RuntimeError) as error:
                wrong.append(f"sample {row}: {error}")
                continue
            size = None if sizes is None else (int(sizes[row][0]), int(sizes[row][1]))
            wrong += [f"sample {row}: {what}" for what in _check_pixels(canvas, array, size, len(manifest.labels))]
        stored_index = stream.read()
    return digest(stored_index, checksums), _brief(wrong, len(rows))


def _check_pixels(canvas: np.ndarray, array: PixelArray, size: tuple[int, int] | None, classes: int) -> Iterator[str]:
    """What is wrong with the values of one sample: labels outside the label set, pixels in the padding."""
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


def _brief(wrong: list[str], samples: int) -> list[str]:
    """One line for whatever is wrong with a shard's samples."""
    if len(wrong) <= 1:
        return wrong
    return [f"{len(wrong)} problems in {samples} samples, the first in {wrong[0]}"]


def _check_metadata(path: Path, manifest: ShardManifest) -> Iterator[Finding]:
    """Compare every ``zarr.json`` byte for byte with what the manifest asks for."""
    for name, expected in metadata_files(manifest).items():
        array = name.removesuffix("zarr.json").rstrip("/")
        try:
            found = (path / name).read_bytes()
        except OSError as error:
            yield Finding(shard=None, array=array, file=name, what=f"can't be read: {error.strerror}")
            continue
        if found != expected:
            yield Finding(shard=None, array=array, file=name, what="is not the metadata that the manifest asks for")


def _check_column(store: BlendStore, column: Column) -> tuple[np.ndarray | None, list[Finding]]:
    """A column's values (``None`` when they can't be read), and what is wrong with them."""
    file = column_file(column)

    def problem(what: str) -> Finding:
        return Finding(shard=None, array=column.name, file=file, what=what)

    try:
        values = store.column(column.name)
    except CorruptStoreError as error:
        return None, [problem(str(error).splitlines()[0])]
    except OSError as error:  # asking whether its file is there raises when a folder may not be entered
        return None, [problem(f"can't be read: {error.strerror}")]
    bad = ~_in_range(column, values, store)
    if not bad.any():
        return values, []
    first = int(np.flatnonzero(bad)[0])
    what = f"{int(bad.sum())} values are out of range, the first is {values[first].tolist()} of sample {first}"
    return values, [problem(what)]


def _in_range(column: Column, values: np.ndarray, store: BlendStore) -> np.ndarray:
    """(samples,) bool: whether a column's values are possible under the manifest."""
    manifest = store.manifest
    if column.name == "delta":
        low, high = manifest.strategy.delta if isinstance(manifest.strategy, CategoryStrategy) else (1.0, 1.0)
        # Drawn as float64 and stored as float32: the bounds round with the values.
        return (values >= np.float32(low)) & (values <= np.float32(high))
    if column.name == "size":
        return np.all((values >= 1) & (values <= np.array(manifest.canvas)), axis=1)
    if column.name.endswith("_class"):
        return np.isin(values, manifest.labels.categories)
    return (values >= 0) & (values < len(manifest.images))


def _check_completeness(
    manifest: ShardManifest, columns: dict[str, np.ndarray], records: list[bytes]
) -> Iterator[Finding]:
    """Check the seal of a store whose columns and records can all be read."""
    if not manifest.complete:
        what = f"the store is incomplete: {len(records)} of {manifest.shards} shards are written"
        yield Finding(shard=None, array="", file="zarr.json", what=what)
        return
    if len(records) < manifest.shards or len(columns) < len(manifest.columns()):
        return  # already reported
    if store_digest(manifest, columns, records) != manifest.digest:
        what = "the store's digest does not match its content: recipes or shards are not those that were sealed"
        yield Finding(shard=None, array="", file="zarr.json", what=what)


def _unreadable(path: Path, what: str) -> Verification:
    """The result for a store whose manifest can't be trusted."""
    problem = Finding(shard=None, array="", file="zarr.json", what=what)
    return Verification(
        path=str(path), samples=0, shards=0, written=0, complete=False, bytes=0, problems=(problem,), unexpected=()
    )


def _is_file(entry: Path) -> bool:
    return entry.is_symlink() or not entry.is_dir()
