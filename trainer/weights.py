"""Pretrained weights of the encoders: torchvision's own, or a file of them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor
from torchvision.models import MobileNet_V3_Large_Weights, ResNet50_Weights, ResNet101_Weights
from torchvision.models.segmentation import (
    DeepLabV3_MobileNet_V3_Large_Weights,
    DeepLabV3_ResNet50_Weights,
    DeepLabV3_ResNet101_Weights,
)

from ..manifests.errors import CheckpointError, ConfigError, ResourceError
from .checkpoint import DAMAGE, read_tensors, tensors
from .encoders import Encoder

WEIGHTS: dict[tuple[str, str], Any] = {
    ("deeplabv3-resnet101", "imagenet"): ResNet101_Weights.IMAGENET1K_V1,
    ("deeplabv3-resnet50", "imagenet"): ResNet50_Weights.IMAGENET1K_V1,
    ("deeplabv3-mobilenet", "imagenet"): MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    ("deeplabv3-resnet101", "coco"): DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1,
    ("deeplabv3-resnet50", "coco"): DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1,
    ("deeplabv3-mobilenet", "coco"): DeepLabV3_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1,
}
"""(network, name): torchvision's weights. Of ``coco`` only the backbone is used; the heads always start afresh."""

HEADS = ("fc.", "classifier.", "aux_classifier.")
"""Where torchvision keeps what is not the backbone."""


def load_pretrained(encoder: Encoder, network: str, weights: str) -> str:
    """Fill ``encoder`` with the weights named ``imagenet``, ``coco`` or ``none``, or of the file ``weights``.

    Returns what was loaded, for the record; nothing in a file is executed. Raises
    :class:`~fbind.manifests.errors.ConfigError` for another name,
    :class:`~fbind.manifests.errors.ResourceError` when torchvision's weights can't be downloaded and
    :class:`~fbind.manifests.errors.CheckpointError` when a file is damaged or does not fit.
    """
    if weights == "none":
        return "none"
    known = WEIGHTS.get((network, weights))
    if known is None:
        if weights in ("imagenet", "coco"):
            raise ConfigError(f"there are no {weights} weights for network {network}: use --weights none")
        if not Path(weights).is_file():
            raise ConfigError(f"--weights {weights} is neither imagenet, coco, none nor a file: name one of these")
        load_backbone(encoder, read_tensors(Path(weights)), weights, network)
        return weights
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(known.url).name
    try:
        state = tensors(known.get_state_dict(progress=True, check_hash=True, weights_only=True), cached)
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise ResourceError(
            f"can't download the {weights} weights ({reason}): fetch {known.url} on a machine with network access "
            "and pass the file as --weights FILE, or start from random ones with --weights none"
        ) from error
    except (pickle.UnpicklingError, CheckpointError, *DAMAGE) as error:
        raise CheckpointError(
            f"the {weights} weights in {cached} are truncated, damaged or not torchvision's; nothing in the file was "
            "executed: delete it, and the next run downloads it again"
        ) from error
    load_backbone(encoder, state, f"in {cached} (delete it if it is not torchvision's)", network)
    return str(known)


def load_backbone(encoder: Encoder, state: Mapping[str, Tensor], origin: str, network: str) -> None:
    """Copy the backbone's part of a torchvision state dict into ``encoder``, heads left out.

    ``state`` is that of the classification net or of torchvision's whole DeepLabv3. Raises
    :class:`~fbind.manifests.errors.CheckpointError` unless it has exactly the backbone's tensors, in their shapes.
    """
    wanted = encoder.body.state_dict()
    found = {backbone_name(name): tensor for name, tensor in state.items() if not name.startswith(HEADS)}
    # Weights from before PyTorch 0.4.1 lack these counters; batch norm does without them.
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in found if name not in wanted]
    reshaped = [name for name in wanted if name in found and wanted[name].shape != found[name].shape]
    for problem, names in (("lacks", missing), ("has in another shape", reshaped), ("also has", unexpected)):
        if names:
            raise CheckpointError(
                f"the weights {origin} do not fit the encoder of {network}: the file {problem} {names[0]!r}"
                f"{f' and {len(names) - 1} more tensors' if len(names) > 1 else ''}; it takes a state dict of "
                "torchvision's classification net or DeepLabv3 of the same backbone"
            )
    encoder.body.load_state_dict(found, strict=False)


def backbone_name(name: str) -> str:
    """A tensor's name within the backbone: DeepLabv3 puts ``backbone.`` before it, MobileNetV3 ``features.``."""
    return name.removeprefix("backbone.").removeprefix("features.")
