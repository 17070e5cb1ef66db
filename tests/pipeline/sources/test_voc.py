from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fbind.manifests.clusters import ObjectRecord, SourceSpec
from fbind.manifests.errors import BadImageError, MissingFileError, SourceError
from fbind.manifests.labels import VOC_LABELS
from fbind.pipeline.sources import open_source
from fbind.pipeline.sources.voc import VocSource

SpecOf = Callable[..., SourceSpec]


def test_reads_a_split(voc_dataset: Path, voc_spec: SpecOf) -> None:
    source = open_source(voc_spec(voc_dataset))
    assert isinstance(source, VocSource)
    assert source.spec == voc_spec(voc_dataset)
    assert source.labels == VOC_LABELS
    assert source.ids() == ("b", "a")
    assert source.image("a").shape == (24, 32, 3)
    labels = source.label_map("a")
    assert labels.shape == (24, 32)
    assert set(np.unique(labels)) == {0, 1, 255}
    assert source.objects("a") is None


def test_pickles(voc_dataset: Path, voc_spec: SpecOf) -> None:
    source = VocSource(voc_spec(voc_dataset, "val"))
    again = pickle.loads(pickle.dumps(source))
    assert again.ids() == ("c",)
    np.testing.assert_array_equal(again.label_map("c"), source.label_map("c"))


def test_labels_dir(voc_dataset: Path, voc_spec: SpecOf) -> None:
    (voc_dataset / "SegmentationClassAug").mkdir()
    shutil.copy(voc_dataset / "SegmentationClass/c.png", voc_dataset / "SegmentationClassAug/a.png")
    source = VocSource(voc_spec(voc_dataset, labels_dir="SegmentationClassAug"))
    assert 3 in source.label_map("a")


def test_missing_labels_dir_names_the_others(voc_dataset: Path, voc_spec: SpecOf) -> None:
    with pytest.raises(
        MissingFileError, match="SegmentationClassAug is not a folder; choose --labels-dir SegmentationCl"
    ):
        VocSource(voc_spec(voc_dataset, labels_dir="SegmentationClassAug"))
    shutil.rmtree(voc_dataset / "SegmentationClass")
    with pytest.raises(MissingFileError, match="put the label maps"):
        VocSource(voc_spec(voc_dataset))


def test_root_that_is_not_there(tmp_path: Path, voc_spec: SpecOf) -> None:
    with pytest.raises(MissingFileError, match="the folder is not there; check --root"):
        VocSource(voc_spec(tmp_path / "absent"))


def test_root_that_can_not_be_asked_for(tmp_path: Path, voc_spec: SpecOf) -> None:
    # Python below 3.14 raises here, as it does for a folder that may not be entered.
    with pytest.raises(SourceError, match=r"dataset at .*n{300}") as error:
        open_source(voc_spec(tmp_path / ("n" * 300)))
    assert "--root" in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_root_behind_a_locked_folder(voc_dataset: Path, voc_spec: SpecOf) -> None:
    voc_dataset.parent.chmod(0)
    try:
        with pytest.raises(SourceError, match="dataset at"):
            open_source(voc_spec(voc_dataset))
    finally:
        voc_dataset.parent.chmod(0o700)


def test_root_that_is_no_voc_root(tmp_path: Path, voc_spec: SpecOf) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(
        MissingFileError, match=r"not a VOC root \(it has no ImageSets/Segmentation/; a root holds JPEGI"
    ):
        VocSource(voc_spec(tmp_path / "x"))


@pytest.mark.parametrize("pointed_at", ["above", "above/VOCdevkit", "above/VOCdevkit/VOC2012/JPEGImages"])
def test_root_nearby_is_suggested(voc_dataset: Path, voc_spec: SpecOf, pointed_at: str) -> None:
    base = voc_dataset.parent
    (base / "above/VOCdevkit").mkdir(parents=True)
    moved = voc_dataset.rename(base / "above/VOCdevkit/VOC2012")
    with pytest.raises(MissingFileError) as error:
        VocSource(voc_spec(base / pointed_at))
    assert f"did you mean --root {moved}?" in str(error.value)


