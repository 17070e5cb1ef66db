"""What ``build-clusters`` prints: a table of the clusters, and who keeps whose company."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ...manifests.clusters import ClusterManifest
from ..statistics import ClusterStatistics

LISTED = 5
"""How many pairs, or images in no cluster, are named."""


def print_clusters(manifest: ClusterManifest, console: Console | None = None) -> None:
    """Print clusters, co-occurrence and whatever deserves a warning; readable at 80 columns."""
    console = console or Console(highlight=False)
    statistics = ClusterStatistics.of(manifest)
    console.print(_table(manifest, statistics))
    for line in _company(statistics):
        console.print(line)
    for line in _warnings(statistics):
        console.print(f"[bold yellow]warning:[/] {line}")
    if statistics.unclustered:
        named = ", ".join(statistics.unclustered[:LISTED])
        more = f" and {len(statistics.unclustered) - LISTED:,} more" if len(statistics.unclustered) > LISTED else ""
        console.print(f"[bold]note:[/] {len(statistics.unclustered):,} images are in no cluster: {escape(named)}{more}")


def _table(manifest: ClusterManifest, statistics: ClusterStatistics) -> Table:
    """One row per cluster: images, their share of the split, labelled pixels."""
    total, source = len(manifest.images), manifest.source
    table = Table(
        title=Text(f"{Path(source.root).name} · {source.split}: {total:,} images"), title_justify="left",
        title_style="bold", show_footer=True, box=None, pad_edge=False, padding=(0, 2, 0, 0),
    )  # fmt: skip
    table.add_column("cluster", "memberships")
    table.add_column("images", f"{statistics.memberships:,}", justify="right")
    table.add_column("share", "", justify="right")
    table.add_column("", "")
    table.add_column("pixels", f"{int(statistics.pixels.sum()):,}", justify="right")
    longest = max(int(statistics.images.max()), 1)
    for name, images, pixels in zip(statistics.names, statistics.images, statistics.pixels, strict=True):
        bar = Text("▇" * round(20 * images / longest), style="cyan")
        table.add_row(escape(name), f"{images:,}", f"{images / total:.1%}", bar, f"{pixels:,}")
    return table


def _company(statistics: ClusterStatistics) -> list[str]:
    """The co-occurrence summary."""
    per_image = statistics.categories_per_image
    several = int((per_image >= 2).sum())
    lines = [
        "",
        f"{per_image.mean():.2f} categories per image; {several:,} images ({several / len(per_image):.1%}) contain "
        "two or more",
    ]
    pairs = statistics.pairs(LISTED)
    if pairs:
        listed = ", ".join(f"{escape(pair.first)} + {escape(pair.second)} {pair.images:,}" for pair in pairs)
        lines.append(f"most often together: {listed}")
        index = int(statistics.accompanied.argmax())
        contained = int(statistics.cooccurrence[index, index])
        lines.append(
            f"{escape(statistics.names[index])} keeps the most company: {statistics.accompanied[index]:,} of its "
            f"{contained:,} images contain another category"
        )
    return [*lines, ""]


def _warnings(statistics: ClusterStatistics) -> list[str]:
    """What empty clusters mean for the blends."""
    empty = statistics.empty
    if not empty:
        return []
    names = ", ".join(escape(name) for name in empty)
    clusters, have = ("clusters", "have") if len(empty) > 1 else ("cluster", "has")
    fewer = f"{len(empty)} blend{'s' if len(empty) > 1 else ''} fewer"
    partners = max(len(statistics.names) - len(empty) - 1, 0)
    return [
        f"the {clusters} {names} {have} no images, so no image gets a partner from there: every membership makes "
        f"{fewer}, {partners} instead of {len(statistics.names) - 1}"
    ]
