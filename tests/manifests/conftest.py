"""A small store of blends, written through the public writer."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from fbind.manifests.clusters import MembershipRule, SourceSpec
from fbind.manifests.labels import VOC_LABELS
from fbind.manifests.storage import LocalStorage
from fbind.manifests.store import ShardManifest
from fbind.manifests.strategies import CategoryStrategy
from fbind.manifests.writer import PixelSample, create_store, seal, write_shard

SAMPLES, PER_SHARD, CANVAS = 7, 3, (20, 24)


class Written(NamedTuple):
    path: Path
    manifest: ShardManifest
    columns: dict[str, np.ndarray]
    pixels: list[PixelSample]

    def write(self, *shards: int) -> None:
        for shard in shards:
            write_shard(
                LocalStorage(self.path), self.manifest, shard, [self.pixels[i] for i in self.manifest.rows_of(shard)]
            )

    def seal(self) -> ShardManifest:
        return seal(LocalStorage(self.path), self.manifest)


@pytest.fixture(params=["lz4", "zstd", "none"])
def unwritten(tmp_path: Path, request: pytest.FixtureRequest) -> Written:
    """A store that has been created and has no shards yet."""
    rng = np.random.default_rng(0)
    manifest = ShardManifest(
        labels=VOC_LABELS,
        strategy=CategoryStrategy(),
        seed=3,
        samples=SAMPLES,
        samples_per_shard=PER_SHARD,
        canvas=CANVAS,
        codec=request.param,
        source=SourceSpec(kind="voc", root="/somewhere", split="train"),
        rule=MembershipRule(),
        clusters_digest="sha256:0",
        images=("a", "b", "c"),
        software={"fbind": "0"},
    )
    sizes = np.array([(10 + i, 24 - i) for i in range(SAMPLES)])
    columns = {
        "delta": rng.uniform(0.7, 1, SAMPLES).astype(np.float32),
        "size": sizes,
        "recipe/dominant_image": rng.integers(0, 3, SAMPLES),
        "recipe/phantom_image": rng.integers(0, 3, SAMPLES),
        "recipe/dominant_class": rng.integers(1, 21, SAMPLES),
        "recipe/phantom_class": rng.integers(1, 21, SAMPLES),
        "source/size": np.array([(20, 24)] * 3),
        "source/digest": rng.integers(0, 256, (3, 32)),
    }
    pixels = [
        PixelSample(
            rng.integers(0, 256, (h, w, 3), np.uint8),
            rng.integers(0, 21, (h, w), np.uint8),
            rng.integers(0, 21, (h, w), np.uint8),
        )
        for h, w in sizes
    ]
    path = tmp_path / "store.zarr"
    manifest = create_store(LocalStorage(path), manifest, columns)
    return Written(path, manifest, columns, pixels)


@pytest.fixture
def written(unwritten: Written) -> Written:
    """The same store with all shards written, out of order, and sealed."""
    unwritten.write(2, 0, 1)
    unwritten.seal()
    return unwritten
