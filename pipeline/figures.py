"""Figures of category clusters: bars of their sizes beside the co-occurrence matrix."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from ..manifests.base import write_atomically
from ..manifests.clusters import ClusterManifest
from ..manifests.errors import ConfigError
from .statistics import ClusterStatistics

FORMATS = ("png", "svg", "pdf")
"""What a figure's file name may end in."""

INK, FAINT, BAR, ALONE = "#1f2430", "#8a90a0", "#2f6f8f", "#a9c9d8"


def check_format(path: Path) -> str:
    """The format that a figure's file name asks for; raises :class:`~fbind.manifests.errors.ConfigError` for others."""
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise ConfigError(f"can't draw a figure as {path.name!r}: end its name in .{', .'.join(FORMATS)}")
    return suffix


def draw_clusters(manifest: ClusterManifest, path: Path) -> None:
    """Draw the clusters' sizes and the categories' co-occurrence to a PNG, SVG or PDF file.

    A bar's dark part counts the images that contain the category and another one. A matrix row shows which share of
    the images of the category at the left also contain the category at the bottom, in percent.

    Raises :class:`~fbind.manifests.errors.ConfigError` for another kind of file and
    :class:`~fbind.manifests.errors.ResourceError` when the place can't be written.
    """
    kind = check_format(path)
    # Figure, not pyplot: it needs no display, sets no global state, and imports in half the time.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    statistics = ClusterStatistics.of(manifest)
    count = len(statistics.names)
    side = max(4.2, 0.32 * count)  # inches for a matrix whose rows can carry a name each
    figure = Figure(figsize=(side * 1.85 + 2.6, side + 1.9), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    source = manifest.source
    figure.suptitle(
        f"{Path(source.root).name} · {source.split}: {len(manifest.images):,} images, "
        f"{statistics.memberships:,} cluster memberships",
        color=INK,
        fontsize=14,
        fontweight="bold",
    )
    grid = figure.add_gridspec(1, 2, width_ratios=(0.72, 1.0), wspace=0.04)
    _draw_sizes(figure.add_subplot(grid[0]), statistics)
    _draw_matrix(figure.add_subplot(grid[1]), statistics)
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, dpi=150)
    write_atomically(path, stream.getvalue())


def _draw_sizes(axes, statistics: ClusterStatistics) -> None:
    """Horizontal bars: images per cluster, and how many of those contain another category too."""
    rows = np.arange(len(statistics.names))
    accompanied = np.minimum(statistics.accompanied, statistics.images)
    axes.barh(rows, accompanied, color=BAR, height=0.72, label="with another category")
    axes.barh(rows, statistics.images - accompanied, left=accompanied, color=ALONE, height=0.72, label="alone")
    longest = max(int(statistics.images.max()), 1)
    for row, images in zip(rows, statistics.images, strict=True):
        axes.text(images + longest * 0.012, row, f"{images:,}", va="center", color=INK, fontsize=8.5)
    axes.set_yticks(rows, statistics.names, fontsize=10)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, longest * 1.12)
    axes.set_title("images in each cluster", loc="left", color=INK, fontsize=11)
    axes.legend(loc="lower right", frameon=False, fontsize=9, labelcolor=INK)
    axes.tick_params(axis="y", length=0, colors=INK)
    axes.tick_params(axis="x", colors=FAINT, labelsize=8.5)
    axes.xaxis.grid(True, color="#e8eaef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#d5d8df")


def _draw_matrix(axes, statistics: ClusterStatistics) -> None:
    """Heat map: the share of a row's images that also contain the column's category, in percent."""
    images = np.diagonal(statistics.cooccurrence).astype(np.float64)
    percent = 100.0 * statistics.cooccurrence / np.maximum(images, 1.0)[:, None]
    np.fill_diagonal(percent, np.nan)
    highest = np.nanmax(percent, initial=1.0)
    # The square root shows rare company too: most categories share a few per cent, some share half.
    shade = np.sqrt(percent / highest)
    axes.imshow(shade, cmap="YlGnBu", vmin=0.0, vmax=1.12, aspect="equal")
    names = statistics.names
    for row, column in zip(*np.nonzero(np.nan_to_num(percent) >= 0.5), strict=True):
        color = "white" if shade[row, column] > 0.62 else INK
        axes.text(column, row, f"{percent[row, column]:.0f}", ha="center", va="center", color=color, fontsize=7.5)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="both", length=0, colors=INK)
    axes.spines[:].set_visible(False)
    axes.set_facecolor("#eceef2")  # the diagonal
    axes.set_title("% of a row's images that also contain the column's category", loc="left", color=INK, fontsize=11)
