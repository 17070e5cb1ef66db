"""Making a damaged store whole again, from its own copies and from the source images (:func:`repair`).

Every sample is a pure function of its recipe, so a broken shard can be made again bit for bit. Nothing is put into the
store that is not proven first to be what was there: the manifest by its digest, columns by the plan's fingerprint,
images by their digests, a shard by its record, and records by the digest that seals the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..manifests.base import TEMPORARY, Frozen
from ..manifests.clusters import ClusterManifest
from ..manifests.columns import encode_column, plan_fingerprint
from ..manifests.errors import (
    ConfigError,
    CorruptStoreError,
    FbindError,
    IncompleteStoreError,
    ManifestError,
    SourceError,
    StoreError,
)
from ..manifests.layout import TWIN, metadata_files
from ..manifests.reader import BlendStore
from ..manifests.records import PLAN_KEY, plan_bytes, read_record, record_key, store_digest, with_checksum
from ..manifests.shards import shard_key
from ..manifests.storage import Storage
from ..manifests.store import ShardManifest
from .materialize import Progress, Workers, cache_key, check_images, place_of, pool_of, write_shards
from .pixels import Origin, remove_cache, used_images
from .plan import StoreOptions, make_plan, software
from .profile import Profile
from .scheduler import Pool
from .shardcheck import check_shard
from .shardtask import images_of
from .sources import open_source
from .verification import Examination, known_rows

DIGESTS = "source/digest"
"""The only column that comes from the images, and not from the clusters file."""


class Repair(Frozen):
    """What has been, or would be, done to a store."""

    digest: str
    """The digest that the store has again."""
    restored: tuple[str, ...]
    """Small files that are written again: metadata, columns, the plan, records."""
    rebuilt: tuple[int, ...]
    """Shards that are made again from the source images."""


@dataclass
class _Work:
    """What is to be done, as it becomes known."""

    files: dict[str, bytes] = field(default_factory=dict)
    """Small files to write, by their keys."""
    shards: list[int] = field(default_factory=list)
    """Shards to make again."""
    left: list[int] = field(default_factory=list)
    unusable: dict[str, FbindError | None] = field(default_factory=dict)
    """Image id to why it can't be read; ``None``: it is another image now."""


def repair(
    storage: Storage,
    examination: Examination,
    workers: Workers,
    progress: Progress,
    *,
    root: str | None = None,
    clusters: ClusterManifest | None = None,
    dry_run: bool = False,
) -> Repair:
    """Make again what an examination of the store found broken; with ``dry_run`` only say what would be done.

    ``root`` is where the dataset lies now, if it has been moved; ``clusters`` what the store was planned from, needed
    only when recipes are damaged.

    Raises :class:`IncompleteStoreError` for a store that is still to be gone on with, :class:`ManifestError` or
    :class:`SourceError` when images have changed or can't be read (after all other shards are repaired),
    :class:`ConfigError` when ``clusters`` are needed, :class:`CorruptStoreError` for what can't be made again, and
    :class:`StoreError` when it comes out differently, in which case it is not touched.
    """
    manifest = examination.manifest
    if manifest is None:
        raise CorruptStoreError(
            f"neither the manifest of {storage.root} nor its copy in {TWIN} can be trusted: write the store again with "
            "`fbind materialize-blends --overwrite`"
        )
    source = manifest.source if root is None else manifest.source.model_copy(update={"root": root})
    key = cache_key("repair", place_of(storage), manifest.plan, source.root, workers.cache_limit)
    origin = Origin(key, source, manifest.converted, workers.cache_dir, workers.cache_limit)
    work = _Work(_small_files(storage, examination))
    columns = examination.columns
    if not _sound(manifest, columns):
        columns = _restore_columns(storage, manifest, columns, clusters, workers, origin, progress)
        for column in manifest.columns():
            if _different(column.name, columns, examination.columns):
                work.files[column.key] = encode_column(np.asarray(columns[column.name], column.dtype))
    store = BlendStore(storage, manifest, columns)
    if not manifest.complete:
        _take_back(store, examination, work, dry_run=dry_run)
    _find_work(store, examination, work)
    if work.shards:
        open_source(origin.spec)  # says what is wrong with the dataset as a whole, if anything is
        with pool_of(workers, [origin]) as pool:
            _check_sources(pool, store, work, origin, progress)
            if not dry_run:
                _write_files(storage, work.files)
                _write(pool, store, work, examination, origin, progress)
    elif not dry_run:
        _write_files(storage, work.files)
        remove_cache(origin)  # of a repair that was killed when it had just made the last shard
    if not dry_run:
        for name, _ in list(storage.sizes()):
            if name.endswith(TEMPORARY):  # of writers that were killed
                storage.remove(name)
    if work.left:
        raise _unusable(storage, work, dry_run=dry_run)
    return Repair(digest=manifest.digest, restored=tuple(sorted(work.files)), rebuilt=tuple(work.shards))


