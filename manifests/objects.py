"""A prefix of an object store (:class:`ObjectStorage`): S3 and what speaks like it, Google Cloud Storage, Azure.

Networks fail. What may pass is tried again, in one place (:meth:`ObjectStorage._try`), so the client's own retries are
switched off; what can't pass is said at once; and a file counts as written when the server has been asked for it.
"""

# ruff: noqa: D102 - what the methods do is said once, in Storage

from __future__ import annotations

import errno
import itertools
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from .errors import ConfigError, MissingExtraError, ResourceError
from .limits import Limits

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, ObjectStore

URL = re.compile(r"(s3|gs|az)://([^/?#%@\s]+)((?:/(?!\.{1,2}(?:/|$))[^/?#%\\]+)*)")
"""Scheme, bucket and prefix. What a parser would decode, drop or resolve is refused: names mean themselves."""

CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_SKIP_SIGNATURE=true for a public bucket)",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a key file (or GOOGLE_SKIP_SIGNATURE=true for a public bucket)",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 8.0
"""Bounds of the pause before trying again, in seconds; it is drawn from 0 up to a limit that doubles."""

DELETED_AT_ONCE = 1000
"""As many as S3 allows."""

LISTED_AT_ONCE = 20
"""What a listing that breaks off loses at most; less than the server's own pages."""

PARALLEL_PARTS = 4


