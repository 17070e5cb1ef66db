"""Where files lie: a folder, or a prefix of an object store, behind one small interface (:class:`Storage`).

A store, and a dataset it is made from, is a tree of files named by keys (relative paths with ``/``). Whoever reads or
writes one asks a storage for bytes, and never knows whether a disk or a network answers.
"""

# ruff: noqa: D102 - what the methods do is said once, in Storage and Upload

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from .base import unwritable, write_atomically
from .direct import LargeFile
from .errors import ConfigError

Place = str | Path
"""What a user may name: a path, or a URL such as ``s3://bucket/blends.zarr``."""


class Upload(Protocol):
    """A file that is being written: it appears under its name as a whole, when it is committed, or not at all."""

    def write(self, *parts: bytes | memoryview) -> None:
        """Append bytes; raises :class:`~fbind.manifests.errors.ResourceError`."""
        ...

    def commit(self) -> None:
        """Give the file its name; raises :class:`~fbind.manifests.errors.ResourceError`."""
        ...

    def abort(self) -> None:
        """Forget what was written; harmless after :meth:`commit`."""
        ...


class Storage(Protocol):
    """A tree of files. Safe to share between threads and to pickle.

    Reading raises :class:`FileNotFoundError` for a key that is not there, and other :class:`OSError` for what can't be
    read; writing raises :class:`~fbind.manifests.errors.ResourceError`. Writing a key is atomic.
    """

    @property
    def root(self) -> str:
        """The folder or URL, as messages name it."""
        ...

    def where(self, key: str) -> str:
        """A file's path or URL, for messages."""
        ...

    def read(self, key: str) -> bytes:
        """A whole file."""
        ...

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """``length`` bytes of a file; fewer where it ends before."""
        ...

    def read_end(self, key: str, length: int) -> tuple[bytes, int]:
        """The last ``length`` bytes of a file (all of a shorter one), and its size."""
        ...

    def size(self, key: str) -> int | None:
        """A file's bytes, ``None`` when it is not there."""
        ...

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """The key and the size of every file below ``prefix`` (a key without its last ``/``), in no order."""
        ...

    def stamp(self, key: str) -> str:
        """A mark that changes when a file is written anew, without reading it."""
        ...

    def has_folder(self, folder: str = "") -> bool:
        """Whether there is a folder; one without files may not count."""
        ...

    def entries(self, folder: str = "") -> Iterator[tuple[str, bool]]:
        """The names of what lies directly in a folder, and whether each is a folder itself, in no order.

        Nothing where there is no such folder.
        """
        ...

    def write(self, key: str, *parts: bytes | memoryview) -> None:
        """Write a whole file from its parts."""
        ...

    def upload(self, key: str) -> Upload:
        """Begin to write a file."""
        ...

    def remove(self, key: str) -> None:
        """Delete a file, if it is there."""
        ...

    def create(self) -> None:
        """Make the place ready to be written, if it is not yet."""
        ...

    def clear(self, last: str = "") -> None:
        """Delete every file, ``last`` after all others; an empty folder may stay."""
        ...

    def flush(self, keys: Iterator[str]) -> None:
        """Return when files that have been written survive a power failure."""
        ...


def is_url(place: Place) -> bool:
    """Whether a place is named by a URL."""
    return "://" in str(place)


def open_storage(place: Place) -> Storage:
    """The storage at a path or URL; nothing needs to be there yet.

    ``file://`` URLs are paths. Raises :class:`~fbind.manifests.errors.ConfigError` for a URL that can't be used, and
    :class:`~fbind.manifests.errors.MissingExtraError` when what object stores need is not installed.
    """
    if not is_url(place):
        return LocalStorage(Path(place))
    scheme, _, rest = str(place).partition("://")
    if scheme == "file":
        if not rest.startswith("/"):
            raise ConfigError(f"{place} names a host, or no absolute path: write file:///path")
        return LocalStorage(Path(rest))
    from .objects import ObjectStorage

    return ObjectStorage(str(place))


class LocalStorage:
    """A folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def root(self) -> str:
        return str(self.path)

    def where(self, key: str) -> str:
        return str(self.path / key)

    def read(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        with (self.path / key).open("rb", buffering=0) as file:
            file.seek(offset)
            return file.read(length) or b""

    def read_end(self, key: str, length: int) -> tuple[bytes, int]:
        with (self.path / key).open("rb", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - length, 0))
            return file.read(length) or b"", size

    def size(self, key: str) -> int | None:
        try:
            return (self.path / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        # os.walk with scandir, as pathlib would ask for the status of every entry of a large store twice.
        for folder, _, names in os.walk(self.path / prefix):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # of a writer that has just renamed it
                    path = Path(folder, name)
                    yield path.relative_to(self.path).as_posix(), path.lstat().st_size

    def stamp(self, key: str) -> str:
        status = (self.path / key).stat()
        # Whatever a copy does to the other time (`cp -p`, `rsync -t`), this one can't be set.
        return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"

    def has_folder(self, folder: str = "") -> bool:
        return (self.path / folder).is_dir()

    def entries(self, folder: str = "") -> Iterator[tuple[str, bool]]:
        try:
            with os.scandir(self.path / folder) as found:
                for entry in found:
                    yield entry.name, entry.is_dir()
        except (FileNotFoundError, NotADirectoryError):
            return

    def write(self, key: str, *parts: bytes | memoryview) -> None:
        write_atomically(self._in_its_folder(key), *parts)

    def upload(self, key: str) -> LargeFile:
        return LargeFile(self._in_its_folder(key))

    def _in_its_folder(self, key: str) -> Path:
        """A file's path, whose folder is made first."""
        path = self.path / key
        try:
            # Below the root only: a root that was removed meanwhile must not come back as half a store.
            _make_folders(self.path, path.parent)
        except OSError as error:
            raise unwritable(path, error) from error
        return path

    def remove(self, key: str) -> None:
        try:
            (self.path / key).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.path / key, error) from error

    def create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def clear(self, last: str = "") -> None:
        # The root itself stays: it may be a mounted volume, or lie where nothing else can be changed.
        try:
            for folder, _, names in os.walk(self.path):
                for path in (Path(folder, name) for name in names):
                    if path != self.path / last:
                        path.unlink(missing_ok=True)
            for name, is_folder in self.entries():
                path = self.path / name
                if is_folder and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def flush(self, keys: Iterator[str]) -> None:
        folders: set[Path] = set()
        try:
            for key in keys:
                _sync(self.path / key)
                folders.update(self.path / parent for parent in Path(key).parents)
            for folder in folders:
                _sync(folder)
        except OSError as error:
            raise unwritable(self.path, error) from error


def _make_folders(root: Path, folder: Path) -> None:
    """Create ``folder`` and what lies between it and ``root``, which must be there."""
    if folder.is_dir():
        return
    if folder != root:
        _make_folders(root, folder.parent)
        folder.mkdir(exist_ok=True)
    elif not root.is_dir():
        raise FileNotFoundError(2, "No such file or directory", str(root))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
