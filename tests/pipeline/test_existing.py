"""What a run finds at ``--out``, what it may delete there, and what a kill at any moment leaves for the next one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fbind.manifests.base import TEMPORARY
from fbind.manifests.clusters import ClusterManifest
from fbind.manifests.errors import CorruptStoreError, ResourceError, StoreError, StoreExistsError
from fbind.manifests.layout import TWIN
from fbind.manifests.reader import BlendStore, read_manifest
from fbind.manifests.storage import LocalStorage, Storage, open_storage
from fbind.manifests.store import ShardManifest
from fbind.manifests.strategies import CategoryStrategy, RandomStrategy
from fbind.manifests.writer import clear_store, create_store
from fbind.pipeline.existing import check_same_plan, check_writable, existing_plan, make_way, open_out

from ..objects import Fault, Proxy
from .conftest import OPTIONS, Fbind, Maker, Watch, write_store
from .faults import fill, small_disk
from .test_materialize import contents, unseal

SEED = 5
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "tempfile.mkstemp"}


def killed_at(change: int, action: Callable[[], object]) -> bool:
    """Whether a process running ``action`` was killed, with ``kill -9``, after ``change`` changes of its folders."""
    with warnings.catch_warnings():
        # From 3.12 on Python warns of threads, which the child does not have: it asks nothing of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        left = change

        def strike(event: str, _: object) -> None:
            nonlocal left
            if event in CHANGES:
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        sys.addaudithook(strike)
        try:
            action()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def columns_of(store: Path) -> tuple[ShardManifest, dict[str, np.ndarray]]:
    opened = BlendStore.open(store, allow_incomplete=True)
    return opened.manifest.model_copy(update={"complete": False, "digest": ""}), opened.columns()


def test_killed_at_any_moment_of_creating_a_store(incomplete: Path, tmp_path: Path) -> None:
    manifest, columns = columns_of(incomplete)
    create_store(LocalStorage(tmp_path / "whole.zarr"), manifest, columns)
    whole = contents(tmp_path / "whole.zarr")
    moment = 0
    for moment in range(1000):
        storage = LocalStorage(tmp_path / f"{moment}.zarr")
        if not killed_at(moment, lambda storage=storage: create_store(storage, manifest, columns)):
            break
        assert existing_plan(storage, overwrite=False) is None, moment
        check_writable(storage)
        make_way(storage, overwrite=False)
        create_store(storage, manifest, columns)
        left = {key: data for key, data in contents(storage.path).items() if not key.endswith(TEMPORARY)}
        assert left == whole, moment
    assert moment > 40


def test_killed_at_any_moment_of_deleting_a_store(blends: Path, tmp_path: Path) -> None:
    manifest, columns = columns_of(blends)
    create_store(LocalStorage(tmp_path / "whole.zarr"), manifest, columns)
    whole = contents(tmp_path / "whole.zarr")
    moment = 0
    for moment in range(1000):
        storage = LocalStorage(tmp_path / f"{moment}.zarr")
        shutil.copytree(blends, storage.path)
        if not killed_at(moment, lambda storage=storage: clear_store(storage)):
            break
        existing_plan(storage, overwrite=True)
        if moment > 0:
            with pytest.raises(StoreError, match=r"has no zarr\.json"):
                read_manifest(storage)
        make_way(storage, overwrite=True)
        create_store(storage, manifest, columns)
        assert contents(storage.path) == whole, moment
        shutil.rmtree(storage.path)
    assert moment > 40
    assert existing_plan(LocalStorage(tmp_path / f"{moment}.zarr"), overwrite=False) is None


def test_a_network_that_goes_at_any_moment_of_creating_or_deleting(
    blends: Path, bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, columns = columns_of(blends)
    monkeypatch.setenv("FBIND_RETRY_SECONDS", "0")
    rng = random.Random(SEED)

    def gone_after(changes: int) -> Callable[[str, str, int], Fault | None]:
        seen = 0

        def fault(method: str, path: str, number: int) -> Fault | None:
            nonlocal seen
            seen += method in ("PUT", "POST", "DELETE")
            return Fault.ERROR if seen > changes else None

        return fault

    moments = [0, 1, *rng.sample(range(2, 24), 4)]
    for moment in moments:
        storage = open_storage(f"{bucket}/created-{moment}")
        proxy.fault = gone_after(moment)
        with pytest.raises(ResourceError):
            create_store(storage, manifest, columns)
        proxy.reset()
        assert existing_plan(storage, overwrite=False) is None, moment
        make_way(storage, overwrite=False)
        create_store(storage, manifest, columns)
    expected = dict(open_storage(f"{bucket}/created-0").sizes())
    for moment in range(4):
        storage = open_storage(f"{bucket}/deleted-{moment}")
        for key, data in contents(blends).items():
            storage.write(key, data)
        proxy.fault = gone_after(moment)
        with pytest.raises(ResourceError):
            clear_store(storage)
        proxy.reset()
        assert storage.size(TWIN) is not None
        make_way(storage, overwrite=True)
        create_store(storage, manifest, columns)
        assert dict(storage.sizes()) == expected, moment


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty place of either kind."""
    if request.param == "folder":
        storage = open_storage(tmp_path / "place.zarr")
    else:
        storage = open_storage(f"{request.getfixturevalue('bucket')}/place.zarr")
    storage.create()
    return storage


