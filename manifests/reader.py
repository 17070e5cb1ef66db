"""Reading a store (:class:`BlendStore`): its manifest, its columns, and random samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from .base import content_digest, first_problem
from .blending import blend
from .columns import read_column
from .errors import (
    CorruptStoreError,
    IncompleteStoreError,
    ManifestError,
    MissingFileError,
    StoreError,
    UnknownVersionError,
)
from .labels import VOID
from .layout import chunk_codec
from .shards import ABSENT, read_index, shard_key
from .storage import LocalStorage, Place, Storage, open_storage
from .store import ATTRIBUTE, FORMAT, VERSION, PixelArray, ShardManifest
from .writer import recorded


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample, cut to its valid size; the arrays may be read-only views."""

    index: int
    image: np.ndarray
    """(h, w, 3) uint8 RGB."""
    dominant: np.ndarray
    """(h, w) uint8 label map of the dominant image, 255 = void."""
    phantom: np.ndarray | None
    """(h, w) uint8 label map of the phantom image; ``None`` in a store of plain images."""
    delta: float
    """The weight of the dominant image, 1.0 for a plain image."""


class BlendStore:
    """A store of blends (or of plain images), open for reading.

    Safe to share between threads and to pickle; a read is one ``pread``-like access per array and releases the GIL
    while it reads and decodes. A virtual store gives the same samples, bit for bit, and blends them as they are read.
    """

    def __init__(
        self, storage: Storage, manifest: ShardManifest, columns: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Use what has been read already; ``columns`` are not looked for in the store."""
        self.storage = storage
        self.manifest = manifest
        self._arrays = {array.name: (array, chunk_codec(manifest, array)) for array in manifest.pixel_arrays()}
        self._noun = "sample" if manifest.layout == "full" else "source image"
        self._columns = dict(columns or {})
        self._indexes: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        # The indexes that have been read so far, up to 16 bytes a chunk, are read again where they are needed.
        return self.__dict__ | {"_indexes": {}}

    @classmethod
    def open(cls, place: Place, *, allow_incomplete: bool = False) -> BlendStore:
        """Open the store at a path or URL.

        Raises :class:`MissingFileError` when nothing is there, :class:`StoreError` when it is not a store of fbind,
        :class:`UnknownVersionError` or :class:`ManifestError` when its manifest can't be read, and, unless
        ``allow_incomplete``, :class:`IncompleteStoreError` when not all of it has been written.
        """
        storage = open_storage(place)
        manifest = read_manifest(storage)
        if not manifest.complete and not allow_incomplete:
            done = len(recorded(storage, manifest))
            raise IncompleteStoreError(
                f"{place} is incomplete: {done} of {manifest.shards} shards are written; run `fbind "
                "materialize-blends` with the same options again to go on"
            )
        return cls(storage, manifest)

    @property
    def place(self) -> str:
        """Its path or URL."""
        return self.storage.root

    def __len__(self) -> int:
        """The number of samples."""
        return self.manifest.samples

    def column(self, name: str) -> np.ndarray:
        """A small array of the store, such as ``delta``, ``size``, ``recipe/dominant_image`` or ``source/digest``.

        Raises :class:`CorruptStoreError` when it is missing or damaged, :class:`KeyError` when no store has it.
        """
        if name not in self._columns:
            column = {column.name: column for column in self.manifest.columns()}[name]
            self._columns[name] = read_column(self.storage, self.manifest, column)
        return self._columns[name]

    def columns(self) -> dict[str, np.ndarray]:
        """All columns of the store."""
        return {column.name: self.column(column.name) for column in self.manifest.columns()}

    def read(self, index: int) -> Sample:
        """Read one sample.

        Raises :class:`IndexError` outside the store, and :class:`CorruptStoreError` naming the shard and the sample
        when a shard is missing, truncated or damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} is outside the store's {len(self)} samples")
        delta = float(self.column("delta")[index])
        if self.manifest.layout == "virtual":
            return self._blend(index, delta)
        size = self._size("size", index)
        pixels = {name: self._row(name, index, size) for name in self._arrays}
        return Sample(index, pixels["image"], pixels["dominant"], pixels.get("phantom"), delta)

    def source(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The image (h, w, 3) and the label map (h, w) in a row of the id table of a virtual store, both uint8."""
        size = self._size("source/size", row)
        return self._row("source/image", row, size), self._row("source/labels", row, size)

    def _blend(self, index: int, delta: float) -> Sample:
        """A sample of a virtual store, made as a full one's was."""
        dominant = self.source(int(self.column("recipe/dominant_image")[index]))
        if not self.manifest.blended:
            return Sample(index, *dominant, None, delta)
        partner = int(self.column("recipe/phantom_image")[index])
        if partner < 0:
            return Sample(index, *dominant, np.full_like(dominant[1], VOID), delta)
        return Sample(index, *blend(dominant, self.source(partner), delta, self.manifest.strategy.align), delta)

    def _size(self, column: str, row: int) -> tuple[int, int]:
        height, width = self.column(column)[row]
        return int(height), int(width)

    def _row(self, name: str, row: int, size: tuple[int, int]) -> np.ndarray:
        """One row of a pixel array, without its padding."""
        array, codec = self._arrays[name]
        stored, key = self._chunk(array, row)
        try:
            canvas = codec.decode(stored, array.sample_shape)
        except (ValueError, RuntimeError) as error:
            where = f"{self._noun} {row} in shard {self.storage.where(key)}"
            raise CorruptStoreError(f"{where} is corrupt: {error}") from error
        return canvas[: size[0], : size[1]]

    def _chunk(self, array: PixelArray, row: int) -> tuple[bytes, str]:
        """The stored bytes of one row of one array, and the shard they came from."""
        shard, position = divmod(row, self.manifest.samples_per_shard)
        key = shard_key(array.name, shard, array.ndim)
        try:
            entries = self._indexes.get(key)
            if entries is None:
                entries = self._indexes[key] = read_index(self.storage, key, self.manifest.samples_per_shard)
            offset, length = entries[position]
            if offset == ABSENT:
                raise CorruptStoreError(f"shard {self.storage.where(key)} has no {self._noun} {row}")
            stored = self.storage.read_range(key, int(offset), int(length))
        except OSError as error:
            reason = error.strerror or error
            raise CorruptStoreError(f"can't read {self._noun} {row}, {self.storage.where(key)}: {reason}") from error
        if len(stored) != length:
            raise CorruptStoreError(f"shard {self.storage.where(key)} is truncated within {self._noun} {row}")
        return stored, key


def read_manifest(storage: Storage) -> ShardManifest:
    """Read the manifest of a store, complete or not; raises as :meth:`BlendStore.open` does."""
    file, place = storage.where("zarr.json"), storage.root
    try:
        content = storage.read("zarr.json")
    except FileNotFoundError:
        if isinstance(storage, LocalStorage) and storage.path.exists():
            raise StoreError(f"{place} is not a store of blends (it has no zarr.json)") from None
        raise MissingFileError(f"no store at {place}: make one with `fbind materialize-blends`") from None
    except NotADirectoryError:
        raise StoreError(f"{place} is a file, not a store of blends") from None
    except OSError as error:
        raise StoreError(f"can't read {file}: {error.strerror or error}") from error
    return parse_manifest(content, file, place)


def parse_manifest(content: bytes, file: str, place: str) -> ShardManifest:
    """The manifest in a group's metadata; ``file`` and ``place`` are for messages. Raises as :func:`read_manifest`."""
    try:
        plain = json.loads(content)
    except ValueError as error:
        raise CorruptStoreError(f"{file} is damaged: it is not valid JSON ({error})") from None
    attributes = plain.get("attributes") if isinstance(plain, dict) else None
    attributes = attributes if isinstance(attributes, dict) else {}
    manifest = attributes.get(ATTRIBUTE)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(f"{place} is not a store of blends (its group has no {ATTRIBUTE!r} attribute of {FORMAT!r})")
    if manifest.get("version") != VERSION:
        raise UnknownVersionError(
            f"{place} has version {manifest.get('version')!r} of the store format, this fbind reads {VERSION}: "
            "use the fbind that wrote it, or write it again"
        )
    if attributes.get(f"{ATTRIBUTE}_digest") != content_digest(manifest):
        raise CorruptStoreError(
            f"the manifest in {file} does not match its digest, so it was edited or damaged: `fbind repair` restores "
            "it from the copy in the store"
        )
    try:
        return ShardManifest.model_validate_json(json.dumps(manifest))
    except ValidationError as error:
        raise ManifestError(f"the manifest in {file} is inconsistent ({first_problem(error)})") from None
