"""The plan of a store, made before anything is written: its manifest, its recipes, and what it will cost."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from ..manifests.clusters import ClusterManifest
from ..manifests.codecs import CodecName
from ..manifests.errors import ResourceError
from ..manifests.shards import index_bytes
from ..manifests.storage import LocalStorage, Storage
from ..manifests.store import Layout, ShardManifest
from ..manifests.strategies import Strategy
from .cache import cache_offsets
from .fitting import fitted_sizes
from .recipes import Recipes, plan_recipes

VERSIONED = ("fbind", "numpy", "opencv", "pillow", "numcodecs")
"""What has a say in a store's bytes."""

# Stored bytes per byte of valid area, generous: photographs do not compress under LZ4, and bit-shuffled zstd makes 16 %
# less of them; label maps of real scenes shrink to 1 to 3 %.
IMAGE_RATIO = {"lz4": 1.01, "zstd": 0.85}
LABEL_RATIO = 0.04
RECIPE_IMAGES = ("recipe/dominant_image", "recipe/phantom_image")
BLOCK = 4096
"""What a disk gives away at a time: a file takes half a block more than it holds, a record of 36 bytes a whole one."""


@dataclass(frozen=True)
class StoreOptions:
    """What the user decides about a store."""

    strategy: Strategy
    seed: int = 0
    limit: int | None = None
    samples_per_shard: int = 64
    codec: CodecName = "lz4"
    convert: bool = False
    """Convert images that are not RGB, instead of refusing them."""
    layout: Layout = "full"
    canvas: tuple[int, int] | None = None
    """(height, width) of the canvas; images that do not fit are scaled down. ``None``: what holds every image."""
    max_side: int | None = None
    """Images whose longer side has more pixels are scaled down first."""


@dataclass(frozen=True)
class Plan:
    """A store before it is written."""

    manifest: ShardManifest
    recipes: Recipes
    columns: dict[str, np.ndarray]

    @property
    def raw_bytes(self) -> int:
        """Bytes of all rows of the pixel arrays, uncompressed, padded to the canvas."""
        return self.manifest.rows * sum(int(np.prod(array.sample_shape)) for array in self.manifest.pixel_arrays())

    @property
    def estimated_bytes(self) -> int:
        """About how much the store will take on disk; an upper figure for photographs."""
        return estimated_bytes(self.manifest, self.columns)

    @property
    def other_layout_bytes(self) -> int:
        """About how much the same samples would take in the other layout."""
        other = "full" if self.manifest.layout == "virtual" else "virtual"
        return estimated_bytes(self.manifest.model_copy(update={"layout": other}), self.columns)

    def cache_bytes(self, limit: int | None) -> int:
        """Bytes of the decoded sources that a machine keeps while it works, with that ``--cache-limit``."""
        return cache_offsets(self.columns["source/size"], self.used(), limit)[1]

    def used(self) -> np.ndarray:
        """(images,) bool: which images the recipes need."""
        used = np.zeros(len(self.manifest.images), bool)
        used[self.recipes.images()] = True
        return used


