"""The decoded sources on one machine: each image is decoded once, however many blends it takes part in."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import struct
import weakref
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..manifests.base import unwritable

PAGE = 4096
HEADER = struct.Struct("<8s32s32s")
MAGIC = b"fbind-2\n"


class Entry(NamedTuple):
    """A decoded image, its label map, and what they were decoded from."""

    image: np.ndarray
    """(h, w, 3) uint8 RGB, read-only."""
    labels: np.ndarray
    """(h, w) uint8, read-only."""
    stamp: bytes
    """Stands for the files it was decoded from, by the source's ``stamp``."""
    digest: bytes
    """See :func:`pixel_digest`."""


def pixel_digest(image: np.ndarray, labels: np.ndarray) -> bytes:
    """32 bytes that stand for the pixels of a source image and its label map."""
    digest = hashlib.sha256(np.array(labels.shape, "<u4").tobytes())
    digest.update(np.ascontiguousarray(image).data)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.digest()


def cache_offsets(sizes: np.ndarray, used: np.ndarray, limit: int | None) -> tuple[np.ndarray, int]:
    """Where each image's pixels lie in the cache: (images,) int64 byte offsets, and the bytes of the whole.

    ``sizes`` is (images, 2), height and width; ``used`` (images,) bool says which images the recipes need. The others
    have the offset -1, as have those beyond ``limit`` bytes: they are decoded whenever they are needed. Recipes take
    images in random order, so keeping always the same ones serves as well as any exchange of them would.
    """
    areas = sizes.astype(np.int64).prod(axis=1)
    lengths = np.where(used, (1 + -(-4 * areas // PAGE)) * PAGE, 0)
    ends = np.cumsum(lengths)
    kept = used if limit is None else used & (ends <= limit)
    return np.where(kept, ends - lengths, -1), int(ends[kept][-1]) if kept.any() else 0


class SourceCache:
    """One sparse file of raw pixels, mapped by all worker processes of a machine, and filled by them.

    An entry begins at its image's offset: a page with the header, then the RGB image and the label map. The header is
    written last. Two processes that decode the same image at once write the same bytes, so no locks are needed; an
    entry that a power failure left half on the disk does not match its digest, which the pass over the sources checks.
    """

    def __init__(self, folder: Path, size: int) -> None:
        """Use the cache in ``folder``, ``size`` bytes in all; raises ResourceError when it can't be written."""
        self.folder = folder
        self._file = folder / "sources.raw"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # A descriptor left open would hold the disk of a deleted cache for as long as the worker lives.
            weakref.finalize(self, os.close, self._handle)
            os.ftruncate(self._handle, max(size, PAGE))
            mapping = mmap.mmap(self._handle, max(size, PAGE), prot=mmap.PROT_READ)
        except OSError as error:
            raise unwritable(self._file, error) from error
        # Mapped once and kept: faulting the pages in again for every blend would cost a tenth of its time.
        self._bytes = np.frombuffer(mapping, np.uint8)

    def get(self, offset: int, size: tuple[int, int]) -> Entry | None:
        """The entry at an offset, or ``None`` while there is none; ``size`` is the image's (height, width)."""
        # Not through the mapping: on a tmpfs, looking where nothing is yet takes memory, and kills when there is none.
        magic, stamp, digest = HEADER.unpack(os.pread(self._handle, HEADER.size, offset))
        if magic != MAGIC:
            return None
        height, width = size
        begin, area = offset + PAGE, height * width
        image = self._bytes[begin : begin + 3 * area].reshape(height, width, 3)
        labels = self._bytes[begin + 3 * area : begin + 4 * area].reshape(height, width)
        return Entry(image, labels, stamp, digest)

    def put(self, offset: int, entry: Entry) -> None:
        """Store an entry; raises :class:`~fbind.manifests.errors.ResourceError` when the disk is full."""
        parts = [np.ascontiguousarray(entry.image).data.cast("B"), np.ascontiguousarray(entry.labels).data.cast("B")]
        try:
            _write(self._handle, bytes(HEADER.size), offset)
            place = offset + PAGE
            for part in parts:
                _write(self._handle, part, place)
                place += len(part)
            _write(self._handle, HEADER.pack(MAGIC, entry.stamp, entry.digest), offset)
        except OSError as error:
            raise unwritable(self._file, error) from error


def held_bytes(folder: Path) -> int:
    """Bytes of disk that a cache on this machine takes; 0 when there is none."""
    file = folder / "sources.raw"  # sparse: its size says little
    return file.stat().st_blocks * 512 if file.is_file() else 0


def remove_folder(folder: Path) -> None:
    """Delete a cache, if this machine has it."""
    shutil.rmtree(folder, ignore_errors=True)


def _write(handle: int, data: bytes | memoryview, offset: int) -> None:
    left = memoryview(data)
    while left:
        count = os.pwrite(handle, left, offset)
        left, offset = left[count:], offset + count
