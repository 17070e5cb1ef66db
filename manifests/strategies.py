"""The mixing strategies of the paper's Table 5(a): which images meet, and with which δ.

A strategy is what a store's manifest remembers of it: its name and its parameters. Who meets whom is planned in
:mod:`fbind.pipeline.recipes`. All strategies answer the same questions (``blended``, ``delta``, ``grouped``,
``partly_plain``), so that readers need not know them one by one.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .base import Frozen

DeltaRange = tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]
Count = Annotated[int, Field(gt=0)]

NO_CLASS = 255
"""The class column's value where no category brought the image in."""


class BlendingStrategy(Frozen):
    """What all strategies that blend have in common.

    ``partners`` is how many partners each image (or each membership of an image in a cluster) is given; ``None``: all
    there are.
    """

    delta: DeltaRange = (0.7, 1.0)
    align: Literal["resize", "pad"] = "resize"
    partners: Count | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.delta[0] > self.delta[1]:
            low, high = self.delta
            raise ValueError(f"got {low:g} {high:g}, but the lower end comes first, e.g. 0.7 1")
        return self

    @property
    def blended(self) -> bool:
        """Whether there are phantom images."""
        return True

    @property
    def grouped(self) -> bool:
        """Whether a category brings each image in; otherwise the class columns hold 255."""
        return True

    @property
    def partly_plain(self) -> bool:
        """Whether some samples stay plain: phantom image -1, phantom class 255, δ exactly 1."""
        return False


class CategoryStrategy(BlendingStrategy):
    """C_fb of Table 5(a): every cluster member meets one partner from each other cluster, or from ``partners`` of them.

    ``per_category_cap`` bounds the recipes of each dominant category; ``disjoint``: partners share no category.
    """

    name: Literal["category"] = "category"
    disjoint: bool = False
    per_category_cap: Count | None = None


class RandomStrategy(BlendingStrategy):
    """R_fb of Table 5(a): every image meets ``partners`` other images, whatever they show."""

    name: Literal["random"] = "random"
    partners: Count | None = 10
    disjoint: bool = False

    @property
    def grouped(self) -> bool:
        """Categories play no part."""
        return False


class WithinCategoryStrategy(BlendingStrategy):
    """Ca_fb of Table 5(a): every cluster member meets ``partners`` other members of its own cluster."""

    name: Literal["within-category"] = "within-category"
    partners: Count | None = 10
    per_category_cap: Count | None = None


class FixedDeltaStrategy(BlendingStrategy):
    """WR_fb of Table 5(a): as ``random``, with one and the same δ for all blends."""

    name: Literal["fixed-delta"] = "fixed-delta"
    delta: DeltaRange = (0.6, 0.6)
    partners: Count | None = 10
    disjoint: bool = False

    @model_validator(mode="after")
    def _fixed(self) -> Self:
        if self.delta[0] != self.delta[1]:
            raise ValueError(f"delta must be one value, not {self.delta[0]:g} to {self.delta[1]:g}")
        return self

    @property
    def grouped(self) -> bool:
        """Categories play no part."""
        return False


class HalfStrategy(BlendingStrategy):
    """M_fb of Table 5(a), as this project reads it: the recipes of ``category``, half of which stay plain."""

    name: Literal["half"] = "half"
    disjoint: bool = False
    per_category_cap: Count | None = None

    @property
    def partly_plain(self) -> bool:
        """One sample of two."""
        return True


class CoOccurrenceStrategy(BlendingStrategy):
    """As ``category``, but the partner's category is drawn in proportion to how often it occurs with the member's."""

    name: Literal["co-occurrence"] = "co-occurrence"
    disjoint: bool = False
    per_category_cap: Count | None = None


class PlainStrategy(Frozen):
    """No blending: every image of the split once, for the baseline, for stage 2 and for validation."""

    name: Literal["none"] = "none"

    @property
    def delta(self) -> DeltaRange:
        """The dominant image is all there is."""
        return (1.0, 1.0)

    @property
    def align(self) -> Literal["resize"]:
        """There is no partner whose size could differ."""
        return "resize"

    @property
    def blended(self) -> bool:
        """There are no phantom images."""
        return False

    @property
    def grouped(self) -> bool:
        """Categories play no part."""
        return False

    @property
    def partly_plain(self) -> bool:
        """There are no blends among which a sample could be plain."""
        return False


AnyBlending = (
    CategoryStrategy
    | RandomStrategy
    | WithinCategoryStrategy
    | FixedDeltaStrategy
    | HalfStrategy
    | CoOccurrenceStrategy
)
AnyStrategy = AnyBlending | PlainStrategy
Strategy = Annotated[AnyStrategy, Field(discriminator="name")]

STRATEGIES: dict[str, type[AnyStrategy]] = {
    "category": CategoryStrategy,
    "random": RandomStrategy,
    "within-category": WithinCategoryStrategy,
    "fixed-delta": FixedDeltaStrategy,
    "half": HalfStrategy,
    "co-occurrence": CoOccurrenceStrategy,
    "none": PlainStrategy,
}
"""Every strategy by its name, in the order in which the command line and the documentation list them."""
