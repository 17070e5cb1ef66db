"""One shard file: the Zarr v3 ``sharding_indexed`` layout, written whole and read chunk by chunk.

A shard is the concatenation of its chunks, one per sample, followed by the index: for every sample the offset and the
length of its chunk (two little-endian uint64; both 2^64 - 1 where the last shard has no such sample) and the index's
own crc32c. Writing it here instead of through a Zarr library makes a shard one sequential write and one rename; reading
it here makes a random sample one ``pread``. Any Zarr v3 reader can open the result.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import google_crc32c
import numpy as np

from .base import write_atomically
from .codecs import CRC_BYTES
from .errors import CorruptStoreError

ABSENT = np.uint64(2**64 - 1)
ENTRY_BYTES = 16
RECORD_BYTES = 32


def index_bytes(samples_per_shard: int) -> int:
    """Length of the index at the end of a shard, its checksum included."""
    return samples_per_shard * ENTRY_BYTES + CRC_BYTES


def shard_file(array: Path, shard: int, ndim: int) -> Path:
    """Where a shard lies: Zarr's default chunk key, split along the sample axis alone."""
    return array.joinpath("c", str(shard), *["0"] * (ndim - 1))


class ShardBuilder:
    """Collects the encoded chunks of one shard of one array, in sample order."""

    def __init__(self, samples_per_shard: int) -> None:
        self._parts: list[bytes] = []
        self._checksums: list[bytes] = []
        self._index = np.full((samples_per_shard, 2), ABSENT, "<u8")
        self._offset = 0

    def append(self, body: bytes, checksum: bytes) -> None:
        """Add the next sample's chunk: its compressed bytes, then their crc32c."""
        length = len(body) + len(checksum)
        self._index[len(self._checksums)] = self._offset, length
        self._offset += length
        self._parts += (body, checksum)
        self._checksums.append(checksum)

    def write(self, path: Path) -> bytes:
        """Write the shard atomically; returns its digest (see :func:`digest`)."""
        index = self._index.tobytes()
        index += google_crc32c.value(index).to_bytes(CRC_BYTES, "little")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, *self._parts, index)
        return digest(index, self._checksums)


def digest(index: bytes, checksums: list[bytes]) -> bytes:
    """SHA-256 over a shard's index and its chunks' crc32c values.

    The checksums are the leaves of a hash tree: whoever has verified them (each is computed when its chunk is read or
    written anyway) knows the whole shard's content without reading it a second time.
    """
    return hashlib.sha256(index + b"".join(checksums)).digest()


def parse_index(stored: bytes, path: Path, data_bytes: int) -> np.ndarray:
    """(samples_per_shard, 2) uint64 offsets and lengths from a shard's last bytes.

    Raises :class:`CorruptStoreError` when the checksum does not match or an entry points outside the shard's
    ``data_bytes`` bytes of chunks.
    """
    body, checksum = stored[:-CRC_BYTES], stored[-CRC_BYTES:]
    if google_crc32c.value(body) != int.from_bytes(checksum, "little"):
        raise CorruptStoreError(f"the index of shard {path} is corrupt (its checksum does not match)")
    index = np.frombuffer(body, "<u8").reshape(-1, 2)
    present = index[index[:, 0] != ABSENT]
    # Compare without adding: offset + length of a damaged entry may wrap around.
    limit = np.uint64(data_bytes)
    if np.any(present[:, 1] > limit) or np.any(present[:, 0] > limit - np.minimum(present[:, 1], limit)):
        raise CorruptStoreError(f"the index of shard {path} points outside the file")
    return index


def read_index(path: Path, samples_per_shard: int) -> np.ndarray:
    """Read and check the index of the shard at ``path``.

    Raises :class:`CorruptStoreError` when the shard is missing, truncated, or its index is damaged.
    """
    length = index_bytes(samples_per_shard)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < length:
                raise CorruptStoreError(f"shard {path} is truncated: {size} bytes, its index alone has {length}")
            file.seek(size - length)
            return parse_index(file.read(), path, size - length)
    except FileNotFoundError:
        raise CorruptStoreError(f"shard {path} is missing") from None
    except OSError as error:
        raise CorruptStoreError(f"can't read shard {path}: {error.strerror}") from error
