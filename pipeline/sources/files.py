"""Image and label files: decoded, checked, and refused with one line that says how to mend them.

Both are decoded by Pillow, the library that reads the peers' datasets, so that a stored pixel is the one everybody else
sees; only label maps of the commonest kind take a shorter way.
What a mode promises is checked against how the file really stores it: Pillow spreads the values of a 4-bit grey PNG
over 0..255 and cuts 16-bit colours to 8 bits without a word.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, ImageFile

from ...manifests.errors import BadImageError, BadLabelError, MissingFileError, SourceError
from ...manifests.labels import LabelSet
from ...manifests.storage import Storage
from .png import decode_plain_indices

# Pillow's default, but other libraries switch it on, and then half an image is filled with grey.
ImageFile.LOAD_TRUNCATED_IMAGES = False

IMAGE_FORMATS = ("JPEG", "PNG")
"""What an image may be, whatever its name says."""

BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error, Warning)
"""What Pillow raises for damaged files; warnings too, for those who turn them into errors."""


def read_image(storage: Storage, key: str, *, convert: bool = False) -> np.ndarray:
    """Decode an image to (h, w, 3) uint8 RGB, as stored (EXIF rotation is not applied).

    ``convert`` accepts every other mode: grey becomes three equal channels, 16 bits lose their low byte, CMYK is
    converted by Pillow (without a colour profile), and transparent pixels are laid over black, like the padding.

    Raises :class:`MissingFileError`, :class:`BadImageError` (not a JPEG or PNG, truncated, damaged, too large, or
    another mode than 8-bit RGB without ``convert``), or :class:`SourceError` when the file can't be read at all.
    """
    path = storage.where(key)
    with _opened(_read(storage, key, "image"), path, IMAGE_FORMATS, BadImageError, "image") as image:
        if image.width * image.height > (Image.MAX_IMAGE_PIXELS or np.inf):
            raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
        mode = _stored_mode(image)
        if mode == "RGB":
            return np.asarray(image)
        if convert:
            return _to_rgb(image)
    raise BadImageError(
        f"image {path} has mode {mode}, expected 8-bit RGB: convert it to 8-bit RGB, or pass --on-bad-image convert "
        "to do that on the fly, or skip to leave it out"
    )


def read_labels(storage: Storage, key: str) -> np.ndarray:
    """Decode a label map to (h, w) uint8: the indices of a palette PNG, or the grey levels of an 8-bit PNG.

    Raises :class:`MissingFileError`, :class:`BadLabelError` (not a PNG, truncated, damaged, or another mode), or
    :class:`SourceError` when the file can't be read at all.
    """
    data = _read(storage, key, "label map")
    indices = decode_plain_indices(data)
    if indices is not None:
        return indices
    path = storage.where(key)
    with _opened(data, path, ("PNG",), BadLabelError, "label map") as image:
        mode = _stored_mode(image)
        if mode in ("P", "L"):
            return np.asarray(image)
    raise BadLabelError(
        f"label map {path} has mode {mode}, expected class indices in a palette (P) or 8-bit grey (L) PNG: "
        "convert its colours or levels to class indices and save it as such"
    )


def read_stamp(storage: Storage, image: str, labels: str) -> str:
    """A mark of an image's two files that changes when one of them is written anew; reads neither.

    Raises :class:`MissingFileError`, or :class:`SourceError` when a file can't be asked for.
    """
    return f"{_stamp(storage, image, 'image')} {_stamp(storage, labels, 'label map')}"


def encode_labels(labels: np.ndarray, label_set: LabelSet) -> bytes:
    """A palette PNG of (h, w) uint8 class indices, in the colours of the label set."""
    image = Image.fromarray(labels)
    image.putpalette(label_set.colors().tobytes())
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """A JPEG of (h, w, 3) uint8 RGB pixels, without chroma subsampling."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling=0)
    return stream.getvalue()


def mend_missing(image_id: str) -> str:
    """What to do about an id of a split's list that has no file."""
    name = PurePosixPath(image_id)
    if name.suffix.lower() in (".jpg", ".jpeg", ".png"):
        return f"ids have no extension, so write {name.stem!r} instead of {image_id!r} on the split's list"
    return "add the file, or take its id off the split's list"


def _read(storage: Storage, key: str, noun: str) -> bytes:
    """A file, undecoded."""
    try:
        return storage.read(key)
    except OSError as error:
        raise _unreadable(storage, key, noun, error) from error


def _stamp(storage: Storage, key: str, noun: str) -> str:
    """A file's mark."""
    try:
        return storage.stamp(key)
    except OSError as error:
        raise _unreadable(storage, key, noun, error) from error


def _unreadable(storage: Storage, key: str, noun: str, error: OSError) -> SourceError:
    where = storage.where(key)
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return MissingFileError(f"no {noun} at {where}: {mend_missing(PurePosixPath(key).stem)}")
    return SourceError(f"can't read {noun} {where}: {error.strerror}")


@contextlib.contextmanager
def _opened(
    data: bytes, path: str, formats: tuple[str, ...], bad: type[BadImageError | BadLabelError], noun: str
) -> Iterator[ImageFile.ImageFile]:
    """Open a file's content and translate whatever goes wrong until it is decoded."""
    expected = " or ".join(formats)
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            yield image
    except Image.UnidentifiedImageError:
        raise bad(f"{noun} {path} is not a {expected} file: replace it, or take its id off the split's list") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"at most {Image.MAX_IMAGE_PIXELS} pixels are expected"
        raise bad(f"{noun} {path} is too large ({_line(error)}), {limit}: scale it down, or leave it out") from None
    except BROKEN as error:
        raise bad(
            f"{noun} {path} is truncated or damaged ({_line(error)}): "
            "fetch it again, or take its id off the split's list"
        ) from None


def _line(error: BaseException) -> str:
    """An exception's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _stored_mode(image: ImageFile.ImageFile) -> str:
    """Pillow's mode, or the raw mode of the file where reading it as that mode would change or cut its values."""
    tile = image.tile[0] if image.tile else None
    args = tile[3] if tile else image.mode
    raw = str(args[0] if isinstance(args, tuple) else args)
    # "P;4" and smaller palettes are plain indices; "L;4", "RGB;16B" and their like are rescaled or cut.
    changed = image.mode in ("L", "RGB") and raw != image.mode
    return raw if changed else image.mode


def _to_rgb(image: Image.Image) -> np.ndarray:
    """(h, w, 3) uint8 RGB from any mode that a JPEG or PNG can have."""
    if image.mode.startswith("I"):
        # 16-bit grey; Pillow's own conversion would clip at 255 instead of scaling.
        high_byte = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(high_byte[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        over_black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        over_black.alpha_composite(rgba)
        image = over_black
    return np.asarray(image.convert("RGB"))
