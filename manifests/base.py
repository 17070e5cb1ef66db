"""What all manifests share: frozen pydantic models, canonical JSON, content digests, atomic files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import ResourceError

TEMPORARY = ".fbind-tmp"
"""Suffix of files and folders that are still being written; whatever bears it may be deleted when no one writes."""

UMASK = os.umask(0o077)
"""The process's umask, read once at import. Temporary files are made private; what they become should not be."""
os.umask(UMASK)


class Frozen(BaseModel):
    """An immutable record that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def canonical_json(value: Any) -> str:
    """Serialise plain data so that equal values always give equal text (sorted keys, no spaces)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_digest(value: Any) -> str:
    """``"sha256:<hex>"`` of the canonical JSON of plain data."""
    return "sha256:" + hashlib.sha256(canonical_json(value).encode()).hexdigest()


def first_problem(error: ValidationError) -> str:
    """The first problem of a pydantic error as ``field: message``, for one-line error messages."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the file"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}"


class AtomicFile:
    """A temporary file beside the one it is to become: readers see all of it, when it is committed, or nothing.

    Everything raises :class:`ResourceError` when the disk is full or the place can't be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
        except OSError as error:
            raise unwritable(path, error) from error
        self._temporary: Path | None = Path(name)

    def write(self, *parts: bytes | memoryview) -> None:
        """Append bytes."""
        try:
            written = os.writev(self._handle, parts)
            if written < sum(map(len, parts)):  # the disk is nearly full, or a signal came: one by one then
                left = memoryview(b"".join(parts))[written:]
                while left:
                    left = left[os.write(self._handle, left) :]
        except OSError as error:
            raise unwritable(self._path, error) from error

    def commit(self) -> None:
        """Give the file its name."""
        assert self._temporary is not None
        try:
            os.fchmod(self._handle, 0o666 & ~UMASK)
            self._temporary.replace(self._path)
        except OSError as error:
            raise unwritable(self._path, error) from error
        os.close(self._handle)
        self._temporary = None

    def abort(self) -> None:
        """Forget what was written; harmless after :meth:`commit`."""
        if self._temporary is not None:
            os.close(self._handle)
            with contextlib.suppress(OSError):
                self._temporary.unlink()
            self._temporary = None


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Write ``parts``, one after another, to a file that appears as a whole; raises as :class:`AtomicFile` does."""
    file = AtomicFile(path)
    try:
        file.write(*parts)
        file.commit()
    finally:
        file.abort()


def unwritable(path: Path, error: OSError) -> ResourceError:
    """One line for an :class:`OSError` met while writing ``path``, with what to do about it."""
    remedies = {
        errno.ENOSPC: "the disk is full: free some space or write elsewhere",
        errno.EDQUOT: "the disk quota is used up: free some space or write elsewhere",
        errno.EROFS: "the file system is read-only: write elsewhere",
        errno.EACCES: "permission denied: write elsewhere or change the permissions",
        errno.EPERM: "not permitted: write elsewhere or change the permissions",
        errno.ENOENT: "the folder is not there: create it first, or check whether it was removed meanwhile",
        errno.EEXIST: "a part of that path is a file, not a folder: write elsewhere",
        errno.ENOTDIR: "a part of that path is a file, not a folder: write elsewhere",
    }
    remedy = remedies.get(error.errno or 0, error.strerror or str(error))
    return ResourceError(f"can't write {path}: {remedy}")
