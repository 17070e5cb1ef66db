"""Random faults on real runs, round after round, until the time is up: ``scripts/soak`` calls it.

Every round writes a store, harms the run or the store in one of the ways of ``FAULTS``, lets the tool put it right, and
compares all files with those of an undisturbed run. The first difference ends it, and leaves everything in place.
"""

from __future__ import annotations

import argparse
import collections
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fbind.manifests.clusters import save_clusters

from .conftest import clusters_of, write_voc
from .faults import Cluster, Contents, Run, contents, files_of, fill, flip, records, small_disk, states

IMAGES = 200


class SoakError(Exception):
    """The store is not what it should be."""


@dataclass
class Round:
    """One store to be harmed, in a folder of its own."""

    rng: random.Random
    folder: Path
    options: list[object]
    whole: Contents
    seconds: float
    """How long an undisturbed run took."""

    @property
    def shards(self) -> int:
        return sum(key.startswith("integrity/record/c/") for key in self.whole)

    @property
    def out(self) -> Path:
        return self.folder / "out.zarr"

    def start(self, *more: object, workers: int | None = 2) -> Run:
        placed = [] if workers is None else ["--workers", workers]
        return Run(
            self.folder, "materialize-blends", *self.options, *placed, "--cache-dir", self.folder / "cache", "--out",
            self.out, *more,
        )  # fmt: skip

    def strike(self, run: Run) -> bool:
        """Wait for a random moment of a run; returns whether it came before the end.

        Most of a short run is start and source check: so in every other case it is the writing of a random shard.
        """
        if self.rng.random() < 0.5:
            shards = self.rng.randint(1, self.shards)
            return run.wait_until(lambda: len(records(self.out)) >= shards)
        moment = time.monotonic() + self.rng.uniform(0, 1.1 * self.seconds)
        return run.wait_until(lambda: time.monotonic() > moment)

    def succeed(self, run: Run) -> None:
        code, said = run.end(600)
        if code != 0:
            raise SoakError(f"exit code {code}: {said.splitlines()[-1:]}")

    def is_complete(self) -> bool:
        return contents(self.out) == self.whole if self.out.exists() else False

    def go_on(self) -> str:
        """Complete the store, unless it is; nothing that was recorded may be written again."""
        if self.is_complete():
            return "was complete already"
        kept = records(self.out)
        before = {key: state for key, state in states(self.out).items() if key in set(files_of(self.out, kept))}
        self.succeed(self.start())
        after = states(self.out)
        again = [key for key, state in before.items() if after.get(key) != state]
        if again:
            raise SoakError(f"{len(again)} recorded files were written again, the first: {again[0]}")
        return f"went on from {len(kept)} shards"


def kill_all(work: Round) -> str:
    """kill -9 of the process group, once or several times in a row."""
    told = []
    for _ in range(work.rng.randint(1, 3)):
        run = work.start()
        struck = work.strike(run)
        run.kill()
        told.append(f"killed at {len(records(work.out))} shards" if struck else "too late")
        if work.is_complete():
            break
    return f"{', '.join(told)}; {work.go_on()}"


def interrupt(work: Round) -> str:
    """Ctrl-C."""
    run = work.start()
    work.strike(run)
    run.signal(signal.SIGINT)
    begin = time.monotonic()
    code, said = run.end(60)
    seconds = time.monotonic() - begin
    # Before the command line has loaded, Python itself ends on the signal.
    if code not in (0, 1, 130, -signal.SIGINT) or (code == 130 and "Traceback" in said):
        raise SoakError(f"Ctrl-C ended with exit code {code}: {said.splitlines()[-1:]}")
    told = f"stopped {seconds:.1f} s after Ctrl-C" if code == 130 else f"exit code {code}"
    return f"{told}; {work.go_on()}"


def lose_worker(work: Round) -> str:
    """Kill or freeze one of two workers of a TCP scheduler, or kill the scheduler."""
    cluster = Cluster(work.folder, 2)
    try:
        run = work.start("--scheduler", cluster.address, workers=None)
        work.strike(run)
        how = work.rng.choice(["killed a worker", "froze a worker", "killed the scheduler"])
        victim = cluster.scheduler if how == "killed the scheduler" else cluster.workers[0]
        victim.send_signal(signal.SIGSTOP if how == "froze a worker" else signal.SIGKILL)
        code, said = run.end(600)
        if code not in ((0, 7) if victim is cluster.scheduler else (0,)):
            raise SoakError(f"{how}: exit code {code}: {said.splitlines()[-1:]}")
    finally:
        cluster.close()
    return f"{how}, exit code {code}; {work.go_on()}"


