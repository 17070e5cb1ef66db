"""Datasets in the layout of the PASCAL VOC devkit (:class:`VocSource`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ...manifests.clusters import ObjectRecord, SourceSpec
from ...manifests.errors import MissingFileError, SourceError
from ...manifests.labels import VOC_LABELS, LabelSet
from ...manifests.storage import Storage, is_url, open_storage
from .classes import CLASSES_FILE, read_classes
from .files import read_image, read_labels, read_stamp
from .splits import read_split

IMAGES_DIR = "JPEGImages"
SPLITS_DIR = "ImageSets/Segmentation"
LABELS_DIR = "SegmentationClass"
ANNOTATIONS_DIR = "Annotations"

LOOKED_INTO = 50
"""How many folders of a wrong root are searched for the right one."""


class VocSource:
    """One split of a VOC root.

    Reads ``JPEGImages/ID.jpg``, ``SegmentationClass/ID.png`` (or another ``labels_dir``),
    ``ImageSets/Segmentation/SPLIT.txt`` and, where there are any, ``Annotations/ID.xml``. The label set is VOC's,
    unless the root has a ``classes.json``.

    Raises :class:`MissingFileError` for a root that lacks the lists or the label maps, and :class:`SourceError` for
    a ``classes.json`` that is not valid.
    """

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self._root = open_storage(spec.root)
        self._labels_dir = spec.labels_dir or LABELS_DIR
        if not self._root.has_folder(SPLITS_DIR):
            raise MissingFileError(_wrong_root(self._root))
        if not self._root.has_folder(self._labels_dir):
            others = sorted(name for name, folder in self._root.entries() if folder and "Class" in name)
            choice = f"choose --labels-dir {' or '.join(others)}" if others else "put the label maps (ID.png) there"
            raise MissingFileError(f"no label maps: {self._root.where(self._labels_dir)} is not a folder; {choice}")
        self._labels = VOC_LABELS if self._root.size(CLASSES_FILE) is None else read_classes(self._root)
        self._category = {self._labels.names[index]: index for index in self._labels.categories}
        self._annotated = self._root.has_folder(ANNOTATIONS_DIR)

    @property
    def spec(self) -> SourceSpec:
        """What :func:`~fbind.pipeline.sources.open_source` needs to open this source again."""
        return self._spec

    @property
    def labels(self) -> LabelSet:
        """The classes of the label maps."""
        return self._labels

    def ids(self) -> tuple[str, ...]:
        """The image ids of the split, in the order of its list; see :func:`~.splits.read_split` for the errors."""
        return read_split(self._root, SPLITS_DIR, self._spec.split)

    def image(self, image_id: str, *, convert: bool = False) -> np.ndarray:
        """(h, w, 3) uint8 RGB pixels; see :func:`~.files.read_image` for the errors."""
        return read_image(self._root, _image_key(image_id), convert=convert)

    def label_map(self, image_id: str) -> np.ndarray:
        """(h, w) uint8 class indices, 255 is void; see :func:`~.files.read_labels` for the errors."""
        return read_labels(self._root, self._label_key(image_id))

    def stamp(self, image_id: str) -> str:
        """A mark of both files of an image; see :func:`~.files.read_stamp`."""
        return read_stamp(self._root, _image_key(image_id), self._label_key(image_id))

    def objects(self, image_id: str) -> tuple[ObjectRecord, ...] | None:
        """The objects of ``Annotations/ID.xml`` in its order, or ``None`` when there is no such file.

        Objects whose name is not a category of the label set are left out: a ``classes.json`` may select from VOC's
        twenty, and its annotations still name them all. Raises :class:`SourceError` for a file that is not XML.
        """
        if not self._annotated:
            return None
        key = f"{ANNOTATIONS_DIR}/{image_id}.xml"
        path = self._root.where(key)
        try:
            annotation = ElementTree.fromstring(self._root.read(key))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SourceError(f"can't read the annotations {path}: {error.strerror}") from error
        except ElementTree.ParseError as error:
            raise SourceError(f"the annotations {path} are not valid XML ({error}): fetch the file again") from None
        named = ((element, element.findtext("name", "").strip()) for element in annotation.findall("object"))
        return tuple(
            ObjectRecord(
                category=self._category[name],
                occluded=_flag(element, "occluded"),
                difficult=_flag(element, "difficult"),
                truncated=_flag(element, "truncated"),
            )
            for element, name in named
            if name in self._category
        )

    def _label_key(self, image_id: str) -> str:
        return f"{self._labels_dir}/{image_id}.png"


def _image_key(image_id: str) -> str:
    return f"{IMAGES_DIR}/{image_id}.jpg"


def _flag(element: ElementTree.Element, name: str) -> bool:
    """A 0/1 child of an object; many of VOC's files leave some of them out."""
    return element.findtext(name, "0").strip() == "1"


def _wrong_root(storage: Storage) -> str:
    """What to say about a folder that is not a VOC root: what one holds, and which folder nearby is one."""
    if not storage.has_folder():
        return f"no dataset at {storage.root}: the folder is not there; check --root"
    found = [storage.where(folder) for folder in _below(storage) if storage.has_folder(f"{folder}/{SPLITS_DIR}")]
    if not is_url(storage.root):
        found += [str(path) for path in Path(storage.root).resolve().parents[:2] if (path / SPLITS_DIR).is_dir()]
    remedy = (
        f"did you mean --root {' or '.join(sorted(found))}?" if found else "give the folder that holds these as --root"
    )
    return (
        f"{storage.root} is not a VOC root (it has no {SPLITS_DIR}/; a root holds {IMAGES_DIR}/, {LABELS_DIR}/ and "
        f"{SPLITS_DIR}/): {remedy}"
    )


def _below(storage: Storage) -> Iterator[str]:
    """Where an archive unpacked into this folder puts its root: ``*``, ``*/VOC*`` and ``*/VOCdevkit/VOC*``."""
    for name in _folders(storage, ""):
        yield name
        for parent in (name, f"{name}/VOCdevkit"):
            yield from (f"{parent}/{child}" for child in _folders(storage, parent) if child.startswith("VOC"))


def _folders(storage: Storage, folder: str) -> list[str]:
    """Some folders in a folder: this is but for a hint, and each costs requests where the storage is remote."""
    with contextlib.suppress(OSError):
        return sorted(name for name, is_folder in storage.entries(folder) if is_folder)[:LOOKED_INTO]
    return []
