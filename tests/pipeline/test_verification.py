import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fbind.manifests.clusters import ClusterManifest
from fbind.manifests.codecs import ChunkCodec
from fbind.manifests.columns import encode_column
from fbind.manifests.errors import MissingFileError, StoreError, UnknownVersionError
from fbind.manifests.layout import TWIN, metadata_files
from fbind.manifests.reader import BlendStore, read_manifest
from fbind.manifests.records import PLAN_KEY, record_key
from fbind.manifests.shards import shard_key
from fbind.manifests.storage import LocalStorage
from fbind.manifests.store import ShardManifest
from fbind.manifests.strategies import STRATEGIES
from fbind.manifests.writer import PixelSample, write_shard
from fbind.pipeline.pixels import used_images
from fbind.pipeline.verification import Verification, expected_files, verify

from .conftest import Fbind, write_store

FLIPS = 1000
SEED = 0


def manifest_of(path: Path) -> ShardManifest:
    return read_manifest(LocalStorage(path))


def shard_file(path: Path, array: str, shard: int) -> Path:
    return path / next(shard_key(a.name, shard, a.ndim) for a in manifest_of(path).pixel_arrays() if a.name == array)


def verified(path: Path) -> Verification:
    return verify(path, workers=1)


def samples_of(path: Path, shard: int) -> list[PixelSample]:
    store = BlendStore.open(path)
    read = [store.read(index) for index in store.manifest.rows_of(shard)]
    return [PixelSample(sample.image, sample.dominant, sample.phantom) for sample in read]


def replace_shard(path: Path, shard: int, samples: list[PixelSample]) -> None:
    """Put another shard into a sealed store, which the writer itself refuses."""
    write_shard(LocalStorage(path), manifest_of(path).model_copy(update={"complete": False}), shard, samples)


@pytest.fixture(params=["blends", "plain", "virtual"])
def store(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_a_store_as_written_checks(store: Path) -> None:
    result = verify(store)
    assert result.problems == ()
    assert result.unexpected == ()
    assert result.ok
    assert result.written == result.shards == manifest_of(store).shards
    assert result.bytes == sum(file.stat().st_size for file in store.rglob("*") if file.is_file())


def test_a_place_may_be_a_url(blends: Path) -> None:
    assert verify(f"file://{blends}") == verify(blends)


@pytest.mark.parametrize("layout", ["full", "virtual"])
@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"category", "none"}))
def test_stores_of_every_strategy_check(clusters: ClusterManifest, tmp_path: Path, strategy: str, layout) -> None:
    path = write_store(clusters, tmp_path / "s.zarr", STRATEGIES[strategy](), 10, layout=layout)
    assert verify(path).problems == ()


def test_every_file_of_a_store_is_expected(store: Path) -> None:
    files = {file.relative_to(store).as_posix() for file in store.rglob("*") if file.is_file()}
    assert files == set(expected_files(manifest_of(store)))


