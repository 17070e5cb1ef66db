"""What a training run is told (:class:`TrainConfig`), with every default resolved."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ..manifests.base import Frozen, first_problem
from ..manifests.errors import ConfigError

Stage = Literal["binding", "denoise", "plain"]
NetworkName = Literal["deeplabv3-resnet101", "deeplabv3-resnet50", "deeplabv3-mobilenet", "small"]

LEARNING_RATES: dict[Stage, float] = {"binding": 2.5e-4, "denoise": 2.5e-5, "plain": 2.5e-4}
"""The paper's, for encoders that start from pretrained weights."""
SMALL_LEARNING_RATES: dict[Stage, float] = {"binding": 5e-2, "denoise": 5e-3, "plain": 5e-2}
"""For the small network, which starts from random weights; the same ratio of ten between the stages."""
EPOCHS = 30


class TrainConfig(Frozen):
    """A whole training run. Make it with :meth:`resolve`, which fills in what depends on stage and network.

    Exactly one of ``epochs`` and ``steps`` is set. ``batch`` counts samples, ``crop`` pixels.
    """

    shards: str
    run: str
    stage: Stage = "binding"
    network: NetworkName = "deeplabv3-resnet101"
    weights: str
    init: str | None = None
    epochs: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    batch: int = Field(default=10, ge=2, description="Batch norm over a single sample has no variance")
    crop: int = Field(default=321, ge=1, le=8192)
    flip: bool = True
    lr: float = Field(gt=0, allow_inf_nan=False)
    head_lr_factor: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    power: float = Field(default=0.9, ge=0, allow_inf_nan=False)
    bn: Literal["train", "frozen"] = "train"
    hidden: int | None = Field(default=None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**63)
    threads: int = Field(default=2, ge=1)
    log_every: int = Field(default=20, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps, not both")
        if self.stage == "denoise" and self.init is None:
            raise ValueError("stage denoise continues from stage 1: name its checkpoint with --init")
        if self.init is not None and self.weights != "none":
            raise ValueError("--init already brings the encoder's weights: leave --weights out")
        if self.network == "small" and self.weights != "none":
            raise ValueError("there are no pretrained weights for the small network: use --weights none")
        return self

    @classmethod
    def resolve(cls, **options: Any) -> TrainConfig:
        """Check options and fill in the defaults; an option that is ``None`` counts as not given.

        Raises :class:`ConfigError` naming the option that is wrong.
        """
        given = {name: value for name, value in options.items() if value is not None}
        small = given.get("network") == "small"
        if "epochs" not in given and "steps" not in given:
            given["epochs"] = EPOCHS
        given.setdefault("weights", "none" if small or "init" in given else "imagenet")
        rates = SMALL_LEARNING_RATES if small else LEARNING_RATES
        stage = given.get("stage", "binding")
        if stage in rates:
            given.setdefault("lr", rates[stage])
        else:
            given.setdefault("lr", LEARNING_RATES["binding"])
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ConfigError(explain(error)) from None

    def total_steps(self, samples: int) -> int:
        """How many optimiser steps the run takes on a store of ``samples`` samples."""
        return self.steps if self.steps is not None else (self.epochs or 0) * (samples // self.batch)


def explain(error: ValidationError) -> str:
    """One line for the first wrong option, under its name on the command line, with what was given."""
    problem = error.errors()[0]
    if not problem["loc"]:
        return problem["msg"].removeprefix("Value error, ")
    option = "--" + str(problem["loc"][0]).replace("_", "-")
    if problem["type"] == "extra_forbidden":
        return f"there is no training option {option}"
    if problem["type"] == "missing":
        return f"{option} is required"
    hint = " (batch norm needs at least two samples)" if option == "--batch" else ""
    return f"{option}: {first_problem(error).partition(': ')[2].replace('Input', 'it')}, got {problem['input']!r}{hint}"
