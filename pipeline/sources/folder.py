"""Any dataset of index masks: a folder of images, a folder of label maps, a class list (:class:`FolderSource`)."""

from __future__ import annotations

from functools import cached_property
from pathlib import PurePosixPath

import numpy as np

from ...manifests.clusters import ObjectRecord, SourceSpec
from ...manifests.errors import MissingFileError, SourceError
from ...manifests.labels import LabelSet
from ...manifests.storage import open_storage
from .classes import CLASSES_FILE, read_classes
from .files import mend_missing, read_image, read_labels, read_stamp
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
        self._root = open_storage(spec.root)
        self._labels_dir = spec.labels_dir or LABELS_DIR
        if not self._root.has_folder():
            raise MissingFileError(f"no dataset at {self._root.root}: the folder is not there; check --root")
        for folder in (IMAGES_DIR, self._labels_dir):
            if not self._root.has_folder(folder):
                raise MissingFileError(
                    f"{self._root.root} is not a folder dataset ({PurePosixPath(folder).name}/ is not there; a root "
                    f"holds {IMAGES_DIR}/, {LABELS_DIR}/ and {CLASSES_FILE}): check --root and --labels-dir, or give "
                    "--source voc for VOC's layout"
                )
        self._labels = read_classes(self._root)

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
        names = available_splits(self._root, SPLITS_DIR)
        if self._spec.split in names:
            return read_split(self._root, SPLITS_DIR, self._spec.split)
        if self._spec.split != EVERYTHING:
            choices = f"choose one of: {', '.join([*names, EVERYTHING])}"
            check_name(self._spec.split, choices)
            missing = self._root.where(f"{SPLITS_DIR}/{self._spec.split}.txt")
            raise MissingFileError(f"no split {self._spec.split!r}: {missing} is not there; {choices}")
        if not images:
            folder = self._root.where(IMAGES_DIR)
            raise SourceError(f"no images in {folder}: expected files that end in {_suffixes()}")
        return tuple(sorted(images))

    def image(self, image_id: str, *, convert: bool = False) -> np.ndarray:
        """(h, w, 3) uint8 RGB pixels; see :func:`~.files.read_image` for the errors."""
        return read_image(self._root, self._image_key(image_id), convert=convert)

    def label_map(self, image_id: str) -> np.ndarray:
        """(h, w) uint8 class indices, 255 is void; see :func:`~.files.read_labels` for the errors."""
        return read_labels(self._root, self._label_key(image_id))

    def stamp(self, image_id: str) -> str:
        """A mark of both files of an image; see :func:`~.files.read_stamp`."""
        return read_stamp(self._root, self._image_key(image_id), self._label_key(image_id))

    def objects(self, image_id: str) -> tuple[ObjectRecord, ...] | None:  # noqa: ARG002 - the protocol's signature
        """``None``: this layout has no object annotations."""
        return None

    def _image_key(self, image_id: str) -> str:
        if image_id not in self._images:
            raise MissingFileError(
                f"no image {image_id!r} in {self._root.where(IMAGES_DIR)} (tried {_suffixes()}): "
                f"{mend_missing(image_id)}"
            )
        return f"{IMAGES_DIR}/{self._images[image_id]}"

    def _label_key(self, image_id: str) -> str:
        return f"{self._labels_dir}/{image_id}.png"

    @cached_property
    def _images(self) -> dict[str, str]:
        """Image id: file name."""
        files: dict[str, str] = {}
        folder = self._root.where(IMAGES_DIR)
        try:
            names = sorted(name for name, _ in self._root.entries(IMAGES_DIR))
        except OSError as error:
            raise SourceError(f"can't list the images in {folder}: {error.strerror}") from error
        for name in names:
            path = PurePosixPath(name)
            if path.suffix.lower() not in SUFFIXES or name.startswith("."):
                continue
            if path.stem in files:
                raise SourceError(
                    f"{folder} holds both {files[path.stem]} and {name}, two images for the id {path.stem!r}: "
                    "rename or remove one"
                )
            files[path.stem] = name
        return files


def _suffixes() -> str:
    return ", ".join(SUFFIXES)
