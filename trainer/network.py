"""The feature binding network (paper, section 3.2, Eq. 2) and the plain baseline with the same encoder and head."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .config import TrainConfig
from .encoders import ARCHITECTURES


class Logits(NamedTuple):
    """Native-resolution logits, each (B, K, h, w) with h = ⌈H / stride⌉, w = ⌈W / stride⌉ for (B, 3, H, W) images."""

    dominant: Tensor
    """S_t, what 𝓕_t says."""
    phantom: Tensor
    """S_p, what 𝓕_p says."""
    binding: Tensor
    """S_fb, what 𝓕_fb makes of both."""


class BindingHead(nn.Sequential):
    """𝓕_fb: (B, 2K, h, w), S_t and S_p one after the other, to (B, K, h, w): 1x1 conv, ReLU, 1x1 conv.

    No ReLU after the last convolution: its output is a logit.
    """

    def __init__(self, classes: int, hidden: int) -> None:
        super().__init__(nn.Conv2d(2 * classes, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, classes, 1))


class PlainNetwork(nn.Module):
    """Encoder and dominant branch: DeepLabv3 as a baseline. Images are (B, 3, H, W) float, normalised."""

    def __init__(self, architecture: str, classes: int) -> None:
        super().__init__()
        parts = ARCHITECTURES[architecture]
        self.encoder = parts.encoder()
        self.dominant = parts.head(parts.channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        """S_t, (B, K, h, w)."""
        return self.dominant(self.encoder(image))


class FeatureBindingNetwork(nn.Module):
    """Eq. 2: one encoder, a dominant and a phantom branch of their own weights, and the binding head on both.

    ``hidden`` is the width of the binding head's hidden layer; ``None`` stands for 2K, the least with which the ReLU
    can pass S_t on unchanged (a positive and a negative part per class).
    """

    def __init__(self, architecture: str, classes: int, hidden: int | None = None) -> None:
        super().__init__()
        parts = ARCHITECTURES[architecture]
        self.encoder = parts.encoder()
        self.dominant = parts.head(parts.channels, classes)
        self.phantom = parts.head(parts.channels, classes)
        self.binding = BindingHead(classes, hidden or 2 * classes)

    def forward(self, image: Tensor) -> Logits:
        """The logits of all three parts for (B, 3, H, W) normalised images."""
        features = self.encoder(image)
        dominant, phantom = self.dominant(features), self.phantom(features)
        return Logits(dominant, phantom, self.binding(torch.cat([dominant, phantom], dim=1)))


def build_network(config: TrainConfig, classes: int) -> PlainNetwork | FeatureBindingNetwork:
    """The network of a run, with fresh random weights from torch's global generator."""
    if config.stage == "plain":
        return PlainNetwork(config.network, classes)
    return FeatureBindingNetwork(config.network, classes, config.hidden)


def batch_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    """The batch norms in a module."""
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
