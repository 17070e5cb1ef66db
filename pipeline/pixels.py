"""Where the pixels of source images come from, in a worker: the dataset's files, or a virtual store."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..manifests.clusters import SourceSpec
from ..manifests.errors import BadLabelError, ManifestError, StoreError
from ..manifests.reader import BlendStore
from .cache import Entry, SourceCache, cache_offsets, pixel_digest, remove_folder
from .fitting import fit
from .sources import Source, open_source


class Origin(NamedTuple):
    """Where a run's pixels come from, and where each machine keeps them; small enough to travel with every task.

    ``key`` stands for the decoded sources of one store, and all that they depend on: runs with the same key share their
    cache, and one that was killed leaves it to the next. ``virtual`` is the virtual store the pixels come from, instead
    of the dataset's files, and ``virtual_plan`` the plan it was written to.
    """

    key: str
    spec: SourceSpec
    convert: bool
    cache_dir: str | None = None
    cache_limit: int | None = None
    virtual: str | None = None
    virtual_plan: str = ""

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


class Decoded(NamedTuple):
    """An image and its label map as the files have them."""

    image: np.ndarray
    """(h, w, 3) uint8 RGB."""
    labels: np.ndarray
    """(h, w) uint8."""
    stamp: bytes
    """Stands for the files as they were before they were read: what replaces them meanwhile has another."""


class FilePixels:
    """Source images decoded from the dataset's files, each once, into the cache of this machine."""

    def __init__(self, origin: Origin, cache_bytes: int) -> None:
        """Raises the source's errors, and ResourceError when the cache can't be written."""
        self.source: Source = open_source(origin.spec)
        self._convert = origin.convert
        self._cache = SourceCache(origin.cache_folder(), cache_bytes)

    def find(self, image: SourceImage) -> Entry | None:
        """The cached entry, whatever is in it: only its digest says whether it is the one that is wanted."""
        return self._cache.get(image.offset, image.size) if image.offset >= 0 else None

    def current(self, image: SourceImage) -> Entry | None:
        """The cached entry, if it is whole and its files are still those it was decoded from."""
        entry = self.find(image)
        if entry is None or entry.stamp != self._stamp(image.id):
            return None
        return entry if pixel_digest(entry.image, entry.labels) == entry.digest else None

    def decode(self, image_id: str) -> Decoded:
        """Decode an image and its label map.

        Raises the source's errors, and :class:`BadLabelError` when the two differ in size.
        """
        stamp = self._stamp(image_id)
        image, labels = self.source.image(image_id, convert=self._convert), self.source.label_map(image_id)
        if image.shape[:2] != labels.shape:
            raise BadLabelError(
                f"the label map of {image_id} is {labels.shape[1]}x{labels.shape[0]} (width x height), its image "
                f"{image.shape[1]}x{image.shape[0]}: the two must have one size"
            )
        return Decoded(image, labels, stamp)

    def keep(self, image: SourceImage, decoded: Decoded, digest: bytes | None = None) -> Entry:
        """Scale a decoded image, and put it into the cache if it has a place there, and the ``digest`` if one is given.

        Raises :class:`~fbind.manifests.errors.ResourceError` when the cache can't be written.
        """
        pixels, labels = fit(decoded.image, decoded.labels, image.size)
        entry = Entry(pixels, labels, decoded.stamp, pixel_digest(pixels, labels))
        # Other processes are reading what is in the cache: nothing may take its place but the same again.
        if image.offset >= 0 and digest in (None, entry.digest):
            self._cache.put(image.offset, entry)
        return entry

    def _stamp(self, image_id: str) -> bytes:
        return hashlib.sha256(self.source.stamp(image_id).encode()).digest()


class SourcePixels:
    """The source images of a store that is being written: those it was begun with, or an error."""

    def __init__(self, store: BlendStore, origin: Origin) -> None:
        """Raises :class:`StoreError` when the virtual store is not the one that the run began with."""
        self._place = store.place
        self._root = origin.spec.root
        self._ids = store.manifest.images
        self._sizes = store.column("source/size")
        self._digests = store.column("source/digest").tobytes()
        self._virtual = None if origin.virtual is None else BlendStore.open(origin.virtual)
        self._files: FilePixels | None = None
        if self._virtual is None:
            self._offsets, total = cache_offsets(self._sizes, used_images(store), origin.cache_limit)
            self._files = FilePixels(origin, total)
        elif self._virtual.manifest.plan != origin.virtual_plan:
            raise StoreError(
                f"{origin.virtual} is no longer the virtual store that this run began with: another has replaced it"
            )

    def get(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The image (h, w, 3) and the label map (h, w) of a row of the id table, both uint8.

        Raises the source's errors or the virtual store's, and :class:`ManifestError` when the pixels are not those that
        the store was begun with.
        """
        if self._files is None:
            assert self._virtual is not None
            return self._virtual.source(row)
        height, width = self._sizes[row].tolist()
        image = SourceImage(row, self._ids[row], (height, width), self._offsets.item(row))
        digest = self._digests[32 * row : 32 * row + 32]
        entry = self._files.find(image)
        # A machine's cache may be an older one, and files may change while the store is written.
        if entry is None or entry.digest != digest:
            entry = self._decode(self._files, image, digest)
        return entry.image, entry.labels

    def _decode(self, files: FilePixels, image: SourceImage, digest: bytes) -> Entry:
        for _ in range(2):  # once more, as a file may have been read while it was being replaced
            entry = files.keep(image, files.decode(image.id), digest)
            if entry.digest == digest:
                return entry
        raise ManifestError(
            f"{self._place} was begun with other pixels of {image.id}: its files in {self._root} have changed since, "
            "or this machine has another version of what decodes them; restore them and run the same command again"
        )


def used_images(store: BlendStore) -> np.ndarray:
    """(images,) bool: which images of the id table the recipes need."""
    used = np.zeros(len(store.manifest.images), bool)
    used[store.column("recipe/dominant_image")] = True
    if store.manifest.blended:
        phantoms = store.column("recipe/phantom_image")
        used[phantoms[phantoms >= 0]] = True
    return used


def remove_cache(origin: Origin) -> None:
    """Delete this machine's decoded sources; runs where they are, as temporary folders differ between machines."""
    remove_folder(origin.cache_folder())
