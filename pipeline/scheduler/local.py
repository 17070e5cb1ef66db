"""The cluster of this machine: worker processes that come up, and end, with a command."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing import resource_tracker
from typing import Any

import dask.config
import distributed

from ...manifests.errors import ConfigError, ResourceError
from .worker import Prepare

SMALLEST_MEMORY = 256 << 20
"""Bytes; an idle worker with everything imported takes less than half of it."""
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": 256 << 20, "MALLOC_MMAP_THRESHOLD_": 32 << 20}
"""glibc settings of the local workers. Dask's own give every freed image back to the system at once, and a third of
the time of a blend would go into faulting the same pages in again."""
LOCAL_CONFIG = {
    "distributed.worker.profile.enabled": False,  # it would stop every thread a hundred times a second
    "distributed.diagnostics.nvml": False,
}


def check_limit(memory_limit: int, scheduler: str | None) -> None:
    """Raise :class:`ConfigError` for a memory limit, in bytes, that can't be kept."""
    if scheduler is not None:
        raise ConfigError(
            "--memory-limit is for workers that this command starts: give those of a cluster theirs when you start "
            "them (`dask worker --memory-limit`)"
        )
    if not sys.platform.startswith("linux"):
        raise ConfigError("--memory-limit is kept by the Linux kernel, and this is another system: leave it out")
    if memory_limit < SMALLEST_MEMORY:
        raise ConfigError(
            f"--memory-limit is {memory_limit >> 20} MiB for each worker, less than the {SMALLEST_MEMORY >> 20} MiB "
            "that a worker needs: raise it"
        )


@contextlib.contextmanager
def local_client(workers: int, prepare: Prepare) -> Iterator[Callable[[], distributed.Client]]:
    """Start single-threaded workers; yields a call that waits until they are there and returns their client.

    They end with the caller; when it leaves by an exception, they are killed. The call raises
    :class:`ResourceError` when they can't be started.
    """
    started: Future[tuple[distributed.LocalCluster, distributed.Client]] = Future()

    def start() -> None:
        # This thread and, as they inherit it, all processes that the cluster ever starts leave Ctrl-C to the main
        # thread: a terminal sends it to all of them, and each would print a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            started.set_result(_start(workers, prepare))
        except Exception as error:
            started.set_exception(error)

    _start_tracker()
    with dask.config.set({**LOCAL_CONFIG, "distributed.nanny.pre-spawn-environ": _environment()}):
        threading.Thread(target=start, name="start workers", daemon=True).start()
        try:
            yield lambda: started.result()[1]
        except BaseException:
            _stop_starting(started)
            with contextlib.suppress(Exception):
                _kill(started.result(0)[0])
            raise
        finally:
            with contextlib.suppress(Exception):  # what could not be started needs no end
                cluster, client = started.result()
                client.close()
                cluster.close()


def _start_tracker() -> None:
    """Start the helper of multiprocessing that removes what killed processes leave, and have it do that in silence.

    Otherwise it warns of a semaphore that numcodecs makes in each of them. It would be started with the first worker,
    too, but then unblocks Ctrl-C there.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (before, "ignore:resource_tracker:UserWarning")))
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


def _start(workers: int, prepare: Prepare) -> tuple[distributed.LocalCluster, distributed.Client]:
    try:
        cluster = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # None would still listen, on a fixed port
            memory_limit=0,
            security=distributed.Security(require_encryption=False),  # whatever a cluster elsewhere requires
            silence_logs=logging.CRITICAL,
            plugins=(prepare,),  # of every worker, those that replace others included
        )
    except (OSError, RuntimeError) as error:
        raise ResourceError(f"can't start {workers} worker processes ({error}): use fewer --workers") from error
    return cluster, distributed.Client(cluster, set_as_default=False)


def _stop_starting(started: Future[Any]) -> None:
    """Let a start that is under way fail, by ending the processes that it waits for."""
    while not started.done():
        for child in multiprocessing.active_children():
            if child.name.startswith("Dask Worker"):
                child.kill()
        time.sleep(0.02)


def _kill(cluster: distributed.LocalCluster) -> None:
    """End the worker processes at once. Shards are written atomically, so there is nothing to wait for."""
    for nanny in cluster.workers.values():
        nanny.close_gracefully()  # it shall not start another
        if nanny.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


def _environment() -> dict[str, object]:
    return {**dask.config.get("distributed.nanny.pre-spawn-environ"), **KEEP_MEMORY}
