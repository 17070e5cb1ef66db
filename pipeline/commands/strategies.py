"""The options that choose a mixing strategy, and what a plan says about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ...manifests.clusters import ClusterManifest
    from ...manifests.strategies import Strategy
    from ..recipes import Recipes

Command = TypeVar("Command", bound=Callable[..., Any])

NAMES = ("category", "random", "within-category", "fixed-delta", "half", "co-occurrence", "none")
"""The strategies of :mod:`fbind.manifests.strategies`, named here so that ``--help`` need not import them."""

ALL = "all"
MANY_RECIPES = 10_000_000
"""From here on a plan explains where so many recipes come from, and which options make fewer."""


class Partners(click.ParamType):
    """A positive number, or ``all``."""

    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or ``all`` as it is."""
        return value if value == ALL else click.IntRange(min=1).convert(value, param, ctx)


def strategy_options(command: Command) -> Command:
    """Add ``--strategy`` and its parameters to a command; :func:`strategy_of` reads them."""
    options = (
        click.option(
            "--strategy",
            type=click.Choice(NAMES),
            default="category",
            show_default=True,
            help="Who meets whom. 'category': every member of every cluster one image of each other cluster; 'random': "
            "every image 10 others; 'within-category': every member 10 others of its own cluster; 'fixed-delta': as "
            "random, δ 0.6; 'half': as category, but half the samples stay plain; 'co-occurrence': as category, but "
            "the partner's category is drawn by how often it occurs with the member's; 'none': plain images (for the "
            "baseline, stage 2 and validation).",
        ),
        click.option(
            "--delta",
            nargs=2,
            type=click.FloatRange(0, 1),
            default=None,
            metavar="LOW HIGH",
            help="Range of δ, the weight of the dominant image, drawn uniformly.  [default: 0.7 1; fixed-delta: 0.6 "
            "0.6]",
        ),
        click.option(
            "--align",
            type=click.Choice(["resize", "pad"]),
            default=None,
            help="How the partner gets the dominant image's size: resampled, or cut and padded.  [default: resize]",
        ),
        click.option(
            "--partners",
            type=Partners(),
            default=None,
            metavar="N|all",
            help="Partners of every membership (of every image, if categories play no part), from as many different "
            "clusters where the strategy pairs clusters.  [default: all; random, fixed-delta and within-category: 10]",
        ),
        click.option(
            "--per-category-cap",
            type=click.IntRange(min=1),
            default=None,
            metavar="N",
            help="At most N recipes with the same dominant category, a uniform sample of them.",
        ),
        click.option("--disjoint", is_flag=True, help="Only partners that share no category with the dominant image."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def strategy_of(given: Mapping[str, Any]) -> Strategy:
    """The strategy that the options of :func:`strategy_options` describe.

    Raises :class:`~fbind.manifests.errors.ConfigError` for an option that the strategy has no use for.
    """
    from pydantic import ValidationError

    from ...manifests.base import first_problem
    from ...manifests.errors import ConfigError
    from ...manifests.strategies import STRATEGIES

    name = given["strategy"]
    model = STRATEGIES[name]
    parameters = {
        option: given[option]
        for option in ("delta", "align", "partners", "per_category_cap", "disjoint")
        if given[option] not in (None, False)
    }
    for option in parameters:
        if option not in model.model_fields:
            raise ConfigError(f"--{option.replace('_', '-')} {_why_not(name, option)}: leave it out")
    if parameters.get("partners") == ALL:
        parameters["partners"] = None
    try:
        return model(**parameters)
    except ValidationError as error:
        raise ConfigError(f"--strategy {name}: {first_problem(error)}") from None


def _why_not(name: str, option: str) -> str:
    """Why a strategy does not have an option."""
    if name == "none":
        return "is about blends, and --strategy none makes none"
    if option == "disjoint":
        return f"wants partners that share no category, and --strategy {name} pairs images of the same one"
    return f"counts the recipes of each category, and --strategy {name} goes by images (--limit bounds all)"


def about_empty(clusters: ClusterManifest, strategy: Strategy) -> str | None:
    """What empty clusters mean for a store of blends, if there are any and the strategy goes by clusters."""
    empty = [name for name, members in clusters.clusters.items() if not members]
    if not empty or not strategy.grouped:
        return None
    return (
        f"{len(empty)} of {len(clusters.clusters)} clusters have no images ({', '.join(empty)}): no blend will show "
        f"them, and cluster members can meet {max(len(clusters.clusters) - len(empty) - 1, 0)} other clusters instead "
        f"of {len(clusters.clusters) - 1}"
    )


def about_many(recipes: Recipes, strategy: Strategy) -> str | None:
    """Where the recipes of a very large plan come from and how to make fewer; ``None`` for other plans."""
    if recipes.asked <= MANY_RECIPES:
        return None
    ways = [option for option in ("per_category_cap",) if option in type(strategy).model_fields]
    named = ", ".join(["--partners N", *(f"--{option.replace('_', '-')} N" for option in ways)])
    who = "cluster membership" if strategy.grouped else "image"
    return (
        f"{recipes.asked:,} recipes in all: {recipes.asked / recipes.askers:,.0f} partners for each of "
        f"{recipes.askers:,} {who}s; {named} or --limit N make fewer"
    )
