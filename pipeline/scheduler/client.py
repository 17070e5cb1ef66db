"""Talking with a Dask client: a question has an end, and an error a meaning."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import distributed
from distributed.comm.core import CommClosedError

from ...manifests.errors import SchedulerError

LEAVE_SECONDS = 1
"""How long a client that leaves waits for the scheduler to take note of it."""


def ask(client: distributed.Client, seconds: float, question: Callable[[], Any]) -> Any:
    """The answer to a question that is asked in the client's thread. Raises :class:`TimeoutError` after ``seconds``."""

    async def bounded() -> Any:
        return await asyncio.wait_for(question(), seconds)

    return client.sync(bounded)


def meaning(error: Exception) -> SchedulerError | None:
    """What an error of Dask's own means to the user; ``None`` for one of a task."""
    if isinstance(error, distributed.KilledWorker):
        return SchedulerError(
            f"a task killed its workers several times ({error.last_worker.address if error.last_worker else '?'}): "
            "they probably ran out of memory; use fewer --workers or a smaller --samples-per-shard"
        )
    if isinstance(error, CommClosedError | CancelledError):
        return SchedulerError(
            "the connection to the Dask scheduler was lost: start it again, then run the same command to go on"
        )
    return None