@pytest.mark.parametrize("fixture", ["blends", "virtual"])
def test_no_flipped_byte_is_missed(fixture: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(fixture)
    rng = np.random.default_rng(SEED)
    print(f"seed {SEED}")
    intact = {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
    files = list(intact)
    for number in range(FLIPS):
        file = files[number % len(files)]
        damaged = bytearray(intact[file])
        place = int(rng.integers(len(damaged)))
        damaged[place] ^= int(rng.integers(1, 256))
        file.write_bytes(damaged)
        name = file.relative_to(path).as_posix()
        assert name in [problem.file for problem in verified(path).problems], f"byte {place} of {name}"
        file.write_bytes(intact[file])
    assert verified(path).ok


def test_no_flipped_bit_of_the_manifest_is_missed(blends: Path) -> None:
    file = blends / "zarr.json"
    intact = file.read_bytes()
    rng = np.random.default_rng(1)
    for place in rng.choice(len(intact), 200, replace=False):
        damaged = bytearray(intact)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        problems = verified(blends).problems
        assert [problem.file for problem in problems] == ["zarr.json"], intact[max(place - 20, 0) : place + 20]


def test_where_the_sources_lay_is_protected_too(blends: Path) -> None:
    # The store's digest leaves it out, so that the same blends have the same digest wherever they were made.
    file = blends / "zarr.json"
    root = manifest_of(blends).source.root
    file.write_text(file.read_text().replace(root, root[:-1] + "X"))
    assert [problem.file for problem in verify(blends).problems] == ["zarr.json"]


@pytest.mark.parametrize("fixture", ["blends", "virtual"])
def test_no_truncated_or_missing_file_is_missed(fixture: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(fixture)
    for name in expected_files(manifest_of(path)):
        file = path / name
        intact = file.read_bytes()
        for cut in (b"", intact[:1], intact[: len(intact) // 2], intact[:-4], intact[:-1], intact + b"\0"):
            file.write_bytes(cut)
            names = [problem.file for problem in verified(path).problems]
            assert name in names, f"{name} with {len(cut)} of {len(intact)} bytes"
        file.unlink()
        assert name in [problem.file for problem in verified(path).problems]
        file.write_bytes(intact)
    assert verified(path).ok


def test_the_bad_shards_are_named(blends: Path) -> None:
    shard_file(blends, "dominant", 1).unlink()
    file = shard_file(blends, "image", 2)
    file.write_bytes(b"\0" + file.read_bytes()[1:])
    result = verify(blends)
    assert result.bad_shards == (1, 2)
    assert [(problem.shard, problem.array) for problem in result.problems] == [(1, "dominant"), (2, "image")]
    assert "missing" in result.problems[0].what
    assert "row 8: checksum" in result.problems[1].what


def test_large_shards_are_read_in_pieces(blends: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fbind.pipeline.shardcheck.SPAN", 9000)  # somewhat more than one image
    assert verify(blends).ok
    file = shard_file(blends, "image", 0)
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    assert verify(blends).bad_shards == (0,)


def test_a_shard_in_the_place_of_another_is_found(blends: Path) -> None:
    for array in manifest_of(blends).pixel_arrays():
        shard_file(blends, array.name, 0).write_bytes(shard_file(blends, array.name, 1).read_bytes())
    assert verify(blends).bad_shards == (0,)


def test_shards_that_changed_places_with_their_records_are_found(blends: Path) -> None:
    pairs = [[shard_file(blends, a.name, shard) for shard in (0, 1)] for a in manifest_of(blends).pixel_arrays()]
    for first, second in [*pairs, [blends / record_key(shard) for shard in (0, 1)]]:
        kept = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(kept)
    result = verify(blends)
    records = [problem for problem in result.problems if problem.array == "integrity/record"]
    assert [problem.shard for problem in records] == [0, 1] == list(result.bad_shards)
    assert "belongs to another shard" in records[0].what


def test_a_shard_that_was_replaced_with_its_record_does_not_fit_the_seal(blends: Path) -> None:
    samples = samples_of(blends, 1)
    replace_shard(blends, 1, [samples[0]._replace(image=255 - samples[0].image), *samples[1:]])
    problems = verify(blends).problems
    assert [problem.what[:18] for problem in problems] == ["the store's digest"]


def test_other_recipes_do_not_fit_the_plan(blends: Path) -> None:
    delta = BlendStore.open(blends).column("delta").copy()
    delta[0] = 0.75
    (blends / "delta/c/0").write_bytes(encode_column(delta))
    assert any("not those of the manifest's plan" in problem.what for problem in verify(blends).problems)


def test_an_intact_checksum_does_not_excuse_a_label_outside_the_set(blends: Path) -> None:
    samples = samples_of(blends, 1)
    bad = samples[2].dominant.copy()
    bad[0, 0] = 21
    samples[2] = samples[2]._replace(dominant=bad)
    replace_shard(blends, 1, samples)
    what = {problem.array: problem.what for problem in verify(blends).problems}
    assert what["dominant"] == "row 6: label 21 is neither below 21 nor void (255)"


def test_labels_in_the_padding_are_found(blends: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = ChunkCodec.encode

    def stain(self: ChunkCodec, array: np.ndarray) -> tuple[bytes, bytes]:
        array[-1, -1] = 0
        return encode(self, array)

    samples = samples_of(blends, 0)
    with monkeypatch.context() as patch:
        patch.setattr(ChunkCodec, "encode", stain)
        replace_shard(blends, 0, samples)
    wrong = [problem for problem in verify(blends).problems if problem.shard == 0]
    assert [problem.array for problem in wrong] == ["dominant", "phantom"]
    assert "is not 255" in wrong[0].what


@pytest.mark.parametrize("lacking", [True, False])
def test_a_virtual_store_has_the_images_its_recipes_need_and_no_others(virtual: Path, lacking: bool) -> None:
    opened = BlendStore.open(virtual)
    used = used_images(opened)
    row = int(np.flatnonzero(used == lacking)[0])
    shard = row // opened.manifest.samples_per_shard
    some = PixelSample(*opened.source(int(np.flatnonzero(used)[0])))
    rows = [PixelSample(*opened.source(n)) if used[n] else None for n in opened.manifest.rows_of(shard)]
    rows[row % opened.manifest.samples_per_shard] = None if lacking else some
    write_shard(LocalStorage(virtual), opened.manifest.model_copy(update={"complete": False}), shard, rows)
    problems = [problem for problem in verify(virtual).problems if problem.shard == shard]
    assert [problem.array for problem in problems] == ["source/image", "source/labels"]
    assert "does not list the chunks" in problems[0].what


def test_an_incomplete_store_says_how_much_is_there(incomplete: Path, fbind: Fbind) -> None:
    result = verify(incomplete)
    assert (result.written, result.shards, result.bad_shards) == (2, 3, (2,))
    assert [problem.what for problem in result.problems] == [
        "the shard is not written yet",
        "the store is incomplete: 2 of 3 shards are written",
    ]
    said = fbind("verify", incomplete)
    assert said.returncode == 1
    assert "is incomplete, what is written checks" in said.stderr


def test_a_run_killed_while_it_sealed_the_store_left_nothing_wrong(blends: Path) -> None:
    unsealed = manifest_of(blends).model_copy(update={"complete": False, "digest": ""})
    (blends / "zarr.json").write_bytes(metadata_files(unsealed)["zarr.json"])
    assert [problem.what for problem in verify(blends).problems] == [
        "the store is incomplete: 3 of 3 shards are written"
    ]


def test_files_that_do_not_belong_are_noted_and_harmless(blends: Path) -> None:
    (blends / "image" / "notes.txt").write_text("mine")
    result = verify(blends)
    assert result.ok
    assert result.unexpected == ("image/notes.txt",)


def test_what_is_no_store_is_an_error_not_a_finding(tmp_path: Path, blends: Path) -> None:
    with pytest.raises(MissingFileError, match="no store at"):
        verify(tmp_path / "nothing")
    with pytest.raises(StoreError, match=r"no zarr\.json"):
        verify(tmp_path)
    for name in ("zarr.json", TWIN):
        (blends / name).write_text((blends / name).read_text().replace('"version": 2', '"version": 3'))
    with pytest.raises(UnknownVersionError):
        verify(blends)


def test_an_array_of_a_store_is_no_store(blends: Path, fbind: Fbind) -> None:
    result = fbind("verify", blends / "image")
    assert result.returncode == 5
    assert "is not a store of blends" in result.stderr
    assert "repair" not in result.stderr


def test_a_damaged_manifest_is_a_finding_and_its_copy_serves_for_the_rest(blends: Path, fbind: Fbind) -> None:
    file = blends / "zarr.json"
    shard_file(blends, "image", 1).unlink()
    file.write_text(file.read_text().replace('"seed": 1', '"seed": 2'))
    result = fbind("verify", blends)
    assert result.returncode == 1
    assert "does not match its digest" in result.stdout
    assert "shard 1  image  image/c/1/0/0/0: the file is missing" in result.stdout
    (blends / TWIN).write_bytes(file.read_bytes())
    result = fbind("verify", blends)
    assert result.returncode == 1
    assert "does not match its digest" in result.stdout
    assert "shard 1" not in result.stdout


def test_another_reader_is_asked_too(blends: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What zarr-python makes of the store is a check of its own."""
    import zarr

    def refuse(path: Path, **_: object) -> Callable[[], None]:
        raise ValueError(f"no codec for {path.name}")

    monkeypatch.setattr(zarr, "open_array", refuse)
    what = {problem.array: problem.what for problem in verify(blends).problems}
    assert what["delta"] == "zarr-python can't read it: ValueError: no codec for delta"
    assert set(what) == {array.name for array in (*manifest_of(blends).pixel_arrays(), *manifest_of(blends).columns())}


def test_workers_do_not_change_the_result(blends: Path) -> None:
    shard_file(blends, "dominant", 1).unlink()
    assert verify(blends, workers=1) == verify(blends, workers=3)


def test_the_command_says_it_in_one_line_or_lists_the_bad_shards(blends: Path, fbind: Fbind) -> None:
    good = fbind("verify", blends)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith("3 shards, 10 samples, ")
    assert good.stdout.endswith(": everything checks\n")
    shutil.rmtree(blends / "phantom" / "c" / "0")
    (blends / PLAN_KEY).unlink()
    bad = fbind("verify", blends, "--json")
    assert bad.returncode == 1
    problem = json.loads(bad.stdout)["problems"][1]
    assert (problem["shard"], problem["array"], problem["file"]) == (0, "phantom", "phantom/c/0/0/0")
    assert "1 of 3 shards are bad" in bad.stderr
    assert "`fbind repair" in bad.stderr
    assert bad.stderr.count("\n") == 1
