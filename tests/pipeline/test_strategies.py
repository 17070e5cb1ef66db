"""The options that choose a strategy: what they mean, what is refused, and what a plan says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from fbind.manifests.clusters import ClusterManifest, ImageRecord, MembershipRule, SourceSpec, build_manifest
from fbind.manifests.errors import ConfigError
from fbind.manifests.labels import LabelSet, voc_palette
from fbind.manifests.reader import BlendStore
from fbind.manifests.strategies import (
    STRATEGIES,
    AnyStrategy,
    CategoryStrategy,
    FixedDeltaStrategy,
    HalfStrategy,
    PlainStrategy,
    RandomStrategy,
    Strategy,
    WithinCategoryStrategy,
)
from fbind.pipeline.commands.strategies import (
    MANY_RECIPES,
    NAMES,
    about_empty,
    about_many,
    strategy_of,
    strategy_options,
)
from fbind.pipeline.inspection import inspect_store
from fbind.pipeline.preview import draw_preview
from fbind.pipeline.recipes import plan_recipes
from fbind.pipeline.verification import verify

from .conftest import write_store


def chosen(*arguments: str) -> AnyStrategy:
    """The strategy that a command with these arguments gets."""
    found: list[AnyStrategy] = []

    @click.command()
    @strategy_options
    def command(**given: Any) -> None:
        found.append(strategy_of(given))

    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return found[0]


def test_the_command_line_knows_every_strategy_by_its_name() -> None:
    assert tuple(STRATEGIES) == NAMES
    for name, model in STRATEGIES.items():
        strategy = chosen("--strategy", name)
        assert strategy == model()
        assert strategy.name == name


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", CategoryStrategy()),
        ("--delta 0.5 0.9 --align pad --disjoint", CategoryStrategy(delta=(0.5, 0.9), align="pad", disjoint=True)),
        ("--partners 3 --per-category-cap 50", CategoryStrategy(partners=3, per_category_cap=50)),
        ("--strategy random", RandomStrategy(partners=10)),
        ("--strategy random --partners all", RandomStrategy(partners=None)),
        ("--strategy within-category --partners 4", WithinCategoryStrategy(partners=4)),
        ("--strategy fixed-delta --delta 0.5 0.5", FixedDeltaStrategy(delta=(0.5, 0.5))),
        ("--strategy half --partners all", HalfStrategy()),
        ("--strategy none", PlainStrategy()),
    ],
)
def test_options_become_parameters(arguments: str, expected: AnyStrategy) -> None:
    assert chosen(*arguments.split()) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--strategy none --partners 3", "--partners is about blends, and --strategy none makes none: leave it out"),
        ("--strategy none --delta 0.7 1", "--delta is about blends"),
        ("--strategy within-category --disjoint", "--disjoint wants partners that share no category"),
        ("--strategy random --per-category-cap 9", r"--per-category-cap counts .* \(--limit bounds all\): leave it"),
        ("--strategy fixed-delta --per-category-cap 9", "--strategy fixed-delta goes by images"),
        ("--delta 0.9 0.3", "the lower end comes first"),
        ("--strategy fixed-delta --delta 0.5 0.6", "delta must be one value, not 0.5 to 0.6"),
    ],
)
def test_options_that_contradict_each_other_are_refused_in_one_line(arguments: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        chosen(*arguments.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["0", "-1", "some", "1.5"])
def test_partners_is_a_positive_number_or_all(value: str) -> None:
    done = CliRunner().invoke(click.command()(strategy_options(lambda **_: None)), ["--partners", value])
    assert done.exit_code == 2
    assert "--partners" in done.output


parameters = st.fixed_dictionaries(
    {},
    optional={
        "partners": st.none() | st.integers(1, 99),
        "per_category_cap": st.none() | st.integers(1, 99),
        "disjoint": st.booleans(),
        "align": st.sampled_from(["resize", "pad"]),
    },
)


@given(name=st.sampled_from(NAMES), values=parameters)
def test_a_strategy_survives_json(name: str, values: dict[str, Any]) -> None:
    model = STRATEGIES[name]
    strategy = model.model_validate({key: value for key, value in values.items() if key in model.model_fields})
    adapter: TypeAdapter[AnyStrategy] = TypeAdapter(Strategy)
    assert adapter.validate_json(adapter.dump_json(strategy)) == strategy


@pytest.mark.parametrize(
    ("name", "blended", "grouped", "partly_plain", "delta"),
    [
        ("category", True, True, False, (0.7, 1.0)),
        ("random", True, False, False, (0.7, 1.0)),
        ("within-category", True, True, False, (0.7, 1.0)),
        ("fixed-delta", True, False, False, (0.6, 0.6)),
        ("half", True, True, True, (0.7, 1.0)),
        ("co-occurrence", True, True, False, (0.7, 1.0)),
        ("none", False, False, False, (1.0, 1.0)),
    ],
)
def test_all_strategies_answer_the_same_questions(
    name: str, blended: bool, grouped: bool, partly_plain: bool, delta: tuple[float, float]
) -> None:
    strategy = STRATEGIES[name]()
    assert (strategy.blended, strategy.grouped, strategy.partly_plain) == (blended, grouped, partly_plain)
    assert (strategy.delta, strategy.align) == (delta, "resize")


def test_a_very_large_plan_says_where_it_comes_from_and_what_makes_it_smaller() -> None:
    labels = LabelSet(names=tuple(map(str, range(101))), palette=voc_palette(101))
    table = tuple(
        ImageRecord(id=str(row), height=9, width=9, pixels={0: 1, **dict.fromkeys(range(1, 101), 1)})
        for row in range(1100)
    )
    clusters = build_manifest(labels, SourceSpec(kind="folder", root="/", split="t"), MembershipRule(), table)
    recipes = plan_recipes(clusters, CategoryStrategy(), 0, 5)
    assert recipes.asked == 1100 * 100 * 99 > MANY_RECIPES
    assert about_many(recipes, CategoryStrategy()) == (
        "10,890,000 recipes in all: 99 partners for each of 110,000 cluster memberships; --partners N, "
        "--per-category-cap N or --limit N make fewer"
    )
    few = CategoryStrategy(partners=2)
    assert about_many(plan_recipes(clusters, few, 0, 5), few) is None


def test_empty_clusters_matter_to_strategies_that_go_by_clusters() -> None:
    labels = LabelSet(names=("background", "a", "b", "c"), palette=voc_palette(4))
    table = tuple(ImageRecord(id=str(row), height=9, width=9, pixels={1 + row % 2: 1}) for row in range(4))
    clusters = build_manifest(labels, SourceSpec(kind="folder", root="/", split="t"), MembershipRule(), table)
    assert "1 of 3 clusters have no images (c)" in (about_empty(clusters, CategoryStrategy()) or "")
    assert about_empty(clusters, RandomStrategy()) is None
    assert about_empty(clusters, PlainStrategy()) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_store_of_every_strategy_verifies_and_can_be_looked_at(
    name: str, clusters: ClusterManifest, tmp_path: Path
) -> None:
    path = write_store(clusters, tmp_path / "store.zarr", STRATEGIES[name](), 10)
    verification = verify(path, 2)
    assert verification.ok, verification
    found = inspect_store(path)
    strategy = STRATEGIES[name]()
    assert bool(found.categories) == strategy.grouped
    assert bool(found.delta_histogram) == (strategy.delta[0] < strategy.delta[1])
    assert draw_preview(BlendStore.open(path), tmp_path / "sheet.png", samples=10) is None
    sample = BlendStore.open(path).read(0)
    assert (sample.phantom is not None) == strategy.blended