class ObjectStorage:
    """A bucket, or the part of it below a prefix (``s3://bucket/prefix``).

    Credentials and endpoint come from the environment. It connects when it is first used, in each process anew, but
    not in a process forked from one that has used it.

    Raises :class:`ConfigError` for a URL that can't be used, and :class:`MissingExtraError` without obstore.
    """

    def __init__(self, url: str, limits: Limits | None = None) -> None:
        url = url.rstrip("/")
        match = URL.fullmatch(url)
        if match is None:
            raise ConfigError(
                f"{url} is no URL of an object store: expected s3://BUCKET/PREFIX (or gs://, az://), where the prefix "
                "has no empty, '.' or '..' part and none of ? # % \\, and credentials come from the environment"
            )
        try:
            import obstore  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(f"{url} needs obstore: pip install 'fbind[cloud]'") from error
        self._url = url
        self._scheme, self._bucket, _ = match.groups()
        self._limits = limits or Limits.from_environment()
        self._stores: dict[bool, ObjectStore] = {}

    def __reduce__(self) -> tuple[type[ObjectStorage], tuple[str, Limits]]:
        return ObjectStorage, (self._url, self._limits)

    @property
    def root(self) -> str:
        return self._url

    def where(self, key: str) -> str:
        return f"{self._url}/{key}" if key else self._url

    def read(self, key: str) -> bytes:
        from obstore import get

        return self._try(key, lambda store: get(store, key).bytes().to_bytes())

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        from obstore import get_range

        if length:
            try:
                return self._try(key, lambda store: get_range(store, key, start=offset, length=length).to_bytes())
            except _BeyondEndError:
                return b""
        self._meta(key)
        return b""

    def read_end(self, key: str, length: int) -> tuple[bytes, int]:
        from obstore import get

        def end(store: ObjectStore) -> tuple[bytes, int]:
            result = get(store, key, options={"range": {"suffix": length}})
            return result.bytes().to_bytes(), result.meta["size"]

        # Azure knows no ranges from the end, and no server has one of an empty file.
        if length and self._scheme != "az":
            try:
                return self._try(key, end)
            except _BeyondEndError:
                pass
        size = self._meta(key)["size"]
        length = min(length, size)
        return self.read_range(key, size - length, length), size

    def size(self, key: str) -> int | None:
        try:
            return self._meta(key)["size"]
        except FileNotFoundError:
            return None

    def stamp(self, key: str) -> str:
        meta = self._meta(key)
        return f"{meta['size']}-{meta['e_tag'] or meta['last_modified'].isoformat()}"

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        for page in self._pages(prefix):
            for meta in page:
                yield meta["path"], meta["size"]

    def has_folder(self, folder: str = "") -> bool:
        return next(self._pages(folder), None) is not None

    def entries(self, folder: str = "") -> Iterator[tuple[str, bool]]:
        from obstore import list_with_delimiter

        found = self._try(folder, lambda store: list_with_delimiter(store, folder or None))
        for path in found["common_prefixes"]:
            yield path.rpartition("/")[2], True
        for meta in found["objects"]:
            yield meta["path"].rpartition("/")[2], False

    def write(self, key: str, *parts: bytes | memoryview) -> None:
        self._put(key, parts[0] if len(parts) == 1 else b"".join(parts))

    def upload(self, key: str) -> ObjectUpload:
        return ObjectUpload(self, key)

    def remove(self, key: str) -> None:
        self._delete([key])

    def create(self) -> None:
        """Nothing to do: there are no folders, and a bucket is for its owner to make."""

    def clear(self, last: str = "") -> None:
        try:
            keys = [key for key, _ in self.sizes() if key != last]
        except OSError as error:
            raise ResourceError(f"can't delete {self._url}: {error.strerror}") from error
        for start in range(0, len(keys), DELETED_AT_ONCE):
            self._delete(keys[start : start + DELETED_AT_ONCE])
        if last:
            self._delete([last])

    def flush(self, keys: Iterator[str]) -> None:
        """Nothing to do: what has been put is safe already."""

    def _put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        """Send a whole file, and ask for it afterwards: an answer alone does not prove that anything was stored."""
        from obstore import head, put

        size, part = memoryview(data).nbytes, self._limits.part

        def send(store: ObjectStore) -> None:
            sent = put(
                store, key, data, use_multipart=size > part, chunk_size=part, max_concurrency=PARALLEL_PARTS
            )  # fmt: skip
            try:
                stored = head(store, key)
            except FileNotFoundError:
                raise _UnconfirmedError("it accepted the file and has nothing") from None
            if stored["size"] != size or (sent["e_tag"] and stored["e_tag"] and sent["e_tag"] != stored["e_tag"]):
                raise _UnconfirmedError("it accepted the file and has another")

        try:
            self._try(key, send, writing=True)
        except OSError as error:
            raise ResourceError(f"can't write {self.where(key)}: {error.strerror}") from error

    def _delete(self, keys: Sequence[str]) -> None:
        from obstore import delete

        try:
            self._try(keys[0], lambda store: delete(store, keys))
        except FileNotFoundError:  # some servers insist that there be something to delete
            if len(keys) > 1:
                for key in keys:
                    self._delete([key])
        except OSError as error:
            raise ResourceError(f"can't delete {self.where(keys[0])}: {error.strerror}") from error

    def _meta(self, key: str) -> ObjectMeta:
        from obstore import head

        return self._try(key, lambda store: head(store, key))

    def _pages(self, prefix: str) -> Iterator[Sequence[ObjectMeta]]:
        """What lies below a prefix, in pages; a listing that breaks off goes on after the last key."""
        from obstore import list as list_objects

        last: str | None = None
        stream: Iterator[Sequence[ObjectMeta]] | None = None

        def following(store: ObjectStore) -> Sequence[ObjectMeta]:
            nonlocal stream
            if stream is None:
                stream = list_objects(store, prefix or None, offset=last, chunk_size=LISTED_AT_ONCE)
            try:
                return next(stream, ())
            except BaseException:
                stream = None
                raise

        while page := self._try(prefix, following):
            yield page
            last = page[-1]["path"]

    def _store(self, *, writing: bool) -> ObjectStore:
        """The client, made at the first use; its limits are fixed then, so that readers and writers have one each."""
        from obstore.exceptions import BaseError
        from obstore.store import from_url

        global _user
        if _user is None:
            _user = os.getpid()
        if _user != os.getpid():
            raise OSError(
                errno.EIO,
                "this process was forked from one that uses object stores, whose client does not survive that: start "
                "processes with the method spawn or forkserver",
            )
        if writing not in self._stores:
            limits = self._limits
            options: ClientConfig = {
                "allow_http": any(
                    value.startswith("http://")
                    for name, value in os.environ.items()
                    if name.startswith(("AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT"))
                ),
                "connect_timeout": timedelta(seconds=limits.connect),
                "timeout": timedelta(seconds=limits.write if writing else limits.read),
            }
            try:
                self._stores[writing] = from_url(self._url, client_options=options, retry_config={"max_retries": 0})
            except BaseError as error:
                raise OSError(errno.EACCES, f"{_first_line(error)}: {CREDENTIALS[self._scheme]}") from None
        return self._stores[writing]

    def _try(self, key: str, action: Callable[[ObjectStore], T], *, writing: bool = False) -> T:
        """What the action returns, trying again while there is hope and time.

        Raises :class:`FileNotFoundError` for a key that is not there, and :class:`OSError` whose ``strerror`` says
        what is wrong and what to do.
        """
        from obstore.exceptions import BaseError

        store = self._store(writing=writing)
        start, pause = time.monotonic(), FIRST_PAUSE
        for tries in itertools.count(1):
            try:
                return action(store)
            except (FileNotFoundError, BaseError, _UnconfirmedError) as error:
                self._raise_if_final(error, key)
                took = time.monotonic() - start
                if took >= self._limits.retry and tries > 1:
                    raise OSError(
                        errno.EIO,
                        f"the server fails ({_reason(error)}; {tries} tries in {took:.0f} s): check the network"
                        f"{_endpoint(self._scheme)}, then run the same command again",
                        self.where(key),
                    ) from error
            time.sleep(random.uniform(0, pause))  # jitter, or all workers would come back at the same moment
            pause = min(2 * pause, LONGEST_PAUSE)
        raise AssertionError("it tries for ever")

    def _raise_if_final(self, error: Exception, key: str) -> None:
        """Raise what there is no point in trying again."""
        from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

        text, where = str(error), self.where(key)
        status = _status(text)
        if re.search("NoSuchBucket|ContainerNotFound", text):
            reason = f"there is no bucket {self._bucket!r}: create it, or correct the URL"
        elif isinstance(error, FileNotFoundError):
            raise FileNotFoundError(errno.ENOENT, "No such object", where) from None
        elif re.search(r"169\.254\.|metadata\.google\.internal|token request", text):
            # Without credentials in the environment, the client asks the cloud machine that this is not.
            raise OSError(errno.EACCES, f"no credentials: {CREDENTIALS[self._scheme]}", where) from error
        elif isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or status in (401, 403):
            reason = f"permission denied ({_reason(error)}): check the credentials and what they may do in this bucket"
            raise OSError(errno.EACCES, reason, where) from error
        elif status == 416 or "non-partial response" in text:
            raise _BeyondEndError(errno.EINVAL, "the range lies beyond the end", where) from None
        elif (400 <= status < 500 and status not in (408, 429)) or "redirect" in text or "builder error" in text:
            reason = f"the server refuses ({_reason(error)}): check the URL, AWS_REGION and the endpoint"
        else:
            return
        raise OSError(errno.EIO, reason, where) from error


