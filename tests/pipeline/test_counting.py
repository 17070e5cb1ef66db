from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fbind.pipeline.counting import count_pixels


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30)), elements=st.integers(250, 255)))
def test_counts_equal_a_histogram_without_void(labels: np.ndarray) -> None:
    values, counts = np.unique(labels, return_counts=True)
    expected = {int(v): int(n) for v, n in zip(values, counts, strict=True) if v != 255}
    assert count_pixels(labels) == expected


def test_only_void() -> None:
    assert count_pixels(np.full((3, 3), 255, np.uint8)) == {}
