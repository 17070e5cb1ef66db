"""The losses of both training stages, as functions of logits and label maps (paper, sections 3.2 and 3.3).

Shapes: logits (B, K, h, w) float at the network's native resolution, 1 / stride; label maps (B, H, W) integer at the
image's resolution, with 255 for void. Every returned term is a scalar, the mean over the B samples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows it by
from torch import Tensor

from ..manifests.labels import VOID


class PlainLoss(NamedTuple):
    """The baseline: cross-entropy of the dominant branch alone."""

    total: Tensor
    dominant: Tensor


class BindingLoss(NamedTuple):
    """Eq. 3 and its terms, each before its weight δ or 1 - δ."""

    total: Tensor
    binding: Tensor
    dominant: Tensor
    phantom: Tensor


class DenoiseLoss(NamedTuple):
    """Eq. 4 and its terms."""

    total: Tensor
    dominant: Tensor
    suppression: Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) mean cross-entropy of each sample over its valid pixels; 0 for a sample that has none.

    The logits are brought to the labels' resolution bilinearly (``align_corners=False``).
    """
    # Interpolation and softmax are a quarter faster on planes than on the networks' channels-last layout.
    upsampled = F.interpolate(logits.contiguous(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    per_pixel = F.cross_entropy(upsampled, labels.long(), ignore_index=VOID, reduction="none")
    valid = (labels != VOID).sum(dim=(1, 2))
    # A void pixel contributes 0 to the sum and to the gradient, so a floor of 1 turns 0 / 0 into 0.
    return per_pixel.sum(dim=(1, 2)) / valid.clamp(min=1)


def phantom_activation(phantom: Tensor) -> Tensor:
    """(B,) float32: Σ ReLU(S_p) of each sample, over h·w·K of the native logits; at least 0."""
    return phantom.float().relu().sum(dim=(1, 2, 3))


def plain_loss(dominant: Tensor, labels: Tensor) -> PlainLoss:
    """ℓ_t alone: the DeepLabv3 baseline."""
    term = cross_entropy(dominant, labels).mean()
    return PlainLoss(term, term)


def binding_loss(
    dominant: Tensor, phantom: Tensor, binding: Tensor, dominant_labels: Tensor, phantom_labels: Tensor, delta: Tensor
) -> BindingLoss:
    """Eq. 3: ``ℓ_fb + δ·ℓ_t + (1 - δ)·ℓ_p``, with each sample's own δ; ``delta`` is (B,) in [0, 1].

    𝓕_fb and 𝓕_t are held to the dominant label map, 𝓕_p to the phantom's.
    """
    per_binding = cross_entropy(binding, dominant_labels)
    per_dominant = cross_entropy(dominant, dominant_labels)
    per_phantom = cross_entropy(phantom, phantom_labels)
    total = per_binding + delta * per_dominant + (1 - delta) * per_phantom
    return BindingLoss(total.mean(), per_binding.mean(), per_dominant.mean(), per_phantom.mean())


def denoise_loss(dominant: Tensor, phantom: Tensor, labels: Tensor) -> DenoiseLoss:
    """Eq. 4: ``ℓ_t + log(1 + Σ ReLU(S_p))``; the 1 keeps a silent phantom branch at 0 rather than at minus infinity."""
    per_dominant = cross_entropy(dominant, labels)
    suppression = torch.log1p(phantom_activation(phantom))
    return DenoiseLoss((per_dominant + suppression).mean(), per_dominant.mean(), suppression.mean())
