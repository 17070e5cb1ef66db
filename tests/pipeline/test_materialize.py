"""From clusters to a sealed store: the pixels, the bytes, interruption, what is printed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fbind.manifests.clusters import ClusterManifest, save_clusters
from fbind.manifests.errors import (
    StoreExistsError,
    UnknownVersionError,
)
from fbind.manifests.layout import metadata_files
from fbind.manifests.reader import BlendStore
from fbind.manifests.strategies import CategoryStrategy, PlainStrategy
from fbind.pipeline.materialize import Workers
from fbind.pipeline.plan import StoreOptions

from .conftest import Fbind, Maker, clusters_of, write_voc


def contents(store: Path) -> dict[str, bytes]:
    return {str(f.relative_to(store)): f.read_bytes() for f in sorted(store.rglob("*")) if f.is_file()}


def source_pixels(root: Path, image_id: str, labels_dir: str = "SegmentationClass") -> tuple[np.ndarray, np.ndarray]:
    """An image and its label map, read without any code of ours."""
    image = cv2.imread(str(root / "JPEGImages" / f"{image_id}.jpg"), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert image is not None
    with Image.open(root / labels_dir / f"{image_id}.png") as opened:
        return image[..., ::-1], np.asarray(opened)


def check_sample(store: BlendStore, index: int, root: Path, labels_dir: str = "SegmentationClass") -> None:
    """A stored sample against Eq. 1, computed in float64 from the files its recipe names (±1 grey level)."""
    ids, sample = store.manifest.images, store.read(index)
    image, labels = source_pixels(root, ids[store.column("recipe/dominant_image")[index]], labels_dir)
    partner, partner_labels = source_pixels(root, ids[store.column("recipe/phantom_image")[index]], labels_dir)
    height, width = labels.shape
    partner = cv2.resize(partner.astype(np.float64), (width, height), interpolation=cv2.INTER_LINEAR)
    # Nearest at pixel centres, as Pillow does it; OpenCV's own exact variant is what the store was made with.
    nearest = np.asarray(Image.fromarray(partner_labels).resize((width, height), Image.Resampling.NEAREST))
    expected = sample.delta * image + (1 - sample.delta) * partner
    assert np.abs(sample.image - expected).max() <= 1
    assert np.array_equal(sample.dominant, labels)
    assert np.array_equal(sample.phantom, nearest)  # type: ignore[arg-type]


def test_pixels_equal_eq_1(voc: Path, clusters: ClusterManifest, make: Maker) -> None:
    outcome = make(clusters)
    memberships = sum(len(members) for members in clusters.clusters.values())
    assert outcome.manifest.samples == outcome.written == 2 * memberships  # three full clusters: two others each
    store = BlendStore.open(make.out)
    for index in range(len(store)):
        check_sample(store, index, voc)


def test_pad_keeps_pixels_unresampled(voc: Path, clusters: ClusterManifest, make: Maker) -> None:
    make(clusters, StoreOptions(CategoryStrategy(align="pad"), limit=20))
    store = BlendStore.open(make.out)
    for index in range(len(store)):
        sample, ids = store.read(index), store.manifest.images
        image, labels = source_pixels(voc, ids[store.column("recipe/dominant_image")[index]])
        partner, partner_labels = source_pixels(voc, ids[store.column("recipe/phantom_image")[index]])
        height, width = (min(a, b) for a, b in zip(labels.shape, partner_labels.shape, strict=True))
        both = np.rint(sample.delta * image[:height, :width] + (1 - sample.delta) * partner[:height, :width])
        assert np.abs(sample.image[:height, :width] - both).max() <= 1
        assert sample.phantom is not None
        assert np.array_equal(sample.phantom[:height, :width], partner_labels[:height, :width])
        assert np.all(sample.phantom[height:] == 255)
        assert np.all(sample.phantom[:, width:] == 255)


def test_plain_store_is_lossless(voc: Path, clusters: ClusterManifest, make: Maker) -> None:
    make(clusters, StoreOptions(PlainStrategy(), codec="zstd"))
    store = BlendStore.open(make.out)
    assert len(store) == len(clusters.images)
    assert not (make.out / "phantom").exists()
    for index in range(len(store)):
        image, labels = source_pixels(voc, store.manifest.images[store.column("recipe/dominant_image")[index]])
        sample = store.read(index)
        assert np.array_equal(sample.image, image)
        assert np.array_equal(sample.dominant, labels)
        assert sample.phantom is None
        assert sample.delta == 1


def test_same_bytes_with_one_worker_two_and_a_tcp_scheduler(
    clusters_file: Path, clusters: ClusterManifest, make: Maker, fbind: Fbind, tmp_path: Path
) -> None:
    make(clusters)
    expected = contents(make.out)
    options = ["--clusters", clusters_file, "--seed", 1, "--samples-per-shard", 5]
    for workers in (1, 2):
        done = fbind("materialize-blends", *options, "--out", f"w{workers}.zarr", "--workers", workers)
        assert done.returncode == 0, done.stderr
        assert contents(tmp_path / f"w{workers}.zarr") == expected
    other = make(clusters, StoreOptions(CategoryStrategy(), seed=2, samples_per_shard=5), out=tmp_path / "s2.zarr")
    assert other.manifest.samples == 30
    changed = contents(tmp_path / "s2.zarr")
    names = ("image/c/0/0/0/0", "recipe/phantom_image/c/0", "recipe/dominant_image/c/0", "delta/c/0")
    assert all(changed[name] != expected[name] for name in names)


def test_the_cache_is_removed(clusters: ClusterManifest, make: Maker, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    make.workers = Workers(1, make.workers.scheduler, str(cache))
    make(clusters)
    assert list(cache.iterdir()) == []


def unseal(store: Path) -> None:
    """Make the store one that is still being written."""
    manifest = BlendStore.open(store).manifest.model_copy(update={"complete": False, "digest": ""})
    (store / "zarr.json").write_bytes(metadata_files(manifest)["zarr.json"])


def test_interrupted_store_is_gone_on_with(
    clusters: ClusterManifest, make: Maker, tmp_path: Path, scheduler: str
) -> None:
    make(clusters)
    expected = contents(make.out)
    # As a killed run leaves it: some records and shards are missing, one shard is written but not recorded.
    begun = tmp_path / "begun.zarr"
    shutil.copytree(make.out, begun)
    unseal(begun)
    for shard in (1, 2):
        shutil.rmtree(begun / "integrity/record/c" / str(shard))
    shutil.rmtree(begun / "image/c/2")
    (begun / "dominant/c/1/0/.0.x.fbind-tmp").touch()
    again = Maker(scheduler, begun)
    outcome = again(clusters)
    assert again.watch.resumed == outcome.manifest.shards - 2
    assert outcome.written == 10
    assert contents(begun) == expected


def test_resuming_with_another_option_names_it(clusters: ClusterManifest, make: Maker) -> None:
    make(clusters)
    unseal(make.out)
    with pytest.raises(StoreExistsError, match=r"begun with another seed \(1 then, 2 now\)"):
        make(clusters, StoreOptions(CategoryStrategy(), seed=2, samples_per_shard=5))
    assert make(clusters).written == 0


def start_and_signal(folder: Path, out: str, options: list[str], signum: int) -> subprocess.Popen[str]:
    """Start a run of one sample per shard, and signal its whole process group when a few shards are recorded."""
    save_clusters(clusters_of(write_voc(folder / "many", 60)), folder / "many.json")
    command = [sys.executable, "-m", "fbind.cli", "materialize-blends", *options, "--out", out]
    process = subprocess.Popen(command, cwd=folder, start_new_session=True, stderr=subprocess.PIPE, text=True)
    records, limit = folder / out / "integrity/record/c", time.monotonic() + 60
    while not records.is_dir() or len(list(records.iterdir())) < 3:
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.002)
    os.killpg(process.pid, signum)
    return process


def test_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, fbind: Fbind) -> None:
    """kill -9 of the whole process group."""
    cache = ["--cache-dir", str(tmp_path / "cache")]  # a killed run leaves its decoded sources behind
    options = ["--clusters", "many.json", "--samples-per-shard", "1", "--workers", "1", *cache]
    process = start_and_signal(tmp_path, "killed.zarr", options, signal.SIGKILL)
    process.communicate()
    done_before = len(list((tmp_path / "killed.zarr/integrity/record/c").iterdir()))
    assert not BlendStore.open(tmp_path / "killed.zarr", allow_incomplete=True).manifest.complete
    resumed = fbind("materialize-blends", *options, "--out", "killed.zarr")
    assert resumed.returncode == 0, resumed.stderr
    assert "going on: " in resumed.stderr
    assert done_before < BlendStore.open(tmp_path / "killed.zarr").manifest.shards
    assert fbind("materialize-blends", *options, "--out", "whole.zarr").returncode == 0
    assert contents(tmp_path / "killed.zarr") == contents(tmp_path / "whole.zarr")


def test_ctrl_c_says_how_to_go_on_and_keeps_what_is_done(tmp_path: Path, fbind: Fbind) -> None:
    """As a terminal sends it: to the workers too."""
    cache = tmp_path / "cache"
    options = ["--clusters", "many.json", "--samples-per-shard", "1", "--workers", "1", "--cache-dir", str(cache)]
    process = start_and_signal(tmp_path, "stopped.zarr", options, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    told = re.search(
        r"stopped: at least (\d+) of 150 shards of stopped\.zarr are written; run the same command again to go on "
        r"\(it will use the .* of decoded sources in .*/cache/fbind-[0-9a-f]{16}\)\n$",
        errors,
    )
    assert told, errors
    assert "Traceback" not in errors
    (kept,) = cache.iterdir()
    assert (kept / "sources.raw").is_file()
    resumed = fbind("materialize-blends", *options, "--out", "stopped.zarr", "--log", "json", "--profile", "p.json")
    assert resumed.returncode == 0, resumed.stderr
    begun = json.loads(resumed.stdout.splitlines()[0])
    assert (begun["event"], begun["shards"]) == ("resuming", 150)
    assert begun["shards_done"] >= int(told[1])  # workers had recorded some more
    # Nothing was decoded again, and at the end nothing is left.
    profile = json.loads((tmp_path / "p.json").read_text())
    assert "look up" in profile["workers checking sources, seconds"]
    assert "decode" not in profile["workers checking sources, seconds"]
    assert list(cache.iterdir()) == []


def test_existing_output(clusters: ClusterManifest, make: Maker, tmp_path: Path) -> None:
    make(clusters)
    with pytest.raises(StoreExistsError, match="already there, complete"):
        make(clusters)
    assert make(clusters, overwrite=True).written == 30
    (tmp_path / "link.zarr").symlink_to(make.out)
    assert make(clusters, out=tmp_path / "link.zarr", overwrite=True).manifest.complete
    assert (tmp_path / "link.zarr").is_symlink()
    metadata = json.loads((make.out / "zarr.json").read_text())
    metadata["attributes"]["fbind"]["version"] = 9
    (make.out / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(UnknownVersionError):
        make(clusters)
    assert make(clusters, overwrite=True).manifest.complete
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "dear.jpg").touch()
    with pytest.raises(StoreExistsError, match="is not a store of blends"):
        make(clusters, out=foreign, overwrite=True)
    assert (foreign / "dear.jpg").exists()


def test_dry_run_prints_the_plan_and_writes_nothing(clusters_file: Path, fbind: Fbind, tmp_path: Path) -> None:
    done = fbind("materialize-blends", "--clusters", clusters_file, "--out", "o.zarr", "--dry-run")
    assert done.returncode == 0
    assert "30 blends of 12 images" in done.stdout
    assert "17 of 20 clusters have no images" in done.stderr
    assert not (tmp_path / "o.zarr").exists()


def test_log_json_is_one_object_per_line(clusters_file: Path, fbind: Fbind) -> None:
    options = ["--samples-per-shard", 10, "--workers", 1, "--log", "json"]
    done = fbind("materialize-blends", "--clusters", clusters_file, "--out", "o.zarr", *options)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["checked", "shard", "shard", "shard"]
    assert sorted(line["shard"] for line in lines[1:]) == [0, 1, 2]
    assert lines[-1]["samples_done"] == lines[-1]["samples_total"] == 30


@pytest.mark.voc
def test_real_images_equal_eq_1(voc_root: Path, make: Maker) -> None:
    clusters = clusters_of(voc_root, "train_sample")
    make(clusters, StoreOptions(CategoryStrategy(), limit=96))
    store = BlendStore.open(make.out)
    for index in range(len(store)):
        check_sample(store, index, voc_root)
