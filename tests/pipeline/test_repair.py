"""Damaged stores made whole again: bit for bit, or not at all and with a reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from fbind.manifests.clusters import ClusterManifest
from fbind.manifests.errors import (
    ConfigError,
    CorruptStoreError,
    FbindError,
    IncompleteStoreError,
    ManifestError,
    SourceError,
    StoreError,
)
from fbind.manifests.layout import TWIN, metadata_files
from fbind.manifests.reader import BlendStore
from fbind.manifests.records import PLAN_KEY, record_key, shard_fingerprint, with_checksum
from fbind.manifests.storage import LocalStorage, open_storage
from fbind.manifests.strategies import CategoryStrategy, HalfStrategy
from fbind.manifests.writer import PixelSample, write_shard
from fbind.pipeline.expansion import ExpandOptions, expand
from fbind.pipeline.materialize import Workers, materialize
from fbind.pipeline.plan import StoreOptions
from fbind.pipeline.repair import Repair, repair
from fbind.pipeline.shardtask import images_of
from fbind.pipeline.verification import examine, expected_files, verify

from .conftest import Fbind, Maker, Watch, clusters_of, write_voc
from .faults import Run, flip, states

Contents = dict[str, bytes]


def contents(store: Path) -> Contents:
    return {str(f.relative_to(store)): f.read_bytes() for f in sorted(store.rglob("*")) if f.is_file()}


class Repairer:
    def __init__(self, scheduler: str, cache: Path) -> None:
        self.workers = Workers(1, scheduler, str(cache))

    def __call__(
        self, store: Path, *, root: Path | None = None, clusters: ClusterManifest | None = None, dry_run: bool = False
    ) -> Repair:
        storage = LocalStorage(store)
        where = None if root is None else str(root)
        return repair(
            storage, examine(storage, 1), self.workers, Watch(), root=where, clusters=clusters, dry_run=dry_run
        )


@pytest.fixture
def mend(scheduler: str, tmp_path: Path) -> Repairer:
    return Repairer(scheduler, tmp_path / "cache")


@pytest.fixture(params=["full", "virtual", "expanded"])
def store(request: pytest.FixtureRequest, make: Maker, clusters: ClusterManifest, tmp_path: Path) -> Path:
    layout = "full" if request.param == "full" else "virtual"
    make(clusters, StoreOptions(CategoryStrategy(), seed=1, limit=8, samples_per_shard=3, layout=layout))
    if request.param != "expanded":
        return make.out
    out = tmp_path / "expanded.zarr"
    expand(BlendStore.open(make.out), ExpandOptions(samples_per_shard=4), out, make.workers, Watch())
    shutil.rmtree(make.out)
    return out


def test_every_file_is_mended(store: Path, clusters: ClusterManifest, mend: Repairer, tmp_path: Path) -> None:
    """Each file of the store in turn is flipped, cut or removed; nothing but what it belongs to is written again."""
    expected = contents(store)
    manifest = BlendStore.open(store).manifest
    for number, name in enumerate(expected_files(manifest)):
        file = store / name
        if number % 3 == 0:
            file.unlink()
        elif number % 3 == 1:
            flip(file, len(expected[name]) // 2)
        else:
            file.write_bytes(expected[name][:-5])
        before = states(store)
        done = mend(store, clusters=clusters)
        assert contents(store) == expected, name
        shards = {f"{array.name}/c/{shard}/" for array in manifest.pixel_arrays() for shard in done.rebuilt}
        shards |= {record_key(shard) for shard in done.rebuilt}
        changed = {key for key, state in states(store).items() if before.get(key) != state}
        assert name in changed
        assert all(key == name or any(key.startswith(prefix) for prefix in shards) for key in changed)
        assert len(done.rebuilt) <= 1
        assert list(done.restored) == ([] if done.rebuilt else [name])
        assert done.digest == manifest.digest
    assert list((tmp_path / "cache").iterdir()) == []


def test_much_at_once(make: Maker, clusters: ClusterManifest, mend: Repairer) -> None:
    make(clusters)
    expected = contents(make.out)
    for name in ("zarr.json", "delta/zarr.json", PLAN_KEY, "recipe/phantom_image/c/0", "source/digest/c/0/0"):
        (make.out / name).unlink()
    for shard in (1, 4):
        flip(make.out / f"image/c/{shard}/0/0/0", 100)
    for shard in (0, 4):
        (make.out / record_key(shard)).unlink()
    done = mend(make.out, clusters=clusters)
    assert contents(make.out) == expected
    # Shard 4 lost its files and its record, so nothing proves the record of shard 0 before it is made again, too.
    assert done.rebuilt == (0, 1, 4)


def test_half_of_the_samples_plain(make: Maker, clusters: ClusterManifest, mend: Repairer) -> None:
    make(clusters, StoreOptions(HalfStrategy(), samples_per_shard=7))
    expected = contents(make.out)
    (make.out / "phantom/c/2/0/0").unlink()
    assert mend(make.out).rebuilt == (2,)
    assert contents(make.out) == expected


def test_images_that_were_scaled_down(make: Maker, clusters: ClusterManifest, mend: Repairer) -> None:
    make(clusters, StoreOptions(CategoryStrategy(), limit=9, samples_per_shard=3, max_side=37))
    expected = contents(make.out)
    (make.out / "source/size/c/0/0").unlink()
    flip(make.out / "image/c/1/0/0/0", 50)
    mend(make.out, clusters=clusters)
    assert contents(make.out) == expected


def test_images_that_were_left_out(make: Maker, voc: Path, clusters: ClusterManifest, mend: Repairer) -> None:
    (voc / "JPEGImages/img_003.jpg").write_bytes(b"no picture")
    make(clusters, skip=True)
    expected = contents(make.out)
    (make.out / "delta/c/0").unlink()
    (make.out / "image/c/0/0/0/0").unlink()
    mend(make.out, clusters=clusters)
    assert contents(make.out) == expected


@pytest.mark.parametrize("change", ["other pixels", "gone"])
def test_sources_that_changed_are_named_and_the_other_shards_repaired(
    make: Maker, voc: Path, clusters: ClusterManifest, mend: Repairer, change: str
) -> None:
    make(clusters, StoreOptions(CategoryStrategy(), seed=1, samples_per_shard=2))
    expected, store = contents(make.out), BlendStore.open(make.out)
    picture = voc / "JPEGImages/img_005.jpg"
    kept = picture.read_bytes()
    if change == "gone":
        picture.unlink()
    else:
        with Image.open(picture) as image:
            Image.new("RGB", image.size).save(picture)
    row = store.manifest.images.index("img_005")
    needing = [shard for shard in range(store.manifest.shards) if row in images_of(store, [shard])]
    others = [shard for shard in range(store.manifest.shards) if shard not in needing]
    broken = [needing[0], others[0], others[-1]]
    for shard in broken:
        flip(make.out / f"image/c/{shard}/0/0/0", 9)
    damaged = contents(make.out)
    error, what = (SourceError, "no image at") if change == "gone" else (ManifestError, "made from other pixels of")
    with pytest.raises(error, match=rf"2 of 3 broken shards .* can be repaired, but not {needing[0]}: .*{what}"):
        mend(make.out, dry_run=True)
    assert contents(make.out) == damaged
    with pytest.raises(error, match=rf"2 of 3 broken shards .* are repaired, but not {needing[0]}: .*img_005"):
        mend(make.out)
    assert verify(make.out).bad_shards == (needing[0],)
    picture.write_bytes(kept)
    assert mend(make.out).rebuilt == (needing[0],)
    assert contents(make.out) == expected


def test_recipes_need_the_clusters_file(make: Maker, clusters: ClusterManifest, voc: Path, mend: Repairer) -> None:
    make(clusters)
    (make.out / "delta/c/0").unlink()
    damaged = contents(make.out)
    with pytest.raises(ConfigError, match=r"the columns delta of .* are damaged: pass --clusters"):
        mend(make.out)
    with pytest.raises(ConfigError, match="was made from another clusters file"):
        mend(make.out, clusters=clusters.without({"img_001"}))
    assert contents(make.out) == damaged


def test_digests_of_images_that_changed_can_not_be_made_again(
    make: Maker, clusters: ClusterManifest, voc: Path, mend: Repairer
) -> None:
    make(clusters)
    (make.out / "source/digest/c/0/0").unlink()
    picture = voc / "JPEGImages/img_005.jpg"
    with Image.open(picture) as image:
        Image.new("RGB", image.size).save(picture)
    with pytest.raises(CorruptStoreError, match=r"can't be made again: the images at .* have changed since"):
        mend(make.out)


def test_a_manifest_that_is_lost_twice(blends: Path, mend: Repairer) -> None:
    for name in ("zarr.json", TWIN):
        flip(blends / name, 400)
    with pytest.raises(CorruptStoreError, match=r"neither the manifest of .* nor its copy in integrity/zarr\.json"):
        mend(blends)


def test_an_incomplete_store_is_gone_on_with(make: Maker, clusters: ClusterManifest, mend: Repairer) -> None:
    make(clusters)
    expected = contents(make.out)
    manifest = BlendStore.open(make.out).manifest.model_copy(update={"complete": False, "digest": ""})
    for name in ("zarr.json", TWIN):
        (make.out / name).write_bytes(metadata_files(manifest)[name])
    (make.out / record_key(5)).unlink()
    with pytest.raises(IncompleteStoreError, match=r"incomplete \(5 of 6 shards are written\): run `fbind material"):
        mend(make.out)
    flip(make.out / "image/c/2/0/0/0", 9)
    flip(make.out / record_key(3), 9)
    (make.out / "recipe/zarr.json").unlink()
    (make.out / "delta/c/0").unlink()
    told = r"3 of 6 shards are written; 2 small files are restored; shards that were broken .* again: 2, 3\)"
    with pytest.raises(IncompleteStoreError, match=told):
        mend(make.out, clusters=clusters)
    assert [problem.what for problem in verify(make.out).problems[:-1]] == ["the shard is not written yet"] * 3
    make(clusters)
    assert contents(make.out) == expected


def test_a_shard_that_comes_out_differently_is_not_touched(
    make: Maker, clusters: ClusterManifest, mend: Repairer
) -> None:
    """As when another version of a library decodes or encodes differently: here, its record is another's."""
    make(clusters)
    fingerprint = shard_fingerprint(BlendStore.open(make.out).manifest, 1)
    (make.out / record_key(1)).write_bytes(with_checksum(fingerprint + bytes(32)))
    flip(make.out / "image/c/1/0/0/0", 0)
    before = states(make.out)
    with pytest.raises(
        StoreError, match=r"shard 1 of .* comes out with other bytes than those that were sealed: the vers"
    ):
        mend(make.out)
    assert states(make.out) == before


