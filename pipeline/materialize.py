"""Materialising a store: check and decode the sources, create or resume the store, write its shards, seal it."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..manifests.base import content_digest
from ..manifests.clusters import ClusterManifest, ImageRecord
from ..manifests.errors import InterruptedRunError, ManifestError, SourceError
from ..manifests.reader import BlendStore
from ..manifests.storage import LocalStorage, Place, Storage
from ..manifests.store import ShardManifest
from ..manifests.writer import create_store, recorded, seal
from .cache import cache_offsets, held_bytes
from .existing import check_same_plan, check_same_sources, check_writable, existing_plan, make_way, open_out
from .pixels import Origin, SourceImage, remove_cache
from .plan import Plan, StoreOptions, check_room, make_plan, readable_size, software, stored_bytes
from .profile import Profile
from .scheduler import Pool, open_pool
from .shardtask import Problem, ShardReport, check_sources, forget, images_of, make_shard
from .sources import open_source

IMAGES_PER_TASK = 16


class Progress(Protocol):
    """What a run tells whoever watches it."""

    def checking(self, done: int, total: int) -> None:
        """``done`` of ``total`` source images are decoded and checked."""
        ...

    def left_out(self, problems: list[Problem], plan: Plan) -> None:
        """Images can't be used; ``plan`` is the one made without them."""
        ...

    def resuming(self, done: int, total: int) -> None:
        """``done`` of ``total`` shards had been written before."""
        ...

    def wrote(self, report: ShardReport, done: int, total: int) -> None:
        """One more shard is written; ``done`` counts rows of this and earlier runs, of ``total``."""
        ...


@dataclass(frozen=True)
class Workers:
    """Where the work is done, and where each machine keeps its decoded sources meanwhile."""

    count: int
    scheduler: str | None = None
    cache_dir: str | None = None
    cache_limit: int | None = None
    """Bytes; ``None``: all sources."""
    memory_limit: int | None = None
    """Bytes for each worker process on this machine; ``None``: no limit."""

    def local_cache(self) -> Path | None:
        """The folder below which this machine keeps its decoded sources; ``None`` when other machines do the work."""
        return None if self.scheduler else Path(self.cache_dir or tempfile.gettempdir())


@dataclass(frozen=True)
class Outcome:
    """What a finished run left behind."""

    manifest: ShardManifest
    bytes: int
    seconds: float
    written: int
    """Rows written by this run; fewer than the store has when it was resumed."""
    profile: Profile


def materialize(
    clusters: ClusterManifest,
    options: StoreOptions,
    out: Place,
    workers: Workers,
    progress: Progress,
    *,
    plan: Plan | None = None,
    skip: bool = False,
    overwrite: bool = False,
) -> Outcome:
    """Write the store that ``options`` ask for to ``out``, or go on with it where an earlier run was interrupted.

    ``plan`` is what :func:`~fbind.pipeline.plan.make_plan` made of both, if that is known already. ``skip`` leaves out
    images that can't be used, instead of stopping; ``overwrite`` replaces a store that is there. The bytes of the
    store depend on the clusters, the sources and the options, never on the workers. Raises the errors of the sources,
    of planning and of writing (see :mod:`fbind.manifests.errors`); whatever was recorded by then stays.
    """
    begin, profile = time.perf_counter(), Profile()
    storage = open_out(out)
    existing = existing_plan(storage, overwrite)
    if existing is not None and existing.left_out and skip and not overwrite:
        clusters = clusters.without(set(existing.left_out))
        if plan is not None and plan.manifest.left_out != existing.left_out:
            plan = None
        plan = plan or make_plan(clusters, options, existing.left_out)
    plan = plan or make_plan(clusters, options)
    check_labels(clusters)
    check_writable(storage)
    origin = _origin(clusters, plan, storage, workers)
    cache_bytes = max(plan.cache_bytes(workers.cache_limit) - held_bytes(origin.cache_folder()), 0)
    check_room(plan.estimated_bytes, storage, cache_bytes, workers.local_cache())
    resumed = existing is not None and not overwrite
    done: set[int] = set()
    needed = plan.recipes.images()
    if existing is not None and resumed:
        check_same_plan(existing, plan.manifest, storage)
        done = recorded(storage, existing)
        progress.resuming(len(done), existing.shards)
        needed = images_of(BlendStore(storage, existing), set(range(existing.shards)) - done)
    profile.main.lap("plan")
    with pool_of(workers, origins := [origin]) as pool:
        profile.main.lap("start workers")
        digests: dict[str, bytes] = {}
        while len(needed):
            sizes, used = plan.columns["source/size"], plan.used()
            problems, found = check_images(
                pool, clusters.ids, sizes, used, needed, origin, progress, profile, clusters.images
            )
            digests |= found
            if not problems:
                break
            clusters = _leave_out(problems, clusters, skip=skip, resumed=resumed)
            left_out = {*plan.manifest.left_out, *(problem.image_id for problem in problems)}
            plan = make_plan(clusters, options, tuple(sorted(left_out)))
            progress.left_out(problems, plan)
            # Images have other places in the cache of this plan, and it may need some that are not checked yet.
            pool.everywhere(forget, origin)
            remove_cache(origin)
            origin = _origin(clusters, plan, storage, workers)
            origins.append(origin)
            needed = np.array([row for row in plan.recipes.images() if clusters.ids[row] not in digests], np.int64)
        profile.main.lap("check sources")
        if existing is not None and resumed:
            manifest = existing
            check_same_sources(BlendStore(storage, existing), digests)
        else:
            make_way(storage, overwrite)
            for row in plan.recipes.images():
                plan.columns["source/digest"][row] = np.frombuffer(digests[plan.manifest.images[row]], np.uint8)
            manifest = create_store(storage, plan.manifest, plan.columns)
        profile.main.lap("create store")
        written = write_shards(pool, manifest, storage, done, origin, progress, profile)
    return finish(storage, manifest, written, begin, profile)


