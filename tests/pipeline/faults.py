"""What may befall a run, for tests and for ``scripts/soak``: processes that are killed, disks that fill up."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

Contents = dict[str, bytes]
State = dict[str, tuple[int, int]]

SHARDED = ("image", "dominant", "phantom", "source/image", "source/labels", "integrity/record")
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1


def contents(store: Path) -> Contents:
    """SHA-256 of every file."""
    files = sorted(file for file in store.rglob("*") if file.is_file())
    return {file.relative_to(store).as_posix(): hashlib.sha256(file.read_bytes()).digest() for file in files}


def states(store: Path) -> State:
    """What shows whether a file has been written again: its inode and its time."""
    files = [file for file in store.rglob("*") if file.is_file()]
    return {f.relative_to(store).as_posix(): (f.stat().st_ino, f.stat().st_mtime_ns) for f in files}


def flip(file: Path, place: int, bits: int = 1) -> None:
    damaged = bytearray(file.read_bytes())
    damaged[place] ^= bits
    file.write_bytes(damaged)


def records(store: Path) -> list[int]:
    """The shards that have a record."""
    folder = store / "integrity/record/c"
    with contextlib.suppress(FileNotFoundError):
        return sorted(int(entry.name) for entry in folder.iterdir() if (entry / "0").exists())
    return []


def files_of(store: Path, shards: list[int]) -> list[str]:
    """The keys of all files of some shards, records included."""
    arrays = [name for name in SHARDED if (store / name / "c").is_dir()]
    found = (file for shard in shards for name in arrays for file in (store / name / "c" / str(shard)).rglob("0"))
    return [file.relative_to(store).as_posix() for file in found if file.is_file()]


class Run:
    """``fbind`` as a process group of its own, all of which a fault may strike."""

    def __init__(self, folder: Path, *arguments: object, bound_by_permissions: bool = False) -> None:
        self.log = folder / f"run-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "fbind.cli", *map(str, arguments)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=log,
                preexec_fn=functools.partial(_prepare, bound_by_permissions),
            )

    def wait_until(self, moment: Callable[[], bool], seconds: float = 120) -> bool:
        """Wait for a moment; returns whether it came before the end of the run."""
        limit = time.monotonic() + seconds
        while self.process.poll() is None:
            if moment():
                return True
            assert time.monotonic() < limit, "the moment did not come"
            time.sleep(0.001)
        return False

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self, seconds: float = 120) -> tuple[int, str]:
        """Its exit code, and what it said on standard error."""
        try:
            code = self.process.wait(seconds)
        finally:
            self.signal(signal.SIGKILL)  # whatever it has left behind
        return code, self.log.read_text()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()


def _prepare(bound_by_permissions: bool) -> None:
    """What the new process does before it becomes the command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs inherit that it is ignored
    # Permission bits bind root, too, without this capability.
    drop = bound_by_permissions and os.geteuid() == 0
    if drop and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) != 0:
        os._exit(99)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path | None]:
    """A file system of so many MB at ``folder``; ``None`` where this user may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "fbind-test", str(folder)]
    try:
        mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the space that is left on a disk; returns the file that holds it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


class Cluster:
    """A scheduler and workers over TCP, without nannies: a dead worker stays dead."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder
        file = folder / f"scheduler-{time.monotonic_ns()}.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--scheduler-file", str(file))
        self.workers: list[subprocess.Popen[bytes]] = []
        limit = time.monotonic() + 60
        while not file.exists() or not file.read_text():
            assert time.monotonic() < limit, "the scheduler did not start"
            time.sleep(0.05)
        self.address: str = json.loads(file.read_text())["address"]
        self.add(workers)

    def add(self, workers: int) -> None:
        options = ["--nthreads", "1", "--no-nanny"]
        self.workers += [self._start("worker", self.address, *options) for _ in range(workers)]

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", *arguments, "--host", "127.0.0.1", "--no-dashboard"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._folder)

    def close(self) -> None:
        for process in [*self.workers, self.scheduler]:
            process.kill()  # frozen ones, too
            process.wait(30)
