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
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from ...manifests.errors import BadImageError, BadLabelError, MissingFileError, SourceError
from ...manifests.labels import LabelSet
from .png import decode_plain_indices

# Pillow's default, but other libraries switch it on, and then half an image is filled with grey.
ImageFile.LOAD_TRUNCATED_IMAGES = False

IMAGE_FORMATS = ("JPEG", "PNG")
"""What an image may be, whatever its name says."""

BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error, Warning)
"""What Pillow raises for damaged files; warnings too, for those who turn them into errors."""


def read_image(path: Path, *, convert: bool = False) -> np.ndarray:
    """Decode an image to (h, w, 3) uint8 RGB, as stored (EXIF rotation is not applied).

    ``convert`` accepts every other mode: grey becomes three equal channels, 16 bits lose their low byte, CMYK is
    converted by Pillow (without a colour profile), and transparent pixels are laid over black, like the padding.

    Raises :class:`MissingFileError`, :class:`BadImageError` (not a JPEG or PNG, truncated, damaged, too large, or
    another mode than 8-bit RGB without ``convert``), or :class:`SourceError` when the file can't be read at all.
    """
    with _opened(path, IMAGE_FORMATS, BadImageError, "image") as image:
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


def read_labels(path: Path) -> np.ndarray:
    """Decode a label map to (h, w) uint8: the indices of a palette PNG, or the grey levels of an 8-bit PNG.

    Raises :class:`MissingFileError`, :class:`BadLabelError` (not a PNG, truncated, damaged, or another mode), or
    :class:`SourceError` when the file can't be read at all.
    """
    with contextlib.suppress(OSError):  # what can't be read here is reported below
        indices = decode_plain_indices(path.read_bytes())
        if indices is not None:
            return indices
    with _opened(path, ("PNG",), BadLabelError, "label map") as image:
        mode = _stored_mode(image)
        if mode in ("P", "L"):
            return np.asarray(image)
    raise BadLabelError(
        f"label map {path} has mode {mode}, expected class indices in a palette (P) or 8-bit grey (L) PNG: "
        "convert its colours or levels to class indices and save it as such"
    )


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
    name = Path(image_id)
    if name.suffix.lower() in (".jpg", ".jpeg", ".png"):
        return f"ids have no extension, so write {name.stem!r} instead of {image_id!r} on the split's list"
    return "add the file, or take its id off the split's list"


@contextlib.contextmanager
def _opened(
    path: Path, formats: tuple[str, ...], bad: type[BadImageError | BadLabelError], noun: str
) -> Iterator[ImageFile.ImageFile]:
    """Open a file and translate whatever goes wrong until it is decoded."""
    expected = " or ".join(formats)
    try:
        with Image.open(path, formats=formats) as image:
            yield image
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"no {noun} at {path}: {mend_missing(path.stem)}") from None
    except Image.UnidentifiedImageError:
        raise bad(f"{noun} {path} is not a {expected} file: replace it, or take its id off the split's list") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"at most {Image.MAX_IMAGE_PIXELS} pixels are expected"
        raise bad(f"{noun} {path} is too large ({_line(error)}), {limit}: scale it down, or leave it out") from None
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise SourceError(f"can't read {noun} {path}: {error.strerror}") from error
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