def fill_disk(work: Round) -> str:
    """The disk is full at a random moment, and has room again later."""
    with small_disk(work.folder / "disk", 2 * sum_bytes(work) // 1_000_000 + 64) as disk:
        if disk is None:
            return "not possible here (no right to mount)"
        inner = Round(work.rng, disk, work.options, work.whole, work.seconds)
        run = inner.start()
        inner.strike(run)
        filler = fill(disk)
        code, said = run.end(120)
        filler.unlink()
        if code not in (0, 6):
            raise SoakError(f"exit code {code}: {said.splitlines()[-1:]}")
        told = f"exit code {code}; {inner.go_on()}"
        shutil.copytree(inner.out, work.out)
        return told


def damage(work: Round) -> str:
    """Flip, cut or remove some files of a complete store, and repair it; sometimes the repair itself is killed."""
    work.succeed(work.start())
    files = sorted(file for file in work.out.rglob("*") if file.is_file())
    harmed = work.rng.sample(files, work.rng.randint(1, 6))
    if {"zarr.json", "integrity/zarr.json"} <= {file.relative_to(work.out).as_posix() for file in harmed}:
        harmed.remove(work.out / "zarr.json")  # one copy of the manifest is all that there may be lost
    for file in harmed:
        how = work.rng.choice(["flip", "flip", "cut", "remove"])
        size = file.stat().st_size
        if how == "flip":
            flip(file, work.rng.randrange(size), work.rng.randrange(1, 256))
        elif how == "cut":
            file.write_bytes(file.read_bytes()[: work.rng.randrange(size)])
        else:
            file.unlink()
    code, _ = Run(work.folder, "verify", work.out).end()
    if code != 1:
        raise SoakError(f"verify ended with exit code {code} after {[str(file) for file in harmed]} were damaged")
    command = ["repair", work.out, "--clusters", work.options[1], "--workers", 1]
    killed = work.rng.random() < 0.5
    if killed:
        run = Run(work.folder, *command)
        moment = time.monotonic() + work.rng.uniform(0, work.seconds)
        run.wait_until(lambda: time.monotonic() > moment)
        run.kill()
    work.succeed(Run(work.folder, *command))
    return f"{len(harmed)} files damaged, found and repaired{' (and the first repair killed)' if killed else ''}"


FAULTS: list[Callable[[Round], str]] = [kill_all, interrupt, lose_worker, fill_disk, damage]


def sum_bytes(work: Round) -> int:
    whole = next(path for path in work.folder.parent.glob("whole-*.zarr") if contents(path) == work.whole)
    return sum(file.stat().st_size for file in whole.rglob("*") if file.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description="Random faults on real runs, until the time is up."
    )
    parser.add_argument("--minutes", type=float, default=10, help="how long (default 10); the last round ends later")
    parser.add_argument("--seed", type=int, default=0, help="of the faults and their moments (default 0)")
    parser.add_argument("--only", choices=[fault.__name__ for fault in FAULTS], help="one fault (default: all in turn)")
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    given = parser.parse_args()
    folder: Path = given.out.absolute()
    folder.mkdir(parents=True)
    clusters = folder / "clusters.json"
    save_clusters(clusters_of(write_voc(folder / "images", IMAGES)), clusters)
    rng = random.Random(given.seed)
    print(f"seed {given.seed}, {given.minutes:g} minutes, in {folder}", flush=True)

    stores: dict[str, tuple[list[object], Contents, float]] = {}
    for layout, per_shard in (("full", 4), ("virtual", 2)):
        options: list[object] = ["--clusters", clusters, "--samples-per-shard", per_shard, "--layout", layout]
        begin = time.monotonic()
        whole, cache = folder / f"whole-{layout}.zarr", folder / "cache"
        run = Run(folder, "materialize-blends", *options, "--workers", 2, "--cache-dir", cache, "--out", whole)
        code, said = run.end()
        assert code == 0, said
        stores[layout] = options, contents(whole), time.monotonic() - begin
        print(f"undisturbed, {layout}: {len(records(whole))} shards in {stores[layout][2]:.1f} s", flush=True)

    faults = [fault for fault in FAULTS if given.only in (None, fault.__name__)]
    limit, number, counts = time.monotonic() + 60 * given.minutes, 0, collections.Counter[str]()
    while time.monotonic() < limit:
        number += 1
        # Every fault as often as the others; which layout, and when, is chance.
        fault, layout = faults[(number - 1) % len(faults)], rng.choice(list(stores))
        work = Round(rng, folder / f"round-{number}", *stores[layout])
        work.folder.mkdir()
        try:
            told = fault(work)
            if not told.startswith("not possible") and not work.is_complete():
                raise SoakError("the store differs from that of an undisturbed run")
        except (SoakError, AssertionError) as error:
            print(f"round {number}  {fault.__name__}  {layout}  FAILED: {error}; see {work.folder}", flush=True)
            return 1
        counts["not possible" if told.startswith("not possible") else fault.__name__] += 1
        print(f"round {number}  {fault.__name__}  {layout}  {told}; identical", flush=True)
        shutil.rmtree(work.folder)
    summary = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(f"{number} rounds, every final store identical to an undisturbed one: {summary}")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
