"""The options that say where the work of a command is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def worker_options(command: Command) -> Command:
    """Add ``--workers`` and ``--scheduler`` to a command; :func:`check_workers` refuses both at once."""
    options = (
        click.option(
            "--workers", type=click.IntRange(min=1), help="Worker processes on this machine.  [default: one per core]"
        ),
        click.option(
            "--scheduler", metavar="ADDRESS", help="Use a running Dask cluster: tcp://host:port, or a scheduler file."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def check_workers(workers: int | None, scheduler: str | None) -> None:
    """Raise :class:`~fbind.manifests.errors.ConfigError` when both are given."""
    from ...manifests.errors import ConfigError

    if workers and scheduler:
        raise ConfigError("--workers starts processes here and --scheduler uses a cluster's: give one of them")
