from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from fbind.manifests.base import content_digest
from fbind.manifests.errors import (
    CorruptStoreError,
    IncompleteStoreError,
    ManifestError,
    MissingFileError,
    ResourceError,
    StoreError,
    UnknownVersionError,
)
from fbind.manifests.layout import metadata_files
from fbind.manifests.reader import BlendStore
from fbind.manifests.storage import LocalStorage

from .conftest import PER_SHARD, SAMPLES, Written


def in_zarr(store: Path, name: str) -> np.ndarray:
    """An array of the store as plain zarr reads it."""
    array: Any = zarr.open_group(store, mode="r")[name]
    return np.asarray(array[...])


def test_round_trip_through_our_reader(written: Written) -> None:
    store = BlendStore.open(written.path)
    assert len(store) == SAMPLES
    for index, pixels in enumerate(written.pixels):
        sample = store.read(index)
        assert np.array_equal(sample.image, pixels.image)
        assert np.array_equal(sample.dominant, pixels.dominant)
        assert sample.phantom is not None
        assert pixels.phantom is not None
        assert np.array_equal(sample.phantom, pixels.phantom)
        assert sample.delta == written.columns["delta"][index]
    for name, values in written.columns.items():
        assert np.array_equal(store.column(name), values)


def test_zarr_reads_the_store_and_its_padding(written: Written) -> None:
    images, phantoms = in_zarr(written.path, "image"), in_zarr(written.path, "phantom")
    for index, pixels in enumerate(written.pixels):
        height, width = pixels.dominant.shape
        image, phantom = images[index], phantoms[index]
        assert np.array_equal(image[:height, :width], pixels.image)
        assert pixels.phantom is not None
        assert np.array_equal(phantom[:height, :width], pixels.phantom)
        assert not image[height:].any()
        assert not image[:, width:].any()
        assert np.all(phantom[height:] == 255)
        assert np.all(phantom[:, width:] == 255)
    for name, values in written.columns.items():
        assert np.array_equal(in_zarr(written.path, name), values)


