"""Writing a store: create it with its recipes, write whole shards in any order from any process, seal it.

create_store(path, manifest, columns)          once; the store is there, incomplete
write_shard(path, manifest, shard, samples)    for every shard; atomic, records itself
seal(path, manifest)                           once; refuses while a record is missing
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numcodecs
import numpy as np

from .base import TEMPORARY, UMASK, content_digest, unwritable, write_atomically
from .codecs import CRC_BYTES
from .errors import CorruptStoreError, IncompleteStoreError
from .layout import RECORDS, chunk_codec, metadata_files
from .shards import RECORD_BYTES, ShardBuilder, shard_file
from .store import ShardManifest


class PixelSample(NamedTuple):
    """The pixels of one sample, in its own size: image (h, w, 3), label maps (h, w), all uint8."""

    image: np.ndarray
    dominant: np.ndarray
    phantom: np.ndarray | None = None


def create_store(path: Path, manifest: ShardManifest, columns: Mapping[str, np.ndarray]) -> None:
    """Create the store at ``path`` with all metadata and columns, and no shards yet.

    It is built under a temporary name and renamed, so ``path`` is never half there. ``columns`` holds an array for each
    of ``manifest.columns()``. Raises :class:`~fbind.manifests.errors.ResourceError` when the place can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        for name, data in metadata_files(manifest).items():
            file = temporary / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        for column in manifest.columns():
            values = np.asarray(columns[column.name], column.dtype)
            expected = (manifest.samples,) if column.width == 1 else (manifest.samples, column.width)
            if values.shape != expected:
                raise ValueError(f"column {column.name} has shape {values.shape}, expected {expected}")
            file = temporary.joinpath(column.name, "c", *["0"] * values.ndim)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(_encode_column(values))
        temporary.chmod(0o777 & ~UMASK)
        temporary.rename(path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


def write_shard(path: Path, manifest: ShardManifest, shard: int, samples: Iterable[PixelSample]) -> int:
    """Write one whole shard of every pixel array, then its record; returns the bytes written.

    ``samples`` yields the samples of ``manifest.rows_of(shard)`` in order; each is padded to the canvas and encoded at
    once, so memory holds one raw sample and one compressed shard. Raises
    :class:`~fbind.manifests.errors.ResourceError` when the disk is full or the place can't be written.
    """
    arrays = manifest.pixel_arrays()
    codecs = [chunk_codec(manifest, array) for array in arrays]
    canvases = [np.empty(array.sample_shape, np.uint8) for array in arrays]
    builders = [ShardBuilder(manifest.samples_per_shard) for _ in arrays]
    count = 0
    for sample in samples:
        height, width = sample.image.shape[:2]
        for array, codec, canvas, builder, pixels in zip(arrays, codecs, canvases, builders, sample, strict=False):
            if pixels is None:
                raise ValueError(f"shard {shard}: a store of blends takes phantom label maps")
            canvas[:height, :width] = pixels
            canvas[height:] = array.padding
            canvas[:height, width:] = array.padding
            builder.append(*codec.encode(canvas))
        count += 1
    if count != len(manifest.rows_of(shard)):
        raise ValueError(f"shard {shard} takes {len(manifest.rows_of(shard))} samples, got {count}")
    digests = []
    written = 0
    for array, builder in zip(arrays, builders, strict=True):
        file = shard_file(path / array.name, shard, array.ndim)
        try:
            digests.append((array.name, builder.write(file)))
            written += file.stat().st_size
        except OSError as error:
            raise unwritable(file, error) from error
    _write_record(path, shard, shard_record(digests))
    return written


def shard_record(digests: Iterable[tuple[str, bytes]]) -> bytes:
    """A shard's 32-byte record: SHA-256 over the name and the digest of its file in each pixel array, in their order.

    The digest is :func:`fbind.manifests.shards.digest`.
    """
    return hashlib.sha256(b"".join(name.encode() + digest for name, digest in digests)).digest()


def _write_record(path: Path, shard: int, record: bytes) -> None:
    file = record_file(path, shard)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(file, error) from error
    write_atomically(file, record + google_crc32c.value(record).to_bytes(CRC_BYTES, "little"))


def record_file(path: Path, shard: int) -> Path:
    """Where a shard's record lies: the Zarr chunk of its row."""
    return path / RECORDS / "c" / str(shard) / "0"


def read_record(path: Path, shard: int) -> bytes | None:
    """A shard's 32-byte record, or ``None`` when the shard has not been written.

    Raises :class:`CorruptStoreError` when the record itself is damaged.
    """
    file = record_file(path, shard)
    try:
        stored = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CorruptStoreError(f"can't read the record of shard {shard}, {file}: {error.strerror}") from error
    record, checksum = stored[:RECORD_BYTES], stored[RECORD_BYTES:]
    if len(record) != RECORD_BYTES or google_crc32c.value(record).to_bytes(CRC_BYTES, "little") != checksum:
        raise CorruptStoreError(f"the record of shard {shard}, {file}, is damaged")
    return record


def recorded(path: Path, manifest: ShardManifest) -> set[int]:
    """The shards that are written and recorded; a damaged record counts as none, so that its shard is written again."""
    done = set()
    for shard in range(manifest.shards):
        with contextlib.suppress(CorruptStoreError):
            if read_record(path, shard) is not None:
                done.add(shard)
    return done


def seal(path: Path, manifest: ShardManifest, columns: Mapping[str, np.ndarray]) -> ShardManifest:
    """Declare the store complete and give it its digest; returns the sealed manifest.

    Raises :class:`IncompleteStoreError` while any shard's record is missing.
    """
    records = [read_record(path, shard) for shard in range(manifest.shards)]
    missing = [shard for shard, record in enumerate(records) if record is None]
    if missing:
        raise IncompleteStoreError(
            f"{path} lacks {len(missing)} of {manifest.shards} shards (the first: {missing[0]}): "
            "run `fbind materialize-blends` with the same options again to go on"
        )
    sealed = manifest.model_copy(
        update={"complete": True, "digest": store_digest(manifest, columns, [r for r in records if r is not None])}
    )
    for leftover in path.rglob(f".*{TEMPORARY}"):  # of writers that were killed
        leftover.unlink(missing_ok=True)
    write_atomically(path / "zarr.json", metadata_files(sealed)["zarr.json"])
    return sealed


def store_digest(manifest: ShardManifest, columns: Mapping[str, np.ndarray], records: list[bytes]) -> str:
    """The digest of a whole store: its manifest, its columns' values and its shards' records."""
    values = {
        column.name: hashlib.sha256(_little_endian(np.asarray(columns[column.name], column.dtype))).hexdigest()
        for column in manifest.columns()
    }
    shards = hashlib.sha256(b"".join(records)).hexdigest()
    return content_digest({"manifest": manifest.content(), "columns": values, "shards": shards})


def _encode_column(values: np.ndarray) -> bytes:
    body = bytes(numcodecs.Zstd(level=1).encode(_little_endian(values)))
    return body + google_crc32c.value(body).to_bytes(CRC_BYTES, "little")


def _little_endian(values: np.ndarray) -> bytes:
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
