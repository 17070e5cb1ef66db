"""``fbind materialize-blends``."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .places import PlaceType, absolute
from .plans import describe_expansion, describe_plan
from .quantities import Bytes, CanvasSize
from .strategies import about_empty, strategy_of, strategy_options
from .workers import check_workers, worker_options

if TYPE_CHECKING:
    from ..materialize import Outcome, Workers
    from ..progress import JsonProgress, RichProgress

SAMPLES_PER_SHARD = 64
MAX_SAMPLES_PER_SHARD = 65536
"""Some 1 MB of index a shard, which a reader keeps in memory."""


@click.command("materialize-blends")
@click.option(
    "--clusters",
    "clusters_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The clusters file of the split to blend.",
)
@click.option(
    "--from", "virtual", type=PlaceType(), help="Instead of --clusters: the virtual store to make a full one of."
)
@click.option(
    "--out", required=True, type=PlaceType(), help="The store to write: a path, or a URL such as s3://bucket/b.zarr."
)
@click.option("--root", type=PlaceType(), help="Where the dataset lies now, if it has been moved; a path or a URL.")
@strategy_options
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of partners, δ and order.")
@click.option(
    "--limit", type=click.IntRange(min=1), help="Only the first N recipes (a uniform sample of all), for a trial."
)
@click.option(
    "--samples-per-shard",
    type=click.IntRange(1, MAX_SAMPLES_PER_SHARD),
    default=None,
    help="Samples in one shard.  [default: 64; with --from, as in the virtual store]",
)
@click.option(
    "--codec",
    type=click.Choice(["lz4", "zstd", "none"]),
    default=None,
    help="Compression of the images (all are lossless).  [default: lz4; with --from, as in the virtual store]",
)
@click.option(
    "--layout",
    type=click.Choice(["full", "virtual"]),
    default="full",
    show_default=True,
    help="'full' stores every blend; 'virtual' every source image once and the recipes, some thirtieth of the bytes: "
    "the same samples, blended when they are read.",
)
@click.option(
    "--canvas",
    type=CanvasSize(),
    default=None,
    help="Size of the canvas that samples are padded to; images that do not fit are scaled down.  [default: max, what "
    "holds every image]",
)
@click.option(
    "--max-side", type=click.IntRange(1, 65535), help="Scale images down whose longer side has more pixels than this."
)
@worker_options
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where each machine keeps the decoded sources while it works.  [default: its temporary folder]",
)
@click.option(
    "--cache-limit",
    type=Bytes(),
    help="At most so much of decoded sources, e.g. 20GB; the other images are decoded whenever they are needed.  "
    "[default: all]",
)
@click.option(
    "--memory-limit",
    type=Bytes(),
    help="Memory of each worker process on this machine, e.g. 2GB; one that needs more stops the run.  [default: none]",
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
    "--profile",
    "profile_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write where the time went, as JSON.",
)
@click.option(
    "--log",
    type=click.Choice(["progress", "json"]),
    default="progress",
    show_default=True,
    help="A progress bar, or one JSON line per shard on standard output.",
)
def materialize_blends(**given: Any) -> None:
    """Write every blend, δ and both label maps to a store.

    Plans all blends from the clusters, prints what they will cost, decodes and checks every source image once, and
    writes the store shard by shard. Interrupted, it goes on where it was when the same command is run again. The same
    seed gives the same bytes whatever the number of workers.
    """
    from ...manifests.errors import ConfigError

    check_workers(given["workers"], given["scheduler"])
    if given["memory_limit"] and given["scheduler"]:
        raise ConfigError("--memory-limit is for processes on this machine: give it to the cluster's `dask worker`")
    # Batch systems and containers end a run with SIGTERM: leave as tidily as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if given["virtual"] is not None and given["clusters_file"] is not None:
        raise ConfigError("--clusters and --from both say what to write: give one of them")
    if given["virtual"] is not None:
        _expand(given)
    elif given["clusters_file"] is not None:
        _materialize(given)
    else:
        raise ConfigError("give the --clusters file of the images to blend, or --from a virtual store")


def _materialize(given: dict[str, Any]) -> None:
    """From a clusters file."""
    from ...manifests.clusters import load_clusters
    from ..existing import existing_plan, open_out
    from ..plan import StoreOptions, check_room, make_plan

    clusters = load_clusters(given["clusters_file"])
    if given["root"] is not None:
        source = clusters.source.model_copy(update={"root": absolute(given["root"])})
        clusters = clusters.model_copy(update={"source": source})
    options = StoreOptions(
        strategy=strategy_of(given),
        seed=given["seed"],
        limit=given["limit"],
        samples_per_shard=given["samples_per_shard"] or SAMPLES_PER_SHARD,
        codec=given["codec"] or "lz4",
        convert=given["on_bad_image"] == "convert",
        layout=given["layout"],
        canvas=given["canvas"],
        max_side=given["max_side"],
    )
    if warning := about_empty(clusters, options.strategy):
        click.secho("warning: ", fg="yellow", err=True, nl=False)
        _to_stderr(warning)
    skip, overwrite, left_out = given["on_bad_image"] == "skip", given["overwrite"], ()
    if skip and not overwrite and (begun := existing_plan(open_out(given["out"]), overwrite)):
        left_out = begun.left_out  # the plan that will be gone on with has no place for them
        clusters = clusters.without(set(left_out)) if left_out else clusters
    plan = make_plan(clusters, options, left_out)
    _say(given)(describe_plan(plan, given["out"], given["cache_limit"]))
    if given["dry_run"]:
        check_room(plan.estimated_bytes, open_out(given["out"]), 0, None)
        return

    # Dask takes most of a second to import, which --help, --dry-run and mistakes should not cost.
    from ..materialize import materialize

    with _progress(given) as progress:
        outcome = materialize(
            clusters,
            options,
            given["out"],
            _workers(given),
            progress,
            plan=plan,
            skip=skip,
            overwrite=overwrite,
        )
    _report(outcome, given)


def _expand(given: dict[str, Any]) -> None:
    """From a virtual store, whose recipes are made already."""
    from ...manifests.errors import ConfigError
    from ...manifests.reader import BlendStore
    from ..existing import check_elsewhere, open_out
    from ..expansion import ExpandOptions, expand, full_manifest
    from ..plan import check_room, estimated_bytes

    context = click.get_current_context()
    kept = {"virtual", "out", "samples_per_shard", "codec", "workers", "scheduler", "memory_limit", "overwrite",
            "dry_run", "profile_file", "log"}  # fmt: skip
    idle = {"root", "cache_dir", "cache_limit", "on_bad_image"}
    for parameter in context.command.params:
        chosen = context.get_parameter_source(parameter.name or "") is click.core.ParameterSource.COMMANDLINE
        if chosen and parameter.name not in kept:
            reason = "was decided when the virtual store was made"
            if parameter.name in idle:
                reason = "is about the dataset's files, and only the virtual store is read"
            raise ConfigError(f"{parameter.opts[0]} {reason}: leave it out with --from")

    options = ExpandOptions(given["samples_per_shard"], given["codec"])
    store = BlendStore.open(given["virtual"])
    manifest, columns = full_manifest(store, options), store.columns()
    _say(given)(describe_expansion(manifest, columns, store.place, given["out"]))
    if given["dry_run"]:
        storage = open_out(given["out"])
        check_elsewhere(store.storage, storage)
        check_room(estimated_bytes(manifest, columns), storage, 0, None)
        return
    with _progress(given) as progress:
        outcome = expand(store, options, given["out"], _workers(given), progress, overwrite=given["overwrite"])
    _report(outcome, given)


def _workers(given: dict[str, Any]) -> Workers:
    from ..clusters import usable_cores
    from ..materialize import Workers

    cache_dir = given["cache_dir"]
    return Workers(
        given["workers"] or usable_cores(),
        given["scheduler"],
        str(cache_dir.absolute()) if cache_dir else None,
        given["cache_limit"],
        given["memory_limit"],
    )


def _progress(given: dict[str, Any]) -> RichProgress | JsonProgress:
    from ..progress import JsonProgress, RichProgress

    return JsonProgress() if given["log"] == "json" else RichProgress()


def _report(outcome: Outcome, given: dict[str, Any]) -> None:
    import json

    from ...manifests.base import write_atomically
    from ..plan import readable_size

    manifest = outcome.manifest
    if given["profile_file"] is not None:
        content = json.dumps(outcome.profile.summary(outcome.seconds, outcome.written), indent=2) + "\n"
        write_atomically(given["profile_file"], content.encode())
    noun = "samples" if manifest.layout == "full" else "source images"
    _say(given)(
        f"{given['out']}: {manifest.rows:,} {noun} in {manifest.shards:,} shards, {readable_size(outcome.bytes)}; "
        f"{outcome.written:,} written in {outcome.seconds:.1f} s ({outcome.written / outcome.seconds:,.0f}/s)\n"
        f"digest {manifest.digest}"
    )


def _say(given: dict[str, Any]) -> Callable[[str], object]:
    return click.echo if given["log"] == "progress" else _to_stderr


def _to_stderr(text: str) -> None:
    click.echo(text, err=True)


__all__ = ["materialize_blends"]
