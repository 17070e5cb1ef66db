"""The three kinds of training: what each needs, which parts it trains, and the loss it descends.

=========  ===================  =====================================  =====
stage      store                trains                                 loss
=========  ===================  =====================================  =====
binding    blends               encoder, 𝓕_t, 𝓕_p, 𝓕_fb                Eq. 3
denoise    plain images         encoder, 𝓕_t, 𝓕_p of stage 1           Eq. 4
plain      plain images         encoder, 𝓕_t                           ℓ_t
=========  ===================  =====================================  =====
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..manifests.errors import ConfigError
from ..manifests.reader import BlendStore
from .config import Stage, TrainConfig
from .losses import BindingLoss, DenoiseLoss, PlainLoss, binding_loss, denoise_loss, plain_loss
from .network import FeatureBindingNetwork, Logits, PlainNetwork, batch_norms
from .pixels import normalise
from .stream import Batch

TRAINED: dict[Stage, tuple[str, ...]] = {
    "binding": ("encoder", "dominant", "phantom", "binding"),
    "denoise": ("encoder", "dominant", "phantom"),
    "plain": ("encoder", "dominant"),
}
"""The parts of the network, by attribute, that a stage's optimiser is given."""


def check_store(stage: Stage, store: BlendStore) -> None:
    """Raise :class:`ConfigError` when a stage can't be trained on a store."""
    if stage == "binding" and not store.manifest.blended:
        raise ConfigError(
            f"stage binding learns from blends, but {store.place} holds plain images: "
            "write a store with `fbind materialize-blends --strategy category`"
        )
    if stage != "binding" and store.manifest.blended:
        raise ConfigError(
            f"stage {stage} learns from plain images, but {store.place} holds blends: "
            "write a store with `fbind materialize-blends --strategy none`"
        )


def prepare(network: PlainNetwork | FeatureBindingNetwork, config: TrainConfig) -> list[dict[str, Any]]:
    """Put the network in training mode and return the optimiser's parameter groups: encoder, then heads.

    Parts that the stage does not train get no gradients and reach no group, so that neither weight decay nor momentum
    moves them. With ``bn`` frozen, the encoder's batch norms keep their statistics, scales and shifts.
    """
    network.train()
    trained = TRAINED[config.stage]
    for name, part in network.named_children():
        part.requires_grad_(name in trained).train(name in trained)
    if config.bn == "frozen":
        for norm in batch_norms(network.encoder):
            norm.eval().requires_grad_(False)
    heads = [getattr(network, name) for name in trained if name != "encoder"]
    return [
        {"params": trainable(network.encoder), "lr": config.lr},
        {"params": [p for head in heads for p in trainable(head)], "lr": config.lr * config.head_lr_factor},
    ]


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module that take gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def stage_loss(
    stage: Stage, network: PlainNetwork | FeatureBindingNetwork, batch: Batch
) -> PlainLoss | BindingLoss | DenoiseLoss:
    """The loss of one batch on the network's device, with its terms; scalars with gradients."""
    logits: Tensor | Logits = network(normalise(batch.image))
    if isinstance(logits, Tensor):
        return plain_loss(logits, batch.dominant)
    if stage == "denoise":
        return denoise_loss(logits.dominant, logits.phantom, batch.dominant)
    if batch.phantom is None:
        raise ValueError("Eq. 3 needs phantom label maps")
    return binding_loss(*logits, batch.dominant, batch.phantom, batch.delta)
