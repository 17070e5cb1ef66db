"""SBD's annotations as VOC label maps, and the augmented training list that VOC and SBD make together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ...manifests.base import unwritable, write_atomically
from ...manifests.errors import BadLabelError, MissingFileError
from ...manifests.labels import VOC_LABELS
from ...manifests.storage import LocalStorage
from .files import encode_labels
from .splits import read_split
from .voc import LABELS_DIR, SPLITS_DIR

AUGMENTED_DIR = "SegmentationClassAug"
AUGMENTED_SPLIT = "train_aug"


def augmented_ids(
    sbd_train: Iterable[str], sbd_val: Iterable[str], voc_train: Iterable[str], voc_val: Iterable[str]
) -> list[str]:
    """SBD's train and val and VOC's train, minus VOC's val, sorted: 10,582 ids on the real lists."""
    return sorted((set(sbd_train) | set(sbd_val) | set(voc_train)) - set(voc_val))


def read_sbd_labels(path: Path) -> np.ndarray:
    """The class indices (h, w) uint8 of an SBD ``cls/ID.mat``: ``GTcls.Segmentation``, VOC's classes without void.

    Raises :class:`MissingFileError`, or :class:`BadLabelError` when the file is damaged or holds something else.
    """
    from scipy.io import loadmat

    remedy = "fetch SBD again"
    try:
        with path.open("rb") as file:
            labels = np.asarray(loadmat(file)["GTcls"]["Segmentation"].item())
    except FileNotFoundError:
        raise MissingFileError(f"no SBD annotation at {path}: {remedy}") from None
    except Exception as error:  # scipy raises whatever its parser trips over
        reason = " ".join(str(error).split())
        raise BadLabelError(f"{path} is not an SBD annotation ({type(error).__name__}: {reason}): {remedy}") from error
    if labels.ndim != 2 or labels.dtype.kind not in "ui" or labels.size == 0:
        raise BadLabelError(
            f"{path} holds {labels.dtype} values of shape {labels.shape}, expected an integer label map: {remedy}"
        )
    if labels.min() < 0 or labels.max() >= len(VOC_LABELS):
        raise BadLabelError(
            f"{path} has label values {labels.min()}..{labels.max()}, expected 0..{len(VOC_LABELS) - 1}: {remedy}"
        )
    return labels.astype(np.uint8)


def convert_sbd(sbd: Path, voc: Path, progress: Callable[[int, int], object] | None = None) -> int:
    """Add SBD (a folder with ``cls/``, ``img/``, ``train.txt``, ``val.txt``) to a VOC root; returns the list's length.

    Writes ``SegmentationClassAug/ID.png`` for every image of ``train_aug``, ``train`` and ``val``: VOC's own map (it
    has void borders) where there is one, SBD's otherwise; copies images that the root lacks; and last of all
    ``ImageSets/Segmentation/train_aug.txt``. Files that are there already are kept, so it can be interrupted and run
    again. ``progress`` is called with the numbers of images done and in total.

    Raises :class:`MissingFileError`, :class:`BadLabelError`, :class:`~fbind.manifests.errors.SourceError` for the
    lists, or :class:`~fbind.manifests.errors.ResourceError` when the root can't be written.
    """
    voc_train, voc_val = (read_split(LocalStorage(voc), SPLITS_DIR, split) for split in ("train", "val"))
    sbd_train, sbd_val = (read_split(LocalStorage(sbd), "", split) for split in ("train", "val"))
    augmented = augmented_ids(sbd_train, sbd_val, voc_train, voc_val)
    with_void = {*voc_train, *voc_val}
    everything = sorted(with_void.union(augmented))
    out = voc / AUGMENTED_DIR
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from error
    for done, image_id in enumerate(everything, start=1):
        target = out / f"{image_id}.png"
        if not target.exists():
            original = voc / LABELS_DIR / target.name
            if image_id in with_void:
                if not original.exists():
                    raise MissingFileError(
                        f"no VOC label map at {original}: the VOC root is incomplete, fetch it again"
                    )
                write_atomically(target, original.read_bytes())
            else:
                write_atomically(target, encode_labels(read_sbd_labels(sbd / "cls" / f"{image_id}.mat"), VOC_LABELS))
        _copy_missing_image(sbd / "img" / f"{image_id}.jpg", voc / "JPEGImages" / f"{image_id}.jpg")
        if progress is not None:
            progress(done, len(everything))
    lines = "".join(f"{image_id}\n" for image_id in augmented)
    write_atomically(voc / SPLITS_DIR / f"{AUGMENTED_SPLIT}.txt", lines.encode())
    return len(augmented)


def _copy_missing_image(source: Path, target: Path) -> None:
    """All of SBD's images are VOC 2012's, but a root may have been made from less."""
    if target.exists():
        return
    try:
        encoded = source.read_bytes()
    except FileNotFoundError:
        message = f"no image {target.name} in {target.parent} nor in {source.parent}: fetch it again"
        raise MissingFileError(message) from None
    try:
        target.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise unwritable(target, error) from error
    write_atomically(target, encoded)
