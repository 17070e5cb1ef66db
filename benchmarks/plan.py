"""What planning costs: time and peak memory of ``plan_recipes``, no pixels involved.

    python benchmarks/plan.py

Two simulated datasets, both written to and read from a clusters file like any other: one as large and as mixed as
VOC 2012's 10,582 training images, one of 120,000 images and 150 categories with eight categories an image, a few of
them nearly everywhere. Every case runs in a process of its own, so that its peak is its own; the peak is that of the
whole process while it plans (VmHWM of /proc/self/status), interpreter, libraries and the clusters included.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from fbind.manifests.clusters import (
    ImageRecord,
    MembershipRule,
    SourceSpec,
    build_manifest,
    load_clusters,
    save_clusters,
)
from fbind.manifests.errors import ConfigError
from fbind.manifests.labels import LabelSet, voc_palette
from fbind.manifests.strategies import STRATEGIES
from fbind.pipeline.recipes import plan_recipes

DATASETS = {"voc-like": (10_582, 20, 1.47), "large": (120_000, 150, 8.0)}
"""Name: (images, categories, categories per image)."""

CASES: tuple[tuple[str, dict[str, Any], int | None], ...] = (
    ("voc-like", {"name": "category"}, None),
    ("voc-like", {"name": "category", "disjoint": True}, None),
    ("voc-like", {"name": "random"}, None),
    ("voc-like", {"name": "within-category"}, None),
    ("voc-like", {"name": "half"}, None),
    ("voc-like", {"name": "co-occurrence"}, None),
    ("voc-like", {"name": "random", "partners": 945}, 10_000_000),
    ("large", {"name": "category"}, None),
    ("large", {"name": "category"}, 300_000),
    ("large", {"name": "category"}, 10_000_000),
    ("large", {"name": "category", "partners": 1}, None),
    ("large", {"name": "category", "partners": 10}, None),
    ("large", {"name": "category", "per_category_cap": 2_000}, None),
    ("large", {"name": "category", "disjoint": True}, 300_000),
    ("large", {"name": "category", "partners": 1, "disjoint": True}, None),
    ("large", {"name": "random"}, None),
    ("large", {"name": "random", "disjoint": True}, None),
    ("large", {"name": "within-category"}, None),
    ("large", {"name": "co-occurrence"}, 300_000),
)
"""(dataset, strategy, limit)."""


def simulate(images: int, categories: int, per_image: float, path: Path) -> None:
    """Write the clusters file of a dataset whose categories are as uneven as real ones: the first is commonest."""
    generator = np.random.default_rng(0)
    wanted = 1 / np.arange(1, categories + 1)
    odds = np.minimum(wanted * per_image / wanted.sum(), 0.9)
    odds *= per_image / odds.sum()
    there = generator.random((images, categories)) < np.minimum(odds, 0.95)
    alone = ~there.any(axis=1)
    there[alone, generator.integers(0, categories, int(alone.sum()))] = True
    names = tuple(f"class {number}" for number in range(categories + 1))
    build = build_manifest(
        LabelSet(names=names, palette=voc_palette(categories + 1)),
        SourceSpec(kind="folder", root="/simulated", split="train"),
        MembershipRule(),
        tuple(
            ImageRecord(id=f"{row:012}", height=375, width=500, pixels={0: 9, **dict.fromkeys(held.tolist(), 7)})
            for row, held in enumerate(np.flatnonzero(present) + 1 for present in there)
        ),
    )
    save_clusters(build, path)


def peak() -> int:
    """Peak resident memory of this process in bytes, since :func:`forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(path: Path, strategy: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """Load the clusters and plan; seconds and bytes of both."""
    begin = time.perf_counter()
    clusters = load_clusters(path)
    loaded, loaded_peak = time.perf_counter(), peak()
    forget_peak()
    found = {"load": loaded - begin, "load_peak": loaded_peak}
    try:
        recipes = plan_recipes(clusters, STRATEGIES[strategy["name"]](**strategy), 0, limit)
    except ConfigError as error:
        return found | {"refused": str(error), "plan": time.perf_counter() - loaded, "peak": peak()}
    done = time.perf_counter()
    return found | {"plan": done - loaded, "peak": peak(), "recipes": len(recipes), "unmatched": recipes.unmatched}


def label(strategy: dict[str, Any], limit: int | None) -> str:
    parts = [
        f"{key.replace('_', '-')} {value}" for key, value in strategy.items() if key != "name" and value is not True
    ]
    parts += [key for key, value in strategy.items() if value is True]
    return ", ".join([strategy["name"], *parts, *([f"limit {limit:,}"] if limit else [])])


@click.command(help=__doc__)
@click.option("--case", type=int, hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--only", type=click.Choice(list(DATASETS)), help="One of the datasets.")
def main(case: int | None, folder: Path | None, only: str | None) -> None:
    if case is not None and folder is not None:
        dataset, strategy, limit = CASES[case]
        click.echo(json.dumps(measure(folder / f"{dataset}.json", strategy, limit)))
        return
    with tempfile.TemporaryDirectory() as made:
        last, building = "", 0.0
        for number, (dataset, strategy, limit) in enumerate(CASES):
            if only not in (None, dataset):
                continue
            path = Path(made, f"{dataset}.json")
            if dataset != last:
                begin = time.perf_counter()
                simulate(*DATASETS[dataset], path)
                building = time.perf_counter() - begin
            command = [sys.executable, __file__, "--case", str(number), "--folder", made]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            if dataset != last:
                images, categories, per_image = DATASETS[dataset]
                click.echo(
                    f"{dataset}: {images:,} images, {categories} categories, {per_image} an image; built and written "
                    f"in {building:.1f} s, {path.stat().st_size / 1e6:.0f} MB\n"
                    f"  its clusters file is read in {found['load']:.1f} s, peak {found['load_peak'] / 1e6:,.0f} MB"
                )
                last = dataset
            what = f"{found['recipes']:>11,} recipes" if "recipes" in found else "    refused:"
            click.echo(
                f"  {label(strategy, limit):40} {what} {found['plan']:6.2f} s  peak {found['peak'] / 1e6:6,.0f} MB"
                + (f"  {found['unmatched']:,} unmatched" if found.get("unmatched") else "")
                + (f"\n      {found['refused']}" if "refused" in found else "")
            )


if __name__ == "__main__":
    main()
