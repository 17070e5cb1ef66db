"""Materialising a store: check and decode the sources, create or resume the store, write its shards, seal it."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ..manifests.base import TEMPORARY, unwritable
from ..manifests.clusters import ClusterManifest
from ..manifests.errors import (
    CorruptStoreError,
    FbindError,
    InterruptedRunError,
    SourceError,
    StoreError,
    StoreExistsError,
)
from ..manifests.layout import RECORDS
from ..manifests.reader import BlendStore, read_manifest
from ..manifests.store import ShardManifest
from ..manifests.writer import create_store, recorded, seal
from .plan import Plan, StoreOptions, check_space, make_plan
from .scheduler import Pool, open_pool
from .shardtask import Problem, Run, ShardReport, check_sources, make_shard
from .sources import open_source

OnBadImage = Literal["stop", "skip", "convert"]

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
    on_bad_image: OnBadImage = "stop",
    overwrite: bool = False,
) -> Outcome:
    """Write the store that ``options`` ask for to ``out``, or go on with it where an earlier run was interrupted.

    The bytes of the store depend on the clusters, the sources and the options, never on the workers. Raises the errors
    of the sources, of planning and of writing (see :mod:`fbind.manifests.errors`); whatever was recorded by then stays.
    """
    begin = time.perf_counter()
    plan = make_plan(clusters, options)
    open_source(clusters.source)
    existing = existing_plan(out, overwrite)
    check_place(plan, out, workers)
    run = Run(secrets.token_hex(6), workers.cache_dir, clusters.source, on_bad_image == "convert")
    with _workers(workers, run) as pool:
        problems = _check(pool, plan, clusters, run, progress)
        if problems and on_bad_image != "skip":
            raise _first(problems)
        if problems:
            bad = {problem.image_id for problem in problems}
            plan = make_plan(clusters.without(bad), options, tuple(sorted(bad)))
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
    fbind deletes nothing that it did not write.
    """
    if not out.exists() and not out.is_symlink():
        return None
    try:
        manifest = read_manifest(out)
    except CorruptStoreError:
        if overwrite and (out / RECORDS).is_dir():
            return None
        raise
    except StoreError as error:
        raise StoreExistsError(f"{out} exists and is not a store of blends: choose another --out") from error
    if manifest.complete and not overwrite:
        raise StoreExistsError(f"{out} is already there, complete: choose another --out, or pass --overwrite")
    return manifest


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


def check_place(plan: Plan, out: Path, workers: Workers) -> None:
    """Raise :class:`~fbind.manifests.errors.ResourceError` unless ``out`` is writable and the disk holds the plan.

    What a store at ``out`` already takes counts as free, since it is either gone on with or overwritten.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = out.parent / f".{out.name}{TEMPORARY}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise unwritable(out, error) from error
    needed = plan.estimated_bytes - stored_bytes(out)
    if workers.scheduler is None:  # otherwise the caches lie on other machines
        cache = Path(workers.cache_dir or tempfile.gettempdir())
        check_space(plan.cache_bytes, cache)
        if cache.exists() and cache.stat().st_dev == out.parent.stat().st_dev:
            needed += plan.cache_bytes
    check_space(needed, out)


def stored_bytes(store: Path) -> int:
    """Bytes of all files below ``store``; 0 when it is not there."""
    return sum(file.stat().st_size for file in store.rglob("*") if file.is_file())


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


def _first(problems: list[Problem]) -> FbindError:
    """The first problem's error, telling how many others there are."""
    error = problems[0].error
    if len(problems) == 1:
        return error
    others = f"; {len(problems) - 1} more images can't be used"
    hint = ", --on-bad-image skip lists them and leaves them out" if isinstance(error, SourceError) else ""
    return type(error)(f"{error}{others}{hint}")


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
    remove = run.cache().remove
    try:
        with open_pool(workers.count, workers.scheduler) as pool:
            try:
                yield pool
            finally:
                if workers.scheduler is not None:
                    pool.everywhere(remove)
    finally:
        remove()  # on this machine only now, when its workers have ended and none can fill it again


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
