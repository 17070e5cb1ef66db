from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fbind.manifests.clusters import ClusterManifest, ImageRecord, MembershipRule, SourceSpec, build_manifest
from fbind.manifests.errors import ConfigError
from fbind.manifests.labels import LabelSet, voc_palette
from fbind.manifests.store import CategoryStrategy, PlainStrategy
from fbind.pipeline.recipes import Recipes, draw_other, plan_recipes

LABELS = LabelSet(names=("background", "a", "b", "c", "d"), palette=voc_palette(5))


def clusters_of(*images: set[int]) -> ClusterManifest:
    """Clusters of images that hold these categories."""
    table = tuple(
        ImageRecord(id=f"i{row}", height=10 + row % 3, width=20, pixels=dict.fromkeys(sorted({0} | held), 5))
        for row, held in enumerate(images)
    )
    return build_manifest(LABELS, SourceSpec(kind="folder", root="/r", split="all"), MembershipRule(), table)


def rows(recipes: Recipes) -> list[tuple[int, int, int, int]]:
    assert recipes.phantom_image is not None
    assert recipes.dominant_class is not None
    assert recipes.phantom_class is not None
    columns = (recipes.dominant_image, recipes.phantom_image, recipes.dominant_class, recipes.phantom_class)
    return list(zip(*(column.tolist() for column in columns), strict=True))


IMAGES = st.lists(st.sets(st.integers(1, 4)), min_size=1, max_size=30)


def eligible(clusters: ClusterManifest, image: int, other: int, disjoint: bool) -> set[int]:
    """By the definition, one image at a time: who may be the partner of ``image`` from cluster ``other``."""
    held = [{value for value in record.pixels if value} for record in clusters.images]
    members = {row for row, sets in enumerate(held) if other in sets} - {image}
    return {row for row in members if not disjoint or not held[row] & held[image]}


@given(images=IMAGES, disjoint=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=200)
def test_every_membership_meets_each_other_cluster_exactly_once(
    images: list[set[int]], disjoint: bool, seed: int
) -> None:
    clusters = clusters_of(*images)
    wanted = {
        (image, own, other)
        for image, held in enumerate(images)
        for own in held
        for other in {1, 2, 3, 4} - {own}
        if eligible(clusters, image, other, disjoint)
    }
    strategy = CategoryStrategy(disjoint=disjoint)
    if not wanted:
        with pytest.raises(ConfigError, match="allow no blends"):
            plan_recipes(clusters, strategy, seed)
        return
    recipes = plan_recipes(clusters, strategy, seed)
    met = [(dominant, own, other) for dominant, _, own, other in rows(recipes)]
    assert len(met) == len(set(met))
    assert set(met) == wanted
    for dominant, phantom, _, other in rows(recipes):
        assert phantom in eligible(clusters, dominant, other, disjoint)
    asked = sum(
        1 for held in images for own in held for other in {1, 2, 3, 4} - {own} if any(other in h for h in images)
    )
    assert recipes.unmatched == asked - len(wanted)


@pytest.mark.parametrize("disjoint", [False, True])
def test_partners_are_uniform_in_their_cluster(disjoint: bool) -> None:
    # Image 0 holds a and b, so as an a it may meet 20 of the 21 images of cluster b (or, disjoint, none of them), and
    # any of the 20 of cluster c; the 200 others only hold a.
    clusters = clusters_of({1, 2}, *[{1}] * 200, *[{2}] * 20, *[{3}] * 20)
    counts = np.zeros(len(clusters.images))
    for seed in range(40):
        for _, phantom, own, other in rows(plan_recipes(clusters, CategoryStrategy(disjoint=disjoint), seed)):
            if own == 1 and other == 3:
                counts[phantom] += 1
    drawn = counts[221:]
    assert counts.sum() == drawn.sum() == 40 * 201
    assert stats.chisquare(drawn).pvalue > 1e-3


def test_draw_other_is_uniform_over_the_rest() -> None:
    others = np.array([2, 5, 9, 11], np.int32)
    members = np.repeat(np.array([5, 7], np.int32), 30_000)
    drawn = draw_other(members, others, np.random.default_rng(0))
    inside, outside = drawn[:30_000], drawn[30_000:]
    assert set(inside) == {2, 9, 11}
    assert set(outside) == {2, 5, 9, 11}
    assert stats.chisquare(np.unique(inside, return_counts=True)[1]).pvalue > 1e-3
    assert stats.chisquare(np.unique(outside, return_counts=True)[1]).pvalue > 1e-3


