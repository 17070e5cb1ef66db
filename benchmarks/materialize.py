"""``fbind materialize-blends`` against the script everybody writes, and against what the machine can do at most.

The script: one process, a loop over the blends, two ``cv2.imread``, two label PNGs through Pillow, resize, blend;
pixels go into Zarr arrays a whole shard at a time, the faster way (appending sample by sample rewrites the shard each
time: ``--append`` measures that instead). Both sides write the same arrays in the same codecs.

The machine's limit, measured with as many processes as our side has workers, started beforehand, is the slower of

- bare compute: resize, blend into the padded canvas, compress, of the images alone (and, told beside it, of the label
  maps, too); sources decoded and in memory, buffers reused, nothing checked, kept or written;
- bare writing: as many bytes as our store has, sequentially, in files of a shard's size, in the same folder, flushed.

    python benchmarks/materialize.py --root VOC --split train_sample --labels-dir SegmentationClassAug

Every repetition runs all sides, in alternating order and each after an ``os.sync()``, so that a slow moment of the
machine hits all; the figures to read are the ratios and their spread. Writing is timed twice: until the side is done,
which leaves data in the page cache, and until another ``os.sync()`` has returned. Bare compute writes nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import cv2
import numcodecs
import numpy as np
import zarr
from PIL import Image
from zarr.codecs import BloscCodec, ZstdCodec

from fbind.manifests.clusters import ClusterManifest, load_clusters
from fbind.manifests.codecs import ChunkCodec, single_threaded_blosc
from fbind.manifests.labels import VOID
from fbind.manifests.strategies import CategoryStrategy
from fbind.pipeline.recipes import Recipes, plan_recipes
from fbind.pipeline.sources import open_source

IMAGE_CODEC = ChunkCodec("lz4", labels=False).metadata()[1]["configuration"]
LABEL_CODEC = ChunkCodec("lz4", labels=True).metadata()[1]["configuration"]


class Rate(NamedTuple):
    """Samples per second until a side is done, and until what it wrote is on the disk."""

    done: float
    flushed: float


class Ours(NamedTuple):
    """What a run of the command came to."""

    rate: Rate
    tasks: float
    """Samples per second of its shard tasks alone."""
    stored: int
    """Bytes of the store's files."""


class Job(NamedTuple):
    """The recipes to work on, with all that a process needs for it in memory."""

    pixels: dict[int, tuple[np.ndarray, np.ndarray]]
    """Image (h, w, 3) and label map (h, w), by row of the image table."""
    dominant: Sequence[int]
    phantom: Sequence[int]
    delta: Sequence[float]
    canvas: tuple[int, int]


def canvas_of(clusters: ClusterManifest) -> tuple[int, int]:
    """The smallest (height, width) that holds every image."""
    return max(image.height for image in clusters.images), max(image.width for image in clusters.images)


def decode(clusters: ClusterManifest, recipes: Recipes, samples: int) -> Job:
    """The first ``samples`` recipes and the sources they need."""
    assert recipes.phantom_image is not None
    source = open_source(clusters.source)
    dominant, phantom = recipes.dominant_image[:samples].tolist(), recipes.phantom_image[:samples].tolist()
    pixels = {
        row: (source.image(clusters.ids[row]), source.label_map(clusters.ids[row])) for row in {*dominant, *phantom}
    }
    return Job(pixels, dominant, phantom, recipes.delta[:samples].tolist(), canvas_of(clusters))


