from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fbind.manifests.errors import ConfigError
from fbind.manifests.reader import BlendStore
from fbind.trainer.config import Stage, TrainConfig
from fbind.trainer.network import FeatureBindingNetwork, PlainNetwork, batch_norms, build_network
from fbind.trainer.stages import check_store, prepare, stage_loss
from fbind.trainer.stream import Batch, BlendStream


def config(stage: Stage, **options: object) -> TrainConfig:
    init = "stage1.pt" if stage == "denoise" else None
    return TrainConfig.resolve(shards="s", run="r", stage=stage, network="small", init=init, steps=3, **options)


def batches(path: Path, steps: int = 3) -> list[Batch]:
    with BlendStream(BlendStore.open(path), batch=4, crop=32, steps=steps, seed=0) as stream:
        return list(stream)


def descend(
    network: PlainNetwork | FeatureBindingNetwork, config: TrainConfig, data: list[Batch]
) -> dict[str, dict[str, torch.Tensor]]:
    """Train on the batches; returns the state of every part as it was before."""
    before = {
        name: {key: value.clone() for key, value in part.state_dict().items()}
        for name, part in network.named_children()
    }
    optimiser = torch.optim.SGD(prepare(network, config), momentum=0.9, weight_decay=0.1)
    for batch in data:
        optimiser.zero_grad()
        stage_loss(config.stage, network, batch).total.backward()
        optimiser.step()
    return before


def moved(part: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in part.state_dict().items() if not torch.equal(value, before[name])}


def test_binding_reaches_every_parameter(blends: Path) -> None:
    network = build_network(config("binding"), 4)
    before = descend(network, config("binding"), batches(blends))
    for name, part in network.named_children():
        assert moved(part, before[name]) == set(part.state_dict()), name


def test_plain_has_and_reaches_encoder_and_dominant_branch(plain: Path) -> None:
    network = build_network(config("plain"), 4)
    assert [name for name, _ in network.named_children()] == ["encoder", "dominant"]
    before = descend(network, config("plain"), batches(plain))
    for name, part in network.named_children():
        assert moved(part, before[name]) == set(part.state_dict()), name


def test_denoise_trains_encoder_and_branches_and_leaves_the_binding_head_bit_for_bit(plain: Path) -> None:
    network = build_network(config("denoise"), 4)
    assert isinstance(network, FeatureBindingNetwork)
    before = descend(network, config("denoise"), batches(plain))
    for name in ("encoder", "dominant", "phantom"):
        part = network.get_submodule(name)
        assert moved(part, before[name]) == set(part.state_dict()), name
    # Neither gradients, nor weight decay, nor the momentum of an earlier stage.
    assert moved(network.binding, before["binding"]) == set()
    assert all(parameter.grad is None for parameter in network.binding.parameters())


def test_denoise_gives_the_binding_head_to_no_optimiser_group() -> None:
    network = build_network(config("denoise"), 4)
    assert isinstance(network, FeatureBindingNetwork)
    known = {id(p) for group in prepare(network, config("denoise")) for p in group["params"]}
    assert known.isdisjoint(id(p) for p in network.binding.parameters())
    rest = [*network.encoder.parameters(), *network.dominant.parameters(), *network.phantom.parameters()]
    assert known == {id(p) for p in rest}


def test_frozen_batch_norms_keep_everything(blends: Path) -> None:
    frozen = config("binding", bn="frozen")
    network = build_network(frozen, 4)
    norms = batch_norms(network.encoder)
    states = [{key: value.clone() for key, value in norm.state_dict().items()} for norm in norms]
    before = descend(network, frozen, batches(blends))
    assert norms
    for norm, state in zip(norms, states, strict=True):
        assert moved(norm, state) == set()
    assert moved(network.dominant, before["dominant"]) == set(network.dominant.state_dict())


def test_heads_learn_at_their_factor() -> None:
    options = config("binding", lr=0.01, head_lr_factor=10)
    encoder, heads = prepare(build_network(options, 4), options)
    assert encoder["lr"] == 0.01
    assert heads["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("stage", "blended", "remedy"),
    [
        ("binding", False, "stage binding learns from blends, .* --strategy category"),
        ("denoise", True, "stage denoise learns from plain images, .* --strategy none"),
        ("plain", True, "stage plain learns from plain images, .* --strategy none"),
    ],
)
def test_a_stage_refuses_the_wrong_kind_of_store(
    stage: Stage, blended: bool, remedy: str, blends: Path, plain: Path
) -> None:
    with pytest.raises(ConfigError, match=remedy):
        check_store(stage, BlendStore.open(blends if blended else plain))
    check_store(stage, BlendStore.open(plain if blended else blends))
