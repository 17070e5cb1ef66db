"""Converting SBD, on `.mat` files of its structure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from fbind.manifests.clusters import SourceSpec
from fbind.manifests.errors import BadLabelError, MissingFileError, ResourceError, SourceError
from fbind.manifests.storage import LocalStorage
from fbind.pipeline.sources import open_source
from fbind.pipeline.sources.files import encode_jpeg, read_labels
from fbind.pipeline.sources.sbd import augmented_ids, convert_sbd, read_sbd_labels

SpecOf = Callable[..., SourceSpec]

# What SBD has of VOC's ids (a, b: train, c: val), and its own p, q.
SBD_TRAIN, SBD_VAL = ["q", "c", "a"], ["p"]


def sbd_map(value: int) -> np.ndarray:
    labels = np.zeros((24, 32), np.uint8)
    labels[3:9, 4:30] = value
    return labels


def save_mat(path: Path, labels: object) -> None:
    savemat(path, {"GTcls": {"Boundaries": np.zeros((20, 1)), "Segmentation": labels, "CategoriesPresent": [1]}})


@pytest.fixture
def sbd(tmp_path: Path) -> Path:
    root = tmp_path / "SBD"
    for folder in ("cls", "img"):
        (root / folder).mkdir(parents=True)
    for image_id in (*SBD_TRAIN, *SBD_VAL):
        save_mat(root / f"cls/{image_id}.mat", sbd_map(7))
        (root / f"img/{image_id}.jpg").write_bytes(encode_jpeg(np.zeros((24, 32, 3), np.uint8)))
    (root / "train.txt").write_text("".join(f"{i}\n" for i in SBD_TRAIN))
    (root / "val.txt").write_text("".join(f"{i}\n" for i in SBD_VAL))
    return root


def test_augmented_ids() -> None:
    # c is in VOC's val, so SBD's c is left out; b is in VOC alone.
    assert augmented_ids(["q", "c", "a"], ["p"], ["b", "a"], ["c"]) == ["a", "b", "p", "q"]


def test_converts_what_voc_lacks_and_keeps_vocs_maps(voc_dataset: Path, sbd: Path, voc_spec: SpecOf) -> None:
    steps: list[tuple[int, int]] = []
    assert convert_sbd(sbd, voc_dataset, lambda done, total: steps.append((done, total))) == 4
    assert steps == [(i, 5) for i in range(1, 6)]
    source = open_source(voc_spec(voc_dataset, "train_aug", "SegmentationClassAug"))
    assert source.ids() == ("a", "b", "p", "q")
    for image_id in ("p", "q"):
        np.testing.assert_array_equal(source.label_map(image_id), sbd_map(7))
    aug, own = voc_dataset / "SegmentationClassAug", voc_dataset / "SegmentationClass"
    for image_id in ("a", "b", "c"):  # c: validation runs on the same labels_dir
        assert (aug / f"{image_id}.png").read_bytes() == (own / f"{image_id}.png").read_bytes()
        assert 255 in read_labels(LocalStorage(aug), f"{image_id}.png")
    assert {path.stem for path in aug.iterdir()} == set("abcpq")
    for image_id in source.ids():
        assert source.image(image_id).shape == (24, 32, 3)


def test_vocs_own_images_are_not_replaced(voc_dataset: Path, sbd: Path) -> None:
    before = (voc_dataset / "JPEGImages/a.jpg").read_bytes()
    convert_sbd(sbd, voc_dataset)
    assert (voc_dataset / "JPEGImages/a.jpg").read_bytes() == before
    assert not list((voc_dataset / "JPEGImages").glob(".*"))


def test_interrupted_conversion_has_no_list_and_can_be_repeated(voc_dataset: Path, sbd: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    listed = voc_dataset / "ImageSets/Segmentation/train_aug.txt"
    with pytest.raises(KeyboardInterrupt):
        convert_sbd(sbd, voc_dataset, stop)
    assert not listed.exists()
    (sbd / "cls/p.mat").unlink()  # converted before the interruption, so not needed again
    convert_sbd(sbd, voc_dataset)
    assert listed.read_text() == "a\nb\np\nq\n"


def test_missing_annotation(voc_dataset: Path, sbd: Path) -> None:
    (sbd / "cls/q.mat").unlink()
    with pytest.raises(MissingFileError, match=r"no SBD annotation at .*q\.mat"):
        convert_sbd(sbd, voc_dataset)
    assert not (voc_dataset / "ImageSets/Segmentation/train_aug.txt").exists()


def test_missing_voc_label_map(voc_dataset: Path, sbd: Path) -> None:
    (voc_dataset / "SegmentationClass/b.png").unlink()
    with pytest.raises(MissingFileError, match=r"b\.png: the VOC root is incomplete"):
        convert_sbd(sbd, voc_dataset)


def test_missing_image(voc_dataset: Path, sbd: Path) -> None:
    (sbd / "img/p.jpg").unlink()
    with pytest.raises(MissingFileError, match=r"no image p\.jpg"):
        convert_sbd(sbd, voc_dataset)


def test_sbd_without_lists(voc_dataset: Path, sbd: Path) -> None:
    (sbd / "val.txt").unlink()
    with pytest.raises(SourceError, match="no split 'val'"):
        convert_sbd(sbd, voc_dataset)


def test_blocked_output(voc_dataset: Path, sbd: Path) -> None:
    (voc_dataset / "SegmentationClassAug").write_text("")
    with pytest.raises(ResourceError, match="SegmentationClassAug"):
        convert_sbd(sbd, voc_dataset)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_reads_any_integer_type(tmp_path: Path, dtype: type[np.integer]) -> None:
    save_mat(tmp_path / "a.mat", sbd_map(20).astype(dtype))
    labels = read_sbd_labels(tmp_path / "a.mat")
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, sbd_map(20))


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (sbd_map(21), r"values 0\.\.21, expected 0\.\.20"),
        (sbd_map(1).astype(np.int16) - 1, r"values -1\.\.0, expected 0\.\.20"),
        (sbd_map(1).astype(np.float64), "float64 values"),
        (np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\)"),
    ],
)
def test_bad_label_values(tmp_path: Path, labels: np.ndarray, problem: str) -> None:
    save_mat(tmp_path / "a.mat", labels)
    with pytest.raises(BadLabelError, match=problem):
        read_sbd_labels(tmp_path / "a.mat")


def test_not_an_sbd_file(tmp_path: Path) -> None:
    savemat(tmp_path / "other.mat", {"x": 1})
    (tmp_path / "broken.mat").write_bytes(b"MATLAB?" * 40)
    (tmp_path / "empty.mat").write_bytes(b"")
    for name in ("other", "broken", "empty"):
        with pytest.raises(BadLabelError, match=rf"{name}\.mat is not an SBD annotation") as error:
            read_sbd_labels(tmp_path / f"{name}.mat")
        assert "\n" not in str(error.value)


@pytest.mark.voc
def test_augmented_ids_of_the_real_lists(voc_root: Path, voc_spec: SpecOf) -> None:
    lists = {
        split: set(open_source(voc_spec(voc_root, split)).ids()) for split in ("train", "val", "trainval", "train_aug")
    }
    # SBD's own lists are not at hand. It has 11,355 of the 12,031 images, all but 676 of VOC's trainval, and
    # its division into train and val does not matter; any such choice must give the published list.
    sbd = sorted(lists["train_aug"] | lists["val"])
    only_voc = set(sorted(lists["trainval"])[:676])
    sbd = [image_id for image_id in sbd if image_id not in only_voc]
    assert len(sbd) == 11_355
    ids = augmented_ids(sbd[:8_498], sbd[8_498:], lists["train"], lists["val"])
    published = open_source(voc_spec(voc_root, "train_aug")).ids()
    assert len(ids) == 10_582
    assert ids == sorted(published)