def check_labels(clusters: ClusterManifest) -> None:
    """Raise :class:`ManifestError` when the dataset's classes are no longer those that were counted."""
    if open_source(clusters.source).labels != clusters.labels:
        raise ManifestError(
            f"the classes of the dataset at {clusters.source.root} are not those of the clusters file: "
            "run `fbind build-clusters` on this dataset again"
        )


def write_shards(
    pool: Pool,
    manifest: ShardManifest,
    storage: Storage,
    done: set[int],
    origin: Origin,
    progress: Progress,
    profile: Profile,
) -> int:
    """Write all shards but those that are ``done``; returns how many rows that were.

    Raises :class:`InterruptedRunError` on Ctrl-C.
    """
    written, shards = 0, len(done)
    before = sum(len(manifest.rows_of(shard)) for shard in done)
    todo = [shard for shard in range(manifest.shards) if shard not in done]
    try:
        for report in pool.run(make_shard, todo, place_of(storage), manifest.plan, origin):
            written, shards = written + report.samples, shards + 1
            profile.add("writing", report.stages)
            progress.wrote(report, before + written, manifest.rows)
    except KeyboardInterrupt:
        # Workers may have recorded a few more; to count them, all records would have to be read, which takes too long.
        raise InterruptedRunError(
            f"stopped: at least {shards} of {manifest.shards} shards of {storage.root} are written; run the same "
            "command again to go on"
        ) from None
    profile.main.lap("write shards")
    return written


def check_images(
    pool: Pool,
    ids: Sequence[str],
    sizes: np.ndarray,
    used: np.ndarray,
    needed: np.ndarray,
    origin: Origin,
    progress: Progress,
    profile: Profile,
    records: Sequence[ImageRecord] | None = None,
) -> tuple[list[Problem], dict[str, bytes]]:
    """Decode and check the ``needed`` rows of the id table: the problems, and the digests of the others by image id.

    ``sizes`` is (images, 2), height and width; ``used`` (images,) bool, what the recipes need in all: it decides where
    in the cache an image lies. ``records`` say what the clusters file knows of the images.
    """
    offsets, total = cache_offsets(sizes, used, origin.cache_limit)
    rows = [int(row) for row in needed]
    batches = [
        [
            (SourceImage(row, ids[row], (int(sizes[row][0]), int(sizes[row][1])), int(offsets[row])),
             None if records is None else records[row])
            for row in rows[first : first + IMAGES_PER_TASK]
        ]
        for first in range(0, len(rows), IMAGES_PER_TASK)
    ]  # fmt: skip
    problems: list[Problem] = []
    digests: dict[str, bytes] = {}
    done = 0
    progress.checking(0, len(rows))
    for report in pool.run(check_sources, batches, origin, total):
        done += report.images
        problems += report.problems
        digests |= dict(report.digests)
        profile.add("checking", report.stages)
        progress.checking(done, len(rows))
    return sorted(problems, key=lambda problem: problem.image_id), digests


