"""A small dataset in VOC's layout, its clusters, and the command line as a test calls it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fbind.manifests.blending import blend
from fbind.manifests.clusters import (
    ClusterManifest,
    ImageRecord,
    MembershipRule,
    SourceSpec,
    build_manifest,
    save_clusters,
)
from fbind.manifests.storage import LocalStorage
from fbind.manifests.store import Layout
from fbind.manifests.strategies import CategoryStrategy, PlainStrategy, Strategy
from fbind.manifests.writer import PixelSample, create_store, seal, write_shard
from fbind.pipeline.cache import pixel_digest
from fbind.pipeline.counting import count_pixels
from fbind.pipeline.materialize import Outcome, Workers, materialize
from fbind.pipeline.plan import Plan, StoreOptions, make_plan
from fbind.pipeline.progress import JsonProgress
from fbind.pipeline.shardtask import Problem
from fbind.pipeline.sources import open_source

SIZES = [(40, 50), (50, 40), (33, 50), (50, 50)]
CATEGORIES = (2, 7, 15)


def write_voc(root: Path, count: int, seed: int = 0) -> Path:
    """Write ``count`` images of three categories, some with several, to ``root`` as split ``train``."""
    rng = np.random.default_rng(seed)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    ids = [f"img_{index:03d}" for index in range(count)]
    for index, image_id in enumerate(ids):
        height, width = SIZES[index % len(SIZES)]
        noise = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
        Image.fromarray(noise).resize((width, height)).save(root / "JPEGImages" / f"{image_id}.jpg", quality=90)
        labels = np.zeros((height, width), np.uint8)
        labels[5:20, 5:20] = CATEGORIES[index % 3]
        if index % 4 == 0:
            labels[22:30, 10:30] = CATEGORIES[(index + 1) % 3]
        labels[20:22, 5:20] = 255
        Image.fromarray(labels).save(root / "SegmentationClass" / f"{image_id}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
    return root


def clusters_of(root: Path, split: str = "train", rule: MembershipRule | None = None) -> ClusterManifest:
    """Cluster a dataset in this process."""
    spec = SourceSpec(kind="voc", root=str(root), split=split)
    source = open_source(spec)
    images = []
    for image_id in source.ids():
        labels = source.label_map(image_id)
        images.append(
            ImageRecord(id=image_id, height=labels.shape[0], width=labels.shape[1], pixels=count_pixels(labels))
        )
    return build_manifest(source.labels, spec, rule or MembershipRule(), tuple(images))


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A fresh dataset of 12 images that a test may damage."""
    return write_voc(tmp_path / "voc", 12)


@pytest.fixture
def clusters(voc: Path) -> ClusterManifest:
    """The clusters of ``voc``: three full ones, seventeen empty ones."""
    return clusters_of(voc)


@pytest.fixture
def clusters_file(clusters: ClusterManifest, tmp_path: Path) -> Path:
    """``clusters`` as a file."""
    save_clusters(clusters, tmp_path / "clusters.json")
    return tmp_path / "clusters.json"


Fbind = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def fbind(tmp_path: Path) -> Fbind:
    """Run the command line as a process, in an empty folder; returns exit code and both outputs."""

    def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fbind.cli", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=120, **options
        )

    return run


