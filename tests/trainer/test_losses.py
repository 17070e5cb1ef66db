"""Eqs. 3 and 4 on logits small enough to work out by hand.

Two classes; one native pixel stands for the whole label map, because bilinear upsampling of one pixel is constant. For
logits (a, b) the cross-entropy of class 0 is log(1 + exp(b - a)): (0, 0) gives log 2, (log 3, 0) gives log(4/3) for
class 0 and log 4 for class 1.
"""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor

from fbind.trainer.losses import binding_loss, cross_entropy, denoise_loss, phantom_activation, plain_loss

EVEN = (0.0, 0.0)
SURE = (log(3), 0.0)


def logits(*samples: tuple[float, float]) -> Tensor:
    """(B, 2, 1, 1) with gradients."""
    return torch.tensor(samples).view(-1, 2, 1, 1).requires_grad_()


def labels(*samples: list[int]) -> Tensor:
    """(B, 2, 2) uint8; each sample lists its four pixels."""
    return torch.tensor(samples, dtype=torch.uint8).view(-1, 2, 2)


def gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def test_eq_3_mixed_batch_by_hand() -> None:
    loss = binding_loss(
        dominant=logits(EVEN, SURE),
        phantom=logits(SURE, SURE),
        binding=logits(EVEN, SURE),
        dominant_labels=labels([0, 0, 1, 1], [1, 1, 1, 255]),
        phantom_labels=labels([0, 0, 0, 0], [0, 0, 1, 1]),
        delta=torch.tensor([0.7, 0.9]),
    )
    # sample 1: ℓ_fb = log 2, ℓ_t = log 2, ℓ_p = log 4/3;  sample 2: ℓ_fb = ℓ_t = log 4 over three pixels,
    # ℓ_p = (log 4/3 + log 4) / 2
    half = (log(4 / 3) + log(4)) / 2
    first = log(2) + 0.7 * log(2) + 0.3 * log(4 / 3)
    second = log(4) + 0.9 * log(4) + 0.1 * half
    assert loss.total.item() == pytest.approx((first + second) / 2, rel=1e-6)
    assert loss.binding.item() == pytest.approx((log(2) + log(4)) / 2, rel=1e-6)
    assert loss.dominant.item() == pytest.approx((log(2) + log(4)) / 2, rel=1e-6)
    assert loss.phantom.item() == pytest.approx((log(4 / 3) + half) / 2, rel=1e-6)


def test_eq_3_weights_each_sample_by_its_own_delta() -> None:
    # Means of products, not a product of means: swapping the two δ changes the total.
    def total(*delta: float) -> float:
        one = labels([0] * 4, [1] * 4)
        return binding_loss(
            logits(SURE, SURE), logits(EVEN, EVEN), logits(EVEN, EVEN), one, one, torch.tensor(delta)
        ).total.item()

    assert total(1.0, 0.5) == pytest.approx(log(2) + (log(4 / 3) + 0.5 * log(4) + 0.5 * log(2)) / 2, rel=1e-6)
    assert total(0.5, 1.0) == pytest.approx(log(2) + (0.5 * log(4 / 3) + 0.5 * log(2) + log(4)) / 2, rel=1e-6)


def test_eq_3_delta_one_gives_the_phantom_branch_nothing_of_its_own() -> None:
    phantom = logits(SURE)
    loss = binding_loss(
        logits(EVEN), phantom, logits(EVEN), labels([0, 1, 0, 1]), labels([1, 1, 1, 1]), torch.tensor([1.0])
    )
    loss.total.backward()
    assert loss.total.item() == pytest.approx(2 * log(2), rel=1e-6)
    assert gradient(phantom).abs().max() == 0


def test_eq_3_all_void_sample_adds_zero_with_finite_gradients() -> None:
    heads = [logits(EVEN, SURE) for _ in range(3)]
    void = labels([0, 0, 0, 0], [255] * 4)
    loss = binding_loss(heads[0], heads[1], heads[2], void, void, torch.tensor([0.7, 0.7]))
    loss.total.backward()
    assert loss.total.item() == pytest.approx(2 * log(2) / 2, rel=1e-6)
    for head in heads:
        assert torch.isfinite(gradient(head)).all()
        assert gradient(head)[1].abs().max() == 0
        assert gradient(head)[0].abs().max() > 0


def test_eq_3_void_differs_between_the_two_label_maps() -> None:
    loss = binding_loss(
        logits(SURE), logits(SURE), logits(SURE), labels([255] * 4), labels([1, 255, 255, 255]), torch.tensor([0.75])
    )
    assert loss.total.item() == pytest.approx(0.25 * log(4), rel=1e-6)


def test_eq_3_upsamples_logits_bilinearly_at_pixel_centres() -> None:
    # Native logits of class 0: 0 and 4 side by side. On four columns (align_corners=False): 0, 1, 3, 4.
    native = torch.tensor([[[[0.0, 4.0]], [[0.0, 0.0]]]])
    expected = sum(log(1 + pow(2.718281828459045, -value)) for value in (0.0, 1.0, 3.0, 4.0)) / 4
    assert cross_entropy(native, torch.zeros(1, 1, 4, dtype=torch.uint8)).item() == pytest.approx(expected, rel=1e-6)


def test_eq_4_by_hand() -> None:
    # S_p of sample 1: ReLU keeps 2 and 3 of (2, -5, 3, -1); of sample 2: nothing.
    phantom = torch.tensor([[[[2.0, -5.0]], [[3.0, -1.0]]], [[[-1.0, -2.0]], [[-3.0, 0.0]]]])
    loss = denoise_loss(logits(EVEN, SURE), phantom, labels([0, 1, 0, 255], [1] * 4))
    assert phantom_activation(phantom).tolist() == [5.0, 0.0]
    assert loss.suppression.item() == pytest.approx(log(6) / 2, rel=1e-6)
    assert loss.dominant.item() == pytest.approx((log(2) + log(4)) / 2, rel=1e-6)
    assert loss.total.item() == pytest.approx((log(2) + log(6) + log(4)) / 2, rel=1e-6)


def test_eq_4_silent_phantom_is_zero_with_finite_gradient() -> None:
    phantom = torch.full((1, 2, 3, 3), -1.0, requires_grad=True)
    loss = denoise_loss(logits(EVEN), phantom, labels([255] * 4))
    loss.total.backward()
    assert loss.total.item() == 0.0
    assert gradient(phantom).abs().max() == 0


def test_eq_4_sums_over_pixels_and_classes_before_the_logarithm() -> None:
    # 2 classes x 3 x 3 pixels of 0.5: Σ = 9, so log 10, with slope 1/10 everywhere.
    phantom = torch.full((1, 2, 3, 3), 0.5, requires_grad=True)
    loss = denoise_loss(logits(EVEN), phantom, labels([255] * 4))
    loss.total.backward()
    assert loss.total.item() == pytest.approx(log(10), rel=1e-6)
    assert gradient(phantom).flatten().tolist() == pytest.approx([0.1] * 18, rel=1e-6)


def test_eq_4_sums_half_precision_logits_in_float32() -> None:
    phantom = torch.full((1, 2, 300, 300), 10.0, dtype=torch.float16)  # Σ = 1.8 million; float16 ends at 65,504
    assert phantom_activation(phantom).tolist() == [1_800_000.0]


def test_plain_loss_is_the_dominant_term() -> None:
    loss = plain_loss(logits(SURE, SURE), labels([0, 255, 255, 255], [1, 1, 1, 1]))
    assert loss.total.item() == loss.dominant.item() == pytest.approx((log(4 / 3) + log(4)) / 2, rel=1e-6)
