"""Any dataset of index masks: a folder of images, a folder of label maps, a class list (:class:`FolderSource`)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from ...manifests.clusters import ObjectRecord, SourceSpec
from ...manifests.errors import MissingFileError, SourceError
from ...manifests.labels import LabelSet
from .classes import CLASSES_FILE, read_classes
from .files import mend_missing, read_image, read_labels
from .splits import available_splits, check_name, read_split

IMAGES_DIR = "images"
LABELS_DIR = "labels"
SPLITS_DIR = "splits"
EVERYTHING = "all"
"""The split of every image, where no list has that name."""

SUFFIXES = (".jpg", ".jpeg", ".png")


class FolderSource:
    """One split of a folder dataset.

    Reads ``images/ID.jpg`` (or ``.jpeg``, ``.png``, in any case), ``labels/ID.png`` (or another ``labels_dir``),
    ``classes.json`` and ``splits/SPLIT.txt``; the split ``all`` is every image, sorted, unless a list has that name.

    Raises :class:`MissingFileError` for a root that lacks one of the first three, and :class:`SourceError` for a
    ``classes.json`` that is not valid.
    """

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self._root = Path(spec.root)
        self._labels_dir = self._root / (spec.labels_dir or LABELS_DIR)
        if not self._root.is_dir():
            raise MissingFileError(f"no dataset at {self._root}: the folder is not there; check --root")
        for folder in (self._root / IMAGES_DIR, self._labels_dir):
            if not folder.is_dir():
                raise MissingFileError(
                    f"{self._root} is not a folder dataset ({folder.name}/ is not there; a root holds {IMAGES_DIR}/, "
                    f"{LABELS_DIR}/ and {CLASSES_FILE}): check --root and --labels-dir, or give --source voc for VOC's "
                    "layout"
                )
        self._labels = read_classes(self._root / CLASSES_FILE)

    def __reduce__(self) -> tuple[type[FolderSource], tuple[SourceSpec]]:
        # Leave the listing of a large folder behind: whoever unpickles this makes its own when it needs one.
        return FolderSource, (self._spec,)

    @property
    def spec(self) -> SourceSpec:
        """What :func:`~fbind.pipeline.sources.open_source` needs to open this source again."""
        return self._spec

    @property
    def labels(self) -> LabelSet:
        """The classes of the label maps."""
        return self._labels

    def ids(self) -> tuple[str, ...]:
        """The image ids of the split, in the order of its list; see :func:`~.splits.read_split` for the errors.

        Raises :class:`SourceError` also when two images share their name up to the extension.
        """
        images = self._images
        lists = self._root / SPLITS_DIR
        names = available_splits(lists)
        if self._spec.split in names:
            return read_split(lists, self._spec.split)
        if self._spec.split != EVERYTHING:
            choices = f"choose one of: {', '.join([*names, EVERYTHING])}"
            check_name(self._spec.split, choices)
            raise MissingFileError(
                f"no split {self._spec.split!r}: {lists / self._spec.split}.txt is not there; {choices}"
            )
        if not images:
            raise SourceError(f"no images in {self._root / IMAGES_DIR}: expected files that end in {_suffixes()}")
        return tuple(sorted(images))

    def image(self, image_id: str, *, convert: bool = False) -> np.ndarray:
        """(h, w, 3) uint8 RGB pixels; see :func:`~.files.read_image` for the errors."""
        folder = self._root / IMAGES_DIR
        if image_id not in self._images:
            raise MissingFileError(f"no image {image_id!r} in {folder} (tried {_suffixes()}): {mend_missing(image_id)}")
        return read_image(folder / self._images[image_id], convert=convert)

    def label_map(self, image_id: str) -> np.ndarray:
        """(h, w) uint8 class indices, 255 is void; see :func:`~.files.read_labels` for the errors."""
        return read_labels(self._labels_dir / f"{image_id}.png")

    def objects(self, image_id: str) -> tuple[ObjectRecord, ...] | None:  # noqa: ARG002 - the protocol's signature
        """``None``: this layout has no object annotations."""
        return None

    @cached_property
    def _images(self) -> dict[str, str]:
        """Image id: file name."""
        files: dict[str, str] = {}
        folder = self._root / IMAGES_DIR
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            raise SourceError(f"can't list the images in {folder}: {error.strerror}") from error
        for path in paths:
            if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
                continue
            if path.stem in files:
                raise SourceError(
                    f"{path.parent} holds both {files[path.stem]} and {path.name}, two images for the id "
                    f"{path.stem!r}: rename or remove one"
                )
            files[path.stem] = path.name
        return files


def _suffixes() -> str:
    return ", ".join(SUFFIXES)
