"""What happens to a run when the processes that do the work are killed, frozen or lost, and when the user stops it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from fbind.manifests.errors import ConfigError, ResourceError, SchedulerError
from fbind.pipeline.scheduler import SMALLEST_MEMORY, WINDOW, Patience, Pool, open_pool

QUICK = Patience(look=0.2, slow=1, factor=5, workers=2, stalled=120)


class Cluster:
    """A scheduler and workers of our own over TCP, to be treated badly. Without nannies, a dead worker stays dead."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--scheduler-file", str(self.file))
        self.workers: list[subprocess.Popen[bytes]] = []
        limit = time.monotonic() + 60
        while not self.file.exists() or not self.file.read_text():
            assert time.monotonic() < limit
            time.sleep(0.05)
        self.address: str = json.loads(self.file.read_text())["address"]

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", *arguments, "--host", "127.0.0.1", "--no-dashboard"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder)

    def add(self, workers: int) -> Cluster:
        options = ["--nthreads", "1", "--no-nanny"]
        self.workers += [self._start("worker", self.address, *options) for _ in range(workers)]
        return self

    def close(self) -> None:
        for process in [*self.workers, self.scheduler]:
            process.kill()  # frozen ones, too
            process.wait(30)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def both_at_work(cluster: Cluster, patience: Patience = QUICK) -> Iterator[Pool]:
    with open_pool(1, cluster.add(2).address, patience=patience) as pool:
        pool._client().wait_for_workers(2)
        yield pool


def nap(seconds: float) -> Callable[[int], tuple[int, int]]:
    """A task that takes its time, and says in which process."""

    def task(number: int) -> tuple[int, int]:  # nested, so that it travels to workers that do not know this module
        import os
        import time

        time.sleep(seconds)
        return number, os.getpid()

    return task


def test_a_killed_workers_tasks_go_to_another(cluster: Cluster) -> None:
    with both_at_work(cluster) as pool:
        seen = []
        for result in pool.run(nap(0.03), range(60)):
            seen.append(result)
            if len(seen) == 10:
                cluster.workers[0].kill()
    assert sorted(number for number, _ in seen) == list(range(60))
    assert {process for _, process in seen} == {worker.pid for worker in cluster.workers}


def test_a_frozen_workers_tasks_are_given_to_another(cluster: Cluster) -> None:
    with both_at_work(cluster) as pool:
        seen = []
        for number, process in pool.run(nap(0.03), range(60)):
            seen.append(number)
            if len(seen) == 10:
                frozen = next(worker for worker in cluster.workers if worker.pid == process)
                frozen.send_signal(signal.SIGSTOP)
    assert sorted(seen) == list(range(60))


def test_the_first_result_of_a_task_given_away_counts_and_only_once(cluster: Cluster, tmp_path: Path) -> None:
    attempts = tmp_path / "attempts"

    def task(number: int, attempts: str) -> int:
        import time
        from pathlib import Path

        if number == 7:
            with Path(attempts).open("a+") as file:
                print("once more", file=file, flush=True)
                file.seek(0)
                first = len(file.readlines()) == 1
            time.sleep(2.5 if first else 0)
        else:
            time.sleep(0.05)
        return number

    with both_at_work(cluster) as pool:
        # Enough of them that the slow copy ends during the run.
        seen = list(pool.run(task, range(120), str(attempts)))
    assert sorted(seen) == list(range(120))
    assert len(attempts.read_text().splitlines()) == 2


def after_five(cluster: Cluster, harm: Callable[[], None], patience: Patience = QUICK) -> None:
    with both_at_work(cluster, patience) as pool:
        for count, _ in enumerate(pool.run(nap(0.03), range(1000)), start=1):
            if count == 5:
                harm()


def send(processes: list[subprocess.Popen[bytes]], sent: signal.Signals) -> None:
    for process in processes:
        process.send_signal(sent)


def test_a_lost_scheduler_is_one_line_within_seconds(cluster: Cluster) -> None:
    killed: list[float] = []

    def kill() -> None:
        cluster.scheduler.kill()
        killed.append(time.monotonic())

    with pytest.raises(SchedulerError, match="the connection to the Dask scheduler was lost: start it again"):
        after_five(cluster, kill)
    assert time.monotonic() - killed[0] < 5


