from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from fbind.manifests.labels import VOC_LABELS
from fbind.pipeline.sources.files import encode_labels
from fbind.pipeline.sources.png import decode_plain_indices

MAPS = arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)))


def png(labels: np.ndarray, mode: str = "P", **options: Any) -> bytes:
    image = Image.fromarray(labels)
    if mode == "P":
        image.putpalette(bytes(VOC_LABELS.colors()))
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@given(labels=MAPS, mode=st.sampled_from(["P", "L"]))
def test_equals_pillow_or_leaves_it_to_pillow(labels: np.ndarray, mode: str) -> None:
    data = png(labels, mode)
    decoded = decode_plain_indices(data)
    assert decoded is None or np.array_equal(decoded, by_pillow(data))


def test_label_maps_as_voc_stores_them_take_the_short_way() -> None:
    labels = np.zeros((60, 80), np.uint8)
    labels[20:40, 30:60] = 15
    decoded = decode_plain_indices(encode_labels(labels, VOC_LABELS))
    assert decoded is not None
    assert np.array_equal(decoded, labels)


def test_filtered_interlaced_and_other_kinds_are_left_to_pillow() -> None:
    ramp = np.tile(np.arange(200, dtype=np.uint8), (50, 1))
    assert decode_plain_indices(png(ramp, "L")) is None  # Pillow filters grey rows
    assert decode_plain_indices(png(np.zeros((8, 8), np.uint8), "P", bits=4)) is None
    assert decode_plain_indices(png(np.zeros((8, 8, 3), np.uint8), "RGB")) is None
    assert decode_plain_indices(b"") is None
    assert decode_plain_indices(b"GIF89a") is None


@given(st.data())
def test_damage_never_yields_other_pixels(data: st.DataObject) -> None:
    labels = np.repeat(np.arange(16, dtype=np.uint8), 24).reshape(16, 24)
    whole = bytearray(png(labels))
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:place]
    else:
        whole[place] ^= data.draw(st.integers(1, 255))
        damaged = whole
    decoded = decode_plain_indices(bytes(damaged))
    assert decoded is None or np.array_equal(decoded, labels)


@pytest.mark.voc
def test_real_label_maps(voc_root: Path) -> None:
    files = sorted((voc_root / "SegmentationClassAug").glob("*.png"))[::200]
    for file in files:
        decoded = decode_plain_indices(file.read_bytes())
        assert decoded is not None
        assert np.array_equal(decoded, by_pillow(file.read_bytes()))
