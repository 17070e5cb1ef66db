"""A cluster that somebody else runs: its address, and what it takes to connect."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import distributed

from ...manifests.errors import ConfigError, SchedulerError
from .client import LEAVE_SECONDS

CONNECT_SECONDS = 10
WORKER_SECONDS = 60


@contextlib.contextmanager
def remote_client(scheduler: str) -> Iterator[Callable[[], distributed.Client]]:
    """Connect to the cluster at an address or in a scheduler file; yields a call that returns the client.

    Raises :class:`SchedulerError` when no scheduler answers or it has no workers, and :class:`ConfigError` for an
    address, certificates or a demand for encryption that can't work.
    """
    client = _connect(scheduler)
    try:
        yield lambda: client
    finally:
        with contextlib.suppress(TimeoutError):
            client.close(timeout=LEAVE_SECONDS)


def _connect(scheduler: str) -> distributed.Client:
    is_file = scheduler.endswith(".json")
    address = _address_in(Path(scheduler)) if is_file else scheduler
    _check_address(address)
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise SchedulerError(
            f"no Dask scheduler answers at {address}: check the address and that `dask scheduler` runs, or leave "
            "--scheduler out to use this machine"
        ) from error
    try:
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
    except TimeoutError:
        client.close()
        start = f"dask worker --scheduler-file {scheduler}" if is_file else f"dask worker {scheduler}"
        raise SchedulerError(
            f"the scheduler at {address} has no workers after {WORKER_SECONDS} s: start some with `{start}`"
        ) from None
    return client


def _check_address(address: str) -> None:
    """Raise :class:`ConfigError` for what would make Dask's client hang for a while and print a traceback."""
    if not re.fullmatch(r"(tcp|tls)://.+:\d+", address):
        raise ConfigError(
            f"--scheduler {address} is no address of a Dask scheduler: give tcp://host:port, tls://host:port, or the "
            "path of a scheduler file (.json)"
        )
    try:
        ours = distributed.Security().get_connection_args("client")
    except OSError as error:  # SSLError is one
        raise ConfigError(
            f"can't use the certificates that Dask's configuration names ({error}): mend distributed.comm.tls"
        ) from error
    encrypted = address.startswith("tls://")
    if encrypted and ours["ssl_context"] is None:
        raise ConfigError(
            f"{address} speaks TLS, and Dask's configuration names no certificates: set distributed.comm.tls.ca-file, "
            ".client.cert and .client.key, or DASK_DISTRIBUTED__COMM__TLS__CA_FILE and so on (docs/distributed.md)"
        )
    if ours["require_encryption"] and not encrypted:
        raise ConfigError(
            f"Dask's configuration requires encryption (distributed.comm.require-encryption), and {address} does not "
            "speak TLS: give the tls:// address of a scheduler that does"
        )


def _address_in(file: Path) -> str:
    """The address in a scheduler file; read here because Dask would wait for ever for one that is not there."""
    try:
        return str(json.loads(file.read_bytes())["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SchedulerError(
            f"can't read a scheduler's address from {file} ({type(error).__name__}): name the file that "
            "`dask scheduler --scheduler-file` has written"
        ) from error
