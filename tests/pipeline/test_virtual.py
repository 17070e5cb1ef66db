"""Virtual stores: the same samples from a fraction of the bytes, and the full store back from them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fbind.manifests.clusters import ClusterManifest
from fbind.manifests.errors import ConfigError, ManifestError, StoreError, StoreExistsError
from fbind.manifests.reader import BlendStore, Sample
from fbind.manifests.strategies import CategoryStrategy, HalfStrategy, PlainStrategy, Strategy
from fbind.pipeline.expansion import ExpandOptions, expand
from fbind.pipeline.plan import StoreOptions

from .conftest import OPTIONS, Fbind, Maker, clusters_of, write_voc
from .test_materialize import contents, unseal


def same(one: Sample, other: Sample) -> None:
    assert np.array_equal(one.image, other.image)
    assert np.array_equal(one.dominant, other.dominant)
    assert (one.phantom is None) == (other.phantom is None)
    if one.phantom is not None and other.phantom is not None:
        assert np.array_equal(one.phantom, other.phantom)
    assert one.delta == other.delta


@pytest.mark.parametrize(
    "strategy", [CategoryStrategy(), CategoryStrategy(align="pad"), HalfStrategy(), PlainStrategy()], ids=str
)
def test_virtual_samples_equal_the_full_store_and_expand_to_its_bytes(
    strategy: Strategy, clusters: ClusterManifest, make: Maker, tmp_path: Path
) -> None:
    options = StoreOptions(strategy, seed=3, samples_per_shard=5)
    full = BlendStore.open(make_at(make, clusters, options, tmp_path / "full.zarr"))
    virtual = BlendStore.open(make_at(make, clusters, replace(options, layout="virtual"), tmp_path / "virtual.zarr"))
    assert len(full) == len(virtual) > 0
    for index in range(len(full)):
        same(full.read(index), virtual.read(index))
    expand(virtual, ExpandOptions(), tmp_path / "expanded.zarr", make.workers, make.watch)
    assert contents(tmp_path / "expanded.zarr") == contents(tmp_path / "full.zarr")


def make_at(make: Maker, clusters: ClusterManifest, options: StoreOptions, out: Path) -> Path:
    make(clusters, options, out=out)
    return out


def test_images_that_no_recipe_needs_are_absent(clusters: ClusterManifest, make: Maker) -> None:
    make(clusters, replace(OPTIONS, limit=2, layout="virtual"))
    store = BlendStore.open(make.out)
    used = {int(row) for name in ("dominant", "phantom") for row in store.column(f"recipe/{name}_image")}
    assert 1 < len(used) < len(store.manifest.images)
    for row in range(len(store.manifest.images)):
        if row in used:
            store.source(row)
        else:
            with pytest.raises(Exception, match=f"has no source image {row}"):
                store.source(row)


def test_from_on_the_command_line(clusters_file: Path, fbind: Fbind, tmp_path: Path) -> None:
    begin = ["materialize-blends", "--workers", 1]
    made = fbind(*begin, "--clusters", clusters_file, "--layout", "virtual", "--out", "v.zarr")
    assert made.returncode == 0, made.stderr
    assert "layout    virtual: every image once; all samples in full would take" in made.stdout
    assert fbind(*begin, "--clusters", clusters_file, "--out", "f.zarr").returncode == 0
    expanded = fbind(*begin, "--from", "v.zarr", "--out", "e.zarr")
    assert expanded.returncode == 0, expanded.stderr
    assert contents(tmp_path / "e.zarr") == contents(tmp_path / "f.zarr")
    refused = fbind(*begin, "--from", "v.zarr", "--out", "o.zarr", "--seed", 3)
    assert refused.returncode == 2
    assert "--seed was decided when the virtual store was made" in refused.stderr
    for option in (["--cache-limit", "1GB"], ["--cache-dir", "c"], ["--root", "voc"], ["--on-bad-image", "skip"]):
        refused = fbind(*begin, "--from", "v.zarr", "--out", "o.zarr", *option)
        assert refused.returncode == 2
        assert f"{option[0]} is about the dataset's files" in refused.stderr
    refused = fbind(*begin, "--from", "v.zarr", "--out", "v.zarr", "--dry-run")
    assert refused.returncode == 2
    assert "are one place" in refused.stderr
    refused = fbind(*begin, "--from", "f.zarr", "--out", "o.zarr")
    assert refused.returncode == 2
    assert "is a full store already" in refused.stderr
    refused = fbind(*begin, "--out", "o.zarr")
    assert refused.returncode == 2
    assert "give the --clusters file" in refused.stderr


def test_expanding_with_another_codec(clusters: ClusterManifest, make: Maker, tmp_path: Path) -> None:
    make(clusters, replace(OPTIONS, layout="virtual"))
    virtual = BlendStore.open(make.out)
    expand(virtual, ExpandOptions(samples_per_shard=7, codec="zstd"), tmp_path / "z.zarr", make.workers, make.watch)
    store = BlendStore.open(tmp_path / "z.zarr")
    assert (store.manifest.codec, store.manifest.samples_per_shard, store.manifest.layout) == ("zstd", 7, "full")
    for index in range(len(store)):
        same(store.read(index), virtual.read(index))
    with pytest.raises(ConfigError, match="is a full store already"):
        expand(store, ExpandOptions(), tmp_path / "y.zarr", make.workers, make.watch)


@pytest.mark.parametrize("out", ["v.zarr", "link.zarr", "v.zarr/inner.zarr", "file://{}/link.zarr"])
def test_a_virtual_store_is_not_expanded_over_itself(
    out: str, clusters: ClusterManifest, make: Maker, tmp_path: Path
) -> None:
    make(clusters, replace(OPTIONS, layout="virtual"), out=tmp_path / "v.zarr")
    (tmp_path / "link.zarr").symlink_to(tmp_path / "v.zarr")
    before = contents(tmp_path / "v.zarr")
    place = out.format(tmp_path) if "://" in out else tmp_path / out
    with pytest.raises(ConfigError, match="are one place, or one lies in the other: choose another --out"):
        expand(BlendStore.open(tmp_path / "v.zarr"), ExpandOptions(), place, make.workers, make.watch, overwrite=True)
    assert contents(tmp_path / "v.zarr") == before


def darken(picture: Path) -> None:
    with Image.open(picture) as opened:
        darker = opened.convert("RGB").point([value // 2 for value in range(256)] * 3)
    darker.save(picture)


@pytest.fixture
def begun(clusters: ClusterManifest, make: Maker, tmp_path: Path) -> Path:
    """A full store that was being made of ``v.zarr`` when its run was killed, two shards before its end."""
    make(clusters, replace(OPTIONS, layout="virtual"), out=tmp_path / "v.zarr")
    out = tmp_path / "begun.zarr"
    expand(BlendStore.open(tmp_path / "v.zarr"), ExpandOptions(), out, make.workers, make.watch)
    shutil.copytree(out, tmp_path / "whole.zarr")
    unseal(out)
    for shard in (0, 3):
        (out / f"integrity/record/c/{shard}/0").unlink()
        (out / f"image/c/{shard}/0/0/0").unlink()
    return out


def test_expanding_goes_on(begun: Path, make: Maker, tmp_path: Path) -> None:
    kept = (begun / "image/c/1/0/0/0").stat().st_mtime_ns
    outcome = expand(BlendStore.open(tmp_path / "v.zarr"), ExpandOptions(), begun, make.workers, make.watch)
    assert make.watch.resumed == outcome.manifest.shards - 2
    assert outcome.written == 10
    assert (begun / "image/c/1/0/0/0").stat().st_mtime_ns == kept
    assert contents(begun) == contents(tmp_path / "whole.zarr")


def test_expanding_does_not_go_on_with_other_pixels(
    begun: Path, voc: Path, clusters: ClusterManifest, make: Maker, tmp_path: Path
) -> None:
    darken(voc / "JPEGImages/img_004.jpg")
    make(clusters, replace(OPTIONS, layout="virtual"), out=tmp_path / "v.zarr", overwrite=True)
    before, virtual = contents(begun), BlendStore.open(tmp_path / "v.zarr")
    with pytest.raises(StoreExistsError, match="begun from a virtual store with other images or recipes than"):
        expand(virtual, ExpandOptions(), begun, make.workers, make.watch)
    assert contents(begun) == before
    expand(virtual, ExpandOptions(), begun, make.workers, make.watch, overwrite=True)


def test_a_virtual_store_that_is_replaced_while_it_is_read(
    voc: Path, clusters: ClusterManifest, make: Maker, tmp_path: Path
) -> None:
    make(clusters, replace(OPTIONS, layout="virtual"), out=tmp_path / "v.zarr")
    virtual = BlendStore.open(tmp_path / "v.zarr")
    virtual.columns()
    darken(voc / "JPEGImages/img_004.jpg")
    make(clusters, replace(OPTIONS, layout="virtual"), out=tmp_path / "v.zarr", overwrite=True)
    with pytest.raises((ManifestError, StoreError), match=r"v\.zarr"):
        expand(virtual, ExpandOptions(), tmp_path / "full.zarr", make.workers, make.watch)
    assert not BlendStore.open(tmp_path / "full.zarr", allow_incomplete=True).manifest.complete


def test_scaled_sources(make: Maker, tmp_path: Path) -> None:
    clusters = clusters_of(write_voc(tmp_path / "large", 9))  # up to 50 pixels a side
    make(clusters, replace(OPTIONS, max_side=25, limit=12))
    store = BlendStore.open(make.out)
    assert store.manifest.canvas == (25, 25)
    assert store.column("source/size").max() == 25
    for index in range(len(store)):
        sample = store.read(index)
        assert max(sample.dominant.shape) == 25
        assert set(np.unique(sample.dominant)) <= {0, 2, 7, 15, 255}
    make(clusters, replace(OPTIONS, canvas=(30, 64), limit=12), out=tmp_path / "wide.zarr")
    wide = BlendStore.open(tmp_path / "wide.zarr")
    assert wide.manifest.canvas == (30, 64)
    assert wide.column("size")[:, 0].max() == 30


def test_sources_that_changed_since_are_named(voc: Path, clusters: ClusterManifest, make: Maker) -> None:
    make(clusters)
    unseal(make.out)
    for shard in (0, 3):
        (make.out / f"integrity/record/c/{shard}/0").unlink()
    darken(voc / "JPEGImages/img_004.jpg")
    with pytest.raises(ManifestError, match=r"begun with other pixels of img_004: the files have changed since"):
        make(clusters)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--clusters", "c.json", "--from", "v.zarr"], "--clusters and --from both say what to write"),
        (["--clusters", "c.json", "--canvas", "10"], "'10' is neither 'max' nor width x height in pixels"),
        (["--clusters", "c.json", "--canvas", "0x10"], "'0x10' is neither 'max' nor width x height in pixels"),
        (["--clusters", "c.json", "--cache-limit", "much"], "'much' is no amount of memory"),
        (["--clusters", "c.json", "--samples-per-shard", "65537"], "65537 is not in the range 1<=x<=65536"),
        (["--from", "s3:/bucket/v.zarr"], "looks like a URL that lacks a slash"),
        (["--clusters", "c.json", "--memory-limit", "2GB", "--scheduler", "tcp://a:1"], "--memory-limit is for"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(options: list[str], said: str, clusters_file: Path, fbind: Fbind) -> None:
    clusters_file.rename(clusters_file.with_name("c.json"))
    refused = fbind("materialize-blends", "--out", "o.zarr", *options)
    assert refused.returncode == 2
    assert said in " ".join(refused.stderr.split())
