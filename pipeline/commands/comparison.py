"""``fbind compare-recipes``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .strategies import NAMES

if TYPE_CHECKING:
    from rich.table import Table

    from ...manifests.clusters import ClusterManifest
    from ..comparison import PairDistribution


@click.command("compare-recipes")
@click.argument("recipes", nargs=-1, required=True, metavar="STRATEGY|STORE...")
@click.option(
    "--clusters",
    "clusters_file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The clusters file that the strategies go by and the stores were made from.",
)
@click.option("--figure", type=click.Path(path_type=Path), help="Draw the pairs as heat maps (.png, .svg or .pdf).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, the pair matrices included, instead of a table.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the planned recipes.")
def compare_recipes(
    recipes: tuple[str, ...], clusters_file: Path, figure: Path | None, as_json: bool, seed: int
) -> None:
    """Show which categories meet, and how unevenly, under several strategies or in several stores.

    Each argument is the name of a strategy, which is planned with its defaults and written nowhere, or a store. Pairs
    are counted by what the images contain: a blend of images with categories A and B counts 1/(|A| |B|) for each pair
    of one of A and one of B.
    """
    from ...manifests.clusters import load_clusters
    from ..figures import check_format
    from .clusters import check_writable

    if figure is not None:
        check_format(figure)
        check_writable(figure)
    clusters = load_clusters(clusters_file)
    distributions = tuple(
        _planned(name, clusters, seed) if name in NAMES else _stored(name, clusters, clusters_file) for name in recipes
    )
    if as_json:
        found = {
            "version": 1,
            "clusters": clusters.digest,
            "categories": distributions[0].categories,
            "recipes": [distribution.summary() for distribution in distributions],
        }
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        from rich.console import Console

        console = Console(highlight=False)
        console.print(_table(distributions))
    if figure is not None:
        from ..heatmaps import draw_pairs

        draw_pairs(distributions, figure)
        click.echo(f"wrote {figure}", err=as_json)


def _planned(name: str, clusters: ClusterManifest, seed: int) -> PairDistribution:
    from ...manifests.strategies import STRATEGIES
    from ..comparison import pair_distribution
    from ..recipes import plan_recipes

    return pair_distribution(name, clusters, plan_recipes(clusters, STRATEGIES[name](), seed))


def _stored(place: str, clusters: ClusterManifest, clusters_file: Path) -> PairDistribution:
    from ...manifests.errors import ConfigError, MissingFileError
    from ...manifests.reader import BlendStore
    from ..comparison import pair_distribution
    from ..recipes import Recipes

    try:
        store = BlendStore.open(place, allow_incomplete=True)
    except MissingFileError as error:
        raise ConfigError(f"{place!r} is neither a strategy ({', '.join(NAMES)}) nor a store: {error}") from None
    left_out = set(store.manifest.left_out)
    if left_out:
        clusters = clusters.without(left_out)
    if store.manifest.clusters_digest != clusters.digest:
        raise ConfigError(
            f"{place} was made from other clusters than {clusters_file} (digest {store.manifest.clusters_digest}, the "
            f"file's is {clusters.digest}): give the clusters file it was made from"
        )
    blended = store.manifest.blended
    recipes = Recipes(
        store.column("recipe/dominant_image"),
        store.column("delta"),
        store.column("recipe/phantom_image") if blended else None,
    )
    return pair_distribution(Path(place).name, clusters, recipes)


def _table(distributions: tuple[PairDistribution, ...]) -> Table:
    """One row for each set of recipes; readable at 80 columns."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("recipes", no_wrap=True)
    table.add_column("blends", justify="right")
    table.add_column("plain", justify="right")
    table.add_column("entropy\nbits", justify="right")
    table.add_column("of the\nmost", justify="right")
    table.add_column("same\ncategory", justify="right")
    table.add_column("commonest\ncategory", justify="right")
    table.add_column(f"holding\n{escape(distributions[0].holder)}", justify="right")
    for found in distributions:
        name, share = found.commonest
        measures = (
            (f"{found.entropy:.2f}", f"{found.evenness:.1%}", f"{found.same:.1%}", f"{escape(name)} {share:.1%}",
             f"{found.held:.1%}")
            if found.blends
            else ("–",) * 5
        )  # fmt: skip
        table.add_row(escape(found.name), f"{found.blends:,}", f"{found.plain_share:.0%}", *measures)
    return table
