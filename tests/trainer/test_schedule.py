from __future__ import annotations

from itertools import pairwise

import pytest

from fbind.trainer.schedule import poly


def test_poly_by_hand() -> None:
    assert poly(0, 10, 0.9) == 1.0
    assert poly(5, 10, 1.0) == 0.5
    assert poly(75, 100, 0.5) == 0.5
    assert poly(9, 10, 0.9) == pytest.approx(0.1**0.9)
    assert poly(3, 10, 0.0) == 1.0


def test_poly_falls_and_never_reaches_zero() -> None:
    factors = [poly(step, 100, 0.9) for step in range(100)]
    assert all(later < earlier for earlier, later in pairwise(factors))
    assert factors[-1] > 0
