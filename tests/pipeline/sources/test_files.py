"""Decoding: what is accepted, what is refused, and that a refusal says what to do."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFile

from fbind.manifests.errors import BadImageError, BadLabelError, MissingFileError, SourceError
from fbind.manifests.labels import VOC_LABELS
from fbind.manifests.storage import LocalStorage
from fbind.pipeline.sources import files
from fbind.pipeline.sources.files import encode_jpeg, encode_labels

GRADIENT = np.arange(20 * 30 * 3, dtype=np.uint32).reshape(20, 30, 3).astype(np.uint8)


def png(bit_depth: int, color_type: int, rows: list[bytes], width: int) -> bytes:
    """A PNG written by hand, for what Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, len(rows), bit_depth, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def read_image(path: Path, *, convert: bool = False) -> np.ndarray:
    return files.read_image(LocalStorage(path.parent), path.name, convert=convert)


def read_labels(path: Path) -> np.ndarray:
    return files.read_labels(LocalStorage(path.parent), path.name)


def save(path: Path, mode: str, **options: object) -> Path:
    gray = GRADIENT[..., 0]
    if mode == "I;16":
        Image.fromarray(gray.astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(GRADIENT).convert(mode).save(path, **options)  # pyright: ignore[reportArgumentType]
    return path


def test_an_image_is_what_pillow_decodes(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encode_jpeg(GRADIENT))
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.shape == (20, 30, 3)
    np.testing.assert_array_equal(image, np.asarray(Image.open(path)))


def test_a_png_image_is_read_exactly_whatever_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(GRADIENT).save(path, "PNG")
    np.testing.assert_array_equal(read_image(path), GRADIENT)


def test_exif_rotation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = tmp_path / "a.jpg"
    Image.fromarray(GRADIENT).save(path, exif=exif)
    assert read_image(path).shape == (20, 30, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_png_image_of_another_mode_names_file_mode_and_remedy(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "a.png", mode)
    with pytest.raises(BadImageError) as error:
        read_image(path)
    message = str(error.value)
    assert str(path) in message
    assert f"mode {mode}," in message
    assert "8-bit RGB" in message
    assert "--on-bad-image convert" in message
    assert "\n" not in message
    assert read_image(path, convert=True).shape == (20, 30, 3)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_of_another_mode(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "a.jpg", mode)
    with pytest.raises(BadImageError, match=f"mode {mode}"):
        read_image(path)
    assert read_image(path, convert=True).shape == (20, 30, 3)


def test_16_bit_color_is_refused_or_loses_its_low_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(16, 2, [struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0xFFFF, 0x00FF, 0)], width=2))
    with pytest.raises(BadImageError, match="mode RGB;16B"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, convert=True), [[[0x12, 0x56, 0x9A], [0xFF, 0, 0]]])


def test_conversion_scales_16_bit_grey(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 255, 256, 65535]], np.uint16)).save(path)
    np.testing.assert_array_equal(read_image(path, convert=True)[0, :, 1], [0, 0, 1, 255])


def test_conversion_lays_transparency_over_black(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[[200, 100, 50, 255], [200, 100, 50, 0]]], np.uint8)).save(path)
    np.testing.assert_array_equal(read_image(path, convert=True), [[[200, 100, 50], [0, 0, 0]]])


def test_conversion_of_a_palette_with_transparent_colors_warns_of_nothing(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    path = tmp_path / "a.png"
    image.save(path, transparency=b"\xff\x00")
    np.testing.assert_array_equal(read_image(path, convert=True), [[[10, 20, 30], [0, 0, 0]]])


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated_image(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    for convert in (False, True):
        with pytest.raises(BadImageError, match="truncated or damaged") as error:
            read_image(path, convert=convert)
        assert str(path) in str(error.value)


def test_pillow_does_not_fill_in_what_is_missing() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_damage_never_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, where: int, flip: int) -> None:
    for encoded, read in (
        (encode_jpeg(GRADIENT), read_image),
        (encode_labels(GRADIENT[..., 0], VOC_LABELS), read_labels),
    ):
        data = bytearray(encoded)
        data[where % len(data)] ^= flip
        path = tmp_path_factory.getbasetemp() / "damaged"
        path.write_bytes(data)
        try:
            decoded = read(path)
        except (BadImageError, BadLabelError):
            continue
        assert decoded.dtype == np.uint8


@pytest.mark.parametrize("content", [b"", b"hello", b"GIF89a"])
def test_not_an_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(BadImageError, match="not a JPEG or PNG"):
        read_image(path)
    with pytest.raises(BadLabelError, match="not a PNG"):
        read_labels(path)


def test_a_gif_is_not_an_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(GRADIENT).save(path, "GIF")
    with pytest.raises(BadImageError, match="not a JPEG or PNG"):
        read_image(path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no image at .*a\.jpg"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(MissingFileError, match=r"no label map at .*a\.png"):
        read_labels(tmp_path / "a.png")


def test_unreadable_file_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Is a directory") as error:
        read_image(tmp_path)
    assert not isinstance(error.value, BadImageError)


@pytest.mark.parametrize("pixel_limit", [500, 200])  # 600 pixels: Pillow warns of more than the limit, refuses twice it
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_decompression_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixel_limit: int, action: Literal["error", "ignore"]
) -> None:
    path = save(tmp_path / "a.png", "RGB")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixel_limit)
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(BadImageError, match="too large"):
            read_image(path)


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_label_maps_round_trip(tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "labels.png"
    path.write_bytes(encode_labels(labels, VOC_LABELS))
    np.testing.assert_array_equal(read_labels(path), labels)
    with Image.open(path) as image:
        assert image.mode == "P"
        palette = image.getpalette()
    assert palette is not None
    assert palette[3 * 15 : 3 * 16] == [192, 128, 128]  # VOC's colour of person


def test_a_grey_label_map_holds_its_indices(tmp_path: Path) -> None:
    labels = np.array([[0, 15, 255]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_small_palettes_hold_their_indices(tmp_path: Path, bits: int) -> None:
    image = Image.fromarray(np.array([[0, 1, 1, 0]], np.uint8))
    image.putpalette([0, 0, 0, 128, 0, 0])
    image.save(tmp_path / "a.png", bits=bits)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), [[0, 1, 1, 0]])


@pytest.mark.parametrize("mode", ["1", "LA", "RGB", "RGBA", "I;16"])
def test_label_map_of_another_mode(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "a.png", mode)
    with pytest.raises(BadLabelError) as error:
        read_labels(path)
    assert str(path) in str(error.value)
    assert f"mode {mode}," in str(error.value)
    assert "convert" in str(error.value)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_levels_of_few_bits_are_refused_because_pillow_spreads_them(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(bits, 0, [b"\x12"], width=8 // bits))
    with pytest.raises(BadLabelError, match=f"mode L;{bits}"):
        read_labels(path)


def test_a_jpeg_is_no_label_map(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", "L")
    with pytest.raises(BadLabelError, match="not a PNG"):
        read_labels(path)


def test_truncated_label_map(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    encoded = encode_labels(np.random.default_rng(0).integers(0, 21, (64, 64), np.uint8), VOC_LABELS)
    path.write_bytes(encoded[: len(encoded) // 2])
    with pytest.raises(BadLabelError, match="truncated or damaged"):
        read_labels(path)


def test_jpegs_keep_their_colors() -> None:
    decoded = np.asarray(Image.open(io.BytesIO(encode_jpeg(np.full((16, 16, 3), (200, 30, 60), np.uint8)))))
    assert np.abs(decoded.astype(int) - (200, 30, 60)).max() <= 2