def test_missing_split_names_the_others(voc_dataset: Path, voc_spec: SpecOf) -> None:
    source = VocSource(voc_spec(voc_dataset, "test"))
    with pytest.raises(MissingFileError, match="choose one of: train, val"):
        source.ids()


def test_id_without_files(voc_dataset: Path, voc_spec: SpecOf) -> None:
    source = VocSource(voc_spec(voc_dataset))
    with pytest.raises(MissingFileError, match=r"JPEGImages/x\.jpg"):
        source.image("x")
    with pytest.raises(MissingFileError, match=r"SegmentationClass/x\.png"):
        source.label_map("x")


def test_truncated_jpeg(voc_dataset: Path, voc_spec: SpecOf) -> None:
    path = voc_dataset / "JPEGImages/a.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(BadImageError, match=r"a\.jpg is truncated or damaged"):
        VocSource(voc_spec(voc_dataset)).image("a")


def test_classes_json_is_the_label_set(voc_dataset: Path, voc_spec: SpecOf) -> None:
    (voc_dataset / "classes.json").write_text('{"names": ["rest", "cat", "person", "dog"], "background": "rest"}')
    assert VocSource(voc_spec(voc_dataset)).labels.names == ("rest", "cat", "person", "dog")
    (voc_dataset / "classes.json").write_text("{}")
    with pytest.raises(SourceError, match=r"classes\.json is not a valid class list"):
        VocSource(voc_spec(voc_dataset))


ANNOTATION = """<annotation><filename>a.jpg</filename>
<object><name>person</name><truncated>1</truncated><occluded>0</occluded><difficult>0</difficult>
  <part><name>head</name><occluded>1</occluded></part></object>
<object><name> horse </name><occluded>1</occluded></object>
<object><name>unicorn</name></object>
<object><name>background</name></object>
</annotation>"""


def test_objects(voc_dataset: Path, voc_spec: SpecOf) -> None:
    (voc_dataset / "Annotations").mkdir()
    (voc_dataset / "Annotations/a.xml").write_text(ANNOTATION)
    source = VocSource(voc_spec(voc_dataset))
    assert source.objects("a") == (ObjectRecord(category=15, truncated=True), ObjectRecord(category=13, occluded=True))
    assert source.objects("b") is None


def test_objects_of_a_smaller_label_set(voc_dataset: Path, voc_spec: SpecOf) -> None:
    (voc_dataset / "Annotations").mkdir()
    (voc_dataset / "Annotations/a.xml").write_text(ANNOTATION)
    (voc_dataset / "classes.json").write_text('{"names": ["rest", "cat", "person"], "background": "rest"}')
    assert VocSource(voc_spec(voc_dataset)).objects("a") == (ObjectRecord(category=2, truncated=True),)


def test_annotations_that_are_not_xml(voc_dataset: Path, voc_spec: SpecOf) -> None:
    (voc_dataset / "Annotations").mkdir()
    (voc_dataset / "Annotations/a.xml").write_text("<annotation><object>")
    with pytest.raises(SourceError, match=r"a\.xml are not valid XML"):
        VocSource(voc_spec(voc_dataset)).objects("a")


@pytest.mark.voc
@pytest.mark.parametrize(("split", "count"), [("train", 1464), ("val", 1449), ("trainval", 2913)])
def test_real_lists(voc_root: Path, voc_spec: SpecOf, split: str, count: int) -> None:
    assert len(VocSource(voc_spec(voc_root, split)).ids()) == count


@pytest.mark.voc
def test_real_images_match_their_label_maps(voc_root: Path, voc_spec: SpecOf) -> None:
    source = VocSource(voc_spec(voc_root, "val_sample"))
    for image_id in source.ids()[:40]:
        labels = source.label_map(image_id)
        assert source.image(image_id).shape == (*labels.shape, 3)
        assert set(np.unique(labels)) <= {*range(21), 255}
