"""Virtual stores: the same samples from a fraction of the bytes, and the full store back from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fbind.manifests.clusters import ClusterManifest
from fbind.manifests.errors import ConfigError, ManifestError
from fbind.manifests.reader import BlendStore, Sample
from fbind.manifests.strategies import CategoryStrategy, HalfStrategy, PlainStrategy, Strategy
from fbind.pipeline.materialize import ExpandOptions, expand
from fbind.pipeline.plan import StoreOptions

from .conftest import OPTIONS, Fbind, Maker, clusters_of, write_voc
from .test_materialize import contents


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
    from PIL import Image

    from .test_materialize import unseal

    make(clusters)
    unseal(make.out)
    for shard in (0, 3):
        (make.out / f"integrity/record/c/{shard}/0").unlink()
    picture = voc / "JPEGImages/img_004.jpg"
    with Image.open(picture) as opened:
        darker = opened.convert("RGB").point([value // 2 for value in range(256)] * 3)
    darker.save(picture)
    with pytest.raises(ManifestError, match=r"begun with other pixels of img_004: the files have changed since"):
        make(clusters)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--clusters", "c.json", "--from", "v.zarr"], "--clusters and --from both say what to write"),
        (["--clusters", "c.json", "--canvas", "10"], "'10' is neither 'max' nor width x height in pixels"),
        (["--clusters", "c.json", "--canvas", "0x10"], "'0x10' is neither 'max' nor width x height in pixels"),
        (["--clusters", "c.json", "--cache-limit", "much"], "'much' is no amount of memory"),
        (["--from", "s3:/bucket/v.zarr"], "looks like a URL that lacks a slash"),
        (["--clusters", "c.json", "--memory-limit", "2GB", "--scheduler", "tcp://a:1"], "--memory-limit is for"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(options: list[str], said: str, clusters_file: Path, fbind: Fbind) -> None:
    clusters_file.rename(clusters_file.with_name("c.json"))
    refused = fbind("materialize-blends", "--out", "o.zarr", *options)
    assert refused.returncode == 2
    assert said in " ".join(refused.stderr.split())