def test_a_record_that_was_replaced_is_told_from_files_that_were(
    make: Maker, clusters: ClusterManifest, mend: Repairer
) -> None:
    make(clusters)
    expected = contents(make.out)
    fingerprint = shard_fingerprint(BlendStore.open(make.out).manifest, 1)
    (make.out / record_key(1)).write_bytes(with_checksum(fingerprint + bytes(32)))
    assert mend(make.out).restored == (record_key(1),)
    assert contents(make.out) == expected
    (make.out / "image/c/1/0/0/0").write_bytes((make.out / "image/c/2/0/0/0").read_bytes())
    assert mend(make.out).rebuilt == (1,)
    assert contents(make.out) == expected


def test_whole_shards_that_were_exchanged_against_the_seal(
    make: Maker, clusters: ClusterManifest, mend: Repairer
) -> None:
    """Nothing is broken, and yet it is not what was sealed."""
    make(clusters)
    store = BlendStore.open(make.out)
    read = [store.read(index) for index in store.manifest.rows_of(1)]
    samples = [PixelSample(255 - sample.image, sample.dominant, sample.phantom) for sample in read]
    write_shard(store.storage, store.manifest.model_copy(update={"complete": False}), 1, samples)
    with pytest.raises(CorruptStoreError, match="are intact, but are not those that were sealed"):
        mend(make.out)


