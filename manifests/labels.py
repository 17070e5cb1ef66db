"""Label sets: the names, the void value and the colours of the classes of a dataset."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from .base import Frozen

VOID = 255
"""The label of pixels that count neither in a loss nor in a metric, in every dataset (VOC's convention)."""

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

Color = tuple[int, int, int]


class LabelSet(Frozen):
    """The classes of a dataset; a label map holds indices into ``names``, or ``void``.

    ``background`` is the class that forms no cluster (``None`` when every class is a category).
    """

    names: tuple[str, ...] = Field(min_length=2, max_length=254)
    palette: tuple[Color, ...]
    background: int | None = 0
    void: int = VOID

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.names)) != len(self.names):
            raise ValueError("class names must differ from one another")
        if len(self.palette) != len(self.names):
            raise ValueError(f"{len(self.names)} classes need as many colours, got {len(self.palette)}")
        if self.background is not None and not 0 <= self.background < len(self.names):
            raise ValueError(f"background must be a class index below {len(self.names)}, got {self.background}")
        if self.void != VOID:
            raise ValueError(f"the void value must be {VOID}, got {self.void}")
        return self

    def __len__(self) -> int:
        """The number of classes, background included."""
        return len(self.names)

    @property
    def categories(self) -> tuple[int, ...]:
        """The class indices that form clusters: all but the background, ascending."""
        return tuple(index for index in range(len(self.names)) if index != self.background)

    def colors(self) -> np.ndarray:
        """(256, 3) uint8 RGB lookup table; void is VOC's cream, values outside the set black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.palette)] = self.palette
        table[self.void] = (224, 224, 192)
        return table


def voc_palette(count: int) -> tuple[Color, ...]:
    """The first ``count`` colours of PASCAL VOC's colour map (the bits of the index, dealt to the three channels)."""

    def color(index: int) -> Color:
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= ((index >> channel) & 1) << (7 - bit)
            index >>= 3
        return (channels[0], channels[1], channels[2])

    return tuple(color(index) for index in range(count))


VOC_LABELS = LabelSet(names=VOC_CLASSES, palette=voc_palette(len(VOC_CLASSES)))
"""PASCAL VOC's 20 categories and background, in VOC's order and colours."""
