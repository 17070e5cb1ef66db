"""What scheduling costs, however many recipes there are: 10 million are 156,250 shards of 64, one Dask task each.

A scheduler and two workers run as processes of their own, over TCP; the tasks do nothing. First the way fbind does it,
a window of tasks at a time; then, for comparison, some of them handed in all at once by a plain Dask client.

    python benchmarks/scheduling.py
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
import distributed
import psutil
from dask._task_spec import Task

from fbind.manifests.clusters import SourceSpec
from fbind.pipeline.pixels import Origin
from fbind.pipeline.scheduler import open_pool
from fbind.pipeline.scheduler.worker import call
from fbind.pipeline.shardtask import make_shard


def windowed(address: str, tasks: int) -> Iterator[object]:
    with open_pool(1, address) as pool:
        yield from pool.run(abs, range(tasks))


def at_once(address: str, tasks: int) -> Iterator[object]:
    with distributed.Client(address) as client:
        futures = [client.submit(abs, task, pure=False) for task in range(tasks)]
        for future in distributed.as_completed(futures):
            yield future.result()


def measure(mode: str, address: str, scheduler: int, tasks: int) -> None:
    """Run the tasks in this process, the client, and print memory on the way and the rate as JSON."""
    processes = {"client": psutil.Process(), "scheduler": psutil.Process(scheduler)}
    begin, first = time.perf_counter(), 0.0
    for count, _ in enumerate((windowed if mode == "windowed" else at_once)(address, tasks), start=1):
        if count in (1, tasks // 2, tasks):
            first = first or time.perf_counter() - begin
            memory = {name: process.memory_info().rss / 1e6 for name, process in processes.items()}
            print(json.dumps({"done": count} | memory), flush=True)
    seconds = time.perf_counter() - begin
    print(json.dumps({"first": first, "seconds": seconds}), flush=True)


def cluster_and(mode: str, tasks: int) -> None:
    """Start a scheduler and two workers, and a client that measures."""
    with tempfile.TemporaryDirectory(prefix="fbind-benchmark-") as folder:
        file = Path(folder) / "scheduler.json"
        start = [sys.executable, "-m", "dask"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
        local = ["--host", "127.0.0.1", "--no-dashboard"]
        begin = [*start, "scheduler", *local, "--port", "0", "--scheduler-file", str(file)]
        processes = [subprocess.Popen(begin, **quiet)]  # type: ignore[call-overload]
        try:
            while not file.exists() or not file.read_text():
                time.sleep(0.05)
            address = json.loads(file.read_text())["address"]
            work = [*start, "worker", address, *local, "--nthreads", "1", "--no-nanny"]
            processes += [subprocess.Popen(work, **quiet) for _ in range(2)]  # type: ignore[call-overload]
            command = [
                sys.executable,
                __file__,
                "--client",
                mode,
                address,
                str(processes[0].pid),
                "--tasks",
                str(tasks),
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait(30)
    *memory, rate = map(json.loads, done.stdout.splitlines())
    click.echo(
        f"{mode}, {tasks:,} tasks: first result after {rate['first']:.2f} s, all after {rate['seconds']:.0f} s, "
        f"{tasks / rate['seconds']:.0f}/s, {1e3 * rate['seconds'] / tasks:.1f} ms each"
    )
    for at in memory:
        click.echo(
            f"  after {at['done']:>9,} results: scheduler {at['scheduler']:6.0f} MB, client {at['client']:6.0f} MB"
        )


@click.command()
@click.option("--tasks", default=156_250, show_default=True, help="Shards of the simulated store.")
@click.option("--at-once", default=20_000, show_default=True, help="How many of them a plain client hands in at once.")
@click.option("--client", nargs=3, type=(str, str, int), default=None, hidden=True)
def main(tasks: int, at_once: int, client: tuple[str, str, int] | None) -> None:
    if client is not None:
        measure(*client, tasks)
        return
    origin = Origin("0" * 24, SourceSpec(kind="voc", root="/data/VOC2012", split="train_aug"), False, "/scratch", None)
    bound = functools.partial(call, make_shard, ("/data/blends.zarr", "0" * 64, origin))
    task = Task("make_shard-00000000-0", bound, 0)
    version = metadata.version("distributed")
    click.echo(f"distributed {version}, {os.cpu_count()} cores; one shard's task: {len(pickle.dumps(task)):,} bytes")
    cluster_and("windowed", tasks)
    cluster_and("at once", at_once)


if __name__ == "__main__":
    main()
