"""What runs in a worker process: the calls of tasks and, in a local one, what comes before the first of them."""

from __future__ import annotations

import errno
import importlib
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distributed

from ...manifests.errors import ResourceError

_limit: int | None = None
"""In a worker: the limit it was given, in bytes."""


def call(function: Callable[..., Any], shared: tuple[Any, ...], task: Any) -> tuple[float, Any]:
    """What a worker runs: returns the seconds that the task took, and its result."""
    begin = time.perf_counter()
    try:
        result = function(task, *shared)
    except Exception as error:
        if _is_out_of_memory(error):
            told = " ".join(str(error).split())  # OpenCV's has two lines
            limit = f" of --memory-limit, {_limit >> 20} MiB" if _limit else ""
            mend = "raise --memory-limit" if _limit else "use fewer --workers"
            raise ResourceError(
                f"a task ran out of memory{limit} ({told}): {mend}, or use a smaller --samples-per-shard"
            ) from error
        raise
    return time.perf_counter() - begin, result


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or "Insufficient memory" in str(error)  # the latter is OpenCV's


class Prepare(distributed.WorkerPlugin):
    """What a local worker does before its first task."""

    name = "fbind"

    def __init__(self, imports: tuple[str, ...], memory_limit: int | None) -> None:
        self._imports, self._memory_limit = imports, memory_limit

    def setup(self, worker: distributed.Worker) -> None:
        """What Dask calls in every worker process as it starts."""
        del worker
        for module in self._imports:
            importlib.import_module(module)
        if self._memory_limit is not None:
            _limit_memory(self._memory_limit)


def _limit_memory(limit: int) -> None:
    """Let this process allocate no more than ``limit`` bytes; an allocation beyond that fails.

    Dask's own limit counts every page of a mapped file that happens to be in memory, so the workers that share the
    decoded sources would be killed for reading them. The system's counts what is reserved, such as the stacks of
    threads, so what is reserved and not used by now comes on top.
    """
    global _limit
    _limit = limit
    usage = _usage()
    limit += max(0, usage["VmData"] - usage["RssAnon"])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _usage() -> dict[str, int]:
    """Memory of this process by kind, in bytes (Linux)."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines if words[-1] == "kB"}