class Crew:
    """Processes that have all they need and wait, so that starting them is in nobody's time."""

    def __init__(self, size: int, job: Job) -> None:
        self.size = size
        context = multiprocessing.get_context("fork")  # shares the decoded sources without copying them
        self._start = context.Barrier(size + 1)
        self._end = context.Barrier(size + 1)
        ends = [context.Pipe() for _ in range(size)]
        self._pipes = [end for end, _ in ends]
        self._processes = [
            context.Process(target=self._serve, args=(theirs, job, slice(number, None, size)), daemon=True)
            for number, (_, theirs) in enumerate(ends)
        ]
        for process in self._processes:
            process.start()

    def _serve(self, pipe: Any, job: Job, share: slice) -> None:
        payload = np.random.default_rng(share.start).bytes(1 << 20) * 64  # nothing on the way can compress it
        while (order := pipe.recv()) is not None:
            work, args = order
            self._start.wait()
            try:
                work(job, share, payload, *args)
            except BaseException:
                self._end.abort()  # or the parent would wait for ever
                raise
            self._end.wait()

    def seconds(self, work: Callable[..., None], *args: Any) -> float:
        """How long it takes until every process has done its share of ``work``."""
        for pipe in self._pipes:
            pipe.send((work, args))
        self._start.wait(timeout=60)
        begin = time.perf_counter()
        self._end.wait(timeout=3600)
        return time.perf_counter() - begin

    def dismiss(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join()


def compute(job: Job, share: slice, _payload: bytes, with_labels: bool) -> None:
    """The work that no writer of these samples can do without, into reused buffers."""
    single_threaded_blosc()
    height, width = job.canvas
    lz4 = numcodecs.Blosc(IMAGE_CODEC["cname"], IMAGE_CODEC["clevel"], numcodecs.Blosc.NOSHUFFLE)
    zstd = numcodecs.Zstd(LABEL_CODEC["level"])
    canvas = np.zeros((height, width, 3), np.uint8)
    label_canvas = np.empty((height, width), np.uint8)
    resized = np.empty(canvas.size, np.uint8)
    resized_labels = np.empty(label_canvas.size, np.uint8)
    for dominant, phantom, delta in zip(job.dominant[share], job.phantom[share], job.delta[share], strict=True):
        image, labels = job.pixels[dominant]
        partner, partner_labels = job.pixels[phantom]
        h, w = labels.shape
        if partner_labels.shape != (h, w):
            out = resized[: 3 * h * w].reshape(h, w, 3)
            partner = cv2.resize(partner, (w, h), dst=out, interpolation=cv2.INTER_LINEAR_EXACT)
            if with_labels:
                out = resized_labels[: h * w].reshape(h, w)
                partner_labels = cv2.resize(partner_labels, (w, h), dst=out, interpolation=cv2.INTER_NEAREST_EXACT)
        cv2.addWeighted(image, delta, partner, 1.0 - delta, 0.0, dst=canvas[:h, :w])
        canvas[h:] = 0
        canvas[:h, w:] = 0
        lz4.encode(canvas)
        for pixels in (labels, partner_labels) if with_labels else ():
            label_canvas[:h, :w] = pixels
            label_canvas[h:] = VOID
            label_canvas[:h, w:] = VOID
            zstd.encode(label_canvas)


def write(_job: Job, share: slice, payload: bytes, folder: Path, file_bytes: int, files: int) -> None:
    """Write a share of ``files`` new files of ``file_bytes`` each."""
    for number in range(files)[share]:
        with (folder / f"{number}.bin").open("wb", buffering=0) as file:
            left = file_bytes
            while left:
                left -= file.write(memoryview(payload)[:left])


def obvious(clusters: ClusterManifest, recipes: Recipes, out: Path, samples: int, shard: int, append: bool) -> Rate:
    """Write the first ``samples`` recipes by the obvious script."""
    root = Path(clusters.source.root)
    labels_dir = root / (clusters.source.labels_dir or "SegmentationClass")
    height, width = canvas_of(clusters)
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

    images = create("image", (height, width, 3), BloscCodec(**IMAGE_CODEC))
    maps = [create(name, (height, width), ZstdCodec(**LABEL_CODEC)) for name in ("dominant", "phantom")]
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
    return rate_of(samples, time.perf_counter() - begin)


def rate_of(samples: int, seconds: float) -> Rate:
    """The rate of a side that has taken ``seconds`` and has just finished."""
    begin = time.perf_counter()
    os.sync()
    return Rate(samples / seconds, samples / (seconds + time.perf_counter() - begin))


def ours(clusters_file: Path, out: Path, samples: int, shard: int, workers: int, cache: Path) -> Ours:
    """Run the command, and delete the store again."""
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
    done = subprocess.run([*command, *map(str, options)], check=False, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(done.stderr)
    rate = rate_of(samples, time.perf_counter() - begin)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    tasks = sum(event["seconds"] for event in events if "shard" in event)
    stored = stored_bytes(out)
    shutil.rmtree(out)
    return Ours(rate, samples / (tasks / workers), stored)


def stored_bytes(folder: Path) -> int:
    """The bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def build_clusters(root: Path, split: str, labels_dir: str, out: Path) -> ClusterManifest:
    """Build the clusters file of a split."""
    build = [sys.executable, "-m", "fbind.cli", "build-clusters", "--root", str(root), "--split", split]
    subprocess.run([*build, "--labels-dir", labels_dir, "--out", str(out)], check=True, stdout=2)
    return load_clusters(out)


def spread(name: str, values: Sequence[float], unit: str = "") -> str:
    """Median and range, for people."""
    return f"{name}: median {statistics.median(values):.2f}{unit}, from {min(values):.2f} to {max(values):.2f}"


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
@click.option("--skip-script", is_flag=True, help="Only our side and the machine's limit.")
@click.option("--one-worker", is_flag=True, help="Run our side with one worker, too, for the gain of more.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where all write.  [default: the temporary folder]")
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
    skip_script: bool,
    one_worker: bool,
    folder: Path | None,
) -> None:
    """Print all rates, repetition by repetition, then median and range of their ratios."""
    work = Path(tempfile.mkdtemp(dir=folder, prefix="fbind-benchmark-"))
    try:
        clusters_file = work / "clusters.json"
        clusters = build_clusters(root, split, labels_dir, clusters_file)
        recipes = plan_recipes(clusters, CategoryStrategy(), 0)
        samples = min(samples, len(recipes))
        cv2.setNumThreads(1)
        crew = Crew(workers, decode(clusters, recipes, samples))
        script_does = "" if skip_script else f", the script {script_samples} in one process"
        click.echo(
            f"{len(recipes)} recipes; ours writes {samples} of them with {workers} workers{script_does}; shards of "
            f"{samples_per_shard}. Samples per second, in brackets until all is on the disk"
        )

        def run(count: int) -> Ours:
            return ours(clusters_file, work / "ours.zarr", samples, samples_per_shard, count, work / "cache")

        def script() -> Rate:
            rate = obvious(clusters, recipes, work / "script.zarr", script_samples, samples_per_shard, append)
            shutil.rmtree(work / "script.zarr")
            return rate

        def bare_compute(with_labels: bool) -> float:
            return samples / crew.seconds(compute, with_labels)

        def bare_write() -> Rate:
            target = work / "bare"
            target.mkdir()
            files = -(-samples // samples_per_shard)
            rate = rate_of(samples, crew.seconds(write, target, stored // files, files))
            shutil.rmtree(target)
            return rate

        # The size of the store must be known before anything of that size is written; both also warm what is cached.
        stored = run(workers).stored
        bare_compute(True)
        click.echo(f"our store: {stored / samples:.0f} bytes a sample")
        sides: dict[str, Callable[[], Any]] = {
            "ours": lambda: run(workers),
            "compute": lambda: bare_compute(True),
            "images": lambda: bare_compute(False),
            "write": bare_write,
        }
        if not skip_script:
            sides["script"] = script
        if one_worker:
            sides["one"] = lambda: run(1)
        ratios: dict[str, list[float]] = {}

        def note(name: str, value: float) -> str:
            ratios.setdefault(name, []).append(value)
            return f"{value:.2f}"

        for repetition in range(repetitions):
            got: dict[str, Any] = {}
            for name in list(sides) if repetition % 2 else reversed(sides):
                os.sync()  # what the side before left to be written must not slow this one
                got[name] = sides[name]()
            # Ours has flushed its store when it says that it is complete, so bare writing has to do that, too.
            mine, floor, writing = got["ours"], got["images"], got["write"]
            click.echo(
                f"{repetition + 1}: ours {mine.rate.done:.0f}, shard tasks alone {mine.tasks:.0f}; limit of compute "
                f"{floor:.0f} (with the label maps {got['compute']:.0f}), of writing {writing.flushed:.0f} (unflushed "
                f"{writing.done:.0f})"
            )
            share = note("share of the limit", mine.rate.done / min(floor, writing.flushed))
            tasks = note("share of the limit, shard tasks alone", mine.tasks / min(floor, writing.flushed))
            labels = note(
                "share of the limit with the label maps", mine.rate.done / min(got["compute"], writing.flushed)
            )
            line = f"   share of the limit {share} (with the label maps {labels}), of the shard tasks {tasks}"
            if not skip_script:
                ratio = note("ratio to the script", mine.rate.done / got["script"].done)
                flushed = note("ratio to the script, on the disk", mine.rate.flushed / got["script"].flushed)
                line += f"; script {got['script'].done:.0f} [{got['script'].flushed:.0f}], ratio {ratio} [{flushed}]"
            if one_worker:
                gain = note(f"{workers} workers to 1", mine.rate.done / got["one"].rate.done)
                tasks = note(f"{workers} workers to 1, shard tasks alone", mine.tasks / got["one"].tasks)
                line += f"; one worker {got['one'].rate.done:.0f}, gain {gain}, of the shard tasks {tasks}"
            click.echo(line)
        for name, values in ratios.items():
            click.echo(spread(name, values))
        crew.dismiss()
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
