"""The result of an evaluation as a file (:class:`Evaluation`), and as tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from rich.table import Table

from ..manifests.base import Frozen, first_problem, write_atomically
from ..manifests.errors import ManifestError, MissingFileError, UnknownVersionError
from ..manifests.store import Strategy

FORMAT = "fbind.metrics"
VERSION = 1
PROTOCOL = (
    "native resolution, one confusion matrix over all images, void excluded, "
    "classes absent from both prediction and truth left out of the mean"
)

Target = Literal["dominant", "phantom"]


class Score(Frozen):
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
    """Which checkpoint was scored; ``weights`` and ``init`` are what it started from (``init`` a file's digest)."""

    path: str
    digest: str
    network: str
    stage: str
    step: int
    total_steps: int
    seed: int
    weights: str
    init: str | None
    trained_on: str


class StoreIdentity(Frozen):
    """What it was scored on."""

    path: str
    digest: str
    split: str
    strategy: Strategy
    samples: int


class Evaluation(Frozen):
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
        title=f"{checkpoint.stage} ({checkpoint.network}) after {checkpoint.step} steps, on {evaluation.images} images "
        f"of {store.split}",
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
            str(run.checkpoint.step),
            percent(dominant and dominant.mean_iou),
            percent(binding and binding.mean_iou),
            percent(phantom and phantom.mean_iou),
            percent(dominant and dominant.pixel_accuracy),
            "–" if run.phantom_activation is None else f"{run.phantom_activation:,.1f}",
            f"{run.store.split}, {run.images} {'images' if run.store.strategy.name == 'none' else 'blends'}",
        )
    return table


def differences(runs: Mapping[str, Evaluation]) -> list[str]:
    """Why the runs' numbers can't be held against each other; empty when they can."""
    warnings = []
    if len({run.protocol for run in runs.values()}) > 1:
        warnings.append("the runs were scored under different protocols: " + each(runs, lambda run: run.protocol))
    if len({(run.store.digest, run.images) for run in runs.values()}) > 1:
        warnings.append(
            "the runs were scored on different images: "
            + each(runs, lambda run: f"{run.images} of {run.store.path} ({run.store.digest[:19]}…)")
        )
    return warnings


def each(runs: Mapping[str, Evaluation], say: Callable[[Evaluation], str]) -> str:
    """``say`` of every run, after its name."""
    return "; ".join(f"{name}: {say(run)}" for name, run in runs.items())


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal."""
    return "–" if share is None else f"{100 * share:.1f}"
