import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fbind.manifests.clusters import (
    ClusterManifest,
    ImageRecord,
    MembershipRule,
    ObjectRecord,
    SourceSpec,
    build_manifest,
    clusters_digest,
    load_clusters,
    save_clusters,
)
from fbind.manifests.errors import ManifestError, MissingFileError, UnknownVersionError
from fbind.manifests.labels import LabelSet

LABELS = LabelSet(names=("ground", "cat", "dog", "été"), palette=((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)))
SOURCE = SourceSpec(kind="folder", root="/data", split="all")


def record(name: str, pixels: dict[int, int]) -> ImageRecord:
    return ImageRecord(id=name, height=10, width=20, pixels=pixels)


IMAGES = (
    record("a", {0: 100, 1: 60, 2: 40}),
    record("b", {2: 50, 3: 50}),
    record("c", {0: 200}),
    ImageRecord(id="d", height=30, width=5, pixels={1: 3}, objects=(ObjectRecord(category=1, occluded=True),)),
)


def manifest(rule: MembershipRule | None = None) -> ClusterManifest:
    return build_manifest(LABELS, SOURCE, rule or MembershipRule(), IMAGES)


def test_membership_all_joins_every_cluster():
    assert manifest().clusters == {"cat": ("a", "d"), "dog": ("a", "b"), "été": ("b",)}


def test_membership_dominant_joins_the_largest_and_the_lower_index_wins_a_tie():
    found = manifest(MembershipRule(membership="dominant"))
    assert found.clusters == {"cat": ("a", "d"), "dog": ("b",), "été": ()}


def test_min_pixels():
    found = manifest(MembershipRule(min_pixels=41))
    assert found.clusters == {"cat": ("a",), "dog": ("b",), "été": ("b",)}
    assert found.cooccurrence[2] == (0, 0, 1, 1)


def test_cooccurrence_worked_out_by_hand():
    assert manifest().cooccurrence == ((2, 1, 1, 0), (1, 2, 1, 0), (1, 1, 2, 1), (0, 0, 1, 1))


def test_rows_of_categories():
    rows = manifest().rows()
    assert {category: row.tolist() for category, row in rows.items()} == {1: [0, 3], 2: [0, 1], 3: [1]}
    assert rows[1].dtype == np.int32


def test_without_leaves_images_out_everywhere():
    found = manifest().without({"a"})
    assert found.ids == ("b", "c", "d")
    assert found.clusters["cat"] == ("d",)
    assert found.digest != manifest().digest


def test_the_digest_does_not_depend_on_where_the_dataset_lies():
    moved = build_manifest(LABELS, SOURCE.model_copy(update={"root": "/elsewhere"}), MembershipRule(), IMAGES)
    assert moved.digest == manifest().digest
    assert manifest(MembershipRule(min_pixels=2)).digest != manifest().digest


def test_round_trip(tmp_path: Path):
    save_clusters(manifest(), tmp_path / "c.json")
    assert load_clusters(tmp_path / "c.json") == manifest()


@given(st.lists(st.dictionaries(st.integers(0, 3), st.integers(1, 10**6)), min_size=1, max_size=6), st.integers(1, 9))
def test_round_trip_of_any_images(tmp_path_factory: pytest.TempPathFactory, pixels: list[dict[int, int]], least: int):
    images = tuple(record(f"i{number}", counts) for number, counts in enumerate(pixels))
    built = build_manifest(LABELS, SOURCE, MembershipRule(min_pixels=least), images)
    path = tmp_path_factory.mktemp("round") / "c.json"
    save_clusters(built, path)
    loaded = load_clusters(path)
    assert loaded == built
    assert clusters_digest(loaded) == built.digest


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ('"height":10', '"height":11', ManifestError, "does not match its digest"),
        ('"a","d"', '"a"', ManifestError, "does not match its digest"),
        ('["a","d"]', '["a","z"]', ManifestError, "names image 'z', which is not in the image table"),
        ('"id":"b"', '"id":"a"', ManifestError, "an image id appears twice"),
        ('"version": 1', '"version": 2', UnknownVersionError, "has version 2 of the clusters format"),
        ('"format": "fbind.clusters"', '"format": "other"', ManifestError, "is not a clusters file"),
        ("{", "", ManifestError, "is not valid JSON"),
    ],
)
def test_an_edited_file_is_refused(tmp_path: Path, old: str, new: str, error: type[Exception], words: str):
    path = tmp_path / "c.json"
    save_clusters(manifest(), path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(error, match=words) as caught:
        load_clusters(path)
    assert "fbind build-clusters" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path):
    with pytest.raises(MissingFileError, match="no clusters file at"):
        load_clusters(tmp_path / "c.json")


def test_unknown_fields_and_wrong_shapes_are_refused():
    plain = json.loads(manifest().model_dump_json())
    with pytest.raises(ValidationError, match="4 x 4"):
        ClusterManifest.model_validate(plain | {"cooccurrence": [[1]]})
    with pytest.raises(ValidationError, match="extra"):
        ClusterManifest.model_validate(plain | {"more": 1})