def put(place: Storage, store: Path) -> None:
    for key, data in contents(store).items():
        place.write(key, data)


def test_temporary_files_are_nothing(place: Storage) -> None:
    for key in (TEMPORARY, f"integrity/.zarr.json.abc{TEMPORARY}"):
        place.write(key, b"1")
    assert existing_plan(place, overwrite=False) is None
    check_writable(place)
    make_way(place, overwrite=False)
    assert len(list(place.sizes())) in (1, 2)  # in a bucket, the first is what check_writable writes itself


def test_what_is_no_store_is_kept(place: Storage, incomplete: Path) -> None:
    place.write("notes.txt", b"dear")
    for overwrite in (False, True):
        for ask in (existing_plan, make_way):
            with pytest.raises(StoreExistsError, match="exists and is not a store of blends: choose another --out"):
                ask(place, overwrite)
    # Nor is it deleted with a store that was being created, unless that is asked for.
    place.write(TWIN, (incomplete / TWIN).read_bytes())
    with pytest.raises(StoreExistsError, match="is not a store of blends"):
        make_way(place, overwrite=False)
    assert place.read("notes.txt") == b"dear"


def test_a_store_that_lost_its_manifest_is_kept(place: Storage, blends: Path) -> None:
    put(place, blends)
    place.remove("zarr.json")
    before = dict(place.sizes())
    with pytest.raises(StoreExistsError, match=r"has lost its zarr\.json: `fbind repair .*` restores it"):
        make_way(place, overwrite=False)
    assert dict(place.sizes()) == before
    make_way(place, overwrite=True)
    assert not list(place.sizes())


def test_a_file_at_out(tmp_path: Path) -> None:
    (tmp_path / "o.zarr").write_bytes(b"dear")
    with pytest.raises(StoreExistsError, match="is not a store of blends"):
        make_way(LocalStorage(tmp_path / "o.zarr"), overwrite=True)
    assert (tmp_path / "o.zarr").read_bytes() == b"dear"


