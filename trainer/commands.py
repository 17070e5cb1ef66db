"""The trainer's commands: options in, files and tables out. Heavy libraries are imported when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from .config import EPOCHS, LEARNING_RATES, SMALL_LEARNING_RATES, NetworkName, Stage, TrainConfig

if TYPE_CHECKING:
    from ..manifests.labels import LabelSet
    from ..manifests.reader import Sample
    from .evaluate import Prediction

FIELDS = TrainConfig.model_fields


def default(name: str) -> Any:
    """The default of a training option."""
    return FIELDS[name].default


def rates(table: dict[Stage, float]) -> str:
    """Learning rates for a help text."""
    return ", ".join(f"{rate:g} ({stage})" for stage, rate in table.items())


device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes a GPU if there is one.",
)


@click.command(short_help="Train a network from the shards of a store.")
@click.option("--shards", required=True, metavar="STORE", type=click.Path(), help="The store to learn from.")
@click.option("--run", required=True, metavar="DIR", type=click.Path(), help="Folder for the run's files.")
@click.option(
    "--stage",
    type=click.Choice(get_args(Stage)),
    default=default("stage"),
    show_default=True,
    help="binding: stage 1, on blends (Eq. 3). denoise: stage 2, on plain images (Eq. 4). plain: the baseline.",
)
@click.option(
    "--init",
    metavar="CKPT",
    type=click.Path(),
    help="Checkpoint to start from: stage 1's for denoise (required), stage 1's or a baseline's for binding, a "
    "baseline's for plain.",
)
@click.option(
    "--network",
    type=click.Choice(get_args(NetworkName)),
    help=f"Encoder and heads; small is for CPUs.  [default: {default('network')}; with --init the checkpoint's]",
)
@click.option(
    "--weights",
    metavar="NAME|FILE",
    help="The encoder's first weights: imagenet or coco (torchvision's, downloaded), none, or a state dict in a file.  "
    "[default: imagenet; none for the small network and with --init]",
)
@click.option("--epochs", type=int, help=f"Passes over the store.  [default: {EPOCHS}]")
@click.option("--steps", type=int, help="Optimiser steps, instead of --epochs.")
@click.option("--batch", type=int, default=default("batch"), show_default=True, help="Samples per step, at least 2.")
@click.option(
    "--crop", type=int, default=default("crop"), show_default=True, help="Side of the random crops, in pixels."
)
@click.option("--flip/--no-flip", default=default("flip"), show_default=True, help="Mirror half of the crops.")
@click.option(
    "--lr",
    type=float,
    help=f"Learning rate of the first step.  [default: {rates(LEARNING_RATES)}; small network: "
    f"{rates(SMALL_LEARNING_RATES)}]",
)
@click.option(
    "--head-lr-factor",
    type=float,
    default=default("head_lr_factor"),
    show_default=True,
    help="The heads learn at this multiple of --lr.",
)
@click.option("--momentum", type=float, default=default("momentum"), show_default=True, help="Momentum of SGD.")
@click.option(
    "--weight-decay", type=float, default=default("weight_decay"), show_default=True, help="L2 penalty of SGD."
)
@click.option(
    "--power",
    type=float,
    default=default("power"),
    show_default=True,
    help="Exponent of the poly schedule: lr x (1 - step / steps) ^ power.",
)
@click.option(
    "--bn",
    type=click.Choice(["train", "frozen"]),
    default=default("bn"),
    show_default=True,
    help="Batch norms of the encoder; frozen keeps the pretrained statistics, scales and shifts.",
)
@click.option(
    "--hidden",
    type=int,
    help="Hidden channels of the binding head.  [default: 2 x classes; with --init the checkpoint's]",
)
@device_option
@click.option("--seed", type=int, default=default("seed"), show_default=True, help="Seed of everything random.")
@click.option("--threads", type=int, default=default("threads"), show_default=True, help="Threads that read the store.")
@click.option(
    "--log-every", type=int, default=default("log_every"), show_default=True, help="Steps between log records."
)
@click.option("--overwrite", is_flag=True, help="Replace the run in --run, with its scores.")
def train(overwrite: bool, **options: Any) -> None:
    """Train a network from the shards of a store.

    Writes config.json, metrics.jsonl, TensorBoard's files and checkpoint.pt to the folder of the run. The
    schedule and the learning rates default to the paper's (those of the small network are larger). An interrupted run
    starts over when the same command is given again.

    \b
    fbind train --shards blends.zarr --run runs/binding
    fbind train --shards plain.zarr --run runs/denoise --stage denoise --init runs/binding/checkpoint.pt
    fbind train --shards plain.zarr --run runs/plain --stage plain
    """  # noqa: D301 - click reads the character \b as "keep these lines"
    if options["init"] is not None:
        from .checkpoint import inherit

        options = inherit(options)
    config = TrainConfig.resolve(**options)
    from rich.console import Console

    from .loop import train as run_training

    console = Console()
    checkpoint = run_training(config, overwrite=overwrite, console=console)
    console.print(f"checkpoint: {checkpoint}", highlight=False, soft_wrap=True)


@click.command(short_help="Score a checkpoint at full resolution.")
@click.option("--checkpoint", required=True, metavar="CKPT", type=click.Path(path_type=Path), help="What to score.")
@click.option("--shards", required=True, metavar="STORE", type=click.Path(path_type=Path), help="What to score it on.")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the scores as JSON; an earlier file of scores is replaced.",
)
@click.option(
    "--pictures",
    nargs=2,
    type=(click.Path(path_type=Path), click.IntRange(min=1)),
    metavar="DIR N",
    help="Draw the first N images with every head's prediction and confidence to DIR.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Score the first N images only.")
@device_option
def evaluate(
    checkpoint: Path, shards: Path, out: Path | None, pictures: tuple[Path, int] | None, limit: int | None, device: Any
) -> None:
    """Score a checkpoint at full resolution.

    One image at a time, unpadded; one confusion matrix over all images; void does not count. The dominant and the
    binding head are scored on every store; on blends also the phantom head, and the dominant head against the phantom's
    labels, which shows what the phantom head adds.
    """
    from rich.console import Console
    from rich.progress import track

    from ..manifests.reader import BlendStore
    from .evaluate import evaluate as score
    from .scores import check_target, save_evaluation, score_table

    if out:
        check_target(out)
    console = Console()
    store = BlendStore.open(shards)
    count = min(limit or len(store), len(store))
    progress = iter(track(range(count), "evaluating", console=console, disable=not console.is_terminal))

    def watch(sample: Sample, prediction: Prediction) -> None:
        next(progress, None)
        if pictures and sample.index < pictures[1]:
            draw(store, store.manifest.labels, sample, prediction, pictures[0])

    evaluation = score(checkpoint, store, device=device, limit=limit, watch=watch)
    next(progress, None)  # the bar ends when it is asked once more
    console.print(score_table(evaluation))
    if evaluation.checkpoint.step < evaluation.checkpoint.total_steps:
        console.print("[yellow]warning:[/] the checkpoint's training was not finished", highlight=False)
    if evaluation.phantom_activation is not None:
        console.print(f"Σ ReLU(S_p), mean per image: {evaluation.phantom_activation:,.1f}", highlight=False)
    if pictures:
        console.print(f"pictures: {pictures[0]}", highlight=False, soft_wrap=True)
    if out:
        save_evaluation(evaluation, out)
        console.print(f"scores: {out}", highlight=False, soft_wrap=True)


def draw(store: Any, labels: LabelSet, sample: Sample, prediction: Prediction, folder: Path) -> None:
    """Draw one image under its id in the store."""
    from .pictures import save_figure

    image_id = store.manifest.images[int(store.column("recipe/dominant_image")[sample.index])]
    save_figure(sample, prediction, labels, image_id, folder / f"{sample.index:05d}-{image_id}.png")


@click.command(short_help="Put the scores of several runs in one table.")
@click.argument("runs", nargs=-1, required=True, metavar="NAME=metrics.json...")
def compare(runs: tuple[str, ...]) -> None:
    """Put the scores of several runs in one table.

    Each run is NAME=FILE, FILE being what `fbind evaluate --out` wrote. Says so when the runs were scored on different
    images or under different protocols, or trained on different numbers of samples, or not to the end. The steps of a
    run that started from others' checkpoints follow theirs, as in 800 + 150.
    """
    from rich.console import Console

    from .scores import comparison_table, differences, load_evaluation

    evaluations = {}
    for run in runs:
        name, equals, file = run.partition("=")
        if not (name and equals and file):
            raise click.BadParameter(f"{run!r} is not NAME=FILE", param_hint="RUNS")
        if name in evaluations:
            raise click.BadParameter(f"two runs are named {name!r}", param_hint="RUNS")
        evaluations[name] = load_evaluation(Path(file))
    console = Console()
    console.print(comparison_table(evaluations))
    for warning in differences(evaluations):
        console.print(f"[yellow]warning:[/] {warning}", highlight=False, soft_wrap=True)
