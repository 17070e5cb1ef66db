"""Worker processes, of this machine or of a cluster, behind one interface."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import distributed

from .client import ask
from .local import check_limit, local_client
from .remote import remote_client
from .window import PATIENCE, Patience, Run
from .worker import Prepare

EVERYWHERE_SECONDS = 5


class Pool:
    """Worker processes behind a Dask client."""

    def __init__(self, client: Callable[[], distributed.Client], patience: Patience = PATIENCE) -> None:
        self._client = client  # a call, which waits until it is there
        self._patience = patience

    def run(self, function: Callable[..., Any], tasks: Iterable[Any], *shared: Any) -> Iterator[Any]:
        """Call ``function(task, *shared)`` for every task, one Dask task each, and yield results as they come.

        ``tasks`` is consumed as results come, and may be longer than memory. A task may run more than once, and yields
        one result. The first error stops everything that has not started and is raised here; what runs already ends by
        itself. Raises :class:`~fbind.manifests.errors.SchedulerError` when the workers or the scheduler are lost or
        hang, and :class:`~fbind.manifests.errors.ResourceError` when a task runs out of memory.
        """
        return Run(self._client(), self._patience, function, shared).results(iter(tasks))

    def everywhere(self, function: Callable[..., Any], *arguments: Any, seconds: float = EVERYWHERE_SECONDS) -> None:
        """Call ``function`` once in every worker process, and wait at most ``seconds`` for all of them.

        What fails there is ignored (this is for tidying up).
        """
        with contextlib.suppress(Exception):
            client = self._client()
            ask(client, seconds, lambda: client.run(function, *arguments, on_error="ignore"))


@contextlib.contextmanager
def open_pool(
    workers: int,
    scheduler: str | None,
    *,
    imports: tuple[str, ...] = (),
    memory_limit: int | None = None,
    patience: Patience = PATIENCE,
) -> Iterator[Pool]:
    """Start ``workers`` single-threaded processes on this machine, or use the cluster at ``scheduler``.

    ``scheduler`` is an address (``tcp://host:8786``, ``tls://…``) or the path of a scheduler file. The local cluster
    listens on the loopback interface only; its processes come up while the caller goes on, and import the modules
    ``imports`` before their first task. ``memory_limit`` is in bytes, for each local worker: what it allocates, without
    the files that it maps. When the caller leaves by an exception, local workers are killed and tasks of a cluster that
    run already end by themselves.

    Raises :class:`~fbind.manifests.errors.SchedulerError` when no scheduler answers or it has no workers, and
    :class:`~fbind.manifests.errors.ConfigError` for a memory limit that can't be kept.
    """
    if memory_limit is not None:
        check_limit(memory_limit, scheduler)
    with contextlib.ExitStack() as stack:
        # A lost connection shows up as an exception here; the log lines that go with it would bury its message.
        stack.enter_context(_quiet("distributed", "tornado", "asyncio"))
        client = stack.enter_context(
            remote_client(scheduler) if scheduler else local_client(workers, Prepare(imports, memory_limit))
        )
        yield Pool(client, patience)


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