class Intruder(Watch):
    """Does something as soon as all images are checked."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__()
        self.act = act

    def checking(self, done: int, total: int) -> None:
        super().checking(done, total)
        if done == total:
            self.act()


def test_what_comes_to_out_during_the_check_is_kept(clusters: ClusterManifest, make: Maker) -> None:
    def note() -> None:
        make.out.mkdir()
        (make.out / "notes.txt").write_text("dear")

    make.watch = Intruder(note)
    with pytest.raises(StoreExistsError, match="is not a store of blends"):
        make(clusters)
    assert (make.out / "notes.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("shards", "said"), [(None, "is already there, complete"), (1, "another run has begun .* meanwhile")]
)
def test_a_store_that_comes_to_out_during_the_check_is_kept(
    shards: int | None, said: str, clusters: ClusterManifest, make: Maker
) -> None:
    make.watch = Intruder(lambda: write_store(clusters, make.out, CategoryStrategy(), 10, shards=shards))
    with pytest.raises(StoreExistsError, match=said):
        make(clusters)
    assert BlendStore.open(make.out, allow_incomplete=True).manifest.samples == 10


def test_an_empty_folder_may_be_written_to(clusters: ClusterManifest, make: Maker) -> None:
    (make.out / "lost+found").mkdir(parents=True)
    assert make(clusters).manifest.complete


def test_a_disk_of_its_own_may_be_the_store(clusters: ClusterManifest, make: Maker, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:  # its root can be neither renamed nor deleted
        out = disk or tmp_path / "disk"
        make(clusters, out=out)
        make(clusters, replace(OPTIONS, seed=9), out=out, overwrite=True)
        assert BlendStore.open(out).manifest.seed == 9


def test_a_dry_run_from_a_virtual_store_says_that_the_disk_is_too_small(
    virtual: Path, fbind: Fbind, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        if disk is None:
            pytest.skip("this user can't mount a small disk")
        fill(disk)
        refused = fbind("materialize-blends", "--from", virtual, "--out", disk / "o.zarr", "--dry-run")
        assert refused.returncode == 6
        assert "needs about" in refused.stderr
        assert "its disk has 0 B free" in refused.stderr


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_overwriting_through_a_link(prefix: str, clusters: ClusterManifest, make: Maker, tmp_path: Path) -> None:
    make(clusters)
    link = tmp_path / "link.zarr"
    link.symlink_to(make.out)
    make(clusters, replace(OPTIONS, seed=9), out=f"{prefix}{link}", overwrite=True)  # type: ignore[arg-type]
    assert link.is_symlink()
    assert BlendStore.open(make.out).manifest.seed == 9
    assert open_out(f"{prefix}{link}").root == str(make.out)


def test_checking_leaves_nothing(tmp_path: Path) -> None:
    check_writable(LocalStorage(tmp_path / "a" / "b.zarr"))
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]
    (tmp_path / "c.zarr").mkdir()
    check_writable(LocalStorage(tmp_path / "c.zarr"))
    assert list((tmp_path / "c.zarr").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="a part of that path is a file"):
        check_writable(LocalStorage(tmp_path / "file" / "d.zarr"))


def test_what_differs_is_named_by_its_cause(incomplete: Path) -> None:
    manifest, storage = read_manifest(LocalStorage(incomplete)), LocalStorage(incomplete)
    check_same_plan(manifest, manifest, storage)

    def said(**changes: object) -> str:
        with pytest.raises(StoreExistsError) as refused:
            check_same_plan(manifest, manifest.model_copy(update=changes), storage)
        return str(refused.value)

    assert "begun with another limit (10 then, 20 now): use the same options" in said(samples=20, limit=20)
    assert "begun with another max side (None then, 25 now)" in said(max_side=25, canvas=(25, 25))
    assert "begun with another canvas (50, 50 then, 25, 25 now)" in said(canvas=(25, 25))
    assert "begun with another clusters digest (sha256:" in said(clusters_digest="sha256:1", samples=3, images=("a",))
    assert "another strategy partners (None then, 2 now)" in said(strategy=CategoryStrategy(partners=2), samples=3)
    assert "another strategy (category then, random now)" in said(strategy=RandomStrategy(), samples=3)
    newer = manifest.software | {"numpy": "99"}
    assert f"was begun with numpy {manifest.software['numpy']}, now it is 99" in said(software=newer)
    assert "install the old one to go on, or pass --overwrite" in said(software=newer)
    assert "was begun with all images: leave --on-bad-image skip out" in said(left_out=("a",), clusters_digest="")
    begun = manifest.model_copy(update={"left_out": ("img_001",), "clusters_digest": "", "samples": 3})
    with pytest.raises(StoreExistsError, match="begun without img_001: pass --on-bad-image skip to go on"):
        check_same_plan(begun, manifest, storage)


def test_going_on_without_bad_images_prints_the_plan_that_is_gone_on_with(
    voc: Path, clusters_file: Path, fbind: Fbind, tmp_path: Path
) -> None:
    (voc / "JPEGImages/img_004.jpg").write_bytes(b"")
    command = ["materialize-blends", "--clusters", clusters_file, "--out", "o.zarr", "--workers", 1]
    first = fbind(*command, "--on-bad-image", "skip")
    assert first.returncode == 0, first.stderr
    unseal(tmp_path / "o.zarr")
    (tmp_path / "o.zarr/integrity/record/c/0/0").unlink()
    samples = BlendStore.open(tmp_path / "o.zarr", allow_incomplete=True).manifest.samples
    again = fbind(*command, "--on-bad-image", "skip")
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(f"plan      {samples} blends of 11 images")
    assert not first.stdout.startswith(f"plan      {samples} blends")
    unseal(tmp_path / "o.zarr")
    refused = fbind(*command)
    assert refused.returncode == 5
    assert "was begun without img_004: pass --on-bad-image skip to go on" in refused.stderr


def test_a_begun_store_is_found(incomplete: Path) -> None:
    storage = LocalStorage(incomplete)
    assert existing_plan(storage, overwrite=False) == read_manifest(storage)
    with pytest.raises(StoreExistsError, match="another run has begun"):
        make_way(storage, overwrite=False)
    unsealed = contents(incomplete)
    (incomplete / "zarr.json").write_text("{")
    with pytest.raises(CorruptStoreError, match="not valid JSON"):
        existing_plan(storage, overwrite=False)
    assert existing_plan(storage, overwrite=True) is None
    assert contents(incomplete).keys() == unsealed.keys()
