"""Materialising a store: check and decode the sources, create or resume the store, write its shards, seal it."""

from __future__ import annotations

import contextlib
import os
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
from ..manifests.errors import ConfigError, InterruptedRunError, ManifestError, SourceError
from ..manifests.reader import BlendStore
from ..manifests.storage import LocalStorage, Place, Storage, is_url, open_storage
from ..manifests.store import ShardManifest
from ..manifests.writer import clear_store, create_store, recorded, seal
from .cache import cache_offsets
from .existing import check_same_plan, check_same_sources, check_writable, existing_plan
from .pixels import Run, SourceImage, remove_cache
from .plan import Plan, StoreOptions, check_room, estimated_bytes, make_plan, size, stored_bytes
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
    storage = open_storage(_real(out))
    existing = existing_plan(storage, overwrite)
    if existing is not None and existing.left_out and skip and not overwrite:
        clusters = clusters.without(set(existing.left_out))
        plan = make_plan(clusters, options, existing.left_out)
    plan = plan or make_plan(clusters, options)
    check_labels(clusters)
    check_writable(storage)
    check_room(plan.estimated_bytes, storage, plan.cache_bytes(workers.cache_limit), workers.local_cache())
    resumed = existing is not None and not overwrite
    done: set[int] = set()
    if existing is not None and resumed:
        check_same_plan(existing, plan.manifest, storage)
        done = recorded(storage, existing)
        progress.resuming(len(done), existing.shards)
    profile.main.lap("plan")
    run = _run(clusters, options, workers)
    with pool_of(workers, runs := [run]) as pool:
        profile.main.lap("start workers")
        needed = plan.recipes.images()
        if resumed:
            needed = images_of(BlendStore.open(out, allow_incomplete=True), set(range(plan.manifest.shards)) - done)
        sizes = plan.columns["source/size"]
        problems, digests = check_images(pool, clusters.ids, sizes, needed, run, progress, profile, clusters.images)
        if problems:
            bad = _leave_out(problems, clusters, skip=skip and not resumed)
            plan = make_plan(clusters.without(set(bad)), options, bad)
            run = _run(clusters.without(set(bad)), options, workers)
            runs.append(run)  # with a cache of its own: images have other places in the plan without those
            progress.left_out(problems, plan)
        profile.main.lap("check sources")
        if existing is not None and resumed:
            manifest = existing
            check_same_sources(BlendStore.open(out, allow_incomplete=True), digests)
        else:
            clear_store(storage)
            for row, image_id in enumerate(plan.manifest.images):
                if image_id in digests:
                    plan.columns["source/digest"][row] = np.frombuffer(digests[image_id], np.uint8)
            manifest = create_store(storage, plan.manifest, plan.columns)
        profile.main.lap("create store")
        written = write_shards(pool, manifest, storage, done, run, progress, profile)
    return _finish(storage, manifest, written, begin, profile)


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

    Raises :class:`ConfigError` when ``virtual`` is a full store, and the errors of reading and writing.
    """
    begin, profile = time.perf_counter(), Profile()
    manifest, columns = full_manifest(virtual, options), virtual.columns()
    storage = open_storage(_real(out))
    existing = existing_plan(storage, overwrite)
    check_writable(storage)
    check_room(estimated_bytes(manifest, columns), storage, 0, None)
    done: set[int] = set()
    if existing is not None and not overwrite:
        check_same_plan(existing, manifest, storage)
        manifest = existing
        done = recorded(storage, existing)
        progress.resuming(len(done), existing.shards)
    else:
        clear_store(storage)
        manifest = create_store(storage, manifest, columns)
    profile.main.lap("plan")
    run = Run("", manifest.source, manifest.converted, virtual=_elsewhere(virtual.storage))
    with _open(workers) as pool:
        profile.main.lap("start workers")
        written = write_shards(pool, manifest, storage, done, run, progress, profile)
    return _finish(storage, manifest, written, begin, profile)


@dataclass(frozen=True)
class ExpandOptions:
    """What may differ between a full store and the virtual one it is made from; ``None``: nothing."""

    samples_per_shard: int | None = None
    codec: str | None = None


def full_manifest(virtual: BlendStore, options: ExpandOptions) -> ShardManifest:
    """The manifest of the full store that a virtual one stands for; raises :class:`ConfigError` for a full one."""
    if virtual.manifest.layout != "virtual":
        raise ConfigError(f"{virtual.place} is a full store already: --from takes one written with --layout virtual")
    changed = {name: value for name, value in vars(options).items() if value is not None}
    kept = {"layout": "full", "plan": "", "complete": False, "digest": ""}
    return ShardManifest.model_validate(virtual.manifest.model_dump() | kept | changed)


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
    run: Run,
    progress: Progress,
    profile: Profile,
) -> int:
    """Write all shards but those that are ``done``; returns how many rows that were.

    Raises :class:`InterruptedRunError` on Ctrl-C.
    """
    written = 0
    before = sum(len(manifest.rows_of(shard)) for shard in done)
    todo = [shard for shard in range(manifest.shards) if shard not in done]
    try:
        for report in pool.run(make_shard, todo, _elsewhere(storage), manifest.plan, run):
            written += report.samples
            profile.add("writing", report.stages)
            progress.wrote(report, before + written, manifest.rows)
    except KeyboardInterrupt:
        kept = len(recorded(storage, manifest))
        raise InterruptedRunError(
            f"stopped: {kept} of {manifest.shards} shards of {storage.root} are written; run the same command again to "
            "go on"
        ) from None
    profile.main.lap("write shards")
    return written


def check_images(
    pool: Pool,
    ids: Sequence[str],
    sizes: np.ndarray,
    needed: np.ndarray,
    run: Run,
    progress: Progress,
    profile: Profile,
    records: Sequence[ImageRecord] | None = None,
) -> tuple[list[Problem], dict[str, bytes]]:
    """Decode and check the ``needed`` rows of the id table: the problems, and the digests of the others by image id.

    ``sizes`` is (images, 2), height and width; ``records`` say what the clusters file knows of the images.
    """
    offsets, total = cache_offsets(sizes, run.cache_limit)
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
    for report in pool.run(check_sources, batches, run, total):
        done += report.images
        problems += report.problems
        digests |= dict(report.digests)
        profile.add("checking", report.stages)
        progress.checking(done, len(rows))
    return sorted(problems, key=lambda problem: problem.image_id), digests


def _leave_out(problems: list[Problem], clusters: ClusterManifest, *, skip: bool) -> tuple[str, ...]:
    """The ids of the images to do without; raises the first problem unless they may be skipped.

    Images that are not those the clusters file counted are never skipped: a part of another dataset is no dataset.
    """
    changed = [problem for problem in problems if isinstance(problem.error, ManifestError)]
    if changed or not skip:
        first, others = (changed or problems)[0].error, len(changed or problems) - 1
        if not others:
            raise first
        hint = "" if changed else ", --on-bad-image skip lists them and leaves them out"
        raise type(first)(f"{first}; {others} more images can't be used{hint}")
    if len(problems) == len(clusters.images):
        raise SourceError(f"none of the {len(problems)} images can be used; the first: {problems[0].error}")
    return tuple(problem.image_id for problem in problems)


def _finish(storage: Storage, manifest: ShardManifest, written: int, begin: float, profile: Profile) -> Outcome:
    sealed = seal(storage, manifest)
    profile.main.lap("seal")
    return Outcome(sealed, stored_bytes(storage), time.perf_counter() - begin, written, profile)


def _run(clusters: ClusterManifest, options: StoreOptions, workers: Workers) -> Run:
    """What the tasks share; the key changes with everything that the decoded sources depend on."""
    plain = [
        clusters.digest,
        clusters.source.root,
        options.convert,
        options.canvas,
        options.max_side,
        workers.cache_limit,
    ]
    key = content_digest(plain).removeprefix("sha256:")[:16]
    return Run(key, clusters.source, options.convert, workers.cache_dir, workers.cache_limit)


@contextlib.contextmanager
def pool_of(workers: Workers, runs: list[Run]) -> Iterator[Pool]:
    """Open the pool, and remove the decoded sources of ``runs``, which may grow, from every machine at the end.

    After an interruption they stay: whoever goes on needs them. The error says where they are.
    """
    try:
        with _open(workers) as pool:
            try:
                yield pool
            except KeyboardInterrupt:
                again = "stopped before a shard was written; run the same command again to go on"
                raise InterruptedRunError(again) from None
            finally:
                if workers.scheduler is not None and not isinstance(sys.exception(), InterruptedRunError):
                    for run in runs:
                        pool.everywhere(forget, run)
    except InterruptedRunError as error:
        folder = runs[-1].cache_folder()
        if workers.scheduler is None and folder.is_dir():
            held = sum(file.stat().st_blocks * 512 for file in folder.iterdir())
            kept = f"(it will use the {size(held)} of decoded sources in {folder})"
            raise InterruptedRunError(f"{error} {kept}") from None
        raise
    except BaseException:
        remove_caches(runs)
        raise
    remove_caches(runs)  # on this machine only now, when its workers have ended and none can fill it again


def remove_caches(runs: list[Run]) -> None:
    """Delete the decoded sources of some runs on this machine."""
    for run in runs:
        remove_cache(run)


def _open(workers: Workers) -> contextlib.AbstractContextManager[Pool]:
    imports = (make_shard.__module__,)
    return open_pool(workers.count, workers.scheduler, imports=imports, memory_limit=workers.memory_limit)


def _elsewhere(storage: Storage) -> str:
    """The place of a storage as a process in another folder names it."""
    return str(storage.path.absolute()) if isinstance(storage, LocalStorage) else storage.root


def _real(place: Place) -> Place:
    """A link to a store stands for the store."""
    path = Path(place)
    return Path(os.path.realpath(path)) if not is_url(place) and path.is_symlink() else place
