"""Heat maps of category pairs, side by side on one scale."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

from ..manifests.base import write_atomically
from .comparison import PairDistribution
from .figures import FAINT, INK, check_format

BESIDE = 3
"""Heat maps in a row."""
FARTHEST = 16
"""Pairs so many times commoner or rarer than in an even distribution have the strongest colours."""
NAMED = 40
"""Up to so many categories carry their names."""


def draw_pairs(distributions: tuple[PairDistribution, ...], path: Path) -> None:
    """Draw how common each pair of categories is, compared with all pairs equally common, to a PNG, SVG or PDF file.

    Raises :class:`~fbind.manifests.errors.ConfigError` for another kind of file and
    :class:`~fbind.manifests.errors.ResourceError` when the place can't be written.
    """
    kind = check_format(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(distributions), BESIDE)
    rows = -(-len(distributions) // BESIDE)
    named = len(distributions[0].categories) <= NAMED
    side = max(3.4, 0.2 * len(distributions[0].categories)) if named else 4.4  # inches
    figure = Figure(figsize=(columns * (side + 0.9) + 1.0, rows * (side + 1.3) + 0.6), layout="constrained",
                    facecolor="white")  # fmt: skip
    FigureCanvasAgg(figure)
    figure.suptitle("how common a pair of categories is", color=INK, fontsize=14, fontweight="bold")
    grid = figure.subplots(rows, columns, squeeze=False)
    images = [_draw(axes, distribution, named) for axes, distribution in zip(grid.flat, distributions, strict=False)]
    for axes in grid.flat[len(distributions) :]:
        axes.set_visible(False)
    steps = (1 / 16, 1 / 4, 1, 4, 16)
    bar = figure.colorbar(
        images[0], ax=grid, ticks=[math.log2(step) for step in steps], shrink=0.7 / rows**0.5, aspect=28
    )
    bar.set_ticklabels(["≤ 1/16", "1/4", "even", "4 ×", "≥ 16 ×"])
    bar.ax.tick_params(length=0, colors=INK, labelsize=9)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]  # a patch, typed as a generic artist
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, dpi=150)
    write_atomically(path, stream.getvalue())


def _draw(axes, distribution: PairDistribution, named: bool):
    """One heat map: log2 of the share of each pair over that of an even distribution."""
    count, most = len(distribution.categories), math.log2(FARTHEST)
    relative = distribution.share * count**2
    shade = np.log2(np.clip(relative, 1 / FARTHEST, FARTHEST))
    if not distribution.blends:
        shade = np.full_like(shade, np.nan)
    image = axes.imshow(shade, cmap="RdBu_r", vmin=-most, vmax=most, aspect="equal")
    axes.set_title(distribution.name, loc="left", color=INK, fontsize=12, fontweight="bold", pad=22)
    what = f"{distribution.entropy:.2f} bits, {distribution.evenness:.0%} of the most" if distribution.blends else ""
    axes.text(0, 1.03, f"{distribution.blends:,} blends  {what}", transform=axes.transAxes, color=FAINT, fontsize=9)
    ticks = range(count) if named else []
    names = distribution.categories if named else []
    axes.set_xticks(ticks, names, rotation=90, fontsize=7.5)
    axes.set_yticks(ticks, names, fontsize=7.5)
    axes.set_xlabel("phantom image", color=FAINT, fontsize=9)
    axes.set_ylabel("dominant image", color=FAINT, fontsize=9)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    axes.set_facecolor("#eceef2")  # a strategy without blends
    return image
