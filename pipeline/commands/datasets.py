"""``fbind make-shapes`` and ``fbind fetch-voc``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import numpy as np

from .bars import progress_bar


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--images", type=click.IntRange(min=1), default=600, show_default=True, help="Training images.")
@click.option("--val", type=click.IntRange(min=0), default=100, show_default=True, help="Validation images.")
@click.option(
    "--size", type=click.IntRange(32, 4096), default=128, show_default=True, help="Longer side of an image, in pixels."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, other images.")
def make_shapes(out: Path, images: int, val: int, size: int, seed: int) -> None:
    """Write a synthetic dataset of 20 categories in VOC's layout to the new folder OUT.

    Its splits are `train` and `val`. The same options always draw the same images.
    """
    from ..sources.shapes import write_shapes

    with progress_bar() as bar:
        task = bar.add_task("drawing", total=images + val)
        counts = write_shapes(out, images=images, val=val, size=size, seed=seed, progress=lambda: bar.advance(task))
    rarest, commonest = int(np.min(counts)), int(np.max(counts))
    click.echo(
        f"{images} training and {val} validation images in {out}: {len(counts)} categories, "
        f"{rarest} to {commonest} training images each"
    )
    click.echo(f"next: fbind build-clusters --root {shlex.quote(str(out))} --split train --out clusters.json")


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--sbd", is_flag=True, help="Also fetch SBD and make SegmentationClassAug and train_aug.txt of it.")
def fetch_voc(out: Path, sbd: bool) -> None:
    """Download PASCAL VOC 2012 (2 GB) into the folder OUT, which is then a --root; with --sbd also SBD (1.4 GB).

    Archives that lie in OUT/downloads are used instead of the network. Running again continues.
    """
    from ..sources import fetch

    done = fetch.fetch_voc(out)
    click.echo(f"{out} is a VOC root" + ("" if done else " already; nothing to fetch"))
    if sbd:
        with progress_bar() as bar:
            task = bar.add_task("converting SBD", total=None, visible=False)
            done = fetch.fetch_sbd(
                out, lambda count, total: bar.update(task, completed=count, total=total, visible=True)
            )
        click.echo("SegmentationClassAug and train_aug.txt are there" + ("" if done else " already; nothing to fetch"))
    split = "train_aug --labels-dir SegmentationClassAug" if sbd else "train"
    click.echo(f"next: fbind build-clusters --root {shlex.quote(str(out))} --split {split} --out clusters.json")
