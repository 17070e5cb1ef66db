"""A cluster that somebody else runs: its workers may differ from this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest
import yaml
from distributed import Security

from fbind.manifests.clusters import ClusterManifest
from fbind.manifests.errors import ConfigError, SchedulerError
from fbind.pipeline.materialize import Workers, materialize
from fbind.pipeline.scheduler import KEEP_MEMORY, open_pool

from .conftest import OPTIONS, Watch


def test_decoded_sources_are_removed_where_the_workers_keep_them(clusters: ClusterManifest, tmp_path: Path) -> None:
    """A worker with a temporary folder of its own, as on another machine, and a scheduler named by its file."""
    theirs, file = tmp_path / "theirs", tmp_path / "scheduler.json"
    theirs.mkdir()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    dask = [sys.executable, "-m", "dask"]
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    begin = [*dask, "scheduler", *local, "--port", "0", "--scheduler-file", str(file)]
    work = [*dask, "worker", "--scheduler-file", str(file), *local, "--nthreads", "1"]
    scheduler = subprocess.Popen(begin, **quiet)
    try:
        limit = time.monotonic() + 60
        while not file.exists() or not file.read_text():
            assert time.monotonic() < limit
            time.sleep(0.05)
        worker = subprocess.Popen(work, **quiet, env=os.environ | {"TMPDIR": str(theirs)})
        try:
            watch = Watch()
            assert materialize(clusters, OPTIONS, tmp_path / "o.zarr", Workers(1, str(file)), watch).manifest.complete
            assert not list(theirs.glob("fbind-*"))
        finally:
            worker.terminate()
            worker.wait(30)
    finally:
        scheduler.terminate()
        scheduler.wait(30)


@pytest.mark.parametrize("content", [None, "", "[]", json.dumps({"id": "Scheduler"})])
def test_scheduler_file_without_an_address(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    if content is not None:
        file.write_text(content)
    with (
        pytest.raises(SchedulerError, match=r"can't read a scheduler's address from .*scheduler\.json"),
        open_pool(1, str(file)),
    ):
        pass


@pytest.mark.parametrize("address", ["nonsense", "host:8786", "tcp://host", "http://host:8786"])
def test_addresses_of_no_scheduler(address: str) -> None:
    with pytest.raises(ConfigError, match=f"--scheduler {address} is no address"), open_pool(1, address):
        pass


def test_encryption_is_asked_for_only_between_machines() -> None:
    """A configuration for clusters, which requires it, refuses theirs without it, and leaves the local one alone."""
    with dask.config.set({"distributed.comm.require-encryption": True}):
        with open_pool(1, None) as pool:
            assert list(pool.run(abs, [-1])) == [1]
        with pytest.raises(ConfigError, match="configuration requires encryption"), open_pool(1, "tcp://127.0.0.1:1"):
            pass


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, str]:
    """The settings of Dask, as environment variables, that name certificates made for this test."""
    made = Security.temporary()
    settings = {"REQUIRE_ENCRYPTION": "true"}
    for name in (
        "ca_file",
        *(f"{role}_{part}" for role in ("scheduler", "worker", "client") for part in ("key", "cert")),
    ):
        (tmp_path / f"{name}.pem").write_text(getattr(made, f"tls_{name}"))
        variable = name.upper() if name == "ca_file" else name.upper().replace("_", "__")
        settings[f"TLS__{variable}"] = str(tmp_path / f"{name}.pem")
    return {f"DASK_DISTRIBUTED__COMM__{name}": value for name, value in settings.items()}


@pytest.fixture
def tls(certificates: dict[str, str], tmp_path: Path) -> Iterator[Path]:
    """The file of a scheduler that speaks TLS, and has a worker."""
    file = tmp_path / "scheduler.json"
    start: dict[str, Any] = {
        "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path, "env": os.environ | certificates
    }  # fmt: skip
    dask_command = [sys.executable, "-m", "dask"]
    local = ["--host", "tls://127.0.0.1", "--no-dashboard"]
    begin = [*dask_command, "scheduler", *local, "--protocol", "tls", "--port", "0", "--scheduler-file", str(file)]
    work = [*dask_command, "worker", "--scheduler-file", str(file), *local, "--nthreads", "1", "--no-nanny"]
    processes = [subprocess.Popen(begin, **start)]
    try:
        limit = time.monotonic() + 60
        while not file.exists() or not file.read_text():
            assert time.monotonic() < limit
            time.sleep(0.05)
        processes.append(subprocess.Popen(work, **start))
        yield file
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(30)


USE_IT = """
import sys
from fbind.manifests.errors import FbindError
from fbind.pipeline.scheduler import open_pool
for scheduler in sys.argv[1:]:
    try:
        with open_pool(1, scheduler) as pool:
            print(*pool.run(abs, [-7]))
    except FbindError as error:
        print(type(error).__name__, error)
"""


def test_tls_of_dasks_own_configuration(tls: Path, certificates: dict[str, str]) -> None:
    address = json.loads(tls.read_text())["address"]
    assert address.startswith("tls://")

    def use(*schedulers: str, environment: dict[str, str]) -> list[str]:
        command = [sys.executable, "-c", USE_IT, *schedulers]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | environment, timeout=60
        ).stdout.splitlines()

    assert use(address, str(tls), environment=certificates) == ["7", "7"]
    assert use(address, environment={})[0].startswith(f"ConfigError {address} speaks TLS, and Dask's configuration")
    missing = certificates | {"DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT": "nowhere.pem"}
    assert use(address, environment=missing)[0].startswith("ConfigError can't use the certificates")


def test_the_compose_file_says_what_the_documentation_says() -> None:
    """Its syntax and its names; an engine that could run it is not needed."""
    root = Path(__file__).parents[2]
    services = yaml.safe_load((root / "compose.yaml").read_text())["services"]
    assert set(services) == {"scheduler", "worker", "fbind"}
    for service in services.values():
        assert (root / service["build"]["context"]).resolve() == root
        assert f"AS {service['build']['target']}\n" in (root / "Dockerfile").read_text()
        assert set(service.get("depends_on", ())) <= set(services)
    port = services["scheduler"]["entrypoint"][services["scheduler"]["entrypoint"].index("--port") + 1]
    address = f"tcp://scheduler:{port}"
    assert address in services["worker"]["entrypoint"]
    for text in ((root / "compose.yaml").read_text(), (root / "docs/distributed.md").read_text()):
        assert f"--scheduler {address}" in text
    for name, value in KEEP_MEMORY.items():
        assert services["worker"]["environment"][name] == str(value)
