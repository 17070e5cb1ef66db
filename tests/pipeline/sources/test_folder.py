from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fbind.manifests.clusters import SourceSpec
from fbind.manifests.errors import BadLabelError, ConfigError, MissingFileError, SourceError
from fbind.pipeline.sources import open_source
from fbind.pipeline.sources.folder import FolderSource

SpecOf = Callable[..., SourceSpec]


def test_all_is_every_image_sorted(folder_dataset: Path, folder_spec: SpecOf) -> None:
    (folder_dataset / "images/.hidden.png").touch()
    (folder_dataset / "images/Thumbs.db").touch()
    source = open_source(folder_spec(folder_dataset))
    assert isinstance(source, FolderSource)
    assert source.ids() == ("x", "y", "z")
    assert source.labels.names == ("sky", "cat", "dog")
    for value, image_id in enumerate(source.ids()):
        assert source.image(image_id).shape == (24, 32, 3)
        np.testing.assert_array_equal(source.label_map(image_id), np.full((24, 32), value))
        assert source.objects(image_id) is None


def test_listed_split(folder_dataset: Path, folder_spec: SpecOf) -> None:
    assert FolderSource(folder_spec(folder_dataset, "few")).ids() == ("z", "x")


def test_a_list_named_all_wins(folder_dataset: Path, folder_spec: SpecOf) -> None:
    (folder_dataset / "splits/all.txt").write_text("y\n")
    assert FolderSource(folder_spec(folder_dataset)).ids() == ("y",)


@pytest.mark.parametrize("with_lists", [True, False])
def test_missing_split(folder_dataset: Path, folder_spec: SpecOf, with_lists: bool) -> None:
    if not with_lists:
        shutil.rmtree(folder_dataset / "splits")
    with pytest.raises(MissingFileError, match=f"choose one of: {'few, all' if with_lists else 'all'}$"):
        FolderSource(folder_spec(folder_dataset, "train")).ids()


def test_no_images(folder_dataset: Path, folder_spec: SpecOf) -> None:
    shutil.rmtree(folder_dataset / "images")
    (folder_dataset / "images").mkdir()
    (folder_dataset / "images/a.tif").touch()
    with pytest.raises(SourceError, match=r"no images in .*expected files that end in \.jpg, \.jpeg, \.png"):
        FolderSource(folder_spec(folder_dataset)).ids()


@pytest.mark.parametrize("split", ["all", "few"])
def test_two_images_for_one_id(folder_dataset: Path, folder_spec: SpecOf, split: str) -> None:
    shutil.copy(folder_dataset / "images/x.png", folder_dataset / "images/x.jpg")
    with pytest.raises(SourceError, match=r"both x\.jpg and x\.png, two images for the id 'x'"):
        FolderSource(folder_spec(folder_dataset, split)).ids()


def test_id_without_image_or_label(folder_dataset: Path, folder_spec: SpecOf) -> None:
    source = FolderSource(folder_spec(folder_dataset))
    with pytest.raises(MissingFileError, match="no image 'w' in"):
        source.image("w")
    with pytest.raises(MissingFileError, match=r"labels/w\.png"):
        source.label_map("w")


def test_ids_with_an_extension_are_explained(folder_dataset: Path, folder_spec: SpecOf) -> None:
    source = FolderSource(folder_spec(folder_dataset))
    for read in (source.image, source.label_map):
        with pytest.raises(MissingFileError, match=r"ids have no extension, so write 'x' instead of 'x\.png'"):
            read("x.png")


def test_a_split_is_a_name(folder_dataset: Path, folder_spec: SpecOf) -> None:
    with pytest.raises(ConfigError, match=r"'../few' is a path.*choose one of: few, all"):
        FolderSource(folder_spec(folder_dataset, "../few")).ids()


def test_rgb_label_map(folder_dataset: Path, folder_spec: SpecOf) -> None:
    Image.new("RGB", (32, 24)).save(folder_dataset / "labels/x.png")
    with pytest.raises(BadLabelError, match=r"x\.png has mode RGB"):
        FolderSource(folder_spec(folder_dataset)).label_map("x")


@pytest.mark.parametrize("lost", ["images", "labels", "classes.json"])
def test_wrong_root(folder_dataset: Path, folder_spec: SpecOf, lost: str) -> None:
    (folder_dataset / lost).rename(folder_dataset / "elsewhere")
    with pytest.raises(MissingFileError, match=lost):
        FolderSource(folder_spec(folder_dataset))


def test_root_that_is_not_there(tmp_path: Path, folder_spec: SpecOf) -> None:
    with pytest.raises(MissingFileError, match="the folder is not there; check --root"):
        FolderSource(folder_spec(tmp_path / "absent"))


def test_labels_dir(folder_dataset: Path, folder_spec: SpecOf) -> None:
    (folder_dataset / "labels").rename(folder_dataset / "masks")
    source = FolderSource(folder_spec(folder_dataset, labels_dir="masks"))
    assert source.label_map("z").max() == 2


def test_pickles_without_its_listing(folder_dataset: Path, folder_spec: SpecOf) -> None:
    source = FolderSource(folder_spec(folder_dataset))
    before = len(pickle.dumps(source))
    source.ids()
    assert len(pickle.dumps(source)) == before
    assert pickle.loads(pickle.dumps(source)).ids() == ("x", "y", "z")
