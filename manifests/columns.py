"""The small arrays of a store, one chunk each: how their values are stored, and read back with every check."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import google_crc32c
import numcodecs
import numpy as np

from .base import content_digest
from .codecs import CRC_BYTES
from .errors import CorruptStoreError
from .storage import Storage
from .store import Column, ShardManifest


def encode_column(values: np.ndarray) -> bytes:
    """The stored chunk of a column: little-endian values, zstd, crc32c."""
    body = bytes(numcodecs.Zstd(level=1).encode(_little_endian(values)))
    return body + google_crc32c.value(body).to_bytes(CRC_BYTES, "little")


def read_column(storage: Storage, manifest: ShardManifest, column: Column) -> np.ndarray:
    """A column's values.

    Raises :class:`CorruptStoreError` when it is missing or damaged, or is not of the manifest's shape.
    """
    where = f"column {column.name} of {storage.root}"
    try:
        stored = storage.read(column.key)
    except (FileNotFoundError, NotADirectoryError):
        raise CorruptStoreError(f"{where} is missing: no file {storage.where(column.key)}") from None
    except OSError as error:
        raise CorruptStoreError(f"{where} can't be read: {error.strerror or error}") from error
    body, checksum = stored[:-CRC_BYTES], stored[-CRC_BYTES:]
    if google_crc32c.value(body) != int.from_bytes(checksum, "little"):
        raise CorruptStoreError(f"{where} can't be read: its checksum does not match")
    try:
        raw = numcodecs.Zstd().decode(body)
        values = np.frombuffer(raw, np.dtype(column.dtype).newbyteorder("<"))
        return values.astype(column.dtype, copy=False).reshape(manifest.column_shape(column))
    except (RuntimeError, ValueError) as error:
        raise CorruptStoreError(f"{where} does not fit the store's manifest ({error})") from None


def plan_fingerprint(manifest: ShardManifest, columns: Mapping[str, np.ndarray]) -> str:
    """Digest of all that determines a store's bytes: the manifest, its recipes, and the sources' digests."""
    values = {
        column.name: hashlib.sha256(_little_endian(np.asarray(columns[column.name], column.dtype))).hexdigest()
        for column in manifest.columns()
    }
    return content_digest({"manifest": manifest.content(), "columns": values})


def _little_endian(values: np.ndarray) -> bytes:
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
