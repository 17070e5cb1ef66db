"""Large files, written past the page cache (:class:`LargeFile`).

Through the page cache, the kernel takes memory for every page, copies into it, and hunts for what to throw out again:
where a store is larger than memory, that costs as much processor time as making the samples. Handing whole aligned
blocks to the disk costs a tenth of it, and leaves the cache to the sources.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from .base import AtomicFile, unwritable

BLOCK = 4 << 20
"""Bytes handed to the disk at a time; a file that has fewer takes the usual way."""

_spare: list[memoryview] = []
"""Blocks that no file uses; each has its pages already, and a new one would have to be given them first."""


class LargeFile(AtomicFile):
    """An :class:`~fbind.manifests.base.AtomicFile` of many megabytes, written from front to back.

    One block is filled while a thread writes the one before. File systems that know no direct writing, such as tmpfs,
    get the same bytes in the usual way.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._block = _take()
        self._filled = 0
        self._written = 0
        self._direct = False
        self._thread: ThreadPoolExecutor | None = None
        self._pending: tuple[Future[None], memoryview] | None = None

    def write(self, *parts: bytes | memoryview) -> None:
        """Append bytes."""
        try:
            for part in parts:
                left = memoryview(part)
                while left:
                    count = min(len(left), BLOCK - self._filled)
                    self._block[self._filled : self._filled + count] = left[:count]
                    self._filled += count
                    left = left[count:]
                    if self._filled == BLOCK:
                        self._hand_over()
        except OSError as error:
            raise unwritable(self._path, error) from error

    def commit(self) -> None:
        """Give the file its name."""
        try:
            self._wait()
            self._leave_direct()  # what is left is no whole number of the disk's sectors
            self._put(self._block[: self._filled], self._written)
            self._filled = 0
        except OSError as error:
            raise unwritable(self._path, error) from error
        super().commit()
        self._end()

    def abort(self) -> None:
        """Forget what was written; harmless after :meth:`commit`."""
        if self._pending is not None:
            self._pending[0].exception()  # the file must not be closed while the thread still writes to it
            self._pending = None
        self._end()
        super().abort()

    def _hand_over(self) -> None:
        """Let the thread write the block, once it is done with the one before, and go on with another."""
        self._wait()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="fbind-writer")
            self._enter_direct()
        self._pending = self._thread.submit(self._put, self._block, self._written), self._block
        self._written += BLOCK
        self._block, self._filled = _take(), 0

    def _wait(self) -> None:
        if self._pending is not None:
            (future, block), self._pending = self._pending, None
            future.result()
            _spare.append(block)

    def _put(self, data: memoryview, offset: int) -> None:
        while data:
            try:
                count = os.pwrite(self._handle, data, offset)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._leave_direct()  # not on this file system, or not at this place
                continue
            data, offset = data[count:], offset + count

    def _enter_direct(self) -> None:
        if hasattr(os, "O_DIRECT"):
            try:
                fcntl.fcntl(self._handle, fcntl.F_SETFL, fcntl.fcntl(self._handle, fcntl.F_GETFL) | os.O_DIRECT)
                self._direct = True
            except OSError:
                pass

    def _leave_direct(self) -> None:
        if self._direct:
            fcntl.fcntl(self._handle, fcntl.F_SETFL, fcntl.fcntl(self._handle, fcntl.F_GETFL) & ~os.O_DIRECT)
            self._direct = False

    def _end(self) -> None:
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        if len(self._block):
            _spare.append(self._block)
            self._block = memoryview(b"")


def _take() -> memoryview:
    try:
        return _spare.pop()
    except IndexError:
        return memoryview(mmap.mmap(-1, BLOCK))  # begins at a page, as direct writing asks for
