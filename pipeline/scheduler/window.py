"""A run of tasks: which of them are with the scheduler, and what becomes of them.

A run keeps a bounded *window* of tasks with the scheduler and hands in the next as results come, so that neither memory
nor the wait for the first result grows with their number. Tasks are idempotent, and so *at least once* is enough: one
that has been with a worker for much too long is given to another one as well, and the first result counts.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import queue
import secrets
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import distributed
from distributed.comm.core import CommClosedError

from ...manifests.errors import SchedulerError
from .client import LEAVE_SECONDS, ask, meaning
from .worker import call

WINDOW = 64
WINDOW_PER_THREAD = 8
"""Tasks that are with the scheduler at a time: enough that no worker ever waits for the next."""
TICK = 0.25
RECENT = 101
"""Tasks whose duration says what a task takes."""


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds, before something counts as lost."""

    look: float = 5
    """Between two looks at who works on what."""
    slow: float = 30
    """A task that has been with its worker for longer than this, and ``factor`` times the median, is given away."""
    factor: float = 20
    workers: float = 60
    """For a worker, when all are gone."""
    stalled: float = 600
    """For any result at all."""


PATIENCE = Patience()


@dataclass(eq=False)
class _Entry:
    """A task that is with the scheduler, in one copy or more."""

    task: Any
    futures: list[distributed.Future] = field(default_factory=list)
    worker: str | None = None
    """Where the latest copy is, as far as known, and since when."""
    since: float = 0
    avoid: set[str] = field(default_factory=set)


class _Delivery(NamedTuple):
    """What has become of one copy of a task: ``(seconds, result)`` or an error."""

    entry: _Entry
    outcome: tuple[float, Any] | Exception


