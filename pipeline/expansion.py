"""Making a full store of a virtual one: :func:`expand`."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..manifests.columns import plan_fingerprint
from ..manifests.errors import ConfigError
from ..manifests.reader import BlendStore
from ..manifests.storage import Place
from ..manifests.store import ShardManifest
from ..manifests.writer import create_store, recorded
from .existing import (
    check_elsewhere,
    check_same_columns,
    check_same_plan,
    check_writable,
    existing_plan,
    make_way,
    open_out,
)
from .materialize import Outcome, Progress, Workers, finish, open_workers, place_of, write_shards
from .pixels import Origin
from .plan import check_room, estimated_bytes
from .profile import Profile


@dataclass(frozen=True)
class ExpandOptions:
    """What may differ between a full store and the virtual one it is made from; ``None``: nothing."""

    samples_per_shard: int | None = None
    codec: str | None = None


def expand(
    virtual: BlendStore,
    options: ExpandOptions,
    out: Place,
    workers: Workers,
    progress: Progress,
    *,
    overwrite: bool = False,
) -> Outcome:
    """Write the full store that a virtual one stands for; the same bytes as if it had been written from the images.

    Raises :class:`ConfigError` when ``virtual`` is a full store or lies at ``out``, and the errors of reading and
    writing.
    """
    begin, profile = time.perf_counter(), Profile()
    manifest, columns = full_manifest(virtual, options), virtual.columns()
    storage = open_out(out)
    check_elsewhere(virtual.storage, storage)
    existing = existing_plan(storage, overwrite)
    check_writable(storage)
    check_room(estimated_bytes(manifest, columns), storage, 0, None)
    done: set[int] = set()
    if existing is not None and not overwrite:
        check_same_plan(existing, manifest, storage)
        check_same_columns(existing, plan_fingerprint(manifest, columns), storage, virtual.place)
        manifest = existing
        done = recorded(storage, existing)
        progress.resuming(len(done), existing.shards)
    else:
        make_way(storage, overwrite)
        manifest = create_store(storage, manifest, columns)
    profile.main.lap("plan")
    place, plan = place_of(virtual.storage), virtual.manifest.plan
    origin = Origin("", manifest.source, manifest.converted, virtual=place, virtual_plan=plan)
    with open_workers(workers) as pool:
        profile.main.lap("start workers")
        written = write_shards(pool, manifest, storage, done, origin, progress, profile)
    return finish(storage, manifest, written, begin, profile)


def full_manifest(virtual: BlendStore, options: ExpandOptions) -> ShardManifest:
    """The manifest of the full store that a virtual one stands for; raises :class:`ConfigError` for a full one."""
    if virtual.manifest.layout != "virtual":
        raise ConfigError(f"{virtual.place} is a full store already: --from takes one written with --layout virtual")
    changed = {name: value for name, value in vars(options).items() if value is not None}
    kept = {"layout": "full", "plan": "", "complete": False, "digest": ""}
    return ShardManifest.model_validate(virtual.manifest.model_dump() | kept | changed)
