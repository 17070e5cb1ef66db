from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fbind.manifests.blending import Align, align_image, align_labels, blend


def pair(height: int, width: int, value: int, label: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((height, width, 3), value, np.uint8), np.full((height, width), label, np.uint8)


def test_eq_1_by_hand() -> None:
    # 0.75 * 200 + 0.25 * 40 = 160; 0.7 * 255 + 0.3 * 0 = 178.5, between 178 and 179
    assert np.all(blend(pair(3, 4, 200, 1), pair(3, 4, 40, 2), 0.75).image == 160)
    assert set(np.unique(blend(pair(3, 4, 255, 1), pair(3, 4, 0, 2), 0.7).image)) <= {178, 179}


def test_eq_1_keeps_the_dominant_image_at_delta_1() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 7, 3), np.uint8)
    blended = blend((image, np.zeros((9, 7), np.uint8)), pair(9, 7, 77, 2), 1.0)
    assert np.array_equal(blended.image, image)


@given(delta=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_eq_1_equals_the_formula_in_float64(delta: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
    labels = np.zeros((8, 8), np.uint8)
    exact = delta * first.astype(np.float64) + (1 - delta) * second
    assert np.abs(blend((first, labels), (second, labels), delta).image - exact).max() <= 0.5 + 1e-3


def test_label_maps_stay_those_of_their_images() -> None:
    blended = blend(pair(4, 6, 10, 3), pair(4, 6, 20, 9), 0.8)
    assert np.all(blended.dominant == 3)
    assert np.all(blended.phantom == 9)


def test_resize_keeps_image_and_labels_on_top_of_each_other() -> None:
    # The left half is white and labelled 1. Enlarged 3x, the edge of the labels is where the grey ramp crosses half.
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, :2] = 255
    labels = np.where(image[..., 0] > 127, 1, 0).astype(np.uint8)
    large, large_labels = align_image(image, (12, 12), "resize"), align_labels(labels, (12, 12), "resize")
    assert np.array_equal(large_labels == 1, large[..., 0] > 127)


def test_resize_invents_no_label() -> None:
    labels = np.array([[0, 255], [7, 20]], np.uint8)
    resized = align_labels(labels, (5, 9), "resize")
    assert set(np.unique(resized)) == {0, 7, 20, 255}


def test_pad_cuts_and_pads_at_the_bottom_and_right() -> None:
    image, labels = pair(3, 5, 9, 4)
    padded, padded_labels = align_image(image, (4, 2), "pad"), align_labels(labels, (4, 2), "pad")
    assert padded.shape == (4, 2, 3)
    assert np.all(padded[:3] == 9)
    assert np.all(padded[3] == 0)
    assert np.all(padded_labels[:3] == 4)
    assert np.all(padded_labels[3] == 255)


@pytest.mark.parametrize("how", ["resize", "pad"])
def test_align_of_the_same_size_changes_nothing(how: Align) -> None:
    image, labels = pair(3, 5, 9, 4)
    assert align_image(image, (3, 5), how) is image
    assert align_labels(labels, (3, 5), how) is labels


def test_bytes_of_a_blend_are_pinned() -> None:
    """The promise that a store can be rebuilt bit for bit, held against processors and versions of OpenCV."""
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 256, (37, 53, 3), np.uint8), rng.integers(0, 256, (61, 41, 3), np.uint8)
    maps = rng.integers(0, 21, (37, 53), np.uint8), rng.integers(0, 21, (61, 41), np.uint8)
    blended = blend((first, maps[0]), (second, maps[1]), float(np.float32(0.8137)))
    digest = hashlib.sha256(b"".join(part.tobytes() for part in blended)).hexdigest()
    assert digest == "0c7fed4e3c8c46b6dc38b1ed9ec83cde569414024ee42f80b4af9474376194b2"
