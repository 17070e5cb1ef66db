"""``fbind preview``."""

from __future__ import annotations

from pathlib import Path

import click

from .places import PlaceType


@click.command()
@click.argument("store", type=PlaceType())
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The sheet to draw (.png or .jpg).")
@click.option("--samples", type=click.IntRange(min=1), default=8, show_default=True, help="How many samples.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draws which samples.")
@click.option("--root", type=PlaceType(), help="Where the dataset lies now, if it has been moved.")
def preview(store: str | Path, out: Path, samples: int, seed: int, root: str | Path | None) -> None:
    """Draw samples of STORE as a contact sheet.

    Shows the blended images too, as long as their dataset is there.
    """
    from ...manifests.reader import BlendStore
    from ..preview import draw_preview

    note = draw_preview(BlendStore.open(store), out, samples=samples, seed=seed, root=root)
    if note:
        click.echo(f"note: the sheet goes without the images that were blended: {note}", err=True)
    click.echo(f"wrote {out}")
