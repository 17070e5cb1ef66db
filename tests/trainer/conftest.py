"""Small stores written through the contract's writer, without the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fbind.manifests.clusters import MembershipRule, SourceSpec
from fbind.manifests.labels import LabelSet, voc_palette
from fbind.manifests.reader import BlendStore
from fbind.manifests.storage import LocalStorage
from fbind.manifests.store import ShardManifest
from fbind.manifests.strategies import CategoryStrategy, PlainStrategy
from fbind.manifests.writer import PixelSample, create_store, seal, write_shard

torch.set_num_threads(1)

COLORS = np.array([(30, 30, 30), (220, 40, 40), (40, 200, 60), (60, 70, 230)], np.uint8)
LABELS = LabelSet(names=("background", "red", "green", "blue"), palette=voc_palette(4))
SHARD = 4

MakeStore = Callable[..., Path]


def scene(generator: np.random.Generator, category: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A rectangle of a category's colour on dark ground with a void border: image (h, w, 3), labels (h, w)."""
    labels = np.zeros((height, width), np.uint8)
    top, left = (int(generator.integers(2, side // 3)) for side in (height, width))
    labels[top : top + height // 2, left : left + width // 2] = 255
    labels[top + 1 : top + height // 2 - 1, left + 1 : left + width // 2 - 1] = category
    noise = generator.integers(0, 30, (height, width, 3))
    image = COLORS[np.where(labels == 255, 0, labels)] + noise
    return np.clip(image, 0, 255).astype(np.uint8), labels


def write_store(
    path: Path,
    *,
    samples: int = 12,
    size: tuple[int, int] = (40, 48),
    blended: bool = True,
    labels: LabelSet = LABELS,
    seed: int = 0,
    sizes: list[tuple[int, int]] | None = None,
    dominant: np.ndarray | None = None,
) -> Path:
    """Write a sealed store of blended or plain scenes; ``dominant`` replaces every dominant label map."""
    generator = np.random.default_rng(seed)
    shapes = sizes or [size] * samples
    rows, delta = [], []
    for index in range(samples):
        height, width = shapes[index]
        image, label_map = scene(generator, 1 + index % 3, height, width)
        if dominant is not None:
            label_map = dominant
        if blended:
            other, phantom = scene(generator, 1 + (index + 1) % 3, height, width)
            weight = float(np.float32(generator.uniform(0.6, 0.8)))
            image = np.rint(weight * image + (1 - weight) * other).astype(np.uint8)
            rows.append(PixelSample(image, label_map, phantom))
        else:
            weight = 1.0
            rows.append(PixelSample(image, label_map))
        delta.append(weight)
    manifest = ShardManifest(
        labels=labels,
        strategy=CategoryStrategy() if blended else PlainStrategy(),
        seed=seed,
        samples=samples,
        samples_per_shard=SHARD,
        canvas=(max(h for h, _ in shapes), max(w for _, w in shapes)),
        codec="lz4",
        source=SourceSpec(kind="voc", root="nowhere", split="made-up"),
        rule=MembershipRule(),
        clusters_digest="sha256:0",
        images=tuple(f"scene-{index}" for index in range(samples)),
        software={},
    )
    columns = {
        "delta": np.array(delta, np.float32),
        "size": np.array(shapes, np.uint16),
        "recipe/dominant_image": np.arange(samples, dtype=np.int32),
        "recipe/phantom_image": np.roll(np.arange(samples, dtype=np.int32), 1),
        "recipe/dominant_class": np.ones(samples, np.uint8),
        "recipe/phantom_class": np.full(samples, 2, np.uint8),
        "source/size": np.array(shapes, np.uint16),
        "source/digest": np.zeros((samples, 32), np.uint8),
    }
    storage = LocalStorage(path)
    manifest = create_store(storage, manifest, columns)
    for shard in range(manifest.shards):
        write_shard(storage, manifest, shard, [rows[row] for row in manifest.rows_of(shard)])
    seal(storage, manifest)
    return path


@pytest.fixture(scope="session")
def blends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 blends of 40 x 48 pixels, 4 classes."""
    return write_store(tmp_path_factory.mktemp("stores") / "blends.zarr")


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 plain images of 40 x 48 pixels, 4 classes."""
    return write_store(tmp_path_factory.mktemp("stores") / "plain.zarr", blended=False)


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    """A function that writes another store; its keywords are :func:`write_store`'s."""

    def make(name: str = "other.zarr", **options: object) -> Path:
        return write_store(tmp_path / name, **options)  # pyright: ignore[reportArgumentType]

    return make


@pytest.fixture
def opened(blends: Path) -> BlendStore:
    """The session's store of blends, open."""
    return BlendStore.open(blends)