def test_a_moved_dataset(make: Maker, clusters: ClusterManifest, voc: Path, mend: Repairer, tmp_path: Path) -> None:
    make(clusters)
    expected = contents(make.out)
    (make.out / "image/c/0/0/0/0").unlink()
    voc.rename(tmp_path / "moved")
    with pytest.raises(FbindError, match="no dataset at"):
        mend(make.out)
    mend(make.out, root=tmp_path / "moved")
    assert contents(make.out) == expected


def test_the_command(make: Maker, clusters: ClusterManifest, clusters_file: Path, fbind: Fbind) -> None:
    make(clusters)
    expected = contents(make.out)
    whole = fbind("repair", make.out)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.endswith(": everything checks\n")
    (make.out / "dominant/c/3/0/0").unlink()
    (make.out / "size/c/0/0").unlink()
    damaged = contents(make.out)
    needs = fbind("repair", make.out)
    assert (needs.returncode, needs.stderr.count("\n")) == (2, 1)
    assert "the columns size of" in needs.stderr
    options = [make.out, "--clusters", clusters_file, "--workers", 1]
    trial = fbind("repair", *options, "--dry-run")
    assert trial.returncode == 0, trial.stderr
    assert trial.stdout.splitlines()[-2:] == ["would be restored  size/c/0/0", "would be rebuilt   shard 3"]
    assert contents(make.out) == damaged
    done = fbind("repair", *options)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.splitlines()[-4:] == [
        "restored  size/c/0/0",
        "rebuilt   shard 3",
        f"{make.out}: repaired, every byte is what it was",
        f"digest {BlendStore.open(make.out).manifest.digest}",
    ]
    assert contents(make.out) == expected


