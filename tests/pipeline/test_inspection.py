import json
from pathlib import Path

import numpy as np
import pytest

from fbind.manifests.clusters import ClusterManifest
from fbind.manifests.errors import MissingFileError, StoreError
from fbind.manifests.reader import BlendStore
from fbind.manifests.records import record_key
from fbind.manifests.storage import LocalStorage
from fbind.manifests.strategies import CategoryStrategy, HalfStrategy, RandomStrategy
from fbind.pipeline import inspection
from fbind.pipeline.inspection import Inspection, inspect_store
from fbind.pipeline.pixels import used_images

from .conftest import write_store


def test_counts_and_histogram_add_up(blends: Path):
    found = inspect_store(blends)
    store = BlendStore.open(blends)
    assert found.written_samples == 10
    assert sum(count.dominant for count in found.categories) == 10
    assert sum(count.phantom for count in found.categories) == 10
    person = next(count for count in found.categories if count.name == "person")
    assert person.phantom == int(np.sum(store.column("recipe/phantom_class") == 15))
    assert len(found.categories) == 20
    assert sum(part.samples for part in found.delta_histogram) == 10
    assert found.delta_histogram[0].low == 0.7
    assert found.delta_histogram[-1].high == 1.0
    assert found.delta.smallest == pytest.approx(store.column("delta").min(), abs=1e-6)


def test_bytes_are_those_on_disk(blends: Path):
    found = inspect_store(blends)
    image = sum(file.stat().st_size for file in (blends / "image" / "c").rglob("*") if file.is_file())
    assert found.bytes[0].stored == image
    assert found.bytes[0].raw == 10 * 50 * 50 * 3
    stored = sum(array.stored for array in found.bytes)
    assert found.bytes_per_sample == pytest.approx(stored / 10)
    assert found.stored_per_raw == pytest.approx(stored / (10 * 50 * 50 * 5))


def test_an_incomplete_store_can_be_inspected(incomplete: Path):
    found = inspect_store(incomplete)
    assert (found.written_shards, found.shards, found.written_samples) == (2, 3, 8)
    assert found.manifest["complete"] is False
    assert found.bytes[1].raw == 8 * 50 * 50


def test_a_plain_store_has_no_categories(plain: Path):
    found = inspect_store(plain)
    assert found.categories == ()
    assert found.delta_histogram == ()
    assert found.delta.smallest == found.delta.largest == 1.0


def test_a_virtual_store_counts_images_and_samples(virtual: Path, clusters: ClusterManifest, tmp_path: Path, fbind):
    found = inspect_store(virtual)
    images = int(used_images(BlendStore.open(virtual)).sum())
    assert images < 12
    assert (found.written_samples, found.written_images) == (5, images)
    assert found.bytes[0].array == "source/image"
    assert found.bytes[0].raw == images * 50 * 50 * 3
    same = write_store(clusters, tmp_path / "full.zarr", CategoryStrategy(), 5)
    full = inspect_store(same)
    assert full.written_images == 0
    # Estimates are upper figures for photographs.
    assert found.other_layout_bytes > full.stored_bytes / 2
    text = " ".join(fbind("inspect", virtual).stdout.split())
    assert "layout virtual, samples are blended when they are read" in text
    assert "3 of 4 images" in text
    assert "per image" in text
    assert "layout full, every sample is stored" in " ".join(fbind("inspect", same).stdout.split())


def test_half_and_random(clusters: ClusterManifest, tmp_path: Path, fbind):
    half = inspect_store(write_store(clusters, tmp_path / "half.zarr", HalfStrategy(), 30))
    plain = 30 - sum(count.phantom for count in half.categories)
    assert 0 < plain < 30
    assert half.delta_histogram[-1].samples >= plain
    random = write_store(clusters, tmp_path / "random.zarr", RandomStrategy(), 10)
    assert inspect_store(random).categories == ()
    assert "10 blends of 12 images" in fbind("inspect", random).stdout


def test_json_round_trip(blends: Path):
    found = inspect_store(blends)
    assert Inspection.model_validate_json(found.model_dump_json()) == found


def test_no_store(tmp_path: Path):
    with pytest.raises(MissingFileError, match="no store at"):
        inspect_store(tmp_path / "nothing")


def test_the_command_fits_80_columns_and_prints_json(blends: Path, incomplete: Path, fbind):
    text = fbind("inspect", blends)
    assert text.returncode == 0
    assert max(len(line) for line in text.stdout.split("\n")[1:]) <= 80  # the first is the path
    assert "category (delta 0.7 to 1.0, align resize, disjoint no)" in text.stdout
    assert "`fbind verify` checks the bytes" in text.stdout
    assert "incomplete: 2 of 3 shards are written" in fbind("inspect", incomplete).stdout.replace("\n          ", " ")
    assert json.loads(fbind("inspect", blends, "--json").stdout)["manifest"]["seed"] == 1


@pytest.mark.parametrize("lost", ["record", "image"])
def test_a_complete_store_that_lacks_a_shard_is_damaged(blends: Path, lost: str, fbind):
    (blends / (record_key(1) if lost == "record" else "image/c/1/0/0/0")).unlink()
    assert inspect_store(blends).written_shards == 2
    text = " ".join(fbind("inspect", blends).stdout.split())
    assert "DAMAGED: 2 of 3 shards are there; `fbind verify` names the others" in text
    assert "sealed" not in text


def test_a_file_that_can_not_be_asked_for(tmp_path: Path):
    with pytest.raises(StoreError, match=r"can't read .*: File name too long"):
        inspection._size(LocalStorage(tmp_path), "n" * 300)
