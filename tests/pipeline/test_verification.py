import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fbind.manifests.codecs import ChunkCodec
from fbind.manifests.errors import FbindError, MissingFileError, StoreError, UnknownVersionError
from fbind.manifests.reader import BlendStore, read_manifest
from fbind.manifests.shards import shard_file
from fbind.manifests.writer import PixelSample, record_file, write_shard
from fbind.pipeline.verification import Verification, expected_files, verify


def found(path: Path) -> Verification | FbindError:
    """What verify says; a damaged version or format, which make it another thing than a store, are said by raising."""
    try:
        return verify(path, workers=1)
    except (UnknownVersionError, StoreError) as error:
        return error


def missed(path: Path) -> bool:
    result = found(path)
    return isinstance(result, Verification) and result.ok


def samples_of(path: Path, shard: int) -> list[PixelSample]:
    store = BlendStore.open(path)
    read = [store.read(index) for index in store.manifest.rows_of(shard)]
    return [PixelSample(sample.image, sample.dominant, sample.phantom) for sample in read]


@pytest.mark.parametrize("fixture", ["blends", "plain"])
def test_a_store_as_written_checks(fixture: str, request: pytest.FixtureRequest):
    path = request.getfixturevalue(fixture)
    result = verify(path)
    assert result.problems == ()
    assert result.unexpected == ()
    assert result.ok
    assert result.written == result.shards == read_manifest(path).shards
    assert result.bytes == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_every_file_of_a_store_is_expected(blends: Path):
    files = {file.relative_to(blends).as_posix() for file in blends.rglob("*") if file.is_file()}
    assert files == set(expected_files(read_manifest(blends)))


def test_no_flipped_byte_is_missed(blends: Path):
    rng = np.random.default_rng(0)
    files = sorted(file for file in blends.rglob("*") if file.is_file())
    for number in range(300):
        file = files[number % len(files)]
        intact = file.read_bytes()
        place = int(rng.integers(len(intact)))
        damaged = bytearray(intact)
        damaged[place] ^= int(rng.integers(1, 256))
        file.write_bytes(damaged)
        assert not missed(blends), f"byte {place} of {file.relative_to(blends)}"
        file.write_bytes(intact)
    assert not isinstance(found(blends), FbindError)
    assert verify(blends).ok


def test_no_flipped_bit_of_the_manifest_is_missed(blends: Path):
    file = blends / "zarr.json"
    intact = file.read_bytes()
    rng = np.random.default_rng(1)
    for place in rng.choice(len(intact), 400, replace=False):
        damaged = bytearray(intact)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        assert not missed(blends), intact[max(place - 20, 0) : place + 20]


def test_where_the_sources_lay_is_protected_too(blends: Path):
    # The store's digest leaves it out, so that the same blends have the same digest wherever they were made.
    file = blends / "zarr.json"
    text = file.read_text()
    root = read_manifest(blends).source.root
    file.write_text(text.replace(root, root[:-1] + "X"))
    result = verify(blends)
    assert [problem.file for problem in result.problems] == ["zarr.json"]


