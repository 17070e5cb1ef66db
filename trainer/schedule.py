"""The learning rate over time."""

from __future__ import annotations


def poly(step: int, total: int, power: float) -> float:
    """The factor on the learning rate in step ``step`` of ``total`` (from 0): ``(1 - step / total) ** power``.

    1 in the first step; above 0 in the last.
    """
    return (1.0 - step / total) ** power
