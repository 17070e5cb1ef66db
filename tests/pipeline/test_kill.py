"""Runs that come to grief at random moments, on real processes and real disks; ``scripts/soak`` does more of it.

Whatever happens, what was recorded stays as it is, the same command goes on, and the store that results is the one
that an undisturbed run writes, byte for byte.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fbind.manifests.clusters import save_clusters
from fbind.manifests.reader import BlendStore
from fbind.manifests.strategies import CategoryStrategy
from fbind.pipeline.materialize import Workers, materialize
from fbind.pipeline.plan import StoreOptions
from fbind.pipeline.verification import verify

from .conftest import Watch, clusters_of, write_voc
from .faults import Contents, Run, contents, files_of, fill, records, small_disk, states

SEED = 3
SHARDS = 50
COMMAND = ["materialize-blends", "--clusters", "many.json", "--samples-per-shard", 3, "--limit", 3 * SHARDS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset and its clusters."""
    folder = tmp_path_factory.mktemp("kill")
    save_clusters(clusters_of(write_voc(folder / "many", 120)), folder / "many.json")
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path, scheduler: str) -> Contents:
    """What an undisturbed run writes."""
    options = StoreOptions(CategoryStrategy(), samples_per_shard=3, limit=3 * SHARDS)
    materialize(clusters_of(folder / "many"), options, folder / "whole.zarr", Workers(1, scheduler), Watch())
    return contents(folder / "whole.zarr")


def start(folder: Path, out: Path, *options: object, **how: bool) -> Run:
    return Run(folder, *COMMAND, "--workers", 1, "--out", out, *options, **how)


def goes_on(folder: Path, out: Path, whole: Contents, *options: object) -> None:
    """What a run left is sound, the same command completes it, and writes nothing again that was recorded."""
    before: dict[str, tuple[int, int]] = {}
    if (out / "zarr.json").exists():
        assert {problem.what for problem in verify(out).problems} <= {
            "the shard is not written yet",
            f"the store is incomplete: {len(records(out))} of {SHARDS} shards are written",
        }
        kept = states(out)
        before = {key: kept[key] for key in files_of(out, records(out))}
        assert len(before) == 4 * len(records(out))
    code, said = start(folder, out, *options).end()
    assert code == 0, said
    after = states(out)
    assert {key: after[key] for key in before} == before
    assert contents(out) == whole


def moments(out: Path, cache: Path, seed: int) -> dict[str, Callable[[], bool]]:
    """When to strike."""
    rng = random.Random(seed)
    many, more = rng.randint(1, SHARDS // 2), rng.randint(SHARDS // 2, SHARDS - 1)
    print(f"seed {seed}: killed after {many} and {more} shards")
    return {
        "source check": lambda: any(cache.glob("*/sources.raw")),
        "early": lambda: len(records(out)) >= many,
        "late": lambda: len(records(out)) >= more,
        "sealing": lambda: len(records(out)) == SHARDS,
    }


@pytest.mark.parametrize("moment", ["source check", "early", "late", "sealing"])
def test_kill_9_of_the_process_group(folder: Path, whole: Contents, tmp_path: Path, moment: str) -> None:
    out, cache = tmp_path / "killed.zarr", tmp_path / "cache"
    for _ in range(5):  # sealing takes a few milliseconds, and may be over before the signal arrives
        run = start(folder, out, "--cache-dir", cache)
        struck = run.wait_until(moments(out, cache, SEED)[moment])
        run.kill()
        if struck and not (
            (out / "zarr.json").exists() and BlendStore.open(out, allow_incomplete=True).manifest.complete
        ):
            break
        shutil.rmtree(out)
    else:
        pytest.fail("the run was always over before it was killed")
    if moment == "source check":
        assert not out.exists()
    goes_on(folder, out, whole, "--cache-dir", cache)
    assert list(cache.iterdir()) == []


def test_the_store_is_removed_while_it_is_written(folder: Path, whole: Contents, tmp_path: Path) -> None:
    out = tmp_path / "removed.zarr"
    run = start(folder, out)
    assert run.wait_until(lambda: len(records(out)) >= 5)
    out.rename(tmp_path / "trash")
    code, said = run.end()
    assert code in (5, 6), said
    assert is_one_line(said)
    assert "was removed or replaced while it was being written" in said or "whether it was removed" in said
    assert not out.exists()
    goes_on(folder, out, whole)


def test_the_disk_is_full_in_the_middle(folder: Path, whole: Contents, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 40) as disk:
        out = (disk or tmp_path) / "full.zarr"
        run = start(folder, out, "--cache-dir", tmp_path / "cache")
        assert run.wait_until(lambda: len(records(out)) >= 5)
        if disk is not None:
            filler = fill(disk)
            code, said = run.end()
            assert "the disk is full" in said
            filler.unlink()
        else:  # what an unprivileged user can do: no file of the processes may grow any more
            limit_file_size(run)
            code, said = run.end()
            assert "can't write" in said
        assert code == 6, said
        assert is_one_line(said)
        goes_on(folder, out, whole, "--cache-dir", tmp_path / "cache")


def is_one_line(said: str) -> bool:
    """Whether a run said what is wrong in one line; another one warns of empty clusters."""
    return "Traceback" not in said and [line[:7] for line in said.splitlines()] == ["warning", "error: "]


def limit_file_size(run: Run) -> None:
    import resource

    import psutil

    for process in [*psutil.Process(run.process.pid).children(recursive=True), psutil.Process(run.process.pid)]:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1024, 1024))


def test_the_disk_of_the_decoded_sources_is_full(folder: Path, whole: Contents, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        out, cache = tmp_path / "out.zarr", (disk or tmp_path) / "cache"
        run = start(folder, out, "--cache-dir", cache)
        assert run.wait_until(lambda: any(cache.glob("*/sources.raw")))
        run.signal(signal.SIGSTOP)
        filler = None if disk is None else fill(disk)
        if disk is None:
            limit_file_size(run)
        run.signal(signal.SIGCONT)
        code, said = run.end()
        assert code == 6, said
        assert "sources.raw" in said
        assert is_one_line(said)
        if filler is not None:
            filler.unlink()
        goes_on(folder, out, whole, "--cache-dir", cache)


def test_permission_is_lost_in_the_middle(folder: Path, whole: Contents, tmp_path: Path) -> None:
    out = tmp_path / "locked.zarr"
    run = start(folder, out, bound_by_permissions=True)
    assert run.wait_until(lambda: len(records(out)) >= 5)
    folders = [entry for entry in [out, *out.rglob("*")] if entry.is_dir()]
    for entry in folders:
        entry.chmod(0o555)
    code, said = run.end()
    for entry in folders:
        entry.chmod(0o755)
    assert code == 6, said
    assert "permission denied" in said
    assert is_one_line(said)
    goes_on(folder, out, whole)
