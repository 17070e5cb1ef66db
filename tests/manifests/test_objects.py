"""Object stores when the network and the server misbehave: against a real server, through a proxy that does."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import obstore.store
import pytest
import zarr
from zarr.storage import MemoryStore
from zarr.storage import ObjectStore as ZarrStore

from fbind.manifests.errors import ConfigError, MissingExtraError, ResourceError
from fbind.manifests.limits import Limits
from fbind.manifests.objects import ObjectStorage

from ..objects import PAGE, Fault, Proxy, publish

QUICK = Limits(connect=1, read=0.5, write=1, retry=5)
"""Patience for a test in which it pays."""

SHORT = QUICK._replace(retry=0.5)
"""Patience for a test in which it doesn't."""

MIB = 1 << 20


def every(nth: int, fault: Fault) -> Callable[[str, str, int], Fault | None]:
    """The fault for every nth request."""
    return lambda method, path, number: fault if number % nth == 0 else None


def for_writes(fault: Fault, times: int = 1 << 30) -> Callable[[str, str, int], Fault | None]:
    """The fault for the first puts."""
    seen = iter(range(times))
    return lambda method, path, number: fault if method == "PUT" and next(seen, None) is not None else None


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in (Fault.FORBIDDEN, Fault.SWALLOWED)])
def test_what_passes_is_tried_again(proxy: Proxy, bucket: str, fault: Fault):
    proxy.fault = every(5 if fault is Fault.STALLED else 3, fault)
    storage = ObjectStorage(f"{bucket}/p", QUICK)
    content = {f"k{number}": os.urandom(20_000) for number in range(6)}
    for key, data in content.items():
        storage.write(key, data)
    assert {key: storage.read(key) for key in content} == content
    assert {key: storage.read_range(key, 100, 50) for key in content} == {k: d[100:150] for k, d in content.items()}
    assert {key: storage.read_end(key, 10) for key in content} == {k: (d[-10:], 20_000) for k, d in content.items()}
    assert dict(storage.sizes()) == dict.fromkeys(content, 20_000)
    assert {name for name, _ in storage.entries()} == set(content)
    storage.clear()
    assert not list(storage.sizes())


def test_a_listing_that_breaks_off_goes_on(proxy: Proxy, bucket: str):
    storage = ObjectStorage(bucket, QUICK)
    keys = {f"{number:03d}" for number in range(3 * PAGE + 1)}
    for key in keys:
        storage.write(key, b"1")
    proxy.reset()
    assert {key for key, _ in storage.sizes()} == keys
    assert len(proxy.requests) == 4  # so there are pages
    proxy.reset()
    proxy.fault = every(2, Fault.CUT)
    assert sorted(key for key, _ in storage.sizes()) == sorted(keys)


@pytest.mark.parametrize("fault", [Fault.SWALLOWED, Fault.UNANSWERED, Fault.LOST, Fault.ERROR, Fault.BUSY])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_put_that_did_not_arrive_is_put_again(proxy: Proxy, bucket: str, fault: Fault, before: bytes | None):
    storage = ObjectStorage(bucket, QUICK)
    if before is not None:
        storage.write("k", before)
    proxy.fault = for_writes(fault, times=2)
    storage.write("k", b"new")
    assert [method for method, _ in proxy.requests].count("PUT") == 3 + (before is not None)
    assert storage.read("k") == b"new"


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_put_that_never_arrives(proxy: Proxy, bucket: str, before: bytes | None):
    storage = ObjectStorage(bucket, SHORT)
    if before is not None:
        storage.write("k", before)
    proxy.fault = for_writes(Fault.SWALLOWED)
    expected = "has nothing" if before is None else "has another"
    with pytest.raises(ResourceError, match=rf"can't write {bucket}/k: the server fails \(it accepted .* {expected};"):
        storage.write("k", b"new")
    proxy.reset()
    assert storage.size("k") == (None if before is None else 3)


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.CUT, Fault.STALLED, Fault.LOST])
def test_a_server_that_keeps_failing_ends_with_one_line(proxy: Proxy, bucket: str, fault: Fault):
    storage = ObjectStorage(bucket, SHORT)
    storage.write("k", bytes(100_000))
    proxy.fault = every(1, fault)
    start = time.monotonic()
    with pytest.raises(OSError, match="check the network") as error:
        storage.read("k")
    assert time.monotonic() - start < 3
    assert error.value.filename == f"{bucket}/k"
    assert "\n" not in str(error.value)
    assert proxy.address in str(error.value)


@pytest.mark.parametrize("action", [ObjectStorage.read, ObjectStorage.write, ObjectStorage.remove, ObjectStorage.size])
def test_a_dead_server_ends_with_one_line(
    bucket: str, action: Callable[[ObjectStorage, str], object], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises((OSError, ResourceError), match=r"the server fails \(Connection refused; \d+ tries in") as error:
        action(ObjectStorage(bucket, SHORT), "k")
    assert time.monotonic() - start < 3
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["part", "complete"])
def test_large_files_are_sent_in_parts(proxy: Proxy, bucket: str, damage: str):
    storage = ObjectStorage(bucket, QUICK._replace(part=5 * MIB, write=10, read=10))
    data = os.urandom(11 * MIB)
    where = "partNumber=2" if damage == "part" else "?uploadId"
    left = [Fault.ERROR]
    proxy.fault = lambda method, path, number: left.pop() if left and where in path and method != "DELETE" else None
    upload = storage.upload("big")
    upload.write(data[: 3 * MIB], memoryview(data)[3 * MIB :])
    upload.commit()
    assert not left
    assert sum("partNumber" in path for _, path in proxy.requests) > 3
    assert storage.read("big") == data


