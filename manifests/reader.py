"""Reading a store: :class:`BlendStore` opens and checks it, and hands out samples."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from pydantic import ValidationError

from .base import content_digest, first_problem
from .errors import (
    CorruptStoreError,
    IncompleteStoreError,
    ManifestError,
    MissingFileError,
    StoreError,
    UnknownVersionError,
)
from .layout import chunk_codec
from .shards import ABSENT, read_index, shard_file
from .store import ATTRIBUTE, FORMAT, VERSION, ShardManifest
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
    while it reads and decodes.
    """

    def __init__(self, path: Path, manifest: ShardManifest) -> None:
        self.path = path
        self.manifest = manifest
        self._arrays = [(array, chunk_codec(manifest, array), path / array.name) for array in manifest.pixel_arrays()]
        self._columns: dict[str, np.ndarray] = {}
        self._indexes: dict[tuple[str, int], np.ndarray] = {}

    @classmethod
    def open(cls, path: Path | str, *, allow_incomplete: bool = False) -> BlendStore:
        """Open the store at ``path``.

        Raises :class:`MissingFileError` when nothing is there, :class:`StoreError` when it is not a store of fbind,
        :class:`UnknownVersionError` or :class:`ManifestError` when its manifest can't be read, and, unless
        ``allow_incomplete``, :class:`IncompleteStoreError` when not all of it has been written.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if not manifest.complete and not allow_incomplete:
            done = len(recorded(path, manifest))
            raise IncompleteStoreError(
                f"{path} is incomplete: {done} of {manifest.shards} shards are written; run `fbind materialize-blends` "
                "with the same options again to go on"
            )
        return cls(path, manifest)

    def __len__(self) -> int:
        """The number of samples."""
        return self.manifest.samples

    def column(self, name: str) -> np.ndarray:
        """A per-sample column, such as ``delta``, ``size`` or ``recipe/dominant_image``.

        Raises :class:`CorruptStoreError` when it is missing or damaged, :class:`KeyError` when no store has it.
        """
        if name not in self._columns:
            expected = {column.name: column for column in self.manifest.columns()}[name]
            chunk = self.path.joinpath(name, "c", *["0"] * (1 if expected.width == 1 else 2))
            if not chunk.is_file():  # Zarr would read what is not there as zeros
                raise CorruptStoreError(f"column {name} of {self.path} is missing: no file {chunk}")
            try:
                array: Any = zarr.open_array(self.path / name, mode="r")
                values = np.asarray(array[...])
            except Exception as error:  # zarr raises many kinds for damaged metadata and chunks
                raise CorruptStoreError(f"column {name} of {self.path} can't be read: {error}") from error
            if len(values) != len(self) or values.dtype != expected.dtype:
                raise CorruptStoreError(f"column {name} of {self.path} does not fit the store's manifest")
            self._columns[name] = values
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
        height, width = (int(side) for side in self.column("size")[index])
        pixels: dict[str, np.ndarray] = {}
        for array, codec, folder in self._arrays:
            stored, file = self._chunk(folder, array.name, array.ndim, index)
            try:
                canvas = codec.decode(stored, array.sample_shape)
            except (ValueError, RuntimeError) as error:
                raise CorruptStoreError(f"sample {index} in shard {file} is corrupt: {error}") from error
            pixels[array.name] = canvas[:height, :width]
        delta = float(self.column("delta")[index])
        return Sample(index, pixels["image"], pixels["dominant"], pixels.get("phantom"), delta)

    def _chunk(self, folder: Path, name: str, ndim: int, index: int) -> tuple[bytes, Path]:
        """The stored bytes of one sample of one array, and the shard they came from."""
        shard, position = divmod(index, self.manifest.samples_per_shard)
        file = shard_file(folder, shard, ndim)
        entries = self._indexes.get((name, shard))
        if entries is None:
            entries = self._indexes[name, shard] = read_index(file, self.manifest.samples_per_shard)
        offset, length = entries[position]
        if offset == ABSENT:
            raise CorruptStoreError(f"shard {file} has no sample {index}")
        try:
            with file.open("rb", buffering=0) as stream:
                stream.seek(int(offset))
                stored = stream.read(int(length)) or b""
        except OSError as error:
            raise CorruptStoreError(f"can't read sample {index} in shard {file}: {error.strerror}") from error
        if len(stored) != length:
            raise CorruptStoreError(f"shard {file} is truncated within sample {index}")
        return stored, file


def read_manifest(path: Path) -> ShardManifest:
    """Read the manifest of the store at ``path``, complete or not; raises as :meth:`BlendStore.open` does."""
    file = path / "zarr.json"
    try:
        plain = json.loads(file.read_bytes())
    except FileNotFoundError:
        if path.exists():
            raise StoreError(f"{path} is not a store of blends (it has no zarr.json)") from None
        raise MissingFileError(f"no store at {path}: make one with `fbind materialize-blends`") from None
    except NotADirectoryError:
        raise StoreError(f"{path} is a file, not a store of blends") from None
    except OSError as error:
        raise StoreError(f"can't read {file}: {error.strerror}") from error
    except ValueError as error:
        raise CorruptStoreError(f"{file} is damaged: it is not valid JSON ({error})") from None
    attributes = plain.get("attributes") if isinstance(plain, dict) else None
    attributes = attributes if isinstance(attributes, dict) else {}
    manifest = attributes.get(ATTRIBUTE)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(f"{path} is not a store of blends (its group has no {ATTRIBUTE!r} attribute of {FORMAT!r})")
    if manifest.get("version") != VERSION:
        raise UnknownVersionError(
            f"{path} has version {manifest.get('version')!r} of the store format, this fbind reads {VERSION}: "
            "use the fbind that wrote it, or write it again"
        )
    if attributes.get(f"{ATTRIBUTE}_digest") != content_digest(manifest):
        raise CorruptStoreError(
            f"the manifest in {file} does not match its digest, so it was edited or damaged: restore it from a copy, "
            "or write the store again with `fbind materialize-blends --overwrite`"
        )
    try:
        return ShardManifest.model_validate_json(json.dumps(manifest))
    except ValidationError as error:
        raise ManifestError(f"the manifest in {file} is inconsistent ({first_problem(error)})") from None
