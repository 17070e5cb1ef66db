"""``fbind inspect`` and ``fbind verify``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .places import PlaceType

if TYPE_CHECKING:
    from ...manifests.storage import Storage


@click.command()
@click.argument("store", type=PlaceType())
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def inspect(store: str | Path, as_json: bool) -> None:
    """Say what STORE holds and how it was made; it may be incomplete."""
    from ..inspection import inspect_store
    from .reports import print_inspection

    inspection = inspect_store(store)
    if as_json:
        click.echo(inspection.model_dump_json(indent=2))
    else:
        print_inspection(inspection)


@click.command()
@click.argument("store", type=PlaceType())
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads.  [default: one for each core]")
def verify(store: str | Path, as_json: bool, workers: int | None) -> None:
    """Check every byte of STORE against its manifest and checksums.

    Exits with 0 when everything checks, with 1 and a list of what is wrong otherwise.
    """
    from ...manifests.errors import VerificationError
    from ...manifests.storage import open_storage
    from ..clusters import usable_cores
    from ..verification import verify as verify_store
    from .reports import print_verification, remedy

    with checking(open_storage(store)) as advance:
        verification = verify_store(store, workers or usable_cores(), advance)
    if as_json:
        click.echo(verification.model_dump_json(indent=2))
    else:
        print_verification(verification)
    if not verification.ok:
        raise VerificationError(remedy(verification))


@contextlib.contextmanager
def checking(storage: Storage) -> Iterator[Callable[[int], object]]:
    """Show a bar while a store is checked; yields what is to be told the rows that are done."""
    from ...manifests.reader import read_manifest
    from .bars import progress_bar

    try:
        total = read_manifest(storage).rows
    except Exception:  # whatever it is, the check says it
        total = 0
    with progress_bar() as bar:
        task = bar.add_task("checking", total=total)
        yield lambda count: bar.advance(task, count)
