"""Writing the synthetic dataset: scenes as a VOC root (:func:`write_shapes`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...manifests.base import unwritable, write_atomically
from ...manifests.errors import StoreExistsError
from .classes import CLASSES_FILE, encode_classes
from .files import encode_jpeg, encode_labels
from .scenes import SHAPE_LABELS, draw_scene
from .voc import LABELS_DIR, SPLITS_DIR

SPLITS = ("train", "val")


def write_shapes(
    out: Path, *, images: int, val: int, size: int, seed: int, progress: Callable[[], object] = lambda: None
) -> np.ndarray:
    """Write ``images`` training and ``val`` validation scenes; returns the (20,) int64 training images per category.

    Scene i of a split depends on ``seed``, ``size`` and i alone: asking for more adds to the same ones. The lists are
    written last, so an interrupted run leaves nothing that opens as a dataset. ``progress`` is called once per scene.

    Raises :class:`StoreExistsError` when ``out`` holds anything, and
    :class:`~fbind.manifests.errors.ResourceError` when it can't be written.
    """
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise StoreExistsError(f"{out} is already there and not an empty folder: remove it, or write elsewhere")
        for folder in ("JPEGImages", LABELS_DIR, SPLITS_DIR):
            (out / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from error
    write_atomically(out / CLASSES_FILE, encode_classes(SHAPE_LABELS))
    counts = np.zeros(len(SHAPE_LABELS.categories), np.int64)
    lists = {}
    for stream, (split, count) in enumerate(zip(SPLITS, (images, val), strict=True)):
        ids = [f"{split}_{index:06d}" for index in range(count)]
        for index, image_id in enumerate(ids):
            # Its own generator per scene: no scene depends on how many were drawn before it.
            image, labels = draw_scene(np.random.default_rng([seed, stream, index]), size)
            write_atomically(out / "JPEGImages" / f"{image_id}.jpg", encode_jpeg(image))
            write_atomically(out / LABELS_DIR / f"{image_id}.png", encode_labels(labels, SHAPE_LABELS))
            if split == "train":
                counts[[c - 1 for c in SHAPE_LABELS.categories if c in labels]] += 1
            progress()
        lists[split] = ids
    for split, ids in lists.items():
        if ids:
            write_atomically(out / SPLITS_DIR / f"{split}.txt", ("\n".join(ids) + "\n").encode())
    return counts
