from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fbind.pipeline.fitting import fit, fitted_sizes


def test_sizes_by_hand() -> None:
    sizes = np.array([(375, 500), (1000, 500), (300, 300), (2, 4000)])
    assert fitted_sizes(sizes, None, None).tolist() == sizes.tolist()
    assert fitted_sizes(sizes, None, 500).tolist() == [[375, 500], [500, 250], [300, 300], [1, 500]]
    # 400 high, 250 wide: the first halves, the second shrinks to 0.4, the third to 5/6
    assert fitted_sizes(sizes, (400, 250), None).tolist() == [[188, 250], [400, 200], [250, 250], [1, 250]]
    assert fitted_sizes(sizes, (400, 250), 100).tolist() == [[75, 100], [100, 50], [100, 100], [1, 100]]


@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    canvas=st.none() | st.tuples(st.integers(1, 600), st.integers(1, 600)),
    max_side=st.none() | st.integers(1, 600),
)
def test_fitted_images_fit_and_never_grow(
    height: int, width: int, canvas: tuple[int, int] | None, max_side: int | None
) -> None:
    ((high, wide),) = fitted_sizes(np.array([(height, width)]), canvas, max_side).tolist()
    assert 1 <= high <= height
    assert 1 <= wide <= width
    assert max_side is None or max(high, wide) <= max_side
    assert canvas is None or (high <= canvas[0] and wide <= canvas[1])


def test_fit_averages_the_image_and_invents_no_label() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, ::2] = 200  # stripes of one pixel: sampled they stay stripes, averaged they are grey
    labels = np.where(np.arange(64).reshape(8, 8) % 3, 7, 255).astype(np.uint8)
    small, small_labels = fit(image, labels, (4, 4))
    assert small.shape == (4, 4, 3)
    assert np.all(np.abs(small[:, 1:3].astype(int) - 100) <= 30)
    assert set(np.unique(small_labels)) <= {7, 255}
    same, same_labels = fit(image, labels, (8, 8))
    assert same is image
    assert same_labels is labels
