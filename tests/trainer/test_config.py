from __future__ import annotations

import pytest
from pydantic import ValidationError

from fbind.manifests.errors import ConfigError
from fbind.trainer.config import TrainConfig


def resolve(**options: object) -> TrainConfig:
    return TrainConfig.resolve(shards="s.zarr", run="r", **options)


def test_defaults_are_the_papers() -> None:
    config = resolve()
    assert (config.stage, config.network, config.weights) == ("binding", "deeplabv3-resnet101", "imagenet")
    assert (config.epochs, config.steps, config.batch, config.crop) == (30, None, 10, 321)
    assert (config.lr, config.momentum, config.weight_decay, config.power) == (2.5e-4, 0.9, 5e-4, 0.9)
    assert resolve(stage="denoise", init="c.pt").lr == 2.5e-5
    assert resolve(stage="plain").lr == 2.5e-4


def test_what_depends_on_network_and_init() -> None:
    assert resolve(network="small").weights == "none"
    assert resolve(network="small").lr > resolve().lr
    assert resolve(init="c.pt").weights == "none"
    assert resolve(steps=7).epochs is None


def test_total_steps() -> None:
    assert resolve(epochs=3, batch=4).total_steps(11) == 6
    assert resolve(steps=5).total_steps(11) == 5


def test_round_trip_and_immutability() -> None:
    config = resolve(steps=5, lr=0.1)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError):
        config.lr = 1.0  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 1, "steps": 1}, "either epochs or steps"),
        ({"stage": "denoise"}, "--init"),
        ({"init": "c.pt", "weights": "coco"}, "leave --weights out"),
        ({"network": "small", "weights": "imagenet"}, "--weights none"),
        ({"batch": 1}, "--batch: .* got 1 .*batch norm needs at least two"),
        ({"crop": 0}, "--crop: .* got 0"),
        ({"crop": 10_000}, "--crop: .* got 10000"),
        ({"lr": 0.0}, "--lr: .* got 0.0"),
        ({"lr": float("nan")}, "--lr: "),
        ({"lr": float("inf")}, "--lr: "),
        ({"momentum": 1.0}, "--momentum: "),
        ({"head_lr_factor": -1.0}, "--head-lr-factor: "),
        ({"threads": 0}, "--threads: "),
        ({"stage": "both"}, "--stage: .* got 'both'"),
        ({"network": "vgg"}, "--network: .* got 'vgg'"),
        ({"colour": 1}, "no training option --colour"),
    ],
)
def test_wrong_options_are_named_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(**options)
    assert "\n" not in str(caught.value)
