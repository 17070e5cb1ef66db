"""Small datasets on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fbind.manifests.clusters import SourceSpec
from fbind.manifests.labels import VOC_LABELS
from fbind.pipeline.sources.files import encode_jpeg, encode_labels

SpecOf = Callable[..., SourceSpec]


def pixels(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def voc_dataset(tmp_path: Path) -> Path:
    """A VOC root of three images: `train` has a and b, `val` has c."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for seed, image_id in enumerate("abc"):
        (root / "JPEGImages" / f"{image_id}.jpg").write_bytes(encode_jpeg(pixels(seed)))
        labels = np.zeros((24, 32), np.uint8)
        labels[5:15, 5:20] = seed + 1
        labels[15] = 255
        (root / "SegmentationClass" / f"{image_id}.png").write_bytes(encode_labels(labels, VOC_LABELS))
    (root / "ImageSets/Segmentation/train.txt").write_text("b\na\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("c\n")
    return root


@pytest.fixture
def folder_dataset(tmp_path: Path) -> Path:
    """A folder dataset of three images in three spellings; the split `few` is z and x."""
    root = tmp_path / "folder"
    for folder in ("images", "labels", "splits"):
        (root / folder).mkdir(parents=True)
    for seed, name in enumerate(("x.png", "y.JPG", "z.jpeg")):
        Image.fromarray(pixels(seed)).save(root / "images" / name)
        Image.fromarray(np.full((24, 32), seed, np.uint8)).save(root / "labels" / f"{Path(name).stem}.png")
    (root / "classes.json").write_text(json.dumps({"names": ["sky", "cat", "dog"], "background": "sky"}))
    (root / "splits/few.txt").write_text("z\nx\n")
    return root


@pytest.fixture
def voc_spec() -> SpecOf:
    def spec(root: Path, split: str = "train", labels_dir: str | None = None) -> SourceSpec:
        return SourceSpec(kind="voc", root=str(root), split=split, labels_dir=labels_dir)

    return spec


@pytest.fixture
def folder_spec() -> SpecOf:
    def spec(root: Path, split: str = "all", labels_dir: str | None = None) -> SourceSpec:
        return SourceSpec(kind="folder", root=str(root), split=split, labels_dir=labels_dir)

    return spec
