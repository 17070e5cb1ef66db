"""Where tasks run: the one module that knows Dask."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import dask.config
import distributed
from distributed.client import FutureCancelledError
from distributed.comm.core import CommClosedError

from ..manifests.errors import SchedulerError

CONNECT_SECONDS = 10
WORKER_SECONDS = 60
IDLE_SECONDS = 10
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": 256 << 20, "MALLOC_MMAP_THRESHOLD_": 32 << 20}
"""glibc settings of the local workers. Dask's own give every freed image back to the system at once, and a third of
the time of a blend would go into faulting the same pages in again."""


class Pool:
    """Worker processes behind a Dask client."""

    def __init__(self, client: distributed.Client) -> None:
        self._client = client

    def run(self, function: Callable[..., Any], tasks: Iterable[Any], *shared: Any) -> Iterator[Any]:
        """Call ``function(task, *shared)`` for every task, one Dask task each, and yield results as they come.

        The first error stops everything that has not started and is raised here. Raises :class:`SchedulerError` when
        the workers or the scheduler are lost.
        """
        futures = [self._client.submit(function, task, *shared, pure=False, retries=0) for task in tasks]
        try:
            for future in distributed.as_completed(futures):
                yield future.result()
        except distributed.KilledWorker as error:
            raise SchedulerError(
                f"a task killed its workers several times ({error.last_worker.address if error.last_worker else '?'}): "
                "they probably ran out of memory; use fewer --workers or a smaller --samples-per-shard"
            ) from error
        except (CommClosedError, FutureCancelledError) as error:
            raise SchedulerError(
                "the connection to the Dask scheduler was lost: start it again, then run the same command to go on"
            ) from error
        finally:
            # What runs already can't be stopped; whoever tidies up or writes there next must not meet it.
            unfinished = [future for future in futures if not future.done()]
            if unfinished:
                with contextlib.suppress(Exception):
                    self._client.cancel(unfinished)
                    self._wait_for({future.key for future in unfinished})

    def _wait_for(self, keys: set[Any]) -> None:
        limit = time.monotonic() + IDLE_SECONDS
        while time.monotonic() < limit:
            processing: Any = self._client.processing()
            if not any(keys.intersection(running) for running in processing.values()):
                return
            time.sleep(0.05)

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call ``function`` once in every worker process; what fails there is ignored (this is for tidying up)."""
        with contextlib.suppress(Exception):
            self._client.run(function, *arguments, on_error="ignore")


@contextlib.contextmanager
def open_pool(workers: int, scheduler: str | None) -> Iterator[Pool]:
    """Start ``workers`` single-threaded processes on this machine, or use the cluster at ``scheduler``.

    ``scheduler`` is an address (``tcp://host:8786``) or the path of a scheduler file. The local cluster listens on the
    loopback interface only. Raises :class:`SchedulerError` when no scheduler answers or it has no workers.
    """
    with contextlib.ExitStack() as stack:
        # A lost connection shows up as an exception here; the log lines that go with it would bury its message.
        stack.enter_context(_quiet("distributed", "tornado", "asyncio"))
        if scheduler is None:
            stack.enter_context(dask.config.set({"distributed.nanny.pre-spawn-environ": _environment()}))
            with _no_interrupts():
                cluster = distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",  # None would still listen, on a fixed port
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,
                )
            stack.enter_context(cluster)
            client = stack.enter_context(distributed.Client(cluster))
        else:
            client = stack.enter_context(_connect(scheduler))
        yield Pool(client)


def _environment() -> dict[str, object]:
    return {**dask.config.get("distributed.nanny.pre-spawn-environ"), **KEEP_MEMORY}


def _connect(scheduler: str) -> distributed.Client:
    is_file = scheduler.endswith(".json")
    address = _address_in(Path(scheduler)) if is_file else scheduler
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise SchedulerError(
            f"no Dask scheduler answers at {address}: check the address and that `dask scheduler` runs, or leave "
            "--scheduler out to use this machine"
        ) from error
    try:
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
    except TimeoutError:
        client.close()
        start = f"dask worker --scheduler-file {scheduler}" if is_file else f"dask worker {scheduler}"
        raise SchedulerError(
            f"the scheduler at {address} has no workers after {WORKER_SECONDS} s: start some with `{start}`"
        ) from None
    return client


def _address_in(file: Path) -> str:
    """The address in a scheduler file; read here because Dask would wait for ever for one that is not there."""
    try:
        return str(json.loads(file.read_bytes())["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SchedulerError(
            f"can't read a scheduler's address from {file} ({type(error).__name__}): name the file that "
            "`dask scheduler --scheduler-file` has written"
        ) from error


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C for the moment of starting workers, which inherit that for good.

    A terminal sends it to the workers too, and each would print a traceback. This process ends them when it gets it.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers, and gets Ctrl-C
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
