from __future__ import annotations

import pytest
import torch
from torch import nn

from fbind.trainer.encoders import ARCHITECTURES
from fbind.trainer.network import BindingHead, FeatureBindingNetwork, PlainNetwork


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_have_the_stated_stride(name: str) -> None:
    # The ResNets are checked at 33 x 49 pixels: at stride 8 that is 5 x 7, at stride 16 it is 3 x 4.
    stride = {"deeplabv3-mobilenet": 16}.get(name, 8)
    assert ARCHITECTURES[name].stride == stride
    network = FeatureBindingNetwork(name, classes=5).eval()
    with torch.inference_mode():
        logits = network(torch.zeros(1, 3, 33, 49))
    expected = (1, 5, -(-33 // stride), -(-49 // stride))
    assert [tuple(part.shape) for part in logits] == [expected] * 3


def test_eq_2_binding_head_sees_dominant_then_phantom_logits() -> None:
    network = FeatureBindingNetwork("small", classes=3).eval()
    image = torch.randn(2, 3, 40, 40)
    with torch.inference_mode():
        logits = network(image)
        again = network.binding(torch.cat([logits.dominant, logits.phantom], dim=1))
        swapped = network.binding(torch.cat([logits.phantom, logits.dominant], dim=1))
    assert torch.equal(again, logits.binding)
    assert not torch.allclose(swapped, logits.binding)


def test_eq_2_binding_head_by_hand() -> None:
    # Hidden unit: ReLU(2·S_t - 3·S_p + 1); logit: 5·hidden - 1.
    head = BindingHead(classes=1, hidden=1)
    first, last = head[0], head[2]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    assert first.bias is not None
    assert last.bias is not None
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[[[2.0]], [[-3.0]]]]))
        first.bias.fill_(1.0)
        last.weight.fill_(5.0)
        last.bias.fill_(-1.0)
    scores = torch.tensor([[[[1.0, 0.0]], [[0.5, 1.0]]]])  # (S_t, S_p) = (1, 0.5), then (0, 1)
    assert head(scores).flatten().tolist() == [6.5, -1.0]


def test_branches_have_weights_of_their_own() -> None:
    network = FeatureBindingNetwork("small", classes=3)
    shared = {id(p) for p in network.dominant.parameters()} & {id(p) for p in network.phantom.parameters()}
    assert not shared
    with torch.inference_mode():
        logits = network.eval()(torch.randn(1, 3, 40, 40))
    assert not torch.equal(logits.dominant, logits.phantom)


def test_baseline_has_the_same_encoder_and_dominant_branch() -> None:
    plain, binding = PlainNetwork("small", 4), FeatureBindingNetwork("small", 4)
    own = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert own == {
        name: tensor.shape
        for name, tensor in binding.state_dict().items()
        if name.startswith(("encoder.", "dominant."))
    }


def test_hidden_width_of_the_binding_head() -> None:
    assert FeatureBindingNetwork("small", 4).binding[0].out_channels == 8
    assert FeatureBindingNetwork("small", 4, hidden=3).binding[0].out_channels == 3