class Run:
    """One call of :meth:`~fbind.pipeline.scheduler.Pool.run`."""

    def __init__(
        self, client: distributed.Client, patience: Patience, function: Callable[..., Any], shared: tuple[Any, ...]
    ) -> None:
        self._client, self._patience = client, patience
        self._loop: Any = client.loop
        self._call = functools.partial(call, function, shared)
        self._name = f"{getattr(function, '__name__', 'task')}-{secrets.token_hex(4)}"
        self._numbers = itertools.count()
        self._entries: dict[_Entry, None] = {}
        self._delivered: queue.SimpleQueue[_Delivery] = queue.SimpleQueue()
        self._recent: deque[float] = deque(maxlen=RECENT)
        # Seconds spent waiting here. A clock on the wall would go on while this process is suspended (Ctrl-Z), and on
        # waking everything would seem lost.
        self._clock = 0.0
        self._result_at = self._worker_at = 0.0
        self._look_at = 0.0
        self._window = WINDOW

    def results(self, tasks: Iterator[Any]) -> Iterator[Any]:
        """The results of the tasks, as they come; what raises, and when, is said at ``Pool.run``."""
        try:
            self._fill(tasks)
            while self._entries:
                delivery = self._wait()
                if delivery is not None and delivery.entry in self._entries:  # else another copy was faster
                    result = self._accept(*delivery)
                    self._fill(tasks)  # before the caller takes its time with the result
                    yield result
                if self._clock >= self._look_at:
                    self._look()
                    self._fill(tasks)
        finally:
            if self._entries:
                futures = [future for entry in self._entries for future in entry.futures]
                with contextlib.suppress(Exception):
                    ask(self._client, LEAVE_SECONDS, lambda: self._client.cancel(futures))

    def _fill(self, tasks: Iterator[Any]) -> None:
        """Hand in tasks up to the window, a quarter of it at a time or more.

        One at a time costs more, and of every time the scheduler keeps a note for good (benchmarks/scheduling.py).
        """
        if len(self._entries) > self._window * 3 // 4:
            return
        entries = [_Entry(task) for task in itertools.islice(tasks, self._window - len(self._entries))]
        if entries:
            keys = [self._key() for _ in entries]
            futures = self._client.map(self._call, [entry.task for entry in entries], key=keys, pure=False, retries=0)
            for entry, future in zip(entries, futures, strict=True):
                self._entries[entry] = None
                self._expect(entry, future)

    def _key(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    def _expect(self, entry: _Entry, future: distributed.Future) -> None:
        entry.futures.append(future)
        self._loop.add_callback(self._deliver, entry, future)

    async def _deliver(self, entry: _Entry, future: distributed.Future) -> None:
        """Fetch a result as soon as it is there, in the client's thread: a worker that hangs then blocks nobody."""
        try:
            self._delivered.put(_Delivery(entry, await future))
        except Exception as error:
            self._delivered.put(_Delivery(entry, error))

    def _wait(self) -> _Delivery | None:
        begin = time.monotonic()
        try:
            return self._delivered.get(timeout=TICK)
        except queue.Empty:
            return None
        finally:
            self._clock += min(time.monotonic() - begin, 2 * TICK)

    def _accept(self, entry: _Entry, outcome: tuple[float, Any] | Exception) -> Any:
        """The result of a task, which is then forgotten with all its copies. Raises what a task raised."""
        if isinstance(outcome, Exception):
            if (meant := meaning(outcome)) is not None:
                raise meant from outcome
            raise outcome
        del self._entries[entry]
        for future in entry.futures:
            future.release()
        seconds, result = outcome
        self._recent.append(seconds)
        self._result_at = self._clock
        return result

    def _look(self) -> None:
        """Ask who works on what, and act on it: adapt the window, give late tasks to another worker too, or give up."""
        self._look_at = self._clock + self._patience.look
        usual = self._patience.factor * statistics.median(self._recent) if self._recent else 0
        if self._clock - self._result_at > max(self._patience.stalled, usual):
            raise SchedulerError(
                f"nothing has been finished for {self._clock - self._result_at:.0f} s: the workers hang, or the disk "
                "they use does, or a task takes too long (a smaller --samples-per-shard helps); start them again, "
                "then run the same command to go on"
            )
        finished = [entry.futures[-1] for entry in self._entries if entry.futures[-1].done()]
        try:
            threads = ask(self._client, self._patience.look, self._client.nthreads)
            working = ask(self._client, self._patience.look, self._client.processing)
            holders = ask(self._client, self._patience.look, lambda: self._client.who_has(finished)) if finished else {}
        except (OSError, TimeoutError, CommClosedError):
            return  # a lost connection fails every task in a moment, and a silent scheduler shows as nothing finished
        if threads:
            self._worker_at = self._clock
        elif self._clock - self._worker_at > self._patience.workers:
            raise SchedulerError(
                f"all workers have been gone for {self._clock - self._worker_at:.0f} s: start some again, then run "
                "the same command to go on"
            )
        self._window = max(WINDOW, WINDOW_PER_THREAD * sum(threads.values()))
        if self._recent:  # without one, nobody knows what a task takes
            where = {key: worker for worker, keys in working.items() for key in keys}
            where |= {key: workers[0] for key, workers in holders.items() if workers}
            self._give_away_late(where, set(threads), max(self._patience.slow, usual))

    def _give_away_late(self, where: dict[Any, str], workers: set[str], limit: float) -> None:
        for entry in list(self._entries):
            worker = where.get(entry.futures[-1].key)
            if worker is None or worker != entry.worker:  # waiting in the scheduler, or just sent to a worker
                entry.worker, entry.since = worker, self._clock
            elif self._clock - entry.since > limit:
                entry.avoid.add(worker)
                if others := workers - entry.avoid:
                    # Others, but whoever there is if these are lost, too.
                    future = self._client.submit(
                        self._call,
                        entry.task,
                        key=self._key(),
                        pure=False,
                        retries=0,
                        workers=list(others),
                        allow_other_workers=True,
                        priority=1,
                    )
                    self._expect(entry, future)
                    entry.worker = None
