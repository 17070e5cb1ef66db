"""``fbind repair``."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from .places import PlaceType, absolute
from .workers import check_workers, worker_options


@click.command()
@click.argument("store", type=PlaceType())
@click.option("--root", type=PlaceType(), help="Where the dataset lies now, if it has been moved; a path or a URL.")
@click.option(
    "--clusters",
    "clusters_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The clusters file that STORE was made from; needed when its recipes are damaged.",
)
@worker_options
@click.option("--dry-run", is_flag=True, help="Say what is broken and what would be done, and change nothing.")
def repair(
    store: str | Path,
    root: str | Path | None,
    clusters_file: Path | None,
    workers: int | None,
    scheduler: str | None,
    dry_run: bool,
) -> None:
    """Make again what is broken in STORE, bit for bit.

    Checks every byte as `verify` does, restores metadata and records from their copies, makes exactly the broken shards
    again from the source images, and proves by the store's digest that they are what they were.
    """
    from ...manifests.clusters import load_clusters
    from ...manifests.storage import open_storage
    from ..clusters import usable_cores
    from ..materialize import Workers
    from ..progress import RichProgress
    from ..repair import repair as repair_store
    from ..verification import examine
    from .inspection import checking
    from .reports import print_verification

    check_workers(workers, scheduler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as materialize-blends does
    clusters = None if clusters_file is None else load_clusters(clusters_file)
    storage = open_storage(store)
    with checking(storage) as advance:
        examination = examine(storage, usable_cores(), advance)
    print_verification(examination.result)
    with RichProgress() as progress:
        result = repair_store(
            storage,
            examination,
            Workers(workers or usable_cores(), scheduler),
            progress,
            root=None if root is None else absolute(root),
            clusters=clusters,
            dry_run=dry_run,
        )
    would = "would be " if dry_run else ""
    for name in result.restored:
        click.echo(f"{would}restored  {name}")
    for shard in result.rebuilt:
        click.echo(f"{would}rebuilt   shard {shard}")
    if examination.result.problems and not dry_run:
        click.echo(f"{store}: repaired, every byte is what it was\ndigest {result.digest}")
