"""What compare-recipes measures, against numbers worked out by hand, and what it prints, draws and refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fbind.cli.main import COMMANDS
from fbind.manifests.clusters import (
    ClusterManifest,
    ImageRecord,
    MembershipRule,
    SourceSpec,
    build_manifest,
    load_clusters,
    save_clusters,
)
from fbind.manifests.errors import ConfigError
from fbind.manifests.labels import LabelSet, voc_palette
from fbind.manifests.strategies import STRATEGIES, CategoryStrategy, HalfStrategy
from fbind.pipeline.commands.comparison import compare_recipes
from fbind.pipeline.commands.strategies import NAMES
from fbind.pipeline.comparison import pair_distribution
from fbind.pipeline.recipes import Recipes, plan_recipes

from .conftest import write_store

LABELS = LabelSet(names=("background", "a", "b", "c", "d"), palette=voc_palette(5))


def clusters_of(*images: set[int]) -> ClusterManifest:
    table = tuple(
        ImageRecord(id=f"i{row}", height=10, width=20, pixels=dict.fromkeys(sorted({0} | held), 5))
        for row, held in enumerate(images)
    )
    return build_manifest(LABELS, SourceSpec(kind="folder", root="/r", split="all"), MembershipRule(), table)


def recipes_of(*pairs: tuple[int, int]) -> Recipes:
    dominant, phantom = np.array(pairs, np.int32).T
    return Recipes(dominant, np.full(len(pairs), 0.8, np.float32), phantom)


def test_the_measures_of_three_blends_and_a_plain_image_by_hand() -> None:
    """Images: 0 {a}, 1 {a, b}, 2 {c}. Category d has no images, so 3² = 9 pairs are possible.

    0 with 1 adds 1/2 to (a, a) and (a, b); 1 with 2 adds 1/2 to (a, c) and (b, c); 2 with 0 adds 1 to (c, a).
    """
    found = pair_distribution("hand", clusters_of({1}, {1, 2}, {3}), recipes_of((0, 1), (1, 2), (2, 0), (1, -1)))
    assert found.categories == ("a", "b", "c")
    assert found.pairs.tolist() == [[0.5, 0.5, 0.5], [0, 0, 0.5], [1, 0, 0]]
    assert (found.samples, found.blends, found.plain_share) == (4, 3, 0.25)
    # Shares 1/6 four times and 1/3 once.
    assert found.entropy == pytest.approx(4 / 6 * math.log2(6) + 1 / 3 * math.log2(3))
    assert found.evenness == pytest.approx(found.entropy / math.log2(9))
    assert found.same == pytest.approx(1 / 6)
    # a: rows 1.5 of 3, columns 1.5 of 3.
    assert found.commonest == ("a", pytest.approx(0.5))
    # Every blend contains an a: 0, 1 and 0.
    assert (found.holder, found.held) == ("a", 1.0)


def test_an_even_matrix_has_the_most_entropy() -> None:
    pairs = [(row, column) for row in range(4) for column in range(4)]
    found = pair_distribution("even", clusters_of({1}, {2}, {3}, {4}), recipes_of(*pairs))
    assert found.entropy == pytest.approx(4)
    assert found.evenness == pytest.approx(1)
    assert found.held == pytest.approx(7 / 16)  # the first of the equally common categories


def test_without_blends_there_is_nothing_to_measure() -> None:
    clusters = clusters_of({1}, {2})
    found = pair_distribution("none", clusters, plan_recipes(clusters, STRATEGIES["none"](), 0))
    assert (found.blends, found.plain_share, found.entropy, found.held) == (0, 1.0, 0.0, 0.0)


def test_category_is_more_even_than_random_where_one_category_is_everywhere() -> None:
    clusters = clusters_of(*[{1}] * 80, *[{2}] * 8, *[{3}] * 8, *[{4}] * 8)
    even, uneven, same = (
        pair_distribution(name, clusters, plan_recipes(clusters, STRATEGIES[name](), 0))
        for name in ("category", "random", "within-category")
    )
    assert even.entropy > uneven.entropy > same.entropy
    assert (even.same, same.same) == (0.0, 1.0)


@pytest.fixture
def clusters_file(tmp_path: Path) -> Path:
    save_clusters(clusters_of(*[{1}] * 9, {1, 2}, {2}, {3}, {3, 4}), tmp_path / "clusters.json")
    return tmp_path / "clusters.json"


def run(*arguments: object) -> str:
    done = CliRunner().invoke(compare_recipes, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_table_fits_80_columns_and_names_every_strategy(
    clusters_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(*NAMES, "--clusters", clusters_file).splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(NAMES)
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)


def test_json_has_the_matrices(clusters_file: Path) -> None:
    found = json.loads(run("category", "none", "--clusters", clusters_file, "--json", "--seed", 3))
    assert found["version"] == 1
    assert found["clusters"] == load_clusters(clusters_file).digest
    assert found["categories"] == ["a", "b", "c", "d"]
    category, none = found["recipes"]
    expected = pair_distribution(
        "category",
        load_clusters(clusters_file),
        plan_recipes(load_clusters(clusters_file), CategoryStrategy(), 3),
    )
    assert category["entropy_bits"] == pytest.approx(expected.entropy)
    assert np.allclose(category["pairs"], expected.pairs, atol=1e-6)
    assert (none["blends"], none["commonest_category"]) == (0, None)


def test_the_figure_is_drawn(clusters_file: Path, tmp_path: Path) -> None:
    figure = tmp_path / "new" / "pairs.png"
    assert f"wrote {figure}" in run(
        "category", "random", "none", "half", "--clusters", clusters_file, "--figure", figure
    )
    with Image.open(figure) as picture:
        colors = picture.convert("RGB").getcolors(1 << 24)
        assert picture.width > picture.height
        assert colors is not None
        assert len(colors) > 500


def test_a_store_counts_as_what_it_was_planned_from(clusters: ClusterManifest, tmp_path: Path) -> None:
    save_clusters(clusters, tmp_path / "clusters.json")
    store = tmp_path / "half.zarr"
    write_store(clusters, store, HalfStrategy(), 10)
    found = json.loads(run(store, "--clusters", tmp_path / "clusters.json", "--json"))["recipes"][0]
    expected = pair_distribution("half.zarr", clusters, plan_recipes(clusters, HalfStrategy(), 1, 10))
    assert found == json.loads(json.dumps(expected.summary()))
    assert (found["samples"], found["blends"], found["plain_share"]) == (10, 5, 0.5)


def test_a_store_of_other_clusters_is_refused(clusters: ClusterManifest, clusters_file: Path, tmp_path: Path) -> None:
    store = tmp_path / "blends.zarr"
    write_store(clusters, store, CategoryStrategy(), 10)
    with pytest.raises(ConfigError, match="was made from other clusters than") as caught:
        run(store, "--clusters", clusters_file)
    assert clusters.digest in str(caught.value)


def test_what_is_neither_a_strategy_nor_a_store_is_refused(clusters_file: Path) -> None:
    with pytest.raises(ConfigError, match="'categories' is neither a strategy"):
        run("categories", "--clusters", clusters_file)


def test_the_command_is_registered() -> None:
    assert COMMANDS["compare-recipes"][0] == "fbind.pipeline.commands.comparison:compare_recipes"