def estimated_bytes(manifest: ShardManifest, columns: Mapping[str, np.ndarray]) -> int:
    """About how much a store takes on disk; an upper figure for photographs."""
    arrays = manifest.pixel_arrays()
    shard_overhead = len(arrays) * (index_bytes(manifest.samples_per_shard) + BLOCK // 2) + BLOCK
    overhead = manifest.shards * shard_overhead + 32 * BLOCK  # metadata
    overhead += sum(values.nbytes for values in columns.values())
    if manifest.layout == "full":
        sizes = columns["size"]
    else:
        used = np.unique(np.concatenate([columns[name] for name in RECIPE_IMAGES if name in columns]))
        sizes = columns["source/size"][used[used >= 0]]
    if manifest.codec == "none":
        return len(sizes) * sum(int(np.prod(array.sample_shape)) for array in arrays) + overhead
    area = float(sizes.astype(np.float64).prod(axis=1).sum())
    label_maps = sum(array.labels for array in arrays)
    return int(area * (3 * IMAGE_RATIO[manifest.codec] + LABEL_RATIO * label_maps)) + overhead


def make_plan(clusters: ClusterManifest, options: StoreOptions, left_out: tuple[str, ...] = ()) -> Plan:
    """Plan the store; ``clusters`` no longer has the images of ``left_out``.

    The column ``source/digest`` is still all zero: the pixels are not known yet. Raises :class:`ConfigError` when the
    options contradict each other or the clusters allow no recipe.
    """
    recipes = plan_recipes(clusters, options.strategy, options.seed, options.limit)
    sizes = np.array([(image.height, image.width) for image in clusters.images], np.int64)
    sizes = fitted_sizes(sizes, options.canvas, options.max_side)
    height, width = options.canvas or sizes.max(axis=0)
    manifest = ShardManifest(
        layout=options.layout,
        labels=clusters.labels,
        strategy=options.strategy,
        seed=options.seed,
        samples=len(recipes),
        limit=options.limit,
        samples_per_shard=options.samples_per_shard,
        canvas=(int(height), int(width)),
        max_side=options.max_side,
        codec=options.codec,
        source=clusters.source,
        rule=clusters.rule,
        clusters_digest=clusters.digest,
        converted=options.convert,
        left_out=left_out,
        images=clusters.ids,
        software=software(),
    )
    columns = recipes.columns(sizes)
    columns |= {"source/size": sizes.astype(np.uint16), "source/digest": np.zeros((len(sizes), 32), np.uint8)}
    return Plan(manifest, recipes, columns)


def software() -> dict[str, str]:
    """Versions of Python and of the libraries that decide a store's bytes."""
    versions = {"python": platform.python_version()}
    for name in VERSIONED:
        candidates = ("opencv-python", "opencv-python-headless") if name == "opencv" else (name,)
        for distribution in candidates:
            try:
                versions[name] = metadata.version(distribution)
                break
            except metadata.PackageNotFoundError:
                continue
    return versions


def free_bytes(path: Path) -> int:
    """Free space where ``path`` is or will be."""
    return shutil.disk_usage(_existing(path)).free


def stored_bytes(storage: Storage) -> int:
    """Bytes of all files of a store; 0 when it is not there."""
    return sum(size for _, size in storage.sizes())


def check_room(needed: int, out: Storage, cache_bytes: int, cache: Path | None) -> None:
    """Raise :class:`ResourceError` unless ``out`` holds ``needed`` bytes, and ``cache`` the decoded sources.

    ``cache`` is ``None`` when the caches lie on other machines, and nobody knows how much an object store holds. What
    a store at ``out`` already takes counts as free, since it is either gone on with or overwritten.
    """
    local = out.path if isinstance(out, LocalStorage) else None
    if local is not None:
        needed -= stored_bytes(out)
    if cache is not None:
        free = free_bytes(cache)
        if cache_bytes > free:
            raise ResourceError(
                f"the decoded sources need {readable_size(cache_bytes)} while the store is written, and {cache} has "
                f"{readable_size(free)} free: name a roomier place with --cache-dir, or keep fewer with --cache-limit"
            )
        if local is not None and _disk(cache) == _disk(local):
            needed += cache_bytes
    if local is not None and needed > free_bytes(local):
        raise ResourceError(
            f"{local} needs about {readable_size(needed)} and its disk has {readable_size(free_bytes(local))} free: "
            "free some space, write to another disk, make less of it with --limit, or keep just the sources with "
            "--layout virtual"
        )


def _disk(path: Path) -> int:
    return _existing(path).stat().st_dev


def _existing(path: Path) -> Path:
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return place


def readable_size(count: float) -> str:
    """Bytes for people, in powers of ten: ``12.3 GB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
