"""``fbind materialize-blends``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ...manifests.clusters import ClusterManifest
    from ..plan import Plan, StoreOptions


@click.command("materialize-blends")
@click.option(
    "--clusters",
    "clusters_file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The clusters file of the split to blend.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The store to write, e.g. blends.zarr.")
@click.option("--root", type=click.Path(path_type=Path), help="Where the dataset lies now, if it has been moved.")
@click.option(
    "--strategy",
    type=click.Choice(["category", "none"]),
    default="category",
    show_default=True,
    help="Who meets whom: 'category' pairs every member of every cluster with one image of each other cluster; "
    "'none' stores plain images (for the baseline, stage 2 and validation).",
)
@click.option(
    "--delta",
    nargs=2,
    type=click.FloatRange(0, 1),
    default=None,
    metavar="LOW HIGH",
    help="Range of δ, the weight of the dominant image, drawn uniformly.  [default: 0.7 1]",
)
@click.option(
    "--align",
    type=click.Choice(["resize", "pad"]),
    default=None,
    help="How the partner gets the dominant image's size: resampled, or cut and padded.  [default: resize]",
)
@click.option("--disjoint", is_flag=True, help="Only partners that share no category with the dominant image.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of partners, δ and order.")
@click.option(
    "--limit", type=click.IntRange(min=1), help="Only the first N recipes (a uniform sample of all), for a trial."
)
@click.option(
    "--samples-per-shard", type=click.IntRange(min=1), default=64, show_default=True, help="Samples in one shard."
)
@click.option(
    "--codec",
    type=click.Choice(["lz4", "zstd", "none"]),
    default="lz4",
    show_default=True,
    help="Compression of the images (all are lossless).",
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Worker processes on this machine.  [default: one per core]"
)
@click.option(
    "--scheduler", metavar="ADDRESS", help="Use a running Dask cluster: tcp://host:port, or a scheduler file."
)
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where each machine keeps the decoded sources while it works.  [default: its temporary folder]",
)
@click.option(
    "--on-bad-image",
    type=click.Choice(["stop", "skip", "convert"]),
    default="stop",
    show_default=True,
    help="What to do about an image that is damaged or not RGB: stop; list it and leave it out; or convert grey, "
    "palette, CMYK and RGBA images to RGB (and stop for damaged ones).",
)
@click.option("--overwrite", is_flag=True, help="Replace a store that is already there.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option(
    "--log",
    type=click.Choice(["progress", "json"]),
    default="progress",
    show_default=True,
    help="A progress bar, or one JSON line per shard on standard output.",
)
def materialize_blends(clusters_file: Path, out: Path, root: Path | None, dry_run: bool, **given: Any) -> None:
    """Write every blend, δ and both label maps to a store.

    Plans all blends from the clusters, prints what they will cost, decodes and checks every source image once, and
    writes the store shard by shard. Interrupted, it goes on where it was when the same command is run again. The same
    seed gives the same bytes whatever the number of workers.
    """
    from ...manifests.clusters import load_clusters
    from ...manifests.errors import ConfigError
    from ..clusters import usable_cores
    from ..plan import check_room, make_plan, size
    from ..progress import JsonProgress, RichProgress

    if given["workers"] and given["scheduler"]:
        raise ConfigError("--workers starts processes here and --scheduler uses a cluster's: give one of them")
    options = _options(given)
    clusters = load_clusters(clusters_file)
    if root is not None:
        clusters = clusters.model_copy(
            update={"source": clusters.source.model_copy(update={"root": str(root.absolute())})}
        )
    say = click.echo if given["log"] == "progress" else _to_stderr
    _warn_about_empty(clusters, options)
    plan = make_plan(clusters, options)
    say(_describe(plan, out))
    if dry_run:
        check_room(plan, out, None)
        return

    # Dask takes most of a second to import, which --help, --dry-run and mistakes should not cost.
    from ..materialize import Workers, materialize

    # Batch systems and containers end a run with SIGTERM: leave as tidily as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cache_dir = given["cache_dir"]
    workers = Workers(
        given["workers"] or usable_cores(), given["scheduler"], str(cache_dir.absolute()) if cache_dir else None
    )
    with JsonProgress() if given["log"] == "json" else RichProgress() as progress:
        outcome = materialize(
            clusters,
            options,
            out,
            workers,
            progress,
            skip=given["on_bad_image"] == "skip",
            overwrite=given["overwrite"],
        )
    say(
        f"{out}: {outcome.manifest.samples:,} samples in {outcome.manifest.shards:,} shards, {size(outcome.bytes)}; "
        f"{outcome.written:,} written in {outcome.seconds:.1f} s ({outcome.written / outcome.seconds:,.0f}/s)\n"
        f"digest {outcome.manifest.digest}"
    )


def _options(given: dict[str, Any]) -> StoreOptions:
    from pydantic import ValidationError

    from ...manifests.base import first_problem
    from ...manifests.errors import ConfigError
    from ...manifests.store import CategoryStrategy, PlainStrategy
    from ..plan import StoreOptions

    blending = {name: given[name] for name in ("delta", "align") if given[name] is not None}
    if given["disjoint"]:
        blending["disjoint"] = True
    if given["strategy"] == "none" and blending:
        named = ", ".join(f"--{name}" for name in blending)
        raise ConfigError(f"{named} is about blends, and --strategy none makes none: leave it out")
    try:
        strategy = PlainStrategy() if given["strategy"] == "none" else CategoryStrategy(**blending)
    except ValidationError as error:
        raise ConfigError(first_problem(error)) from None
    return StoreOptions(
        strategy=strategy,
        seed=given["seed"],
        limit=given["limit"],
        samples_per_shard=given["samples_per_shard"],
        codec=given["codec"],
        convert=given["on_bad_image"] == "convert",
    )


def _warn_about_empty(clusters: ClusterManifest, options: StoreOptions) -> None:
    empty = [name for name, members in clusters.clusters.items() if not members]
    if empty and options.strategy.name != "none":
        click.secho("warning: ", fg="yellow", err=True, nl=False)
        partners = len(clusters.clusters) - len(empty) - 1
        _to_stderr(
            f"{len(empty)} of {len(clusters.clusters)} clusters have no images ({', '.join(empty)}): "
            f"no blend will show them, and every cluster member meets {max(partners, 0)} partners instead of "
            f"{len(clusters.clusters) - 1}"
        )


def _describe(plan: Plan, out: Path) -> str:
    from ..plan import free_bytes, size

    manifest = plan.manifest
    used = len(plan.recipes.images())
    kind = "blends" if manifest.blended else "plain images"
    lines = [
        f"plan      {manifest.samples:,} {kind} of {used:,} images of {manifest.source.root} ({manifest.source.split})",
        f"shards    {manifest.shards:,} of {manifest.samples_per_shard} samples, canvas "
        f"{manifest.canvas[1]}x{manifest.canvas[0]} (width x height), codec {manifest.codec}",
        f"size      {size(plan.raw_bytes)} raw, about {size(plan.estimated_bytes)} stored, "
        f"{size(plan.cache_bytes)} of decoded sources meanwhile",
        f"disk      {size(free_bytes(out))} free at {out}",
    ]
    if plan.recipes.unmatched:
        lines.append(f"note      {plan.recipes.unmatched:,} pairings have no possible partner and are left out")
    return "\n".join(lines)


def _to_stderr(text: str) -> None:
    click.echo(text, err=True)


__all__ = ["materialize_blends"]
