"""From stored pixels to what a network is fed, by ImageNet's statistics: torchvision's encoders expect them."""

from __future__ import annotations

import torch
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
"""Mean of R, G, B on a scale of 0 to 1."""
STD = (0.229, 0.224, 0.225)
"""Standard deviation of R, G, B on a scale of 0 to 1."""
MEAN_COLOR = (124, 116, 104)
"""The mean in grey levels: what surrounds an image that is smaller than the crop; about 0 once normalised."""


def normalise(image: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 RGB to float32 of zero mean and unit deviation, on the same device and in the same layout."""
    # Two 3-vectors on the image's device; made per call, because a few bytes cost less than a cache per device.
    scale = torch.tensor([1 / (255 * s) for s in STD], device=image.device).view(1, 3, 1, 1)
    shift = torch.tensor([m / s for m, s in zip(MEAN, STD, strict=True)], device=image.device).view(1, 3, 1, 1)
    return image.float() * scale - shift
