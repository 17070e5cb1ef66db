"""The main job as a newcomer types it: dataset, clusters, all blends, both stages, baseline, scores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fbind.manifests.clusters import load_clusters
from fbind.manifests.reader import BlendStore


class Shell:
    """Runs commands in one folder, one after another; each must succeed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: object) -> str:
        command = [sys.executable, "-m", "fbind.cli", *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def scores(self, checkpoint: str, store: str) -> dict[str, float]:
        """mIoU by 'head>labels', and the phantom's activation."""
        self("evaluate", "--checkpoint", checkpoint, "--shards", store, "--out", "scores.json", "--device", "cpu")
        found = json.loads((self.folder / "scores.json").read_text())
        named = {f"{score['head']}>{score['target']}": score["mean_iou"] for score in found["scores"]}
        return named | {"activation": found["phantom_activation"]}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A folder with a dataset of shapes, its clusters and its stores."""
    shell = Shell(tmp_path_factory.mktemp("shapes"))
    shell("make-shapes", "shapes", "--images", 300, "--val", 40, "--size", 48, "--seed", 4)
    for split in ("train", "val"):
        shell("build-clusters", "--root", "shapes", "--split", split, "--out", f"{split}.json")
        shell("materialize-blends", "--clusters", f"{split}.json", "--strategy", "none", "--out", f"{split}.zarr")
        shell("materialize-blends", "--clusters", f"{split}.json", "--delta", 0.5, 0.6, "--out", f"{split}-blends.zarr")
    return shell


def test_every_blend_of_the_clusters_is_there_and_verifies(shapes: Shell) -> None:
    clusters = load_clusters(shapes.folder / "train.json")
    full = sum(1 for members in clusters.clusters.values() if members)
    store = BlendStore.open(shapes.folder / "train-blends.zarr")
    memberships = sum(len(members) for members in clusters.clusters.values())
    assert len(store) == (full - 1) * memberships
    assert "everything checks" in shapes("verify", "train-blends.zarr")
    assert "complete" in shapes("inspect", "train-blends.zarr")
    shapes("preview", "train-blends.zarr", "--out", "sheet.png", "--samples", 3)
    assert (shapes.folder / "sheet.png").stat().st_size > 10_000


def test_both_stages_and_the_baseline_learn(shapes: Shell) -> None:
    """In seconds: every loss falls, the phantom branch learns from blends, and stage 2 silences it on plain images."""
    small = ["--network", "small", "--batch", 8, "--crop", 48, "--device", "cpu", "--log-every", 20]
    shapes("train", "--shards", "train-blends.zarr", "--run", "one", "--steps", 160, "--lr", 0.1, *small)
    first = shapes.folder / "one/checkpoint.pt"
    two = ["--stage", "denoise", "--init", first, "--steps", 100]
    shapes("train", "--shards", "train.zarr", "--run", "two", *two, *small)
    shapes("train", "--shards", "train.zarr", "--run", "plain", "--stage", "plain", "--steps", 60, "--lr", 0.1, *small)

    lines = [json.loads(line) for line in (shapes.folder / "one/metrics.jsonl").read_text().splitlines()]
    for term in ("binding", "dominant", "phantom"):
        assert lines[-1][f"loss_{term}"] < 0.8 * lines[0][f"loss_{term}"]
    before, after = shapes.scores("one/checkpoint.pt", "val.zarr"), shapes.scores("two/checkpoint.pt", "val.zarr")
    assert after["activation"] < 0.5 * before["activation"]
    assert set(before) == {"dominant>dominant", "binding>dominant", "activation"}
    chance = 1 / 21
    assert after["dominant>dominant"] > chance
    assert shapes.scores("plain/checkpoint.pt", "val.zarr")["dominant>dominant"] > chance
    on_blends = shapes.scores("one/checkpoint.pt", "val-blends.zarr")
    assert {"phantom>phantom", "dominant>phantom"} <= set(on_blends)


@pytest.mark.voc
def test_real_images(voc_root: Path, tmp_path: Path) -> None:
    """Clusters of the training sample, a uniform part of its blends, some steps of training, a score on real images."""
    shell = Shell(tmp_path)
    labels = ["--labels-dir", "SegmentationClassAug"]
    shell("build-clusters", "--root", voc_root, "--split", "train_sample", *labels, "--out", "train.json")
    shell("build-clusters", "--root", voc_root, "--split", "val_sample", "--out", "val.json")
    shell("materialize-blends", "--clusters", "train.json", "--out", "blends.zarr", "--limit", 120)
    shell("materialize-blends", "--clusters", "val.json", "--out", "val.zarr", "--strategy", "none", "--limit", 24)
    assert "everything checks" in shell("verify", "blends.zarr")
    shell("preview", "blends.zarr", "--out", "sheet.png", "--samples", 2)
    small = ["--network", "small", "--batch", 4, "--crop", 97, "--device", "cpu", "--steps", 12]
    shell("train", "--shards", "blends.zarr", "--run", "run", *small)
    scores = shell.scores("run/checkpoint.pt", "val.zarr")
    assert 0 < scores["dominant>dominant"] < 1
    delta = BlendStore.open(tmp_path / "blends.zarr").column("delta")
    assert np.all((delta >= 0.7) & (delta <= 1))
