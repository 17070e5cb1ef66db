"""Everything that can be wrong with sources, options, disks and schedulers: one clear line, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fbind.manifests.clusters import ClusterManifest
from fbind.manifests.errors import (
    BadImageError,
    BadLabelError,
    ManifestError,
    MissingFileError,
    ResourceError,
    SchedulerError,
    SourceError,
)
from fbind.manifests.strategies import CategoryStrategy
from fbind.pipeline.materialize import Workers, materialize
from fbind.pipeline.plan import StoreOptions

from .conftest import OPTIONS, Fbind, Maker, Watch, write_voc


def broken(voc: Path, what: str) -> None:
    """Damage image or label map ``img_005`` (33 rows, 50 columns... its own size) in one way."""
    image, labels = voc / "JPEGImages/img_005.jpg", voc / "SegmentationClass/img_005.png"
    with Image.open(image) as opened:
        picture = opened.convert("RGB")
    with Image.open(labels) as opened:
        values = np.asarray(opened)
    match what:
        case "no image":
            image.unlink()
        case "no label":
            labels.unlink()
        case "truncated":
            image.write_bytes(image.read_bytes()[:-400])
        case "empty":
            image.write_bytes(b"")
        case "grey":
            picture.convert("L").save(image)
        case "cmyk":
            picture.convert("CMYK").save(image)
        case "size":
            picture.resize((20, 20)).save(image)
        case "rgb label":
            Image.fromarray(values).convert("RGB").save(labels)
        case "16-bit label":
            Image.fromarray(values.astype(np.uint16)).save(labels)
        case "other label":
            Image.fromarray(values * 0).save(labels)


BROKEN = {
    "no image": (MissingFileError, "img_005.jpg"),
    "no label": (MissingFileError, "img_005.png"),
    "truncated": (BadImageError, "img_005.jpg"),
    "empty": (BadImageError, "img_005.jpg"),
    "grey": (BadImageError, "img_005.jpg"),
    "cmyk": (BadImageError, "img_005.jpg"),
    "size": (BadLabelError, "img_005 is 40x50"),
    "rgb label": (BadLabelError, "img_005.png"),
    "16-bit label": (BadLabelError, "img_005.png"),
    "other label": (ManifestError, "img_005"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_source_is_named_and_nothing_is_left(
    what: str, voc: Path, clusters: ClusterManifest, make: Maker
) -> None:
    broken(voc, what)
    kind, name = BROKEN[what]
    with pytest.raises(kind, match=name) as caught:
        make(clusters)
    assert "\n" not in str(caught.value)
    assert not make.out.exists()


@pytest.mark.parametrize("what", [what for what in BROKEN if what != "other label"])
def test_skip_lists_and_leaves_out(what: str, voc: Path, clusters: ClusterManifest, make: Maker) -> None:
    broken(voc, what)
    manifest = make(clusters, skip=True).manifest
    assert [problem.image_id for problem in make.watch.problems] == ["img_005"]
    assert manifest.left_out == ("img_005",)
    assert "img_005" not in manifest.images


@pytest.mark.parametrize("what", ["grey", "cmyk"])
def test_convert_takes_other_modes(what: str, voc: Path, clusters: ClusterManifest, make: Maker) -> None:
    broken(voc, what)
    manifest = make(clusters, StoreOptions(CategoryStrategy(), convert=True)).manifest
    assert "img_005" in manifest.images
    assert manifest.converted


def test_skip_does_not_pass_over_another_dataset(voc: Path, clusters: ClusterManifest, make: Maker) -> None:
    broken(voc, "other label")
    with pytest.raises(ManifestError, match="img_005"):
        make(clusters, skip=True)


def test_nothing_left_to_use(voc: Path, clusters: ClusterManifest, make: Maker) -> None:
    for image in (voc / "JPEGImages").iterdir():
        image.write_bytes(b"")
    with pytest.raises(SourceError, match=r"none of the 12 images can be used; the first: .*img_000"):
        make(clusters, skip=True)


def test_classes_that_changed_since(voc: Path, clusters: ClusterManifest, make: Maker) -> None:
    names = [*clusters.labels.names[:-1], "screen"]
    (voc / "classes.json").write_text(json.dumps({"names": names, "background": "background"}))
    with pytest.raises(ManifestError, match=r"classes of the dataset at .* are not those of the clusters file"):
        make(clusters)


def test_several_broken_images_are_counted(voc: Path, clusters: ClusterManifest, make: Maker) -> None:
    for number in (3, 5, 7):
        (voc / f"JPEGImages/img_{number:03d}.jpg").unlink()
    with pytest.raises(MissingFileError, match=r"img_003.*2 more images can't be used, --on-bad-image skip lists"):
        make(clusters)


def test_clusters_of_another_dataset(clusters: ClusterManifest, make: Maker, tmp_path: Path) -> None:
    other = write_voc(tmp_path / "other", 12, seed=1)
    for index in range(12):  # the same ids, other sizes
        for file in (other / f"JPEGImages/img_{index:03d}.jpg", other / f"SegmentationClass/img_{index:03d}.png"):
            with Image.open(file) as opened:
                small = opened.resize((30, 30), Image.Resampling.NEAREST)
            small.save(file)
    moved = clusters.model_copy(update={"source": clusters.source.model_copy(update={"root": str(other)})})
    with pytest.raises(ManifestError, match=r"img_000 .* is 30x30 .* the clusters file says 50x40.*11 more"):
        make(moved)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk(clusters: ClusterManifest, make: Maker, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let its root mount a file system")
    try:
        with pytest.raises(ResourceError, match=r"needs about .* free: free some space"):
            make(clusters, StoreOptions(CategoryStrategy(), codec="none", samples_per_shard=1), out=disk / "a.zarr")
        assert list(disk.iterdir()) == []
        # It fits when planned, and the disk is filled up by somebody else meanwhile.
        small = StoreOptions(CategoryStrategy(), samples_per_shard=5, limit=15)
        full = Maker(make.workers.scheduler or "", disk / "b.zarr")
        checking = full.watch.checking

        def fill(done: int, total: int) -> None:
            checking(done, total)
            if done == total:
                (disk / "other").write_bytes(bytes(440_000))

        full.watch.checking = fill  # type: ignore[method-assign]
        with pytest.raises(ResourceError, match="the disk is full: free some space"):
            full(clusters, small)
        assert not any((disk / "b.zarr").rglob("*.fbind-tmp"))
        (disk / "other").unlink()
        full.watch.checking = checking  # type: ignore[method-assign]
        assert full(clusters, small).manifest.complete
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_read_only_output(clusters: ClusterManifest, make: Maker) -> None:
    with pytest.raises(ResourceError, match=r"can't write /proc/nowhere/out\.zarr"):
        make(clusters, out=Path("/proc/nowhere/out.zarr"))


def test_output_below_a_file(clusters: ClusterManifest, make: Maker, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="a part of that path is a file"):
        make(clusters, out=tmp_path / "file" / "out.zarr")


def test_scheduler_that_is_not_there(
    clusters: ClusterManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fbind.pipeline.scheduler.remote.CONNECT_SECONDS", 1)
    with pytest.raises(SchedulerError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1: check"):
        materialize(clusters, OPTIONS, tmp_path / "o.zarr", Workers(1, "tcp://127.0.0.1:1"), Watch())


@pytest.mark.parametrize(
    ("options", "code", "line"),
    [
        (["--delta", "1.2", "0.3"], 2, "1.2 is not in the range 0<=x<=1"),
        (["--delta", "0.9", "0.3"], 2, "the lower end comes first"),
        (["--delta", "nan", "nan"], 2, "delta"),
        (["--workers", "1", "--scheduler", "tcp://127.0.0.1:1"], 2, "give one of them"),
        (["--scheduler", "nowhere.json"], 7, "can't read a scheduler's address from nowhere.json"),
        (["--strategy", "none", "--disjoint"], 2, "--disjoint is about blends"),
        (["--clusters", "nowhere.json"], 3, "no clusters file at nowhere.json"),
        (["--root", "/nowhere"], 3, "/nowhere"),
        (["--samples-per-shard", "0"], 2, "0 is not in the range 1<=x<=65536"),
    ],
)
def test_bad_options_in_one_line(
    options: list[str], code: int, line: str, clusters_file: Path, fbind: Fbind, tmp_path: Path
) -> None:
    done = fbind("materialize-blends", "--clusters", clusters_file, "--out", "o.zarr", *options)
    assert done.returncode == code
    assert line in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o.zarr").exists()


def test_clusters_edited_by_hand(clusters_file: Path, fbind: Fbind) -> None:
    text = clusters_file.read_text()
    clusters_file.write_text(text.replace('"height":40', '"height":41', 1))
    done = fbind("materialize-blends", "--clusters", clusters_file, "--out", "o.zarr")
    assert done.returncode == 4
    assert "does not match its digest, so it was edited or damaged" in done.stderr
