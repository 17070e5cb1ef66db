"""One shard file: the Zarr v3 ``sharding_indexed`` layout, written from front to back and read chunk by chunk.

A shard is the concatenation of its chunks, one per row, followed by the index: for every row the offset and the
length of its chunk (two little-endian uint64; both 2^64 - 1 where there is none) and the index's own crc32c. Writing it
here instead of through a Zarr library makes a shard one sequential write and one rename; reading it here makes a
random sample one ``pread``. Any Zarr v3 reader can open the result.
"""

from __future__ import annotations

import hashlib

import google_crc32c
import numpy as np

from .codecs import CRC_BYTES
from .errors import CorruptStoreError
from .storage import Storage

ABSENT = np.uint64(2**64 - 1)
ENTRY_BYTES = 16
PLAN_BYTES = 32
RECORD_BYTES = 64


def index_bytes(rows_per_shard: int) -> int:
    """Length of the index at the end of a shard, its checksum included."""
    return rows_per_shard * ENTRY_BYTES + CRC_BYTES


def shard_key(array: str, shard: int, ndim: int) -> str:
    """Where a shard lies: Zarr's default chunk key, split along the first axis alone."""
    return "/".join([array, "c", str(shard), *["0"] * (ndim - 1)])


class ShardIndex:
    """The index of a shard that is being written, one chunk after the other."""

    def __init__(self, rows_per_shard: int) -> None:
        self._entries = np.full((rows_per_shard, 2), ABSENT, "<u8")
        self._checksums: list[bytes] = []
        self._rows = 0
        self.offset = 0
        """Bytes of all chunks so far."""

    def append(self, body: bytes, checksum: bytes) -> None:
        """Note the next row's chunk: its compressed bytes, then their crc32c."""
        length = len(body) + len(checksum)
        self._entries[self._rows] = self.offset, length
        self._rows += 1
        self.offset += length
        self._checksums.append(checksum)

    def skip(self) -> None:
        """Note that the next row has no chunk."""
        self._rows += 1

    def finish(self) -> tuple[bytes, bytes]:
        """The index as it is stored, and the digest of the whole shard (see :func:`digest`)."""
        index = self._entries.tobytes()
        index += google_crc32c.value(index).to_bytes(CRC_BYTES, "little")
        return index, digest(index, self._checksums)


def digest(index: bytes, checksums: list[bytes]) -> bytes:
    """SHA-256 over a shard's index and its chunks' crc32c values.

    The checksums are the leaves of a hash tree: whoever has verified them (each is computed when its chunk is read or
    written anyway) knows the whole shard's content without reading it a second time.
    """
    return hashlib.sha256(index + b"".join(checksums)).digest()


def parse_index(stored: bytes, where: str, data_bytes: int) -> np.ndarray:
    """(rows_per_shard, 2) uint64 offsets and lengths from a shard's last bytes.

    Raises :class:`CorruptStoreError` when the checksum does not match or an entry points outside the shard's
    ``data_bytes`` bytes of chunks.
    """
    body, checksum = stored[:-CRC_BYTES], stored[-CRC_BYTES:]
    if google_crc32c.value(body) != int.from_bytes(checksum, "little"):
        raise CorruptStoreError(f"the index of shard {where} is corrupt (its checksum does not match)")
    index = np.frombuffer(body, "<u8").reshape(-1, 2)
    present = index[index[:, 0] != ABSENT]
    # Compare without adding: offset + length of a damaged entry may wrap around.
    limit = np.uint64(data_bytes)
    if np.any(present[:, 1] > limit) or np.any(present[:, 0] > limit - np.minimum(present[:, 1], limit)):
        raise CorruptStoreError(f"the index of shard {where} points outside the file")
    return index


def read_index(storage: Storage, key: str, rows_per_shard: int) -> np.ndarray:
    """Read and check the index of the shard at ``key``.

    Raises :class:`CorruptStoreError` when the shard is missing, truncated, or its index is damaged, and
    :class:`OSError` when it can't be read.
    """
    where, length = storage.where(key), index_bytes(rows_per_shard)
    try:
        stored, size = storage.read_end(key, length)
    except (FileNotFoundError, NotADirectoryError):
        raise CorruptStoreError(f"shard {where} is missing") from None
    if size < length:
        raise CorruptStoreError(f"shard {where} is truncated: {size} bytes, its index alone has {length}")
    return parse_index(stored, where, size - length)
