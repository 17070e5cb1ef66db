"""Datasets in the layout of the PASCAL VOC devkit (:class:`VocSource`)."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ...manifests.clusters import ObjectRecord, SourceSpec
from ...manifests.errors import MissingFileError, SourceError
from ...manifests.labels import VOC_LABELS, LabelSet
from .classes import CLASSES_FILE, read_classes
from .files import read_image, read_labels
from .splits import read_split

SPLITS_DIR = Path("ImageSets", "Segmentation")
LABELS_DIR = "SegmentationClass"


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
        self._root = Path(spec.root)
        self._labels_dir = self._root / (spec.labels_dir or LABELS_DIR)
        if not (self._root / SPLITS_DIR).is_dir():
            raise MissingFileError(_wrong_root(self._root))
        if not self._labels_dir.is_dir():
            others = sorted(path.name for path in self._root.glob("*Class*") if path.is_dir())
            choice = f"choose --labels-dir {' or '.join(others)}" if others else "put the label maps (ID.png) there"
            raise MissingFileError(f"no label maps: {self._labels_dir} is not a folder; {choice}")
        classes = self._root / CLASSES_FILE
        self._labels = read_classes(classes) if classes.exists() else VOC_LABELS
        self._category = {self._labels.names[index]: index for index in self._labels.categories}
        annotations = self._root / "Annotations"
        self._annotations = annotations if annotations.is_dir() else None

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
        return read_split(self._root / SPLITS_DIR, self._spec.split)

    def image(self, image_id: str, *, convert: bool = False) -> np.ndarray:
        """(h, w, 3) uint8 RGB pixels; see :func:`~.files.read_image` for the errors."""
        return read_image(self._root / "JPEGImages" / f"{image_id}.jpg", convert=convert)

    def label_map(self, image_id: str) -> np.ndarray:
        """(h, w) uint8 class indices, 255 is void; see :func:`~.files.read_labels` for the errors."""
        return read_labels(self._labels_dir / f"{image_id}.png")

    def objects(self, image_id: str) -> tuple[ObjectRecord, ...] | None:
        """The objects of ``Annotations/ID.xml`` in its order, or ``None`` when there is no such file.

        Objects whose name is not a category of the label set are left out: a ``classes.json`` may select from VOC's
        twenty, and its annotations still name them all. Raises :class:`SourceError` for a file that is not XML.
        """
        if self._annotations is None:
            return None
        path = self._annotations / f"{image_id}.xml"
        try:
            annotation = ElementTree.parse(path).getroot()
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


def _flag(element: ElementTree.Element, name: str) -> bool:
    """A 0/1 child of an object; many of VOC's files leave some of them out."""
    return element.findtext(name, "0").strip() == "1"


def _wrong_root(root: Path) -> str:
    """What to say about a folder that is not a VOC root: what one holds, and which folder nearby is one."""
    if not root.is_dir():
        return f"no dataset at {root}: the folder is not there; check --root"
    near = [*root.glob("*"), *root.glob("*/VOC*"), *root.glob("*/VOCdevkit/VOC*"), *root.resolve().parents[:2]]
    found = sorted(str(path) for path in near if (path / SPLITS_DIR).is_dir())
    remedy = f"did you mean --root {' or '.join(found)}?" if found else "give the folder that holds these as --root"
    return (
        f"{root} is not a VOC root (it has no {SPLITS_DIR.as_posix()}/; a root holds JPEGImages/, {LABELS_DIR}/ and "
        f"{SPLITS_DIR.as_posix()}/): {remedy}"
    )