def test_an_image_alone_in_its_cluster_has_no_partner_there() -> None:
    assert draw_other(np.array([3], np.int32), np.array([3], np.int32), np.random.default_rng(0)).tolist() == [-1]


@given(low=st.floats(0, 1), high=st.floats(0, 1), seed=st.integers(0, 99))
def test_delta_stays_in_its_range(low: float, high: float, seed: int) -> None:
    low, high = min(low, high), max(low, high)
    delta = plan_recipes(clusters_of({1}, {2}, {3}), CategoryStrategy(delta=(low, high)), seed).delta
    nearest = np.spacing(np.float32(high))  # the range may be narrower than what float32 resolves
    assert np.all(delta.astype(np.float64) >= low)
    assert np.all(delta.astype(np.float64) <= high + nearest)


def test_delta_is_uniform() -> None:
    delta = plan_recipes(clusters_of(*[{1}] * 1000, *[{2}] * 1000), CategoryStrategy(), 0).delta
    assert delta.min() >= 0.7
    assert delta.max() <= 1
    assert stats.kstest(delta, stats.uniform(0.7, 0.3).cdf).pvalue > 1e-3


def test_seed_decides_everything_and_delta_does_not_change_partners() -> None:
    clusters = clusters_of(*[{1}, {2}, {3}] * 10)
    first, again = (plan_recipes(clusters, CategoryStrategy(), 5) for _ in range(2))
    assert rows(first) == rows(again)
    assert np.array_equal(first.delta, again.delta)
    other = plan_recipes(clusters, CategoryStrategy(), 6)
    assert rows(other) != rows(first)
    narrower = plan_recipes(clusters, CategoryStrategy(delta=(0.5, 0.6)), 5)
    assert rows(narrower) == rows(first)


def test_limit_takes_the_first_of_the_same_shuffled_recipes() -> None:
    clusters = clusters_of(*[{1}, {2}, {3}] * 10)
    whole, part = plan_recipes(clusters, CategoryStrategy(), 5), plan_recipes(clusters, CategoryStrategy(), 5, 17)
    assert rows(part) == rows(whole)[:17]


def test_order_is_shuffled() -> None:
    """Reading in sequence mixes the categories: within any 40 samples, no class is far from its share."""
    recipes = plan_recipes(clusters_of(*[{1}] * 100, *[{2}] * 100, *[{3}] * 100), CategoryStrategy(), 1)
    assert recipes.dominant_class is not None
    blocks = recipes.dominant_class.reshape(-1, 40)
    assert all(len(np.unique(block)) == 3 for block in blocks)


def test_plain_takes_every_image_once_even_without_a_category() -> None:
    recipes = plan_recipes(clusters_of({1}, set(), {2, 3}), PlainStrategy(), 0)
    assert sorted(recipes.dominant_image.tolist()) == [0, 1, 2]
    assert recipes.delta.tolist() == [1, 1, 1]
    assert recipes.phantom_image is None
    assert set(recipes.columns(np.ones((3, 2)))) == {"delta", "size", "recipe/dominant_image"}


def test_sizes_are_those_of_the_dominant_images() -> None:
    clusters = clusters_of({1}, {2}, {3})
    recipes = plan_recipes(clusters, CategoryStrategy(), 0)
    sizes = np.array([(image.height, image.width) for image in clusters.images])
    assert np.array_equal(recipes.columns(sizes)["size"][:, 0], 10 + recipes.dominant_image % 3)


def test_20_full_clusters_give_19_blends_per_membership() -> None:
    """Section 3.1 on VOC's 20 categories."""
    labels = LabelSet(names=tuple(map(str, range(21))), palette=voc_palette(21))
    table = tuple(
        ImageRecord(id=f"i{row}", height=9, width=9, pixels={0: 5, 1 + row % 20: 9, 1 + row * 7 % 20: 9})
        for row in range(200)
    )
    clusters = build_manifest(labels, SourceSpec(kind="voc", root="/", split="t"), MembershipRule(), table)
    memberships = sum(len(members) for members in clusters.clusters.values())
    assert len(plan_recipes(clusters, CategoryStrategy(), 0)) == 19 * memberships
