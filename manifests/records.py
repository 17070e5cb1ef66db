"""What a store remembers of its writing: the plan's fingerprint, a record of every shard, and from both its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import google_crc32c

from .base import content_digest
from .codecs import CRC_BYTES
from .errors import CorruptStoreError, ResourceError
from .layout import PLAN, RECORDS
from .shards import PLAN_BYTES, RECORD_BYTES
from .storage import Storage
from .store import ShardManifest

PLAN_KEY = f"{PLAN}/c/0"


def record_key(shard: int) -> str:
    """Where a shard's record lies: the Zarr chunk of its row."""
    return f"{RECORDS}/c/{shard}/0"


def shard_fingerprint(manifest: ShardManifest, shard: int) -> bytes:
    """32 bytes that stand for all that determines a shard's bytes: the plan, and which of its shards it is."""
    return hashlib.sha256(f"{manifest.plan}/{shard}".encode()).digest()


def shard_record(manifest: ShardManifest, shard: int, digests: Iterable[tuple[str, bytes]]) -> bytes:
    """A shard's 64-byte record: its fingerprint, then SHA-256 over name and digest of its file in each pixel array.

    The digest is :func:`fbind.manifests.shards.digest`, the arrays are in the manifest's order.
    """
    files = hashlib.sha256(b"".join(name.encode() + digest for name, digest in digests)).digest()
    return shard_fingerprint(manifest, shard) + files


def with_checksum(content: bytes) -> bytes:
    """A raw chunk as it is stored, its crc32c at the end."""
    return content + google_crc32c.value(content).to_bytes(CRC_BYTES, "little")


def plan_bytes(manifest: ShardManifest) -> bytes:
    """The stored chunk of the plan's fingerprint."""
    return with_checksum(bytes.fromhex(manifest.plan.removeprefix("sha256:")))


def read_plan(storage: Storage) -> str | None:
    """The fingerprint of the plan that the store at this place is being written to; ``None`` when it has none.

    Raises :class:`OSError` when it can't be read.
    """
    try:
        stored = storage.read(PLAN_KEY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    plan = stored[:PLAN_BYTES]
    return f"sha256:{plan.hex()}" if with_checksum(plan) == stored else None


def read_record(storage: Storage, manifest: ShardManifest, shard: int) -> bytes | None:
    """A shard's record, or ``None`` when the shard has not been written, or for another plan.

    Raises :class:`CorruptStoreError` when the record itself is damaged, and :class:`ResourceError` when it can't be
    read, so that nobody can tell.
    """
    key = record_key(shard)
    try:
        stored = storage.read(key)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason = error.strerror or error
        raise ResourceError(f"can't read the record of shard {shard}, {storage.where(key)}: {reason}") from error
    record = stored[:RECORD_BYTES]
    if len(record) != RECORD_BYTES or with_checksum(record) != stored:
        raise CorruptStoreError(f"the record of shard {shard}, {storage.where(key)}, is damaged")
    return record if record.startswith(shard_fingerprint(manifest, shard)) else None


def store_digest(manifest: ShardManifest, records: list[bytes]) -> str:
    """The digest of a whole store: its plan, and its shards' records."""
    return content_digest({"plan": manifest.plan, "shards": hashlib.sha256(b"".join(records)).hexdigest()})
