"""A run's folder (:class:`RunFolder`) and what is written to it while training (:class:`RunLog`)."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Self

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..manifests.base import unwritable, write_atomically
from ..manifests.errors import CheckpointError, StoreExistsError
from .checkpoint import load_checkpoint
from .config import TrainConfig
from .scores import is_evaluation


class RunFolder:
    """Where the files of a run lie."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.checkpoint = path / "checkpoint.pt"

    def check_free(self, config: TrainConfig, *, overwrite: bool) -> None:
        """Raise :class:`StoreExistsError` when the folder holds anything that may not be, or is not ours to, replace.

        A run of the same ``config`` that was not finished may be replaced without ``overwrite``.
        """
        if not self.path.exists() and not self.path.is_symlink():
            return
        if not self.path.is_dir():
            raise StoreExistsError(f"{self.path} is a file: choose another --run")
        if not any(self.path.iterdir()):
            return
        try:
            former = TrainConfig.model_validate_json(self.config.read_bytes())
        except (OSError, ValidationError):
            raise StoreExistsError(f"{self.path} holds files that are not a run's: choose another --run") from None
        if not overwrite and not (former == config and self._unfinished()):
            raise StoreExistsError(
                f"{self.path} already holds a run: choose another --run, or replace it (--overwrite)"
            )

    def _unfinished(self) -> bool:
        if not self.checkpoint.exists():
            return True
        try:
            return not load_checkpoint(self.checkpoint).record.finished
        except CheckpointError:
            return False  # it may be worth something to whoever can read it

    def create(self, config: TrainConfig) -> None:
        """Make the folder, remove an earlier run's files and scores from it and write ``config.json``.

        Raises :class:`~fbind.manifests.errors.ResourceError` when the place can't be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for file in (self.checkpoint, self.metrics, *filter(is_evaluation, self.path.glob("*.json"))):
                file.unlink(missing_ok=True)
            if self.tensorboard.exists():
                shutil.rmtree(self.tensorboard)
        except OSError as error:
            raise unwritable(self.path, error) from error
        write_atomically(self.config, (config.model_dump_json(indent=2) + "\n").encode())


class Means:
    """Running means of loss terms, for the lines of a log."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, values: dict[str, float]) -> None:
        """Count one step's values in."""
        self._count += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: value / self._count for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        return means


class RunLog(AbstractContextManager["RunLog"]):
    """Writes one record per ``every`` steps to ``metrics.jsonl``, TensorBoard and the terminal.

    A record holds the step (from 1), its epoch (from 0) and learning rate, and over the steps since the last record the
    mean of every loss term, the samples per second and the share of the time (0 to 1) spent waiting for data. On a
    terminal a progress bar shows the latest record; elsewhere every record is a line. ``console`` is ``None`` for
    silence.
    """

    def __init__(self, folder: RunFolder, total: int, every: int, batch: int, console: Console | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._total, self._every, self._batch = total, every, batch
        self._console = console
        self._path = folder.path
        with ExitStack() as stack:
            try:
                self._file = stack.enter_context(folder.metrics.open("w", encoding="utf-8"))
                self._board = SummaryWriter(str(folder.tensorboard))
            except OSError as error:
                raise unwritable(folder.path, error) from error
            stack.callback(self._board.close)
            self._open = stack.pop_all()
        self._means = Means()
        self._start = self._since = time.perf_counter()
        self._waited = 0.0
        self._steps = 0
        self._progress = progress_bar(console) if console is not None and console.is_terminal else None
        self._task = self._progress.add_task("training", total=total, line="") if self._progress else None

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
            self._open.callback(self._progress.stop)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self._open.close()
        except OSError as error:
            # Closing a file flushes it, and fails once more where writing has failed: the first error says why.
            if kind is None:
                raise unwritable(self._path, error) from error

    def step(self, step: int, epoch: int, lr: float, terms: dict[str, float], waited: float) -> None:
        """Count in step ``step`` (from 1); ``waited``: seconds waited for data since the run began."""
        self._means.add(terms)
        self._steps += 1
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=step)
        if step % self._every == 0 or step == self._total:
            now = time.perf_counter()
            passed = max(now - self._since, 1e-9)
            self._record(
                {
                    "step": step,
                    "epoch": epoch,
                    **self._means.take(),
                    "lr": lr,
                    "samples_per_s": self._steps * self._batch / passed,
                    "data_wait_share": min((waited - self._waited) / passed, 1.0),
                    "elapsed_s": now - self._start,
                }
            )
            self._since, self._waited, self._steps = now, waited, 0

    def _record(self, record: dict[str, float]) -> None:
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
            for name, value in record.items():
                if name not in ("step", "elapsed_s"):
                    self._board.add_scalar(name.replace("loss_", "loss/"), value, int(record["step"]))
        except OSError as error:
            raise unwritable(self._path, error) from error
        if self._progress and self._task is not None:
            self._progress.update(self._task, line=line(record, self._total))
        elif self._console is not None:
            self._console.print(line(record, self._total), highlight=False, soft_wrap=True)


def line(record: dict[str, float], total: int) -> str:
    """A record for people."""
    losses = "  ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in record.items() if "loss" in name)
    return (
        f"step {record['step']:.0f}/{total}  {losses}  lr {record['lr']:.2e}  "
        f"{record['samples_per_s']:.1f} samples/s  {record['data_wait_share']:.0%} waiting for data"
    )


def progress_bar(console: Console) -> Progress:
    """The bar shown on a terminal; its task's ``line`` is the latest record."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[line]}"), console=console)
