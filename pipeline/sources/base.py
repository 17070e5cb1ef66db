"""What the pipeline asks of a dataset (:class:`Source`), and how a recorded one is opened again."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ...manifests.clusters import ObjectRecord, SourceSpec
from ...manifests.errors import SourceError
from ...manifests.labels import LabelSet


class Source(Protocol):
    """One split of one dataset. Cheap to make, safe to pickle; files are opened when they are asked for."""

    @property
    def spec(self) -> SourceSpec:
        """What :func:`open_source` needs to open this source again."""
        ...

    @property
    def labels(self) -> LabelSet:
        """The classes of the label maps."""
        ...

    def ids(self) -> tuple[str, ...]:
        """The image ids of the split, in the order of its list.

        Raises :class:`~fbind.manifests.errors.MissingFileError` when there is no such split,
        :class:`~fbind.manifests.errors.ConfigError` when its name is a path, and
        :class:`~fbind.manifests.errors.SourceError` when it is empty.
        """
        ...

    def image(self, image_id: str, *, convert: bool = False) -> np.ndarray:
        """(h, w, 3) uint8 RGB pixels as stored (EXIF rotation is not applied: the label map is drawn on these).

        Raises :class:`~fbind.manifests.errors.MissingFileError`, or
        :class:`~fbind.manifests.errors.BadImageError` when the file is truncated or (unless ``convert``) is not
        three channels of eight bits.
        """
        ...

    def label_map(self, image_id: str) -> np.ndarray:
        """(h, w) uint8 class indices; 255 is void.

        Raises :class:`~fbind.manifests.errors.MissingFileError`, or
        :class:`~fbind.manifests.errors.BadLabelError` for a mode that is not 8-bit indices. Values are not checked
        here: whoever counts them does that.
        """
        ...

    def stamp(self, image_id: str) -> str:
        """A mark that changes when the file of the image or of its label map does; cheap, as it reads neither.

        Raises :class:`~fbind.manifests.errors.MissingFileError` when one of them is missing.
        """
        ...

    def objects(self, image_id: str) -> tuple[ObjectRecord, ...] | None:
        """The annotated objects, or ``None`` where the dataset has no object annotations."""
        ...


def open_source(spec: SourceSpec) -> Source:
    """Open the dataset that a manifest records.

    Raises :class:`~fbind.manifests.errors.MissingFileError` when its root is not there, and
    :class:`~fbind.manifests.errors.SourceError` when it can't be read.
    """
    from .folder import FolderSource
    from .voc import VocSource

    try:
        return {"voc": VocSource, "folder": FolderSource}[spec.kind](spec)
    except OSError as error:  # asking whether a folder is there raises when a folder above it may not be entered
        raise SourceError(
            f"can't read the dataset at {spec.root} ({error.strerror}): check --root and its permissions"
        ) from error