def test_losing_all_workers_is_one_line(cluster: Cluster) -> None:
    with pytest.raises(SchedulerError, match=r"all workers have been gone for \d+ s: start some again"):
        after_five(cluster, lambda: send(cluster.workers, signal.SIGKILL))


def test_workers_that_all_hang_are_one_line(cluster: Cluster) -> None:
    with pytest.raises(SchedulerError, match=r"nothing has been finished for \d+ s: the workers hang"):
        after_five(cluster, lambda: send(cluster.workers, signal.SIGSTOP), replace(QUICK, stalled=2))


def test_a_suspended_run_finds_nothing_lost(cluster: Cluster) -> None:
    """Time that this process does not live through, as after Ctrl-Z, is no time that a task took."""
    script = f"""
        import time
        from fbind.pipeline.scheduler import Patience, open_pool
        with open_pool(1, {cluster.add(1).address!r}, patience=Patience(look=0.2, slow=1, factor=1, stalled=2)) as pool:
            for _ in pool.run(time.sleep, [0.1] * 30):
                print("done", flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"done\n"
    cluster.workers[0].send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    process.send_signal(signal.SIGCONT)
    cluster.workers[0].send_signal(signal.SIGCONT)
    assert process.communicate(timeout=60)[0].count(b"done") == 29
    assert process.returncode == 0


def test_the_first_error_stops_what_has_not_started(cluster: Cluster, tmp_path: Path) -> None:
    def task(number: int, folder: str) -> None:
        import time
        from pathlib import Path

        Path(folder, str(number)).touch()
        time.sleep(0.1)
        if number == 3:
            raise ValueError("the fourth")

    ran = tmp_path / "ran"
    ran.mkdir()
    with both_at_work(cluster) as pool:
        with pytest.raises(ValueError, match="the fourth"):
            list(pool.run(task, range(60), str(ran)))
        time.sleep(0.5)
        assert len(list(ran.iterdir())) < 15
        assert list(pool.run(abs, [-1])) == [1]  # the pool is good for more


def test_tasks_are_drawn_as_results_come() -> None:
    drawn = 0

    def tasks() -> Iterator[int]:
        nonlocal drawn
        for number in range(300):
            drawn += 1
            yield number

    ahead = []
    with open_pool(2, None) as pool:
        for count, _ in enumerate(pool.run(abs, tasks()), start=1):
            ahead.append(drawn - count)
    assert max(ahead) == WINDOW
    assert drawn == 300


def test_a_killed_local_worker_comes_back_and_still_ignores_ctrl_c() -> None:
    with open_pool(1, None, patience=QUICK) as pool:
        first = next(pool.run(nap(0), [0]))[1]
        os.kill(first, signal.SIGKILL)
        numbers, processes = zip(*pool.run(nap(0.01), range(20)), strict=True)
        assert sorted(numbers) == list(range(20))
        second = processes[-1]
        assert second != first
        os.kill(second, signal.SIGINT)
        assert [process for _, process in pool.run(nap(0.1), range(5))] == [second] * 5


def test_a_task_that_kills_every_worker_is_one_line() -> None:
    with pytest.raises(SchedulerError, match="a task killed its workers several times"), open_pool(2, None) as pool:
        list(pool.run(os._exit, [1]))


def stop(process: subprocess.Popen[str], sent: signal.Signals) -> tuple[float, str, str]:
    """Send a signal to the whole process group, as a terminal does; returns the seconds to the end and what was said.

    Nothing that it started may be left.
    """
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    begin = time.monotonic()
    os.killpg(process.pid, sent)
    out, errors = process.communicate(timeout=30)
    seconds = time.monotonic() - begin
    psutil.wait_procs(family, timeout=1)
    assert not [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    return seconds, out, errors


@pytest.mark.parametrize("scheduler", ["local", "cluster"])
@pytest.mark.parametrize("after", ["the first task", "half a second"])
def test_ctrl_c_ends_long_tasks_within_two_seconds(scheduler: str, after: str, cluster: Cluster) -> None:
    where = repr(cluster.add(2).address) if scheduler == "cluster" else None
    script = f"""
        import subprocess, sys, time
        from fbind.pipeline.scheduler import open_pool
        if __name__ == "__main__":
            try:
                child = subprocess.Popen(["sleep", "60"], start_new_session=False)  # at least one to look for
                print("begin", flush=True)
                with open_pool(2, {where}) as pool:
                    for _ in pool.run(time.sleep, [0, *[5] * 500]):
                        print("working", flush=True)
            except KeyboardInterrupt:
                sys.exit("stopped")
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begin\n"
    if after == "the first task":
        assert process.stdout.readline() == "working\n"
    time.sleep(0.5)
    seconds, _, errors = stop(process, signal.SIGINT)
    assert errors == "stopped\n"
    assert seconds < 2


