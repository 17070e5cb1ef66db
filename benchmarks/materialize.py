"""``fbind materialize-blends`` against the script everybody writes, on the same recipes, in one run.

The script: one process, a loop over the blends, two ``cv2.imread``, two label PNGs through Pillow, resize, blend;
pixels go into Zarr arrays a whole shard at a time, the faster way (appending sample by sample rewrites the shard each
time: ``--append`` measures that instead). Both sides write the same arrays in the same codecs.

    python benchmarks/materialize.py --root VOC --split train_sample --labels-dir SegmentationClassAug

Every repetition runs both sides, alternating, so that a slow moment of the machine hits both; the figure to read is
the ratio and its spread.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import zarr
from PIL import Image
from zarr.codecs import BloscCodec, ZstdCodec

from fbind.manifests.clusters import ClusterManifest, load_clusters
from fbind.manifests.store import CategoryStrategy
from fbind.pipeline.recipes import Recipes, plan_recipes


def obvious(clusters: ClusterManifest, recipes: Recipes, out: Path, samples: int, shard: int, append: bool) -> float:
    """Write the first ``samples`` recipes by the obvious script; returns samples per second."""
    root = Path(clusters.source.root)
    labels_dir = root / (clusters.source.labels_dir or "SegmentationClass")
    height, width = clusters.canvas()
    group = zarr.create_group(out)

    def create(name: str, shape: tuple[int, ...], codec: Any) -> Any:
        return group.create_array(
            name,
            shape=(samples, *shape),
            chunks=(1, *shape),
            shards=(shard, *shape),
            dtype="uint8",
            compressors=codec,
            fill_value=0,
        )

    images = create("image", (height, width, 3), BloscCodec(cname="lz4", clevel=5, shuffle="noshuffle"))
    maps = [create(name, (height, width), ZstdCodec(level=1)) for name in ("dominant", "phantom")]
    assert recipes.phantom_image is not None
    begin = time.perf_counter()
    at_once = 1 if append else shard
    for first in range(0, samples, at_once):
        count = min(at_once, samples - first)
        image_block = np.zeros((count, height, width, 3), np.uint8)
        map_blocks = [np.full((count, height, width), 255, np.uint8) for _ in maps]
        for row in range(count):
            pair = [clusters.ids[int(c[first + row])] for c in (recipes.dominant_image, recipes.phantom_image)]
            (image, labels), (partner, partner_labels) = (
                (
                    cv2.imread(str(root / "JPEGImages" / f"{image_id}.jpg")),
                    np.asarray(Image.open(labels_dir / f"{image_id}.png")),
                )
                for image_id in pair
            )
            assert image is not None
            assert partner is not None
            h, w = labels.shape
            partner = cv2.resize(partner, (w, h))
            partner_labels = cv2.resize(partner_labels, (w, h), interpolation=cv2.INTER_NEAREST)
            delta = float(recipes.delta[first + row])
            image_block[row, :h, :w] = cv2.addWeighted(image, delta, partner, 1 - delta, 0)[..., ::-1]
            map_blocks[0][row, :h, :w] = labels
            map_blocks[1][row, :h, :w] = partner_labels
        images[first : first + count] = image_block
        for array, block in zip(maps, map_blocks, strict=True):
            array[first : first + count] = block
    return samples / (time.perf_counter() - begin)


def ours(clusters_file: Path, out: Path, samples: int, shard: int, workers: int, cache: Path) -> tuple[float, float]:
    """Run the command; returns samples per second of the whole command, and of its shard tasks alone."""
    command = [
        sys.executable,
        "-m",
        "fbind.cli",
        "materialize-blends",
        "--clusters",
        str(clusters_file),
        "--log",
        "json",
    ]
    options = [
        "--limit",
        samples,
        "--samples-per-shard",
        shard,
        "--workers",
        workers,
        "--cache-dir",
        cache,
        "--out",
        out,
    ]
    begin = time.perf_counter()
    done = subprocess.run([*command, *map(str, options)], check=True, capture_output=True, text=True)
    whole = time.perf_counter() - begin
    tasks = sum(float(line.partition('"seconds": ')[2].partition(",")[0]) for line in done.stdout.splitlines()[1:])
    return samples / whole, samples / (tasks / workers)


@click.command()
@click.option("--root", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--split", default="train_sample", show_default=True)
@click.option("--labels-dir", default="SegmentationClass", show_default=True)
@click.option("--samples", default=4000, show_default=True, help="Blends that our side writes in a repetition.")
@click.option("--script-samples", default=640, show_default=True, help="Blends that the script writes in a repetition.")
@click.option("--samples-per-shard", default=64, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--repetitions", default=5, show_default=True)
@click.option("--append", is_flag=True, help="Let the script write sample by sample.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where both write.  [default: the temporary folder]")
def main(
    root: Path,
    split: str,
    labels_dir: str,
    samples: int,
    script_samples: int,
    samples_per_shard: int,
    workers: int,
    repetitions: int,
    append: bool,
    folder: Path | None,
) -> None:
    """Print both rates and their ratio, repetition by repetition, then median and range of the ratio."""
    work = Path(tempfile.mkdtemp(dir=folder, prefix="fbind-benchmark-"))
    try:
        clusters_file = work / "clusters.json"
        build = [sys.executable, "-m", "fbind.cli", "build-clusters", "--root", str(root), "--split", split]
        subprocess.run([*build, "--labels-dir", labels_dir, "--out", str(clusters_file)], check=True, stdout=2)
        clusters = load_clusters(clusters_file)
        recipes = plan_recipes(clusters, CategoryStrategy(), 0)
        cv2.setNumThreads(1)
        click.echo(
            f"{len(recipes)} recipes; ours writes {samples} of them with {workers} workers, the script "
            f"{script_samples} in one process; shards of {samples_per_shard}"
        )
        ratios = []
        for repetition in range(repetitions):
            os.sync()  # what the other side left to be written must not slow this one
            script = obvious(clusters, recipes, work / "script.zarr", script_samples, samples_per_shard, append)
            shutil.rmtree(work / "script.zarr")
            os.sync()
            whole, tasks = ours(clusters_file, work / "ours.zarr", samples, samples_per_shard, workers, work / "cache")
            shutil.rmtree(work / "ours.zarr")
            ratios.append(whole / script)
            click.echo(
                f"{repetition + 1}: script {script:6.0f}/s   ours {whole:6.0f}/s (shard tasks alone "
                f"{tasks:6.0f}/s)   ratio {ratios[-1]:.1f}"
            )
        click.echo(f"ratio: median {statistics.median(ratios):.1f}, from {min(ratios):.1f} to {max(ratios):.1f}")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