def _small_files(storage: Storage, examination: Examination) -> dict[str, bytes]:
    """The metadata and the plan's file, where they are not what the manifest asks for."""
    manifest = examination.manifest
    assert manifest is not None
    suspected = {problem.file for problem in examination.result.problems}
    wanted = metadata_files(manifest) | {PLAN_KEY: plan_bytes(manifest)}
    return {key: content for key, content in wanted.items() if key in suspected and _read(storage, key) != content}


def _read(storage: Storage, key: str) -> bytes | None:
    try:
        return storage.read(key)
    except OSError:
        return None


def _sound(manifest: ShardManifest, columns: Mapping[str, np.ndarray]) -> bool:
    """Whether all columns are there, and those of the plan."""
    return len(columns) == len(manifest.columns()) and plan_fingerprint(manifest, columns) == manifest.plan


def _different(name: str, now: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]) -> bool:
    return name not in before or not np.array_equal(now[name], before[name])


def _restore_columns(
    storage: Storage,
    manifest: ShardManifest,
    readable: Mapping[str, np.ndarray],
    clusters: ClusterManifest | None,
    workers: Workers,
    origin: Origin,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """All columns of the store's plan, from those that can be read, the clusters file and the images."""
    missing = [column.name for column in manifest.columns() if column.name not in readable]
    candidates = [dict(readable)] if missing == [DIGESTS] else _replan(storage, manifest, missing, clusters)
    for columns in candidates:
        if DIGESTS in readable and _sound(manifest, columns | {DIGESTS: readable[DIGESTS]}):
            return columns | {DIGESTS: readable[DIGESTS]}
    used = used_images(BlendStore(storage, manifest, candidates[0]))
    sizes = candidates[0]["source/size"]
    with pool_of(workers, [origin]) as pool:
        problems, digests = check_images(
            pool, manifest.images, sizes, used, np.flatnonzero(used), origin, progress, Profile()
        )
    if problems:
        raise problems[0].error
    table = np.zeros((len(manifest.images), 32), np.uint8)
    for row, image_id in enumerate(manifest.images):
        if image_id in digests:
            table[row] = np.frombuffer(digests[image_id], np.uint8)
    for columns in candidates:
        if _sound(manifest, columns | {DIGESTS: table}):
            return columns | {DIGESTS: table}
    raise CorruptStoreError(
        f"the columns of {storage.root} are damaged and can't be made again: the images at {origin.spec.root} have "
        "changed since, or this version plans or decodes them differently; write the store again with "
        "`fbind materialize-blends --overwrite`"
    )


def _replan(
    storage: Storage, manifest: ShardManifest, missing: list[str], clusters: ClusterManifest | None
) -> list[dict[str, np.ndarray]]:
    """The columns that the clusters file gives, but for the digests of images; there may be two ways to read it."""
    what = f"the columns {', '.join(missing)}" if missing else "some columns"
    if clusters is None:
        raise ConfigError(
            f"{what} of {storage.root} are damaged: pass --clusters, the clusters file that the store was made from"
        )
    if manifest.left_out:
        clusters = clusters.without(set(manifest.left_out))
    if clusters.digest != manifest.clusters_digest:
        raise ConfigError(
            f"{storage.root} was made from another clusters file: got one with the digest {clusters.digest}, expected "
            f"{manifest.clusters_digest}"
        )
    # Whether the canvas was given or is what the images need can make a pixel's difference in how they were scaled.
    options = [
        StoreOptions(
            manifest.strategy,
            manifest.seed,
            manifest.limit,
            manifest.samples_per_shard,
            manifest.codec,
            manifest.converted,
            manifest.layout,
            canvas,
            manifest.max_side,
        )
        for canvas in (None, manifest.canvas)
    ]
    return [make_plan(clusters, each, manifest.left_out).columns for each in options]


def _take_back(store: BlendStore, examination: Examination, work: _Work, *, dry_run: bool) -> None:
    """Mend what is small in a store that is not complete, and forget its broken shards; raises what is to be done."""
    storage, manifest = store.storage, store.manifest
    good = [
        shard for shard, checked in enumerate(examination.shards) if checked.record and checked.record == checked.made
    ]
    broken = [s for s in range(manifest.shards) if s not in set(good) and storage.size(record_key(s)) is not None]
    if not dry_run:
        _write_files(storage, work.files)
        for shard in broken:
            storage.remove(record_key(shard))
    done = [f"{len(good)} of {manifest.shards} shards are written"]
    if work.files:
        done.append(f"{len(work.files)} small files are restored")
    if broken:
        done.append(f"shards that were broken and are to be written again: {_listed(broken)}")
    raise IncompleteStoreError(
        f"{storage.root} is incomplete ({'; '.join(done)}): run `fbind materialize-blends` with the same options again "
        "to go on"
    )


def _find_work(store: BlendStore, examination: Examination, work: _Work) -> None:
    """Tell shards whose files must be made again from those that only lack their record: the seal decides."""
    manifest, shards = store.manifest, examination.shards
    broken = {shard for shard, checked in enumerate(shards) if checked.made is None}
    unsure = [shard for shard, checked in enumerate(shards) if checked.made not in (None, checked.record)]
    if _sealed(manifest, [checked.record or checked.made for checked in shards]):
        lost = [shard for shard in unsure if shards[shard].record is None]
        broken |= set(unsure) - set(lost)
    elif _sealed(manifest, [checked.made or checked.record for checked in shards]):
        lost = unsure
    elif broken or unsure:
        lost = []
        broken |= set(unsure)  # their files are intact, but nothing says that they are the ones that were sealed
    else:
        raise CorruptStoreError(
            f"the shards of {store.place} are intact, but are not those that were sealed, and nothing says which: "
            "write the store again with `fbind materialize-blends --overwrite`"
        )
    for shard in lost:
        work.files[record_key(shard)] = with_checksum(shards[shard].made or b"")
    work.shards = sorted(broken)


def _sealed(manifest: ShardManifest, records: list[bytes | None]) -> bool:
    """Whether these are the records that the store's digest seals."""
    known = [record for record in records if record is not None]
    return len(known) == len(records) and store_digest(manifest, known) == manifest.digest


def _check_sources(pool: Pool, store: BlendStore, work: _Work, origin: Origin, progress: Progress) -> None:
    """Decode the images that the broken shards need, and leave out the shards whose images are not what they were."""
    needed = images_of(store, work.shards)
    ids, before = store.manifest.images, store.column(DIGESTS)
    sizes, used = store.column("source/size"), used_images(store)
    problems, digests = check_images(pool, ids, sizes, used, needed, origin, progress, Profile())
    work.unusable = {problem.image_id: problem.error for problem in problems}
    rows = {ids[row]: int(row) for row in needed}
    for image_id, digest in digests.items():
        if digest != before[rows[image_id]].tobytes():
            work.unusable[image_id] = None
    bad = np.array([rows[image_id] for image_id in work.unusable], np.int64)
    work.left = [shard for shard in work.shards if np.isin(images_of(store, [shard]), bad).any()]
    work.shards = [shard for shard in work.shards if shard not in set(work.left)]


def _write(
    pool: Pool, store: BlendStore, work: _Work, examination: Examination, origin: Origin, progress: Progress
) -> None:
    """Make shards again, read them back, and prove that the store is what it was."""
    storage, manifest = store.storage, store.manifest
    try:
        write_shards(
            pool, manifest, storage, set(range(manifest.shards)) - set(work.shards), origin, progress, Profile()
        )
    except CorruptStoreError:
        raise
    except StoreError as error:
        raise StoreError(f"{error}: {_versions(manifest)}; nothing of it was changed") from error
    rows = known_rows(storage, manifest, store.columns())
    again = {shard: check_shard(storage, manifest, shard, rows) for shard in work.shards}
    for checked in again.values():
        if checked.problems:
            raise CorruptStoreError(f"{checked.problems[0].file} was made again and is wrong: check the disk")
    keys = [*work.files, *(record_key(shard) for shard in work.shards)]
    keys += [shard_key(a.name, shard, a.ndim) for shard in work.shards for a in manifest.pixel_arrays()]
    storage.flush(iter(keys))
    if work.left:
        return  # without their records the digest can't be computed
    if not _sealed(manifest, [read_record(storage, manifest, shard) for shard in range(manifest.shards)]):
        for shard in work.shards:
            if examination.shards[shard].record is None:
                storage.remove(record_key(shard))
        raise StoreError(
            f"the shards of {storage.root} that had lost their records come out differently from those that were "
            f"sealed: {_versions(manifest)}"
        )


def _write_files(storage: Storage, files: Mapping[str, bytes]) -> None:
    """Write small files, the manifest itself last."""
    for key in sorted(files, key=lambda key: (key == "zarr.json", key)):
        storage.write(key, files[key])
    storage.flush(iter(files))


def _versions(manifest: ShardManifest) -> str:
    """In which libraries this machine differs from the one where the store was written."""
    here = software()
    differing = [
        f"{name} {version} (here {here.get(name, 'missing')})"
        for name, version in manifest.software.items()
        if here.get(name) != version
    ]
    return f"it was written with {', '.join(differing)}" if differing else "the versions of the libraries are the same"


def _unusable(storage: Storage, work: _Work, *, dry_run: bool) -> FbindError:
    """One line about the images without which some shards can't be made again."""
    unreadable = {image_id: error for image_id, error in work.unusable.items() if error is not None}
    changed = sorted(set(work.unusable) - set(unreadable))
    why = []
    if changed:
        why.append(f"the store was made from other pixels of {_listed(changed)}")
    if unreadable:
        first = next(iter(unreadable.values()))
        why.append(f"{_listed(sorted(unreadable))} can't be used ({first})")
    total = len(work.shards) + len(work.left)
    kind = ManifestError if changed else SourceError
    return kind(
        f"{len(work.shards)} of {total} broken shards of {storage.root} {'can be' if dry_run else 'are'} repaired, but "
        f"not {_listed(work.left)}: {'; '.join(why)}; restore these files and run `fbind repair` again"
    )


def _listed(things: list[int] | list[str]) -> str:
    """The first few of a list."""
    more = f" and {len(things) - 5} more" if len(things) > 5 else ""
    return ", ".join(map(str, things[:5])) + more