def write_store(
    clusters: ClusterManifest,
    path: Path,
    strategy: Strategy,
    limit: int,
    shards: int | None = None,
    layout: Layout = "full",
) -> Path:
    """Write ``limit`` samples in shards of 4, in this process; with ``shards`` only so many of them, unsealed."""
    plan = make_plan(clusters, StoreOptions(strategy, seed=1, limit=limit, samples_per_shard=4, layout=layout))
    manifest, recipes = plan.manifest, plan.recipes
    source = open_source(clusters.source)

    def pair(row: int) -> tuple[np.ndarray, np.ndarray]:
        return source.image(manifest.images[row]), source.label_map(manifest.images[row])

    def sample(index: int) -> PixelSample:
        dominant = pair(recipes.dominant_image[index])
        if recipes.phantom_image is None or recipes.phantom_image[index] < 0:
            return PixelSample(*dominant, np.full_like(dominant[1], 255) if recipes.phantom_image is not None else None)
        return PixelSample(*blend(dominant, pair(recipes.phantom_image[index]), float(recipes.delta[index])))

    used = set(recipes.images().tolist())

    def original(row: int) -> PixelSample | None:
        return PixelSample(*pair(row)) if row in used else None

    for row in used:
        plan.columns["source/digest"][row] = np.frombuffer(pixel_digest(*pair(row)), np.uint8)
    storage = LocalStorage(path)
    manifest = create_store(storage, manifest, plan.columns)
    for shard in range(manifest.shards if shards is None else shards):
        rows = map(sample if layout == "full" else original, manifest.rows_of(shard))
        write_shard(storage, manifest, shard, rows)
    if shards is None:
        seal(storage, manifest)
    return path


@pytest.fixture
def blends(clusters: ClusterManifest, tmp_path: Path) -> Path:
    """A complete store of 10 blends in 3 shards."""
    return write_store(clusters, tmp_path / "blends.zarr", CategoryStrategy(), 10)


@pytest.fixture
def virtual(clusters: ClusterManifest, tmp_path: Path) -> Path:
    """A complete virtual store of 5 blends: 12 images, of which it leaves some out, in 3 shards."""
    return write_store(clusters, tmp_path / "virtual.zarr", CategoryStrategy(), 5, layout="virtual")


@pytest.fixture
def plain(clusters: ClusterManifest, tmp_path: Path) -> Path:
    """A complete store of 6 plain images in 2 shards."""
    return write_store(clusters, tmp_path / "plain.zarr", PlainStrategy(), 6)


@pytest.fixture
def incomplete(clusters: ClusterManifest, tmp_path: Path) -> Path:
    """The store of ``blends`` after 2 of its 3 shards."""
    return write_store(clusters, tmp_path / "incomplete.zarr", CategoryStrategy(), 10, shards=2)


class Watch(JsonProgress):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.resumed = 0

    def left_out(self, problems: list[Problem], plan: Plan) -> None:
        super().left_out(problems, plan)
        self.problems = problems

    def resuming(self, done: int, total: int) -> None:
        super().resuming(done, total)
        self.resumed = done


@pytest.fixture(scope="session")
def scheduler() -> Iterator[str]:
    """A real scheduler and two worker processes, over TCP."""
    environment = os.environ | {"PYTHONWARNINGS": "default"}
    python = [sys.executable, "-m", "dask"]
    # A free port that nothing else takes meanwhile: the scheduler chooses it and writes it to its file.
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"fbind-test-{os.getpid()}"
    folder.mkdir()
    file = folder / "scheduler.json"
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    begin = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    processes = [subprocess.Popen([*python, *begin], **quiet)]  # type: ignore[call-overload]
    try:
        limit = time.monotonic() + 60
        while not file.exists() or not file.read_text():
            assert time.monotonic() < limit, "the scheduler did not start"
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        options = ["--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"]
        processes += [
            subprocess.Popen([*python, "worker", address, *options], **quiet)  # type: ignore[call-overload]
            for _ in range(2)
        ]
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


OPTIONS = StoreOptions(CategoryStrategy(), seed=1, samples_per_shard=5)


class Maker:
    """Materialises on the module's scheduler, which is there already."""

    def __init__(self, scheduler: str, out: Path) -> None:
        self.workers, self.out, self.watch = Workers(1, scheduler), out, Watch()

    def __call__(
        self,
        clusters: ClusterManifest,
        options: StoreOptions = OPTIONS,
        *,
        out: Path | None = None,
        skip: bool = False,
        overwrite: bool = False,
    ) -> Outcome:
        return materialize(
            clusters,
            options,
            out or self.out,
            self.workers,
            self.watch,
            skip=skip,
            overwrite=overwrite,
        )


@pytest.fixture
def make(scheduler: str, tmp_path: Path) -> Maker:
    return Maker(scheduler, tmp_path / "out.zarr")
