"""Materialising a store: check and decode the sources, create or resume the store, write its shards, seal it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..manifests.base import TEMPORARY, unwritable
from ..manifests.clusters import ClusterManifest
from ..manifests.errors import (
    CorruptStoreError,
    InterruptedRunError,
    ManifestError,
    SourceError,
    StoreError,
    StoreExistsError,
)
from ..manifests.layout import RECORDS
from ..manifests.reader import BlendStore, read_manifest
from ..manifests.store import ShardManifest
from ..manifests.writer import create_store, recorded, seal
from .plan import Plan, StoreOptions, check_room, make_plan, stored_bytes
from .scheduler import Pool, open_pool
from .shardtask import Problem, Run, ShardReport, check_sources, make_shard, remove_cache
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
        """One more shard is written; ``done`` counts samples of this and earlier runs, of ``total``."""
        ...


@dataclass(frozen=True)
class Workers:
    """Where the work is done, and where each machine keeps its decoded sources meanwhile."""

    count: int
    scheduler: str | None = None
    cache_dir: str | None = None

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
    """Samples written by this run; fewer than the store has when it was resumed."""


def materialize(
    clusters: ClusterManifest,
    options: StoreOptions,
    out: Path,
    workers: Workers,
    progress: Progress,
    *,
    skip: bool = False,
    overwrite: bool = False,
) -> Outcome:
    """Write the store that ``options`` ask for to ``out``, or go on with it where an earlier run was interrupted.

    ``skip`` leaves out images that can't be used, instead of stopping; ``overwrite`` replaces a store that is there.
    The bytes of the store depend on the clusters, the sources and the options, never on the workers. Raises the errors
    of the sources, of planning and of writing (see :mod:`fbind.manifests.errors`); whatever was recorded by then stays.
    """
    begin = time.perf_counter()
    if out.is_symlink():
        out = Path(os.path.realpath(out))  # a link to a store stands for the store
    plan = make_plan(clusters, options)
    check_labels(clusters)
    existing = existing_plan(out, overwrite)
    check_writable(out)
    check_room(plan, out, workers.local_cache())
    run = Run(secrets.token_hex(6), workers.cache_dir, clusters.source, options.convert)
    with _workers(workers, run) as pool:
        problems = _check(pool, plan, clusters, run, progress)
        if problems:
            bad = _leave_out(problems, clusters, skip)
            plan = make_plan(clusters.without(set(bad)), options, bad)
            progress.left_out(problems, plan)
        if existing is None or overwrite:
            _clear(out)
            create_store(out, plan.manifest, plan.columns)
            done: set[int] = set()
        else:
            check_same_plan(existing, plan, out)
            done = recorded(out, existing)
            progress.resuming(len(done), existing.shards)
        try:
            written = _write(pool, plan.manifest, out, done, run, progress)
        except KeyboardInterrupt:
            kept = len(recorded(out, plan.manifest))
            raise InterruptedRunError(
                f"stopped: {kept} of {plan.manifest.shards} shards of {out} are written; run the same command again to "
                "go on"
            ) from None
    sealed = seal(out, plan.manifest, BlendStore.open(out, allow_incomplete=True).columns())
    return Outcome(sealed, stored_bytes(out), time.perf_counter() - begin, written)


def existing_plan(out: Path, overwrite: bool) -> ShardManifest | None:
    """The manifest of an interrupted store at ``out``, or ``None`` when nothing is there.

    Raises :class:`StoreExistsError` for a complete store (unless ``overwrite``) and for anything that is not a store:
    nothing but a store is ever deleted, and that as a whole.
    """
    if not out.exists():
        return None
    try:
        manifest = read_manifest(out)
    except (CorruptStoreError, ManifestError):
        if overwrite and (out / RECORDS).is_dir():
            return None
        raise
    except StoreError as error:
        raise StoreExistsError(f"{out} exists and is not a store of blends: choose another --out") from error
    if manifest.complete and not overwrite:
        raise StoreExistsError(f"{out} is already there, complete: choose another --out, or pass --overwrite")
    return manifest


def check_labels(clusters: ClusterManifest) -> None:
    """Raise :class:`ManifestError` when the dataset's classes are no longer those that were counted."""
    if open_source(clusters.source).labels != clusters.labels:
        raise ManifestError(
            f"the classes of the dataset at {clusters.source.root} are not those of the clusters file: "
            "run `fbind build-clusters` on this dataset again"
        )


def check_same_plan(existing: ShardManifest, plan: Plan, out: Path) -> None:
    """Raise :class:`StoreExistsError`, naming what differs, unless ``out`` was begun with the same plan."""
    before = existing.model_dump(mode="json", exclude={"source": {"root"}})
    now = plan.manifest.model_dump(mode="json", exclude={"source": {"root"}})
    for field, value in now.items():
        if before[field] != value:
            told = f" ({_brief(before[field])} then, {_brief(value)} now)"
            raise StoreExistsError(
                f"{out} was begun with another {field.replace('_', ' ')}{told}: use the same options to go on, or pass "
                "--overwrite to start again"
            )


def check_writable(out: Path) -> None:
    """Raise :class:`~fbind.manifests.errors.ResourceError` unless something can be created where ``out`` is to be."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = out.parent / f".{out.name}{TEMPORARY}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise unwritable(out, error) from error


def _check(pool: Pool, plan: Plan, clusters: ClusterManifest, run: Run, progress: Progress) -> list[Problem]:
    rows = [int(row) for row in plan.recipes.images()]
    batches = [
        [(row, clusters.images[row]) for row in rows[first : first + IMAGES_PER_TASK]]
        for first in range(0, len(rows), IMAGES_PER_TASK)
    ]
    problems: list[Problem] = []
    done = 0
    progress.checking(0, len(rows))
    for count, found in pool.run(check_sources, batches, run):
        done += count
        problems += found
        progress.checking(done, len(rows))
    return sorted(problems, key=lambda problem: problem.image_id)


def _leave_out(problems: list[Problem], clusters: ClusterManifest, skip: bool) -> tuple[str, ...]:
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


def _write(pool: Pool, manifest: ShardManifest, out: Path, done: set[int], run: Run, progress: Progress) -> int:
    written = 0
    before = sum(len(manifest.rows_of(shard)) for shard in done)
    todo = [shard for shard in range(manifest.shards) if shard not in done]
    for report in pool.run(make_shard, todo, str(out.absolute()), run):
        written += report.samples
        progress.wrote(report, before + written, manifest.samples)
    return written


def _clear(out: Path) -> None:
    """Remove the store that is to be overwritten (or whatever is left of it)."""
    if out.exists():
        try:
            shutil.rmtree(out)
        except OSError as error:
            raise unwritable(out, error) from error


@contextlib.contextmanager
def _workers(workers: Workers, run: Run) -> Iterator[Pool]:
    """Open the pool, and remove the run's decoded sources from every machine at the end, however it ends."""
    try:
        with open_pool(workers.count, workers.scheduler) as pool:
            try:
                yield pool
            finally:
                if workers.scheduler is not None:
                    pool.everywhere(remove_cache, run)
    finally:
        remove_cache(run)  # on this machine only now, when its workers have ended and none can fill it again


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
