"""The synthetic scenes: that they are repeatable, and that they are the learning problem their docstring promises."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from fbind.pipeline.sources.scenes import (
    CATEGORIES,
    HUB,
    MAX_OBJECTS,
    SHAPE_LABELS,
    choose_categories,
    draw_scene,
    outline,
)


def scenes(count: int, size: int = 64) -> list[tuple[np.ndarray, np.ndarray]]:
    return [draw_scene(np.random.default_rng([7, index]), size) for index in range(count)]


def test_categories_are_told_apart_by_no_single_cue() -> None:
    assert len(CATEGORIES) == 20
    assert len({category.name for category in CATEGORIES}) == 20
    for cue in ("shape", "texture", "hue"):
        values = [getattr(category, cue) for category in CATEGORIES]
        assert min(values.count(value) for value in values) >= 2, cue


def test_same_generator_same_scene() -> None:
    for (image, labels), (image_again, labels_again) in zip(scenes(5), scenes(5), strict=True):
        np.testing.assert_array_equal(image, image_again)
        np.testing.assert_array_equal(labels, labels_again)
    first, second = scenes(2)
    assert first[0].shape != second[0].shape or np.any(first[0] != second[0])


@pytest.mark.parametrize("size", [32, 64, 301])
def test_sizes_and_values(size: int) -> None:
    shapes = set()
    for image, labels in scenes(12, size):
        assert image.dtype == labels.dtype == np.uint8
        assert image.shape == (*labels.shape, 3)
        assert max(labels.shape) == size
        assert min(labels.shape) >= int(0.65 * size)
        assert set(np.unique(labels)) <= {*range(21), 255}
        assert np.any((labels > 0) & (labels < 255))
        shapes.add(labels.shape)
    assert len(shapes) > 3
    assert any(h > w for h, w in shapes)
    assert any(h < w for h, w in shapes)


def test_void_separates_every_object_from_everything_else() -> None:
    for _, labels in scenes(30):
        assert 0.01 < np.mean(labels == 255) < 0.5
        for (ya, xa), (yb, xb) in (((0, 0), (1, 0)), ((0, 0), (0, 1))):
            height, width = labels.shape[0] - yb, labels.shape[1] - xb
            one, other = labels[ya : ya + height, xa : xa + width], labels[yb:, xb:]
            assert not np.any((one != other) & (one != 255) & (other != 255))


def test_shapes_fill_the_unit_circle_and_differ() -> None:
    masks = {}
    for shape in {category.shape for category in CATEGORIES}:
        contours = outline(shape)
        reach = np.hypot(*np.concatenate(contours).T).max()
        assert 0.85 < reach <= 1.05, shape
        mask = np.zeros((100, 100), np.uint8)
        cv2.fillPoly(mask, [np.round(contour * 45 + 50).astype(np.int32) for contour in contours], (1,))
        masks[shape] = mask > 0
    for one, other in itertools.combinations(masks, 2):
        overlap = np.sum(masks[one] & masks[other]) / np.sum(masks[one] | masks[other])
        assert overlap < 0.9, (one, other)
    assert not masks["ring"][50, 50]
    assert masks["disc"][50, 50]


def test_unknown_shape() -> None:
    with pytest.raises(ValueError, match="no shape 'blob'"):
        outline("blob")


def test_company_is_uneven_like_vocs() -> None:
    rng = np.random.default_rng(0)
    chosen = [choose_categories(rng) for _ in range(4000)]
    assert {len(categories) for categories in chosen} == set(range(1, MAX_OBJECTS + 1))
    presence = np.zeros((len(chosen), len(CATEGORIES)), np.int64)
    for row, categories in enumerate(chosen):
        presence[row, categories] = 1
    pairs = presence.T @ presence
    images = np.diag(pairs)
    # Every category is common enough to learn; the hub is in a quarter of the images, as person is in VOC.
    assert images.min() / len(chosen) > 0.025
    assert np.argmax(images) == HUB
    assert 0.2 < images[HUB] / len(chosen) < 0.35
    # More than a quarter of the images have several categories.
    assert 0.25 < np.mean(presence.sum(axis=1) > 1) < 0.55
    # Pairs: half of them hardly ever, the commonest ten times the median or more.
    between = pairs[np.triu_indices(20, 1)]
    assert between.max() > 10 * np.median(between)
    assert np.median(between) < 0.003 * len(chosen)
    # Some are mostly alone, some hardly ever; the hub meets most.
    alone = np.array([np.mean(presence[presence[:, c] == 1].sum(axis=1) == 1) for c in range(20)])
    assert alone.max() > 0.75
    assert alone.min() < 0.2
    assert np.count_nonzero(pairs[HUB]) > 15


def test_label_set() -> None:
    assert SHAPE_LABELS.names[0] == "background"
    assert SHAPE_LABELS.names[HUB + 1] == CATEGORIES[HUB].name == "striped-crescent"
    assert SHAPE_LABELS.background == 0
