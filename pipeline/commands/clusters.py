"""``fbind build-clusters``."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Literal

import click

from .bars import progress_bar
from .places import PlaceType, absolute


@click.command("build-clusters")
@click.option("--root", type=PlaceType(), required=True, help="The dataset's folder, or its URL (s3://BUCKET/VOC2012).")
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
    root: str | Path,
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
    from ...manifests.errors import ConfigError, StoreExistsError
    from ..clusters import cluster
    from ..figures import check_format, draw_clusters
    from ..sources import open_source
    from .summaries import print_clusters

    if figure is not None:
        check_format(figure)
        if figure.absolute() == out.absolute():
            raise ConfigError(f"--out and --figure are the same file, {out}: choose another name for one of them")
    if _exists(out) and not overwrite:
        raise StoreExistsError(f"{out} is already there: add --overwrite to replace it, or choose another --out")
    source = open_source(SourceSpec(kind=kind, root=absolute(root), split=split, labels_dir=labels_dir))
    rule = MembershipRule(membership=membership, min_pixels=min_pixels)
    images = len(source.ids())
    for path in filter(None, (out, figure)):
        check_writable(path)
    with progress_bar() as bar:
        task = bar.add_task("counting label maps", total=images)
        manifest = cluster(source, rule, workers=workers, advance=lambda count: bar.advance(task, count))
    save_clusters(manifest, out)
    print_clusters(manifest)
    click.echo(f"wrote {out}")
    if figure is not None:
        draw_clusters(manifest, figure)
        click.echo(f"wrote {figure}")


def check_writable(path: Path) -> None:
    """Make the folder of a file that is to be written at the end of a long run, and try to write there.

    Raises :class:`~fbind.manifests.errors.ResourceError` when it can't be written.
    """
    from ...manifests.base import TEMPORARY, unwritable

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder: give the name of a file")
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


def _exists(path: Path) -> bool:
    from ...manifests.base import unwritable

    try:
        return path.exists()
    except OSError as error:
        raise unwritable(path, error) from error
