"""The decoded sources of one run on one machine: each image is decoded once, however many blends it takes part in."""

from __future__ import annotations

import fcntl
import mmap
import shutil
import tempfile
from pathlib import Path

import numpy as np

from ..manifests.base import unwritable, write_atomically
from ..manifests.errors import BadLabelError
from .sources import Source

LOCKS = 64


class SourceCache:
    """A folder of raw pixels, filled on demand and shared by all worker processes of a machine.

    An entry is the size as two little-endian uint32, the RGB image and the label map. A file lock per group of entries
    makes a second process wait for the first instead of decoding the same image again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of_run(cls, run: str, parent: str | None) -> SourceCache:
        """The cache of a run (its name is unique) below ``parent``, or below the machine's temporary folder."""
        return cls(Path(parent or tempfile.gettempdir()) / f"fbind-{run}")

    def get(self, source: Source, row: int, image_id: str, *, convert: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The image (h, w, 3) and the label map (h, w) of one row of the image table, both uint8.

        Raises the source's errors, :class:`BadLabelError` when image and label map differ in size, and
        :class:`~fbind.manifests.errors.ResourceError` when the cache can't be written.
        """
        entry = self.folder / f"{row:08d}.raw"
        try:
            if entry.exists():
                return _load(entry)
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / f"lock-{row % LOCKS:02d}").open("wb")
        except OSError as error:
            raise unwritable(self.folder, error) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if entry.exists():
                return _load(entry)
            image, labels = source.image(image_id, convert=convert), source.label_map(image_id)
            if image.shape[:2] != labels.shape:
                raise BadLabelError(
                    f"the label map of {image_id} is {labels.shape[1]}x{labels.shape[0]} (width x height), its image "
                    f"{image.shape[1]}x{image.shape[0]}: the two must have one size"
                )
            header = np.array(labels.shape, "<u4").tobytes()
            write_atomically(entry, header, image.tobytes(), labels.tobytes())
            return image, labels

    def remove(self) -> None:
        """Delete the folder, if this machine has it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _load(entry: Path) -> tuple[np.ndarray, np.ndarray]:
    # Mapped, not read: the pages are in memory already, and copying them would take as long as blending them.
    with entry.open("rb") as file:
        raw = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    height, width = (int(side) for side in raw[:8].view("<u4"))
    area = height * width
    return raw[8 : 8 + 3 * area].reshape(height, width, 3), raw[8 + 3 * area :].reshape(height, width)