def test_xarray_reads_the_store_in_a_process_without_fbind(written: Written) -> None:
    script = (
        "import sys, warnings; warnings.simplefilter('error')\n"
        "import xarray\n"
        "store = xarray.open_zarr(sys.argv[1], consolidated=False)\n"
        "recipe = xarray.open_zarr(sys.argv[1], group='recipe', consolidated=False)\n"
        "print(sorted(store.sizes.items()), sorted(store), sorted(recipe), int(store.image.sum()))\n"
        "assert not [name for name in sys.modules if name.startswith('fbind')]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(written.path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    total = sum(int(pixels.image.sum()) for pixels in written.pixels)
    assert done.stdout == (
        "[('hw', 2), ('rgb', 3), ('sample', 7), ('x', 24), ('y', 20)] "
        "['delta', 'dominant', 'image', 'phantom', 'size'] "
        f"['dominant_class', 'dominant_image', 'phantom_class', 'phantom_image'] {total}\n"
    )


def test_metadata_is_what_zarr_would_write(written: Written) -> None:
    """Zarr, reading our metadata and writing its own, means the same by it."""
    for name, ours in metadata_files(BlendStore.open(written.path).manifest).items():
        if "array" in json.loads(ours)["node_type"]:
            array = zarr.open_array(written.path / Path(name).parent, mode="r")
            theirs: Any = array.metadata.to_dict()
            assert json.loads(ours)["shape"] == list(theirs["shape"])
            assert tuple(json.loads(ours)["dimension_names"]) == theirs["dimension_names"]
            inner = json.loads(ours)["codecs"][0]["configuration"] if Path(name).parent.name == "image" else {}
            if inner:
                assert tuple(inner["chunk_shape"]) == array.chunks
                assert array.shards is not None
                assert array.shards[0] == PER_SHARD


def test_bytes_do_not_depend_on_the_order_of_writing(unwritten: Written, tmp_path: Path) -> None:
    from fbind.manifests.writer import create_store

    other = unwritten._replace(path=tmp_path / "other.zarr")
    create_store(LocalStorage(other.path), other.manifest, other.columns)
    unwritten.write(0, 1, 2)
    other.write(2, 1, 0, 0)
    assert unwritten.seal() == other.seal()
    files = sorted(file.relative_to(other.path) for file in other.path.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(unwritten.path) for file in unwritten.path.rglob("*") if file.is_file())
    for file in files:
        assert (other.path / file).read_bytes() == (unwritten.path / file).read_bytes(), file


def test_digest_depends_on_pixels_and_recipes_but_not_on_where_the_sources_lay(
    written: Written, tmp_path: Path
) -> None:
    from fbind.manifests.writer import create_store

    def sealed(name: str, **changes: object) -> str:
        other = written._replace(path=tmp_path / name, **changes)
        manifest = create_store(LocalStorage(other.path), other.manifest, other.columns)
        other = other._replace(manifest=manifest)
        other.write(0, 1, 2)
        return other.seal().digest

    original = BlendStore.open(written.path).manifest.digest
    moved = written.manifest.source.model_copy(update={"root": "/elsewhere"})
    assert sealed("same") == original
    assert sealed("moved", manifest=written.manifest.model_copy(update={"source": moved})) == original
    one_pixel = [*written.pixels]
    one_pixel[4] = one_pixel[4]._replace(image=one_pixel[4].image ^ 1)
    assert sealed("pixel", pixels=one_pixel) != original
    one_delta = written.columns | {"delta": written.columns["delta"] * 0.5}
    assert sealed("delta", columns=one_delta) != original


def test_incomplete_store_is_refused_and_says_how_far_it_is(unwritten: Written) -> None:
    unwritten.write(1)
    with pytest.raises(IncompleteStoreError, match="1 of 3 shards are written"):
        BlendStore.open(unwritten.path)
    with pytest.raises(IncompleteStoreError, match="lacks 2 of 3 shards"):
        unwritten.seal()
    assert len(BlendStore.open(unwritten.path, allow_incomplete=True)) == SAMPLES


def rewrite(path: Path, change: dict[str, object]) -> None:
    metadata = json.loads((path / "zarr.json").read_bytes())
    metadata["attributes"]["fbind"].update(change)
    metadata["attributes"]["fbind_digest"] = content_digest(metadata["attributes"]["fbind"])
    (path / "zarr.json").write_text(json.dumps(metadata))


def test_unknown_version_is_refused_by_name(written: Written) -> None:
    rewrite(written.path, {"version": 9})
    with pytest.raises(UnknownVersionError, match="version 9 of the store format, this fbind reads 2"):
        BlendStore.open(written.path)


def test_manifest_with_an_unknown_field_is_refused(written: Written) -> None:
    rewrite(written.path, {"samples": -1})
    with pytest.raises(ManifestError, match="samples: Input should be greater than 0"):
        BlendStore.open(written.path)


def test_edited_manifest_is_refused(written: Written) -> None:
    file = written.path / "zarr.json"
    file.write_text(file.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(CorruptStoreError, match="does not match its digest, so it was edited or damaged"):
        BlendStore.open(written.path)


def test_missing_column_is_not_zeros(written: Written) -> None:
    (written.path / "size/c/0/0").unlink()
    (written.path / "delta/c/0").unlink()
    store = BlendStore.open(written.path)
    for name in ("delta", "size"):
        with pytest.raises(CorruptStoreError, match=f"column {name} of .* is missing"):
            store.column(name)


def test_what_is_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no store at"):
        BlendStore.open(tmp_path / "nothing")
    with pytest.raises(StoreError, match=r"has no zarr\.json"):
        BlendStore.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file"):
        BlendStore.open(tmp_path / "file")
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(StoreError, match="no 'fbind' attribute"):
        BlendStore.open(tmp_path / "other.zarr")
    (tmp_path / "other.zarr" / "zarr.json").write_text("{")
    with pytest.raises(CorruptStoreError, match="not valid JSON"):
        BlendStore.open(tmp_path / "other.zarr")


def test_corrupt_sample_is_named(written: Written) -> None:
    shard = written.path / "phantom/c/1/0/0"
    data = bytearray(shard.read_bytes())
    data[0] ^= 1
    shard.write_bytes(data)
    store = BlendStore.open(written.path)
    with pytest.raises(CorruptStoreError, match=r"sample 3 in shard .*phantom/c/1/0/0 is corrupt: checksum"):
        store.read(3)
    store.read(2)
    (written.path / "image/c/2/0/0/0").unlink()
    with pytest.raises(CorruptStoreError, match="missing"):
        store.read(6)
    with pytest.raises(IndexError):
        store.read(SAMPLES)


def test_damaged_column_is_named(written: Written) -> None:
    file = written.path / "size" / "c" / "0" / "0"
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptStoreError, match="column size"):
        BlendStore.open(written.path).read(0)


def test_nothing_is_left_behind_when_a_store_cannot_be_created(unwritten: Written, tmp_path: Path) -> None:
    from fbind.manifests.writer import create_store

    wrong = unwritten.columns | {"delta": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match="column delta has shape"):
        create_store(LocalStorage(tmp_path / "new.zarr"), unwritten.manifest, wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["store.zarr"]


def test_wrong_number_of_samples_leaves_no_record(unwritten: Written) -> None:
    from fbind.manifests.writer import recorded, write_shard

    storage = LocalStorage(unwritten.path)
    before = sorted(storage.sizes())
    with pytest.raises(ValueError, match="shard 0 takes 3 rows, got 2"):
        write_shard(storage, unwritten.manifest, 0, unwritten.pixels[:2])
    assert recorded(storage, unwritten.manifest) == set()
    assert sorted(storage.sizes()) == before


def test_a_shard_of_a_store_that_was_replaced_is_not_written(unwritten: Written) -> None:
    from fbind.manifests.writer import create_store, recorded

    storage = LocalStorage(unwritten.path)
    other = unwritten.manifest.model_copy(update={"seed": 4, "plan": ""})
    replaced = create_store(storage, other, unwritten.columns)
    with pytest.raises(StoreError, match="was removed or replaced while it was being written"):
        unwritten.write(1)
    assert recorded(storage, replaced) == set()
    assert not (unwritten.path / "image/c/1/0/0/0").exists()


def test_a_record_of_another_plan_counts_as_none(unwritten: Written) -> None:
    from fbind.manifests.writer import create_store, recorded

    unwritten.write(0, 1)
    storage = LocalStorage(unwritten.path)
    assert recorded(storage, unwritten.manifest) == {0, 1}
    columns = unwritten.columns | {"delta": unwritten.columns["delta"] * 0.5}
    assert recorded(storage, create_store(storage, unwritten.manifest, columns)) == set()


def test_a_record_that_can_not_be_read_is_no_missing_one(unwritten: Written) -> None:
    from fbind.manifests.writer import recorded

    unwritten.write(0, 1)
    storage = LocalStorage(unwritten.path)
    record = unwritten.path / "integrity/record/c/1/0"
    content = record.read_bytes()
    record.write_bytes(content[:-1])
    assert recorded(storage, unwritten.manifest) == {0}
    record.unlink()
    record.mkdir()
    with pytest.raises(ResourceError, match=r"can't read the record of shard 1, .*c/1/0: Is a directory"):
        recorded(storage, unwritten.manifest)


def test_records_in_a_bucket(unwritten: Written, bucket: str) -> None:
    from fbind.manifests.storage import open_storage
    from fbind.manifests.writer import recorded, seal

    unwritten.write(2, 0)
    storage = open_storage(f"{bucket}/b.zarr")
    for key, _ in LocalStorage(unwritten.path).sizes():
        storage.write(key, (unwritten.path / key).read_bytes())
    assert recorded(storage, unwritten.manifest) == {0, 2}
    with pytest.raises(IncompleteStoreError, match=r"lacks 1 of 3 shards \(the first: 1\)"):
        seal(storage, unwritten.manifest)


def test_a_store_that_is_replaced_while_a_shard_is_renamed_gets_no_record(unwritten: Written) -> None:
    from fbind.manifests.writer import create_store, open_shard

    storage = LocalStorage(unwritten.path)
    with open_shard(storage, unwritten.manifest, 1) as shard:
        for _ in unwritten.manifest.rows_of(1):
            shard.append(None)
        last = list(shard.arrays.values())[-1].upload
        commit = last.commit

        def replaced() -> None:
            commit()
            create_store(storage, unwritten.manifest.model_copy(update={"seed": 4, "plan": ""}), unwritten.columns)

        last.commit = replaced  # type: ignore[method-assign]
        with pytest.raises(StoreError, match="was removed or replaced"):
            shard.commit()
    assert not (unwritten.path / "integrity/record/c/1").exists()


def test_an_open_store_travels_without_its_indexes(written: Written) -> None:
    store = BlendStore.open(written.path)
    fresh = len(pickle.dumps(store))
    first = store.read(0)
    for index in range(len(store)):
        store.read(index)
    again = pickle.loads(pickle.dumps(store))
    columns = sum(store.column(name).nbytes + 200 for name in ("delta", "size"))
    assert len(pickle.dumps(store)) < fresh + columns
    assert np.array_equal(again.read(0).image, first.image)


def test_a_store_that_was_removed_does_not_come_back(unwritten: Written) -> None:
    shutil.rmtree(unwritten.path)
    with pytest.raises(ResourceError, match="the folder is not there"):
        unwritten.write(0)
    assert not unwritten.path.exists()


def test_seal_notices_a_shard_file_that_is_gone(unwritten: Written) -> None:
    unwritten.write(0, 1, 2)
    (unwritten.path / "dominant/c/1/0/0").unlink()
    with pytest.raises(IncompleteStoreError, match=r"lacks 1 of 3 shards \(the first: 1\)"):
        unwritten.seal()
    unwritten.write(1)
    assert unwritten.seal().complete
