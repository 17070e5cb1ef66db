"""The plan of a store, made before anything is written: its manifest, its recipes, and what it will cost."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from ..manifests.clusters import ClusterManifest
from ..manifests.codecs import CodecName
from ..manifests.errors import ConfigError, ResourceError
from ..manifests.shards import index_bytes
from ..manifests.store import ShardManifest, Strategy
from .recipes import Recipes, plan_recipes

VERSIONED = ("fbind", "numpy", "opencv", "pillow", "numcodecs")
"""What has a say in a store's bytes."""

# Stored bytes per byte of valid area, generous: photographs do not compress under LZ4, and give some 10 % under
# bit-shuffled zstd; label maps of real scenes shrink to 1 to 3 %.
IMAGE_RATIO = {"lz4": 1.01, "zstd": 0.95}
LABEL_RATIO = 0.04
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


@dataclass(frozen=True)
class Plan:
    """A store before it is written."""

    manifest: ShardManifest
    recipes: Recipes
    columns: dict[str, np.ndarray]

    @property
    def raw_bytes(self) -> int:
        """Bytes of all samples, uncompressed, padded to the canvas."""
        return self.manifest.samples * sum(int(np.prod(array.sample_shape)) for array in self.manifest.pixel_arrays())

    @property
    def estimated_bytes(self) -> int:
        """About how much the store will take on disk; an upper figure for photographs."""
        manifest = self.manifest
        arrays = len(manifest.pixel_arrays())
        shard_overhead = arrays * (index_bytes(manifest.samples_per_shard) + BLOCK // 2) + BLOCK
        overhead = manifest.shards * shard_overhead + 32 * BLOCK  # metadata and columns
        if manifest.codec == "none":
            return self.raw_bytes + overhead
        area = float(self.columns["size"].astype(np.float64).prod(axis=1).sum())
        label_maps = sum(array.labels for array in manifest.pixel_arrays())
        return int(area * (3 * IMAGE_RATIO[manifest.codec] + LABEL_RATIO * label_maps)) + overhead

    @property
    def cache_bytes(self) -> int:
        """Bytes of the decoded sources that a machine keeps while it works."""
        sizes = self.columns["size"].astype(np.int64).prod(axis=1)
        return int(len(self.recipes.images()) * sizes.max() * 4)


def make_plan(clusters: ClusterManifest, options: StoreOptions, left_out: tuple[str, ...] = ()) -> Plan:
    """Plan the store; ``clusters`` no longer has the images of ``left_out``.

    Raises :class:`ConfigError` when the options contradict each other or the clusters allow no recipe.
    """
    low, high = getattr(options.strategy, "delta", (1.0, 1.0))
    if low > high:
        raise ConfigError(f"--delta {low:g} {high:g}: the lower end comes first, e.g. --delta 0.7 1")
    recipes = plan_recipes(clusters, options.strategy, options.seed, options.limit)
    sizes = np.array([(image.height, image.width) for image in clusters.images], np.int64)
    manifest = ShardManifest(
        labels=clusters.labels,
        strategy=options.strategy,
        seed=options.seed,
        samples=len(recipes),
        limit=options.limit,
        samples_per_shard=options.samples_per_shard,
        canvas=clusters.canvas(),
        codec=options.codec,
        source=clusters.source,
        rule=clusters.rule,
        clusters_digest=clusters.digest,
        converted=options.convert,
        left_out=left_out,
        images=clusters.ids,
        software=software(),
    )
    return Plan(manifest, recipes, recipes.columns(sizes))


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


def stored_bytes(store: Path) -> int:
    """Bytes of all files below ``store``; 0 when it is not there."""
    return sum(file.stat().st_size for file in store.rglob("*") if file.is_file())


def check_room(plan: Plan, out: Path, cache: Path | None) -> None:
    """Raise :class:`ResourceError` unless the disks hold the store at ``out`` and the decoded sources below ``cache``.

    ``cache`` is ``None`` when the caches lie on other machines. What a store at ``out`` already takes counts as free,
    since it is either gone on with or overwritten.
    """
    needed = plan.estimated_bytes - stored_bytes(out)
    if cache is not None:
        if plan.cache_bytes > free_bytes(cache):
            raise ResourceError(
                f"the decoded sources need {size(plan.cache_bytes)} while the store is written, and {cache} has "
                f"{size(free_bytes(cache))} free: name a roomier place with --cache-dir"
            )
        if _disk(cache) == _disk(out):
            needed += plan.cache_bytes
    if needed > free_bytes(out):
        raise ResourceError(
            f"{out} needs about {size(needed)} and its disk has {size(free_bytes(out))} free: free some space, write "
            "to another disk, or make less of it with --limit"
        )


def _disk(path: Path) -> int:
    return _existing(path).stat().st_dev


def _existing(path: Path) -> Path:
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return place


def size(count: float) -> str:
    """Bytes for people, in powers of ten: ``12.3 GB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