@pytest.mark.parametrize(("sent", "moment"), [(signal.SIGINT, 0.3), (signal.SIGINT, None), (signal.SIGTERM, None)])
def test_a_stopped_command_is_back_within_two_seconds(
    sent: signal.Signals, moment: float | None, clusters_file: Path, tmp_path: Path
) -> None:
    """Ctrl-C while the workers start, and in the middle; and what a batch system sends."""
    options = [
        "--clusters",
        clusters_file,
        "--out",
        "o.zarr",
        "--samples-per-shard",
        1,
        "--workers",
        2,
        "--log",
        "json",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "fbind.cli", "materialize-blends", *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    if moment is None:
        while '"shard"' not in process.stdout.readline():
            pass
    else:
        while not process.stderr.readline().startswith("disk"):
            pass
        while not psutil.Process(process.pid).children():  # the workers have begun to start
            time.sleep(0.01)
        time.sleep(moment)
    seconds, _, errors = stop(process, sent)
    assert seconds < 2
    assert process.returncode == 130
    said = [line for line in errors.splitlines() if not re.match("warning: |[a-z]+ {2,}", line)]
    assert len(said) == 1, errors
    assert re.match("error: (interrupted|stopped.* run the same command again to go on)", said[0])


def test_a_worker_may_allocate_so_much_and_read_any_file(tmp_path: Path) -> None:
    """What it maps counts to its memory, too, as Dask and the system measure it, and may be far more."""
    limit = SMALLEST_MEMORY
    file = tmp_path / "sources"
    with file.open("wb") as opened:
        os.posix_fallocate(opened.fileno(), 0, 2 * limit)

    def read(path: str) -> tuple[int, int]:
        import mmap
        from pathlib import Path

        import psutil

        with Path(path).open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return sum(mapped[at] for at in range(0, len(mapped), 4096)), psutil.Process().memory_info().rss

    def allocate(size: int) -> int:
        return len(b"\1" * size)

    def enlarge(side: int) -> int:
        import cv2
        import numpy as np

        return cv2.resize(np.zeros((8, 8), np.uint8), (side, side)).size

    with open_pool(1, None, memory_limit=limit) as pool:
        assert list(pool.run(allocate, [limit // 2] * 5)) == [limit // 2] * 5
        total, resident = next(pool.run(read, [str(file)]))
        assert total == 0
        assert resident > limit
        message = rf"ran out of memory of --memory-limit, {limit >> 20} MiB .*: raise --memory-limit"
        with pytest.raises(ResourceError, match=message):
            list(pool.run(allocate, [limit]))
        with pytest.raises(ResourceError, match=message):
            list(pool.run(enlarge, [1 << 15]))
        assert list(pool.run(allocate, [1])) == [1]  # the worker has survived it


@pytest.mark.parametrize(
    ("scheduler", "limit", "message"),
    [("tcp://127.0.0.1:8786", SMALLEST_MEMORY, "give those of a cluster theirs"), (None, 1 << 20, "is 1 MiB for each")],
)
def test_memory_limits_that_can_not_be_kept(scheduler: str | None, limit: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message), open_pool(1, scheduler, memory_limit=limit):
        pass


def test_the_local_cluster_listens_on_the_loopback_interface_only() -> None:
    with open_pool(2, None) as pool:
        workers = {process for _, process in pool.run(nap(0.1), range(8))}
        sockets = [
            connection.laddr.ip
            for process in (os.getpid(), *workers)
            for connection in psutil.Process(process).net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
    assert len(sockets) >= 3  # the scheduler's and the workers'
    assert set(sockets) == {"127.0.0.1"}