def _leave_out(problems: list[Problem], clusters: ClusterManifest, *, skip: bool, resumed: bool) -> ClusterManifest:
    """The clusters without the images that can't be used; raises the first problem unless they may be skipped.

    Images that are not those the clusters file counted are never skipped: a part of another dataset is no dataset.
    Neither is an image of a store that is begun: its recipes are made.
    """
    changed = [problem for problem in problems if isinstance(problem.error, ManifestError)]
    if changed or not skip or resumed:
        first, others = (changed or problems)[0].error, len(changed or problems) - 1
        more = f"; {others} more images can't be used" if others else ""
        if resumed and not changed:
            more += "; a store that is begun can't leave images out: restore them, or pass --overwrite to start again"
        elif others and not changed:
            more += ", --on-bad-image skip lists them and leaves them out"
        raise type(first)(f"{first}{more}")
    if len(problems) == len(clusters.images):
        raise SourceError(f"none of the {len(problems)} images can be used; the first: {problems[0].error}")
    return clusters.without({problem.image_id for problem in problems})


def finish(storage: Storage, manifest: ShardManifest, written: int, begin: float, profile: Profile) -> Outcome:
    """Seal a store whose shards are all written."""
    sealed = seal(storage, manifest)
    profile.main.lap("seal")
    return Outcome(sealed, stored_bytes(storage), time.perf_counter() - begin, written, profile)


def _origin(clusters: ClusterManifest, plan: Plan, storage: Storage, workers: Workers) -> Origin:
    """What the tasks share."""
    manifest, places = plan.manifest, hashlib.sha256(plan.used().tobytes())
    places.update(plan.columns["source/size"].tobytes())
    key = cache_key(
        place_of(storage),
        clusters.digest,
        clusters.source.root,
        manifest.converted,
        places.hexdigest(),
        workers.cache_limit,
    )
    return Origin(key, clusters.source, manifest.converted, workers.cache_dir, workers.cache_limit)


def cache_key(*depends: object) -> str:
    """A name for decoded sources, from the store they are for and all else that they depend on (plain data)."""
    return content_digest([*depends, software()]).removeprefix("sha256:")[:16]


@contextlib.contextmanager
def pool_of(workers: Workers, origins: list[Origin]) -> Iterator[Pool]:
    """Open the pool, and remove the decoded sources of ``origins``, which may grow, from every machine at the end.

    After an interruption they stay: whoever goes on needs them. The error says where they are.
    """
    try:
        with open_workers(workers) as pool:
            try:
                yield pool
            finally:
                if workers.scheduler and not isinstance(sys.exception(), InterruptedRunError | KeyboardInterrupt):
                    for origin in origins:
                        pool.everywhere(forget, origin)
    except (InterruptedRunError, KeyboardInterrupt) as error:
        # Ctrl-C outside the writing, or another one while the workers were being ended.
        stopped = "stopped; run the same command again to go on" if isinstance(error, KeyboardInterrupt) else error
        folder = origins[-1].cache_folder()
        held = held_bytes(folder) if workers.scheduler is None else 0
        kept = f" (it will use the {readable_size(held)} of decoded sources in {folder})" if held else ""
        raise InterruptedRunError(f"{stopped}{kept}") from None
    except BaseException:
        _remove_caches(origins)
        raise
    _remove_caches(origins)  # on this machine only now, when its workers have ended and none can fill it again


def _remove_caches(origins: list[Origin]) -> None:
    for origin in origins:
        remove_cache(origin)


def open_workers(workers: Workers) -> contextlib.AbstractContextManager[Pool]:
    """The pool that does the work."""
    imports = (make_shard.__module__,)
    return open_pool(workers.count, workers.scheduler, imports=imports, memory_limit=workers.memory_limit)


def place_of(storage: Storage) -> str:
    """The place of a storage as a process in another folder names it."""
    return str(storage.path.absolute()) if isinstance(storage, LocalStorage) else storage.root
