"""``fbind build-clusters``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import click


@click.command("build-clusters")
@click.option("--root", type=click.Path(path_type=Path), required=True, help="The dataset's folder.")
@click.option("--split", required=True, help="Which list of images, for VOC one of ImageSets/Segmentation.")
@click.option(
    "--source",
    "kind",
    type=click.Choice(["voc", "folder"]),
    default="voc",
    show_default=True,
    help="The dataset's layout.",
)
@click.option("--labels-dir", help="The folder of label maps in the root.  [default: the layout's own]")
@click.option(
    "--membership",
    type=click.Choice(["all", "dominant"]),
    default="all",
    show_default=True,
    help="An image joins the clusters of all its categories, or of its largest one only.",
)
@click.option(
    "--min-pixels",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many pixels of a category make an image contain it.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: as many as there is work for]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The clusters file to write.")
@click.option("--figure", type=click.Path(path_type=Path), help="Draw the clusters, too (.png, .svg or .pdf).")
@click.option("--overwrite", is_flag=True, help="Replace the clusters file if it is there.")
def build_clusters(
    root: Path,
    split: str,
    kind: Literal["voc", "folder"],
    labels_dir: str | None,
    membership: Literal["all", "dominant"],
    min_pixels: int,
    workers: int | None,
    out: Path,
    figure: Path | None,
    overwrite: bool,
) -> None:
    """Group the images of a split by the categories that their label maps contain.

    Reads the label maps only. Writes clusters.json, the input of materialize-blends, and prints what it found.
    """  # fmt: skip
    from ...manifests.clusters import MembershipRule, SourceSpec, save_clusters
    from ...manifests.errors import StoreExistsError
    from ..clusters import cluster
    from ..figures import check_format, draw_clusters
    from ..sources import open_source
    from .summaries import print_clusters

    if figure is not None:
        check_format(figure)
    if out.exists() and not overwrite:
        raise StoreExistsError(f"{out} is already there: add --overwrite to replace it, or choose another --out")
    source = open_source(SourceSpec(kind=kind, root=str(root.absolute()), split=split, labels_dir=labels_dir))
    rule = MembershipRule(membership=membership, min_pixels=min_pixels)
    with progress("counting label maps", len(source.ids())) as advance:
        manifest = cluster(source, rule, workers=workers, advance=advance)
    save_clusters(manifest, out)
    print_clusters(manifest)
    click.echo(f"wrote {out}")
    if figure is not None:
        draw_clusters(manifest, figure)
        click.echo(f"wrote {figure}")


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], object] | None]:
    """A progress bar on stderr, and the function that advances it; ``None`` when no one is watching."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
