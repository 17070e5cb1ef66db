"""A cluster that somebody else runs: its workers may differ from this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fbind.manifests.clusters import ClusterManifest
from fbind.manifests.errors import SchedulerError
from fbind.pipeline.materialize import Workers, materialize
from fbind.pipeline.scheduler import open_pool

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
