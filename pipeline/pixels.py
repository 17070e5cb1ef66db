"""Where the pixels of source images come from, in a worker: the dataset's files, or a virtual store."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..manifests.clusters import SourceSpec
from ..manifests.errors import BadLabelError
from ..manifests.reader import BlendStore
from .cache import Entry, SourceCache, cache_offsets, pixel_digest, remove_folder
from .fitting import fit
from .sources import Source, open_source


class Run(NamedTuple):
    """What all tasks of a run share; small enough to travel with each.

    ``key`` stands for the decoded sources (which dataset, which clusters, which options): runs with the same key share
    their cache, and one that was killed leaves it to the next. ``virtual`` is the virtual store the pixels come from,
    instead of the dataset's files.
    """

    key: str
    spec: SourceSpec
    convert: bool
    cache_dir: str | None = None
    cache_limit: int | None = None
    virtual: str | None = None

    def cache_folder(self) -> Path:
        """The folder of the decoded sources on the machine where this is called."""
        return Path(self.cache_dir or tempfile.gettempdir()) / f"fbind-{self.key}"


class SourceImage(NamedTuple):
    """One image of the id table, and where it lies in the cache (-1: not kept)."""

    row: int
    id: str
    size: tuple[int, int]
    """(height, width) after scaling."""
    offset: int


class FilePixels:
    """Source images decoded from the dataset's files, each once, into the cache of this machine."""

    def __init__(self, run: Run, cache_bytes: int) -> None:
        self.source: Source = open_source(run.spec)
        self._convert = run.convert
        self._cache = SourceCache(run.cache_folder(), cache_bytes)

    def get(self, image: SourceImage) -> tuple[np.ndarray, np.ndarray]:
        """The image (h, w, 3) and the label map (h, w), both uint8, scaled to the image's size.

        Raises the source's errors, and :class:`~fbind.manifests.errors.ResourceError` when the cache can't be written.
        """
        entry = self._cached(image)
        if entry is None:
            entry = self.keep(image, *self.decode(image.id))
        return entry.image, entry.labels

    def current(self, image: SourceImage) -> Entry | None:
        """The cached entry, if it is whole and its files are still those it was decoded from."""
        entry = self._cached(image)
        if entry is None or entry.stamp != self._stamp(image.id):
            return None
        return entry if pixel_digest(entry.image, entry.labels) == entry.digest else None

    def decode(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """An image and its label map as the files have them.

        Raises the source's errors, and :class:`BadLabelError` when the two differ in size.
        """
        image, labels = self.source.image(image_id, convert=self._convert), self.source.label_map(image_id)
        if image.shape[:2] != labels.shape:
            raise BadLabelError(
                f"the label map of {image_id} is {labels.shape[1]}x{labels.shape[0]} (width x height), its image "
                f"{image.shape[1]}x{image.shape[0]}: the two must have one size"
            )
        return image, labels

    def keep(self, image: SourceImage, pixels: np.ndarray, labels: np.ndarray) -> Entry:
        """Scale a decoded image, and put it into the cache if it has a place there."""
        stamp = self._stamp(image.id)
        pixels, labels = fit(pixels, labels, image.size)
        entry = Entry(pixels, labels, stamp, pixel_digest(pixels, labels))
        if image.offset >= 0:
            self._cache.put(image.offset, entry)
        return entry

    def _cached(self, image: SourceImage) -> Entry | None:
        return self._cache.get(image.offset, image.size) if image.offset >= 0 else None

    def _stamp(self, image_id: str) -> bytes:
        return hashlib.sha256(self.source.stamp(image_id).encode()).digest()


class SourcePixels:
    """The source images of a store that is being written."""

    def __init__(self, store: BlendStore, run: Run) -> None:
        self._ids = store.manifest.images
        self._sizes = store.column("source/size")
        self._virtual = None if run.virtual is None else BlendStore.open(run.virtual)
        self._files: FilePixels | None = None
        if run.virtual is None:
            self._offsets, total = cache_offsets(self._sizes, run.cache_limit)
            self._files = FilePixels(run, total)

    def get(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The image (h, w, 3) and the label map (h, w) of a row of the id table, both uint8.

        Raises the source's errors, or the virtual store's.
        """
        if self._files is None:
            assert self._virtual is not None
            return self._virtual.source(row)
        height, width = self._sizes[row]
        return self._files.get(SourceImage(row, self._ids[row], (int(height), int(width)), int(self._offsets[row])))


def remove_cache(run: Run) -> None:
    """Delete this machine's decoded sources; runs where they are, as temporary folders differ between machines."""
    remove_folder(run.cache_folder())