class ObjectUpload:
    """A file that is collected in memory, and put when it is committed."""

    def __init__(self, storage: ObjectStorage, key: str) -> None:
        self._storage = storage
        self._key = key
        self._data = bytearray()

    def write(self, *parts: bytes | memoryview) -> None:
        for part in parts:
            self._data += part

    def commit(self) -> None:
        self._storage._put(self._key, self._data)
        self.abort()

    def abort(self) -> None:
        self._data = bytearray()


class _UnconfirmedError(Exception):
    """The server says that it has stored something, and has not."""


class _BeyondEndError(OSError):
    """A range of a file that begins where it ends, or after."""


T = TypeVar("T")

_user: int | None = None
"""The process whose threads serve the client. They are not in its forked children, which would wait for them."""


def _first_line(error: Exception) -> str:
    """The client's message without its long account of the sources."""
    line = " ".join(str(error).partition("\n\nDebug source")[0].split())
    return re.sub(r"^Generic \w+ error: ", "", line)


def _status(text: str) -> int:
    """The HTTP status in the client's message, 0 where there was none."""
    match = re.search(r"status code: (\d{3})", text)
    return int(match[1]) if match else 0


def _reason(error: Exception) -> str:
    """A few words: the server's status and code, or what the operating system says."""
    text = str(error)
    if isinstance(error, _UnconfirmedError):
        return text
    if status := re.search(r"status code: (\d{3}[\w -]*)", text):
        code = re.search(r"<Code>(\w+)</Code>", text)
        return f"{status[1].strip()}, {code[1]}" if code else status[1].strip()
    if system := re.search(r'message: "([^"]+)"', text):
        return system[1]
    if "TimedOut" in text or "kind: Timeout" in text:
        return "no answer in time"
    return _first_line(error).rpartition(" - ")[2]


def _endpoint(scheme: str) -> str:
    """`` and the endpoint …``, where the environment names one."""
    names = {"s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"), "az": ("AZURE_STORAGE_ENDPOINT",)}
    for name in names.get(scheme, ()):
        if name in os.environ:
            return f" and {name} ({os.environ[name]})"
    return ""
