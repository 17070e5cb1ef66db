"""What ``materialize-blends`` says before it begins: what it will write, how large, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .strategies import about_many

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from ...manifests.store import ShardManifest
    from ..plan import Plan


def describe_plan(plan: Plan, out: str | Path, cache_limit: int | None) -> str:
    """A plan in a few lines."""
    from ..plan import readable_size

    manifest = plan.manifest
    kind = "blends" if manifest.blended else "plain images"
    used = f"{len(plan.recipes.images()):,} images of {manifest.source.root} ({manifest.source.split})"
    virtual = manifest.layout == "virtual"
    rows = "images" if virtual else "samples"
    lines = [
        f"plan      {manifest.samples:,} {kind} of {used}",
        f"shards    {manifest.shards:,} of {manifest.samples_per_shard} {rows}, canvas "
        f"{manifest.canvas[1]}x{manifest.canvas[0]} (width x height), codec {manifest.codec}",
        f"size      {readable_size(plan.raw_bytes)} raw, about {readable_size(plan.estimated_bytes)} stored, "
        f"{readable_size(plan.cache_bytes(cache_limit))} of decoded sources meanwhile",
    ]
    if virtual:
        lines.append(
            "layout    virtual: every image once; all samples in full would take "
            f"{readable_size(plan.other_layout_bytes)}"
        )
    elif manifest.blended:
        lines.append(f"layout    full; --layout virtual would take {readable_size(plan.other_layout_bytes)}")
    lines += _disk(out)
    if explanation := about_many(plan.recipes, manifest.strategy):
        lines.append(f"recipes   {explanation}")
    if plan.recipes.unmatched:
        lines.append(f"note      {plan.recipes.unmatched:,} pairings have no possible partner and are left out")
    return "\n".join(lines)


def describe_expansion(
    manifest: ShardManifest, columns: Mapping[str, np.ndarray], virtual: str, out: str | Path
) -> str:
    """What making a full store of a virtual one means."""
    from ..plan import estimated_bytes, readable_size

    lines = [
        f"plan      {manifest.samples:,} samples from {virtual}",
        f"shards    {manifest.shards:,} of {manifest.samples_per_shard} samples, codec {manifest.codec}",
        f"size      about {readable_size(estimated_bytes(manifest, columns))} stored",
        *_disk(out),
    ]
    return "\n".join(lines)


def _disk(out: str | Path) -> list[str]:
    from ...manifests.storage import LocalStorage, open_storage
    from ..plan import free_bytes, readable_size

    storage = open_storage(out)
    if not isinstance(storage, LocalStorage):
        return []
    return [f"disk      {readable_size(free_bytes(storage.path))} free at {out}"]
