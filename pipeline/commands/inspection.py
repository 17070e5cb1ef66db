"""``fbind inspect`` and ``fbind verify``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def inspect(store: Path, as_json: bool) -> None:
    """Say what STORE holds and how it was made; it may be incomplete."""
    from ..inspection import inspect_store
    from .reports import print_inspection

    inspection = inspect_store(store)
    if as_json:
        click.echo(inspection.model_dump_json(indent=2))
    else:
        print_inspection(inspection)


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads.  [default: one for each core]")
def verify(store: Path, as_json: bool, workers: int | None) -> None:
    """Check every byte of STORE against its manifest and checksums.

    Exits with 0 when everything checks, with 1 and a list of what is wrong otherwise.
    """
    from ...manifests.errors import VerificationError
    from ...manifests.reader import read_manifest
    from ..clusters import usable_cores
    from ..verification import verify as verify_store
    from .bars import progress_bar
    from .reports import print_verification, remedy

    try:
        total = read_manifest(store).samples
    except Exception:  # whatever it is, verify() says it
        total = 0
    with progress_bar() as bar:
        task = bar.add_task("checking samples", total=total)
        verification = verify_store(store, workers or usable_cores(), lambda count: bar.advance(task, count))
    if as_json:
        click.echo(verification.model_dump_json(indent=2))
    else:
        print_verification(verification)
    if not verification.ok:
        raise VerificationError(remedy(verification))