def test_no_truncated_or_missing_file_is_missed(blends: Path):
    for name in expected_files(read_manifest(blends)):
        file = blends / name
        if name == "zarr.json":
            continue
        intact = file.read_bytes()
        for cut in (b"", intact[:-1], intact[: len(intact) // 2], intact + b"\0"):
            file.write_bytes(cut)
            assert not missed(blends), f"{name} with {len(cut)} of {len(intact)} bytes"
        file.unlink()
        assert name in [problem.file for problem in verify(blends).problems]
        file.write_bytes(intact)
    assert verify(blends).ok


def test_the_bad_shards_are_named(blends: Path):
    shard_file(blends / "dominant", 1, 3).unlink()
    file = shard_file(blends / "image", 2, 4)
    file.write_bytes(b"\0" + file.read_bytes()[1:])
    result = verify(blends)
    assert result.bad_shards == (1, 2)
    assert [(problem.shard, problem.array) for problem in result.problems] == [(1, "dominant"), (2, "image")]
    assert "missing" in result.problems[0].what
    assert "sample 8: checksum" in result.problems[1].what


def test_a_shard_in_the_place_of_another_is_found(blends: Path):
    for array in read_manifest(blends).pixel_arrays():
        first, second = (shard_file(blends / array.name, shard, array.ndim) for shard in (0, 1))
        first.write_bytes(second.read_bytes())
    assert verify(blends).bad_shards == (0,)


def test_shards_that_changed_places_with_their_records_are_found(blends: Path):
    pairs = [
        [shard_file(blends / array.name, shard, array.ndim) for shard in (0, 1)]
        for array in read_manifest(blends).pixel_arrays()
    ]
    for first, second in [*pairs, [record_file(blends, shard) for shard in (0, 1)]]:
        kept = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(kept)
    problems = verify(blends).problems
    assert any(problem.shard is None and "digest" in problem.what for problem in problems)


def test_an_intact_checksum_does_not_excuse_a_label_outside_the_set(blends: Path):
    manifest = read_manifest(blends)
    samples = samples_of(blends, 1)
    bad = samples[2].dominant.copy()
    bad[0, 0] = 21
    samples[2] = samples[2]._replace(dominant=bad)
    write_shard(blends, manifest, 1, samples)
    what = {problem.array: problem.what for problem in verify(blends).problems}
    assert what["dominant"] == "sample 6: label 21 is neither below 21 nor void (255)"


def test_labels_in_the_padding_are_found(blends: Path, monkeypatch: pytest.MonkeyPatch):
    manifest = read_manifest(blends)
    encode = ChunkCodec.encode

    def stain(self: ChunkCodec, array: np.ndarray) -> tuple[bytes, bytes]:
        array[-1, -1] = 0
        return encode(self, array)

    samples = samples_of(blends, 0)
    with monkeypatch.context() as patch:
        patch.setattr(ChunkCodec, "encode", stain)
        write_shard(blends, manifest, 0, samples)
    wrong = [problem for problem in verify(blends).problems if problem.shard == 0]
    assert [problem.array for problem in wrong] == ["dominant", "phantom"]
    assert "is not 255" in wrong[0].what


def test_an_incomplete_store_says_how_much_is_there(incomplete: Path):
    result = verify(incomplete)
    assert not result.ok
    assert (result.written, result.shards, result.bad_shards) == (2, 3, (2,))
    assert "2 of 3 shards are written" in result.problems[-1].what


def test_files_that_do_not_belong_are_noted_and_harmless(blends: Path):
    (blends / "image" / "notes.txt").write_text("mine")
    result = verify(blends)
    assert result.ok
    assert result.unexpected == ("image/notes.txt",)


def test_what_is_no_store_is_an_error_not_a_finding(tmp_path: Path):
    with pytest.raises(MissingFileError, match="no store at"):
        verify(tmp_path / "nothing")
    with pytest.raises(StoreError, match=r"no zarr\.json"):
        verify(tmp_path)


def test_an_array_of_a_store_is_no_store(blends: Path, fbind):
    result = fbind("verify", blends / "image")
    assert result.returncode == 5
    assert "is not a store of blends" in result.stderr
    assert "--overwrite" not in result.stderr


def test_a_damaged_manifest_is_a_finding(blends: Path, fbind):
    file = blends / "zarr.json"
    file.write_text(file.read_text().replace('"seed": 1', '"seed": 2').replace('"seed":1', '"seed":2'))
    result = fbind("verify", blends)
    assert result.returncode == 1
    assert "does not match its digest" in result.stdout


def test_workers_do_not_change_the_result(blends: Path):
    shard_file(blends / "dominant", 1, 3).unlink()
    assert verify(blends, workers=1) == verify(blends, workers=3)


def test_the_command_says_it_in_one_line_or_lists_the_bad_shards(blends: Path, fbind):
    good = fbind("verify", blends)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith("3 shards, 10 samples, ")
    assert good.stdout.endswith(": everything checks\n")
    shutil.rmtree(blends / "phantom" / "c" / "0")
    bad = fbind("verify", blends, "--json")
    assert bad.returncode == 1
    problem = json.loads(bad.stdout)["problems"][0]
    assert (problem["shard"], problem["array"], problem["file"]) == (0, "phantom", "phantom/c/0/0/0")
    assert "1 of 3 shards are bad" in bad.stderr
    assert bad.stderr.count("\n") == 1
