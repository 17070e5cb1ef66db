"""What ``inspect`` and ``verify`` print."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..inspection import Inspection, Range
from ..plan import readable_size
from ..shardcheck import Finding
from ..verification import Verification


def print_inspection(found: Inspection) -> None:
    """Print what a store is, how it was made, what is in it, and what it takes; readable at 80 columns."""
    console = Console(highlight=False)
    manifest = found.manifest
    console.print(f"[bold]{escape(found.path)}[/]")
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))  # a digest fits in the rest
    facts.add_column(style="cyan", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in [*_what(found), *_how(manifest)]:
        facts.add_row(name, escape(value))
    console.print(facts)
    console.print()
    if found.categories:
        console.print(_categories(found))
        console.print()
    if found.delta_histogram:
        console.print(_deltas(found))
        console.print()
    console.print(_bytes(found))


def print_verification(result: Verification) -> None:
    """Print one line when everything checks, otherwise every problem; unexpected files are noted in either case."""
    if result.ok:
        shards = f"{result.shards:,} shard{'s' if result.shards > 1 else ''}"
        click.echo(f"{shards}, {result.samples:,} samples, {readable_size(result.bytes)}: everything checks")
    for problem in result.problems:
        click.echo(_line(problem))
    for name in result.unexpected:
        click.echo(f"note: {name} does not belong to the store; nothing reads it, it may be deleted")


def remedy(result: Verification) -> str:
    """One line: how bad it is, and what to do."""
    bad = len(result.bad_shards)
    missing = result.shards - result.written
    if result.shards and not result.complete and bad <= missing and len(result.problems) == missing + 1:
        return (
            f"{result.path} is incomplete, what is written checks: run `fbind materialize-blends` with the same "
            "options again to go on"
        )
    extent = f"{bad} of {result.shards} shards are bad" if bad else "it can't be trusted"
    return (
        f"{result.path} does not verify ({extent}): `fbind repair {result.path}` makes what is broken again from the "
        "source images"
    )


def _line(problem: Finding) -> str:
    where = f"shard {problem.shard}" if problem.shard is not None else "store"
    return f"{where}  {problem.array or 'manifest'}  {problem.file}: {problem.what}"


def _what(found: Inspection) -> list[tuple[str, str]]:
    manifest = found.manifest
    kind = "plain images" if manifest["strategy"]["name"] == "none" else "blends"
    rows = "images" if manifest["layout"] == "virtual" else "samples"
    height, width = manifest["canvas"]
    scaled = f"; none longer than {manifest['max_side']}" if manifest["max_side"] else ""
    return [
        ("format", f"{manifest['format']} version {manifest['version']}, Zarr v3"),
        ("holds", f"{manifest['samples']:,} {kind} of {found.images:,} images, {len(manifest['labels']['names'])} "
                  "classes"),
        ("layout", _layout(found)),
        ("shards", f"{found.shards:,} of {manifest['samples_per_shard']:,} {rows}"),
        ("canvas", f"{height} x {width}; images {_sides(found.height)} high, {_sides(found.width)} wide{scaled}"),
        ("codec", manifest["codec"]),
        ("state", _state(found)),
        ("digest", manifest["digest"] or "none before it is complete"),
    ]  # fmt: skip


def _layout(found: Inspection) -> str:
    here, there = readable_size(found.stored_bytes), readable_size(found.other_layout_bytes)
    if found.manifest["layout"] == "full":
        return f"full, every sample is stored: {here}; virtual would take {there}"
    return f"virtual, samples are blended when they are read: {here}; full would take {there}"


def _state(found: Inspection) -> str:
    there = f"{found.written_shards:,} of {found.shards:,} shards are"
    if not found.manifest["complete"]:
        return f"incomplete: {there} written; `fbind materialize-blends` goes on"
    if found.written_shards < found.shards:
        return f"DAMAGED: {there} there; `fbind verify` names the others"
    return "complete, sealed with its digest; `fbind verify` checks the bytes"


def _how(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    strategy = manifest["strategy"]
    given = {name: value for name, value in strategy.items() if name != "name" and value is not None}
    parameters = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in given.items())
    source, rule = manifest["source"], manifest["rule"]
    labels_dir = f", labels from {source['labels_dir']}" if source["labels_dir"] else ""
    limited = f", the first {manifest['limit']:,} recipes" if manifest["limit"] else ""
    return [
        ("strategy", strategy["name"] + (f" ({parameters})" if parameters else "")),
        ("seed", f"{manifest['seed']}{limited}"),
        ("source", f"{source['kind']} {source['root']}, split {source['split']}{labels_dir}"),
        ("clusters", f"membership {rule['membership']}, min_pixels {rule['min_pixels']}"),
        ("", manifest["clusters_digest"]),
        *([("left out", f"{len(manifest['left_out'])} bad images")] if manifest["left_out"] else []),
        ("software", ", ".join(f"{name} {version}" for name, version in manifest["software"].items())),
    ]


def _categories(found: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("category")
    table.add_column("dominant", justify="right")
    table.add_column("", width=18)
    table.add_column("phantom", justify="right")
    table.add_column("", width=18)
    most = max(max(count.dominant, count.phantom) for count in found.categories) or 1
    for count in found.categories:
        dominant = Text("▇" * round(18 * count.dominant / most), style="cyan")
        phantom = Text("▇" * round(18 * count.phantom / most), style="magenta")
        table.add_row(escape(count.name), f"{count.dominant:,}", dominant, f"{count.phantom:,}", phantom)
    return table


def _deltas(found: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("δ")
    table.add_column("samples", justify="right")
    table.add_column("")
    most = max(part.samples for part in found.delta_histogram) or 1
    for part in found.delta_histogram:
        bar = Text("▇" * round(36 * part.samples / most), style="cyan")
        table.add_row(f"{part.low:.3f} to {part.high:.3f}", f"{part.samples:,}", bar)
    return table


def _bytes(found: Inspection) -> Table:
    virtual = found.manifest["layout"] == "virtual"
    rows = max(found.written_images if virtual else found.written_samples, 1)
    stored = sum(array.stored for array in found.bytes)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_footer=True)
    table.add_column("array", "all files")
    table.add_column("on disk", readable_size(found.stored_bytes), justify="right")
    table.add_column("per image" if virtual else "per sample", readable_size(stored / rows), justify="right")
    table.add_column("of raw", f"{found.stored_per_raw:.1%}", justify="right")
    for array in found.bytes:
        ratio = array.stored / array.raw if array.raw else 0.0
        table.add_row(array.array, readable_size(array.stored), readable_size(array.stored / rows), f"{ratio:.1%}")
    return table


def _sides(found: Range) -> str:
    if found.smallest == found.largest:
        return f"{found.smallest:.0f}"
    return f"{found.smallest:.0f} to {found.largest:.0f} (median {found.median:.0f})"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " to ".join(str(part) for part in value) if isinstance(value, list) else str(value)
