"""Encoders and the heads that fit them, by name: torchvision's DeepLabv3 backbones, and a small one for CPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large, resnet50, resnet101
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import DeepLabHead


class Architecture(NamedTuple):
    """An encoder and its heads.

    ``encoder()`` maps (B, 3, H, W) to (B, ``channels``, ⌈H / stride⌉, ⌈W / stride⌉); ``head(channels, K)`` maps that
    to (B, K, …) logits of the same resolution.
    """

    encoder: Callable[[], Encoder]
    channels: int
    stride: int
    head: Callable[[int, int], nn.Module]


class Encoder(nn.Module):
    """Turns an image into one feature map; ``body`` is what pretrained weights are loaded into."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) float to (B, channels, h, w)."""
        features = self.body(image)
        # torchvision's IntermediateLayerGetter answers with a dictionary of the layers it was asked for.
        return features["out"] if isinstance(features, dict) else features


def dilated_resnet(build: Callable[..., nn.Module]) -> Encoder:
    """A ResNet up to res5c, with the strides of its last two stages replaced by dilation: output stride 8."""
    resnet = build(weights=None, replace_stride_with_dilation=[False, True, True])
    return Encoder(IntermediateLayerGetter(resnet, return_layers={"layer4": "out"}))


def dilated_mobilenet() -> Encoder:
    """MobileNetV3-large as torchvision's DeepLabv3 uses it: dilated in its last stage, output stride 16."""
    features = mobilenet_v3_large(weights=None, dilated=True).features
    return Encoder(IntermediateLayerGetter(features, return_layers={str(len(features) - 1): "out"}))


def conv_norm(inputs: int, outputs: int, size: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution and batch norm; the padding keeps the resolution up to the stride."""
    conv = nn.Conv2d(inputs, outputs, size, stride, dilation * (size // 2), dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al., 2016), the second one dilated."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.first = conv_norm(inputs, outputs, stride=stride)
        self.second = conv_norm(outputs, outputs, dilation=dilation)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, ⌈h / stride⌉, ⌈w / stride⌉)."""
        return (self.second(self.first(x).relu()) + self.shortcut(x)).relu()


def small_encoder() -> Encoder:
    """A residual net of output stride 8 that two CPU cores train in minutes."""
    return Encoder(
        nn.Sequential(
            conv_norm(3, 24, stride=2),
            nn.ReLU(),
            ResidualBlock(24, 48, stride=2),
            ResidualBlock(48, 96, stride=2),
            ResidualBlock(96, 96, dilation=2),
            ResidualBlock(96, 96, dilation=4),
        )
    )


class SmallHead(nn.Module):
    """ASPP in small: parallel 3x3 convolutions at rates 1, 3 and 6 and the image's mean, then a classifier."""

    def __init__(self, channels: int, classes: int, width: int = 48) -> None:
        super().__init__()
        self.branches = nn.ModuleList(conv_norm(channels, width, dilation=rate) for rate in (1, 3, 6))
        self.context = conv_norm(channels, width, size=1)
        self.project = conv_norm(4 * width, 2 * width, size=1)
        self.classify = nn.Conv2d(2 * width, classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) to (B, K, h, w) logits."""
        context = self.context(F.adaptive_avg_pool2d(features, 1)).expand(-1, -1, *features.shape[-2:])
        parallel = torch.cat([*(branch(features) for branch in self.branches), context], dim=1).relu()
        return self.classify(self.project(parallel).relu())


ARCHITECTURES: dict[str, Architecture] = {
    "deeplabv3-resnet101": Architecture(lambda: dilated_resnet(resnet101), 2048, 8, DeepLabHead),
    "deeplabv3-resnet50": Architecture(lambda: dilated_resnet(resnet50), 2048, 8, DeepLabHead),
    "deeplabv3-mobilenet": Architecture(dilated_mobilenet, 960, 16, DeepLabHead),
    "small": Architecture(small_encoder, 96, 8, SmallHead),
}
"""What ``--network`` can name."""
