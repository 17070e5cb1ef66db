"""What every test needs: a quiet, repeatable environment, and real images only where there are some."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from .objects import Proxy, environment, make_bucket, serve_s3

# Before anything imports matplotlib: no test opens a window.
os.environ["MPLBACKEND"] = "Agg"

# Time limits per example would make tests fail on a busy machine; in CI a failure must be one that others can repeat.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

VOC_ROOT = os.environ.get("FBIND_VOC_ROOT")


def pytest_report_header() -> str:
    return f"real images: {VOC_ROOT or 'none, so the tests marked voc are skipped (set FBIND_VOC_ROOT)'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if VOC_ROOT:
        return
    skip = pytest.mark.skip(reason="FBIND_VOC_ROOT does not name a folder of real PASCAL VOC images")
    for item in items:
        if "voc" in item.keywords and item.get_closest_marker("voc"):
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs that are interrupted keep their decoded sources in the temporary folder: not in everybody's."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"], tempfile.tempdir = str(tmp_path_factory.mktemp("temporary")), None
    yield
    tempfile.tempdir = None
    del os.environ["TMPDIR"]
    if before is not None:
        os.environ["TMPDIR"] = before


@pytest.fixture(scope="session")
def voc_root() -> Path:
    """The real images; only for tests marked ``voc``."""
    if not VOC_ROOT:
        pytest.fail("the fixture voc_root is for tests marked voc")
    return Path(VOC_ROOT)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the repository."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that speaks S3."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as address:
        yield address


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket, which the environment gives access to."""
    for name, value in environment(s3_server).items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid4().hex}"
    make_bucket(s3_server, name)
    return f"s3://{name}"


@pytest.fixture
def proxy(s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy between ``bucket`` and whoever uses it from now on; harmless until its ``fault`` is set."""
    proxy = Proxy(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    yield proxy
    proxy.close()
