"""The whole job in a bucket: dataset and store by URL, through a network that fails."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from fbind.manifests.layout import TWIN
from fbind.manifests.reader import BlendStore
from fbind.manifests.storage import LocalStorage, Storage, open_storage

from ..objects import Fault, Proxy
from .conftest import Fbind, write_voc

OPTIONS = ("--samples-per-shard", 8, "--workers", 1, "--limit", 20)


def copy(source: Storage, target: Storage) -> None:
    for key, _ in source.sizes():
        target.write(key, source.read(key))


@pytest.fixture
def remote(bucket: str, tmp_path: Path, fbind: Fbind) -> str:
    """A dataset in the bucket, its clusters file beside the test, and the same store on the disk to compare with."""
    copy(LocalStorage(write_voc(tmp_path / "voc", 9)), open_storage(f"{bucket}/voc"))
    made = fbind("build-clusters", "--root", f"{bucket}/voc", "--split", "train", "--out", "c.json")
    assert made.returncode == 0, made.stderr
    done = fbind("materialize-blends", "--clusters", "c.json", "--root", "voc", "--out", "local.zarr", *OPTIONS)
    assert done.returncode == 0, done.stderr
    return bucket


def same(url: str, local: Path) -> None:
    """Byte for byte, but for the manifest, which says where the sources lay."""
    there, here = open_storage(url), LocalStorage(local)
    assert dict(there.sizes()).keys() == dict(here.sizes()).keys()
    for key, _ in here.sizes():
        if key not in ("zarr.json", "integrity/zarr.json"):
            assert there.read(key) == here.read(key), key
    assert BlendStore.open(url).manifest.digest == BlendStore.open(local).manifest.digest


def test_store_in_a_bucket(remote: str, fbind: Fbind, tmp_path: Path) -> None:
    url = f"{remote}/stores/b.zarr"
    command = ("materialize-blends", "--clusters", "c.json", "--out", url, *OPTIONS)
    done = fbind(*command)
    assert done.returncode == 0, done.stderr
    assert f"{url}: 20 samples in 3 shards" in done.stdout
    same(url, tmp_path / "local.zarr")
    verified = fbind("verify", url)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert fbind("inspect", url).returncode == 0
    again = fbind(*command)
    assert again.returncode == 5
    assert "is already there, complete" in again.stderr
    virtual = fbind(*command[:-7], f"{remote}/v.zarr", *OPTIONS, "--layout", "virtual")
    assert virtual.returncode == 0, virtual.stderr
    assert fbind("materialize-blends", "--from", f"{remote}/v.zarr", "--out", url, "--overwrite").returncode == 0
    assert BlendStore.open(url).manifest.samples == 20


def test_what_a_kill_leaves_in_a_bucket_is_in_nobodys_way(remote: str, fbind: Fbind, tmp_path: Path) -> None:
    local, storage = LocalStorage(tmp_path / "local.zarr"), open_storage(f"{remote}/b.zarr")
    command = ("materialize-blends", "--clusters", "c.json", "--out", f"{remote}/b.zarr", *OPTIONS)
    storage.write("thesis.txt", b"dear")
    refused = fbind(*command, "--overwrite")
    assert refused.returncode == 5
    said = f"error: {remote}/b.zarr exists and is not a store of blends: choose another --out\n"
    assert refused.stderr.endswith(said)
    assert storage.read("thesis.txt") == b"dear"
    storage.remove("thesis.txt")
    # Killed while it looked whether it may write, while it created a store, and while it deleted one.
    for keys, options in (
        ([".fbind-tmp"], []),
        ([".fbind-tmp", TWIN, "delta/zarr.json"], []),
        ([TWIN], ["--overwrite"]),
    ):
        for key in keys:
            storage.write(key, local.read(key) if key != ".fbind-tmp" else b"")
        done = fbind(*command, *options)
        assert done.returncode == 0, done.stderr
        same(f"{remote}/b.zarr", local.path)
        storage.clear()


def test_a_network_that_fails_now_and_then_changes_no_byte(
    remote: str, proxy: Proxy, fbind: Fbind, tmp_path: Path
) -> None:
    winds = itertools.cycle([Fault.SLOW, Fault.ERROR, Fault.BUSY, Fault.UNANSWERED, Fault.LOST, Fault.CUT])

    def fault(method: str, path: str, number: int) -> Fault | None:
        if method == "PUT" and number % 11 == 0:
            return Fault.SWALLOWED
        return next(winds) if number % 7 == 0 else None

    proxy.fault = fault
    done = fbind("materialize-blends", "--clusters", "c.json", "--out", f"{remote}/b.zarr", *OPTIONS)
    assert done.returncode == 0, done.stderr
    proxy.reset()
    same(f"{remote}/b.zarr", tmp_path / "local.zarr")


def test_a_network_that_is_gone_ends_the_run_and_the_same_command_goes_on(
    remote: str, proxy: Proxy, fbind: Fbind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FBIND_RETRY_SECONDS", "1")

    def fault(method: str, path: str, number: int) -> Fault | None:
        return Fault.ERROR if method == "PUT" and ("/c/1/" in path or "/c/2/" in path) else None

    proxy.fault = fault
    command = ("materialize-blends", "--clusters", "c.json", "--out", f"{remote}/b.zarr", *OPTIONS)
    failed = fbind(*command)
    assert failed.returncode == 6, failed.stderr
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: can't write {remote}/b.zarr/")
    assert "Traceback" not in failed.stderr
    refused = fbind("verify", f"{remote}/b.zarr")
    assert refused.returncode == 1
    proxy.reset()
    resumed = fbind(*command)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on: 1 of 3 shards are already written" in resumed.stderr
    same(f"{remote}/b.zarr", tmp_path / "local.zarr")
