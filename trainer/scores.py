"""The result of an evaluation as a file (:class:`Evaluation`), and as tables."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, ValidationError
from rich.table import Table

from ..manifests.base import Frozen, first_problem, unwritable, write_atomically
from ..manifests.errors import ConfigError, ManifestError, MissingFileError, UnknownVersionError
from ..manifests.strategies import Strategy
from .provenance import Ancestor

FORMAT = "fbind.metrics"
VERSION = 1
PROTOCOL = (
    "full image resolution, one confusion matrix over all images, void excluded, "
    "classes absent from both prediction and truth left out of the mean"
)

Target = Literal["dominant", "phantom"]


class Finite(Frozen):
    """A frozen record without NaN and infinities."""

    model_config = ConfigDict(allow_inf_nan=False)


class Score(Finite):
    """One head against one label map: shares in [0, 1]; ``iou`` is ``None`` for a class that nobody has."""

    head: Literal["dominant", "binding", "phantom"]
    target: Target
    mean_iou: float
    pixel_accuracy: float
    iou: dict[str, float | None]

    @property
    def classes_in_mean(self) -> int:
        """How many classes the mean is over."""
        return sum(value is not None for value in self.iou.values())


class CheckpointIdentity(Frozen):
    """Which checkpoint was scored; ``weights`` and ``init`` are what it started from (``init`` a file's digest).

    ``ancestors`` are the runs before the checkpoint's own, the oldest first; ``batch`` is its own.
    """

    path: str
    digest: str
    network: str
    stage: str
    step: int
    total_steps: int
    batch: int
    seed: int
    weights: str
    init: str | None
    ancestors: tuple[Ancestor, ...] = ()
    trained_on: str

    @property
    def progress(self) -> str:
        """The steps of the whole line of runs, such as ``800 + 150``; an unfinished run says so."""
        own = str(self.step) if self.step == self.total_steps else f"{self.step} of {self.total_steps} (unfinished)"
        return " + ".join([*(str(ancestor.steps) for ancestor in self.ancestors), own])

    @property
    def budget(self) -> int:
        """How many samples the whole line of runs has seen, repeated ones counted each time."""
        return sum(ancestor.steps * ancestor.batch for ancestor in self.ancestors) + self.step * self.batch


class StoreIdentity(Frozen):
    """What it was scored on."""

    path: str
    digest: str
    split: str
    strategy: Strategy
    samples: int

    @property
    def unit(self) -> str:
        """What its samples are."""
        return "images" if not self.strategy.blended else "blends"


class Evaluation(Finite):
    """Everything ``fbind evaluate`` found out.

    ``phantom_activation`` is the mean over images of Σ ReLU(S_p), summed over h·w·K of the native logits at full
    resolution; ``None`` for a network without a phantom branch.
    """

    format: Literal["fbind.metrics"] = FORMAT
    version: Literal[1] = VERSION
    protocol: str = PROTOCOL
    checkpoint: CheckpointIdentity
    store: StoreIdentity
    images: int = Field(ge=1)
    scores: tuple[Score, ...]
    phantom_activation: float | None
    software: dict[str, str]

    def score(self, head: str, target: Target) -> Score | None:
        """The score of a head against a label map, if there is one."""
        return next((score for score in self.scores if (score.head, score.target) == (head, target)), None)


def save_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write ``metrics.json`` atomically; raises :class:`~fbind.manifests.errors.ResourceError` when it can't be."""
    write_atomically(path, (evaluation.model_dump_json(indent=2) + "\n").encode())


def check_target(path: Path) -> None:
    """Make the folder of a metrics file that is about to be computed, and make sure that it can be written.

    Raises :class:`ConfigError` where something other than an earlier metrics file is in the way, and
    :class:`~fbind.manifests.errors.ResourceError` for an unwritable folder.
    """
    if path.exists() and not is_evaluation(path):
        raise ConfigError(f"{path} exists and is not a metrics file of fbind: choose another --out")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    if not os.access(path.parent, os.W_OK):
        raise unwritable(path, PermissionError(errno.EACCES, "permission denied"))


def is_evaluation(path: Path) -> bool:
    """Whether a file is a metrics file of fbind, of whatever version."""
    try:
        plain = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(plain, dict) and plain.get("format") == FORMAT


def load_evaluation(path: Path) -> Evaluation:
    """Read a ``metrics.json``.

    Raises :class:`MissingFileError`, :class:`ManifestError`, or :class:`UnknownVersionError`.
    """
    again = "write it again with `fbind evaluate --out`"
    try:
        plain = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise MissingFileError(f"no metrics at {path}: {again}") from None
    except OSError as error:
        raise MissingFileError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ManifestError(f"{path} is not valid JSON ({error}): {again}") from None
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise ManifestError(f'{path} is not a metrics file (its "format" is not "{FORMAT}"): {again}')
    if plain.get("version") != VERSION:
        raise UnknownVersionError(f"{path} has version {plain.get('version')!r}, this fbind reads {VERSION}: {again}")
    try:
        return Evaluation.model_validate_json(json.dumps(plain))
    except ValidationError as error:
        raise ManifestError(f"{path} is inconsistent ({first_problem(error)}): {again}") from None


def score_table(evaluation: Evaluation) -> Table:
    """Per-class IoU in percent, a column per head and label map, means and accuracies below."""
    checkpoint, store = evaluation.checkpoint, evaluation.store
    table = Table(
        title=f"{checkpoint.stage} ({checkpoint.network}) after {checkpoint.progress} steps, on {evaluation.images} "
        f"{store.unit} of {store.split}",
        caption=f"IoU in %; {evaluation.protocol}",
        show_footer=False,
    )
    table.add_column("class")
    for score in evaluation.scores:
        table.add_column(heading(score), justify="right")
    for name in evaluation.scores[0].iou:
        table.add_row(name, *(percent(score.iou[name]) for score in evaluation.scores))
    table.add_section()
    table.add_row("mIoU", *(percent(score.mean_iou) for score in evaluation.scores), style="bold")
    table.add_row("classes in the mean", *(str(score.classes_in_mean) for score in evaluation.scores))
    table.add_row("pixel accuracy", *(percent(score.pixel_accuracy) for score in evaluation.scores))
    return table


def heading(score: Score) -> str:
    """A score's column: the head, and the label map where it is not the head's own."""
    own = "phantom" if score.head == "phantom" else "dominant"
    return score.head if score.target == own else f"{score.head} vs. {score.target} labels"


def comparison_table(runs: Mapping[str, Evaluation]) -> Table:
    """One row per run: what it is and its scores in percent."""
    table = Table(title="Comparison", caption="mIoU and pixel accuracy in %; Σ ReLU(S_p) is a mean per image")
    for column in ("run", "stage", "network"):
        table.add_column(column)
    numbers = ("steps", "mIoU dominant", "mIoU binding", "mIoU phantom", "accuracy dominant", "Σ ReLU(S_p)")
    for column in numbers:
        table.add_column(column, justify="right")
    table.add_column("store")
    for name, run in runs.items():
        dominant, binding, phantom = (
            run.score("dominant", "dominant"),
            run.score("binding", "dominant"),
            run.score("phantom", "phantom"),
        )
        table.add_row(
            name,
            run.checkpoint.stage,
            run.checkpoint.network,
            run.checkpoint.progress,
            percent(dominant and dominant.mean_iou),
            percent(binding and binding.mean_iou),
            percent(phantom and phantom.mean_iou),
            percent(dominant and dominant.pixel_accuracy),
            "–" if run.phantom_activation is None else f"{run.phantom_activation:,.1f}",
            f"{run.store.split}, {run.images} {run.store.unit}",
        )
    return table


def differences(runs: Mapping[str, Evaluation]) -> list[str]:
    """Why the runs' numbers can't be held against each other as they are; empty when they can."""
    warnings = []
    if len({run.protocol for run in runs.values()}) > 1:
        warnings.append("the runs were scored under different protocols: " + each(runs, lambda run: run.protocol))
    if len({(run.store.digest, run.images) for run in runs.values()}) > 1:
        warnings.append(
            "the runs were scored on different images: "
            + each(runs, lambda run: f"{run.images} of {run.store.path} ({run.store.digest[:19]}…)")
        )
    if len({run.checkpoint.budget for run in runs.values()}) > 1:
        warnings.append(
            "the runs were trained on different numbers of samples (steps x batch): "
            + each(runs, lambda run: f"{run.checkpoint.budget:,}")
        )
    if unfinished := [name for name, run in runs.items() if run.checkpoint.step < run.checkpoint.total_steps]:
        warnings.append("not trained to the end: " + ", ".join(unfinished))
    return warnings


def each(runs: Mapping[str, Evaluation], say: Callable[[Evaluation], str]) -> str:
    """``say`` of every run, after its name."""
    return "; ".join(f"{name}: {say(run)}" for name, run in runs.items())


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal."""
    return "–" if share is None else f"{100 * share:.1f}"