@pytest.mark.parametrize("moment", [0.2, 0.6])
def test_a_repair_that_is_killed_leaves_nothing_worse(
    tmp_path: Path, scheduler: str, fbind: Fbind, moment: float
) -> None:
    """kill -9 of the whole process group while it writes; then it is run again."""
    clusters = clusters_of(write_voc(tmp_path / "voc", 40))
    out = tmp_path / "out.zarr"
    options = StoreOptions(CategoryStrategy(), samples_per_shard=1, limit=60)
    materialize(clusters, options, out, Workers(1, scheduler), Watch())
    expected = contents(out)
    for shard in range(60):
        flip(out / f"image/c/{shard}/0/0/0", 20)
    damaged = contents(out)
    run = Run(tmp_path, "repair", out, "--workers", 1)
    assert run.wait_until(lambda: mended(out, expected) >= 60 * moment)
    run.kill()
    for name, content in contents(out).items():
        assert name.endswith(".fbind-tmp") or content in (damaged[name], expected[name]), name
    again = fbind("repair", out, "--workers", 1)
    assert again.returncode == 0, again.stderr
    assert 0 < again.stdout.count("rebuilt") < 60
    assert contents(out) == expected


def mended(out: Path, expected: Contents) -> int:
    return sum((out / name).read_bytes() == content for name, content in expected.items() if name.startswith("image/c"))


def test_in_an_object_store(make: Maker, clusters: ClusterManifest, bucket: str, fbind: Fbind, tmp_path: Path) -> None:
    make(clusters)
    local, remote = LocalStorage(make.out), open_storage(f"{bucket}/blends.zarr")
    for name, _ in local.sizes():
        remote.write(name, local.read(name))
    whole = verify(remote.root)
    assert (whole.ok, whole.bytes) == (True, verify(make.out).bytes)
    damaged = bytearray(local.read("image/c/2/0/0/0"))
    damaged[100] ^= 1
    remote.write("image/c/2/0/0/0", bytes(damaged))
    for name in ("zarr.json", "dominant/c/0/0/0", record_key(4)):
        remote.remove(name)
    assert verify(remote.root).bad_shards == (0, 2, 4)
    done = fbind("repair", remote.root, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert {name: remote.read(name) for name, _ in remote.sizes()} == {n: local.read(n) for n, _ in local.sizes()}
    for command in (["verify"], ["inspect"], ["preview", "--out", "sheet.png"]):
        assert fbind(command[0], remote.root, *command[1:]).returncode == 0, command