def test_a_part_that_fails_for_ever_leaves_nothing_visible(proxy: Proxy, bucket: str):
    storage = ObjectStorage(bucket, SHORT._replace(part=5 * MIB, write=10, read=10))
    proxy.fault = lambda method, path, number: Fault.ERROR if "partNumber=2" in path else None
    with pytest.raises(ResourceError, match="500 Internal Server Error"):
        storage.write("big", bytes(11 * MIB))
    assert not list(storage.sizes())


def test_what_can_not_pass_is_said_at_once(proxy: Proxy, bucket: str):
    storage = ObjectStorage(bucket, QUICK)
    proxy.fault = every(1, Fault.FORBIDDEN)
    with pytest.raises(PermissionError, match=r"permission denied \(403 Forbidden\): check the credentials"):
        storage.read("k")
    with pytest.raises(ResourceError, match=r"can't write .*/k: permission denied"):
        storage.write("k", b"")
    with pytest.raises(ResourceError, match=r"can't delete .*/k: permission denied"):
        storage.remove("k")
    with pytest.raises(ResourceError, match=r"can't delete .*: permission denied"):
        storage.clear()
    assert len(proxy.requests) == 4


def test_a_bucket_that_is_not_there(proxy: Proxy, bucket: str):
    storage = ObjectStorage("s3://no-such-bucket/x", QUICK)
    for action in (lambda: storage.read("k"), lambda: list(storage.sizes()), lambda: storage.read_end("k", 3)):
        with pytest.raises(OSError, match="there is no bucket 'no-such-bucket'"):
            action()
    with pytest.raises(ResourceError, match="there is no bucket 'no-such-bucket': create it, or correct the URL"):
        storage.write("k", b"")
    assert len(proxy.requests) == 4


NOBODY = """
from fbind.manifests.storage import open_storage
try:
    open_storage({url!r}).read("k")
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/x", "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("gs://bucket/x", "no credentials: set GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://container/x", "Account must be specified: set AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_missing_credentials(url: str, expected: str, tmp_path: Path):
    names = ("AWS_", "GOOGLE_", "AZURE_", "NO_PROXY", "no_proxy", "http_proxy", "HTTP_PROXY")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    # Nobody answers in the place of the cloud machine's own service, wherever this runs; and no home has credentials.
    environment |= {"HTTP_PROXY": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", NOBODY.format(url=url)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.startswith(expected)
    assert result.stdout.count("\n") == 1


def test_google_cloud_storage_speaks_without_credentials_where_told_to(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="the server fails"):
        ObjectStorage("gs://bucket/x", SHORT).read("k")


def test_public_data_needs_no_credentials(bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch):
    ObjectStorage(bucket).write("k", b"1")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with pytest.raises(PermissionError, match="403 Forbidden"):
        ObjectStorage(bucket, QUICK).read("k")
    publish(s3_server, f"{bucket.removeprefix('s3://')}/k")
    assert ObjectStorage(bucket, QUICK).read("k") == b"1"


def test_without_obstore(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fbind\[cloud\]'"):
        ObjectStorage("s3://bucket/x")


def test_patience_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FBIND_RETRY_SECONDS", "7")
    assert Limits.from_environment() == Limits(retry=7)
    monkeypatch.setenv("FBIND_RETRY_SECONDS", "long")
    with pytest.raises(ConfigError, match="FBIND_RETRY_SECONDS is 'long', expected seconds"):
        ObjectStorage("s3://bucket/x")


def read_in_child(url: str) -> str:
    try:
        return ObjectStorage(url, SHORT).read("k").decode()
    except OSError as error:
        return str(error.strerror)


@pytest.mark.parametrize(("method", "expected"), [("fork", "start processes with the method spawn"), ("spawn", "here")])
def test_processes(bucket: str, method: str, expected: str):
    ObjectStorage(bucket).write("k", b"here")
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert expected in pool.apply_async(read_in_child, (bucket,)).get(30)


def test_zarr_reads_what_was_written(bucket: str):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 5, 4), np.uint8)
    memory: dict = {}
    group = zarr.open_group(MemoryStore(memory), mode="w")
    group.create_array("image", shape=pixels.shape, dtype=pixels.dtype, chunks=(1, 5, 4), shards=(4, 5, 4))[:] = pixels
    storage = ObjectStorage(f"{bucket}/a.zarr")
    for key, value in memory.items():
        storage.write(key, value.to_bytes())

    client = obstore.store.from_url(f"{bucket}/a.zarr", client_options={"allow_http": True})
    remote = ZarrStore(client, read_only=True)
    array = zarr.open_group(remote, mode="r")["image"]
    assert isinstance(array, zarr.Array)
    np.testing.assert_array_equal(array[:], pixels)


def test_requests_are_few(proxy: Proxy, bucket: str):
    storage = ObjectStorage(bucket, QUICK)
    for action, methods in (
        (lambda: storage.write("k", bytes(MIB)), ["PUT", "HEAD"]),
        (lambda: storage.read("k"), ["GET"]),
        (lambda: storage.read_range("k", 5, 5), ["GET"]),
        (lambda: storage.read_end("k", 5), ["GET"]),
        (lambda: storage.size("k"), ["HEAD"]),
        (lambda: storage.remove("k"), ["POST"]),
        (lambda: list(storage.sizes()), ["GET"]),
    ):
        proxy.reset()
        action()
        assert [method for method, _ in proxy.requests] == methods
