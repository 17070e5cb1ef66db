"""What a person or a program sees of a run: a progress bar, or JSON lines."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from .plan import Plan
    from .shardtask import Problem, ShardReport


class RichProgress:
    """Bars on standard error with counts, rate and time left; plain lines where that is not a terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>9}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def checking(self, done: int, total: int) -> None:
        """Move the bar of the source images."""
        self._move("sources", done, total)

    def left_out(self, problems: list[Problem], plan: Plan) -> None:
        """List the images that are left out."""
        for problem in problems:
            self._console.print(f"left out {problem.image_id}: {problem.error}", style="yellow", soft_wrap=True)
        self._console.print(
            f"{len(problems)} images left out, {plan.manifest.samples:,} samples remain", style="yellow", soft_wrap=True
        )

    def resuming(self, done: int, total: int) -> None:
        """Say that an interrupted store is gone on with."""
        self._console.print(f"going on: {done:,} of {total:,} shards are already written")

    def wrote(self, report: ShardReport, done: int, total: int) -> None:
        """Move the bar of the samples."""
        first = "samples" not in self._tasks
        self._move("samples", done, total, start=done - report.samples if first else 0)

    def _move(self, name: str, done: int, total: int, start: int = 0) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, completed=start, rate="")
        task = self._bars.tasks[self._tasks[name]]
        self._bars.update(task.id, completed=done, total=total, rate=f"{task.speed:,.0f}/s" if task.speed else "")


class JsonProgress:
    """One JSON object per line on standard output: every shard, and what else happens."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def checking(self, done: int, total: int) -> None:
        """Report the end of the pass over the sources; its progress is not worth a line."""
        if done == total:
            self._line(event="checked", images=total)

    def left_out(self, problems: list[Problem], plan: Plan) -> None:
        """Report every image that is left out."""
        for problem in problems:
            self._line(event="left-out", image=problem.image_id, why=str(problem.error))
        self._line(event="replanned", samples=plan.manifest.samples)

    def resuming(self, done: int, total: int) -> None:
        """Report that an interrupted store is gone on with."""
        self._line(event="resuming", shards_done=done, shards=total)

    def wrote(self, report: ShardReport, done: int, total: int) -> None:
        """Report one shard."""
        told = {name: getattr(report, name) for name in ("shard", "samples", "bytes", "seconds")}
        self._line(event="shard", **told, samples_done=done, samples_total=total)

    @staticmethod
    def _line(**fields: object) -> None:
        sys.stdout.write(json.dumps(fields) + "\n")
        sys.stdout.flush()
