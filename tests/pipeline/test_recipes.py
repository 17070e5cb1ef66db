from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fbind.manifests.clusters import ClusterManifest, ImageRecord, MembershipRule, SourceSpec, build_manifest
from fbind.manifests.errors import ConfigError
from fbind.manifests.labels import LabelSet, voc_palette
from fbind.manifests.strategies import (
    NO_CLASS,
    STRATEGIES,
    AnyStrategy,
    CategoryStrategy,
    CoOccurrenceStrategy,
    FixedDeltaStrategy,
    HalfStrategy,
    PlainStrategy,
    RandomStrategy,
    WithinCategoryStrategy,
)
from fbind.pipeline.recipes import MOST_RECIPES, Recipes, plan_recipes
from fbind.pipeline.recipes import order as order_module
from fbind.pipeline.recipes.order import Order
from fbind.pipeline.recipes.pairings import Groups, Pairings
from fbind.pipeline.recipes.partners import Company, Rule, draw_distinct, draw_partners

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


BLENDING = tuple(name for name in STRATEGIES if name != "none")
DISJOINT = tuple(name for name in BLENDING if "disjoint" in STRATEGIES[name].model_fields)
CAPPED = tuple(name for name in BLENDING if "per_category_cap" in STRATEGIES[name].model_fields)


def planned(clusters: ClusterManifest, strategy: AnyStrategy, seed: int, limit: int | None = None) -> Recipes | None:
    """The plan, or None where the clusters allow none."""
    try:
        return plan_recipes(clusters, strategy, seed, limit)
    except ConfigError as error:
        if "allow no blends" not in str(error):
            raise
        return None


@given(images=IMAGES, partners=st.integers(1, 5), seed=st.integers(0, 99))
def test_category_with_partners_meets_so_many_different_clusters(
    images: list[set[int]], partners: int, seed: int
) -> None:
    clusters = clusters_of(*images)
    recipes = planned(clusters, CategoryStrategy(partners=partners), seed)
    there = {category for category in (1, 2, 3, 4) if any(category in sets for sets in images)}
    if recipes is None:
        return
    met = Counter((dominant, own) for dominant, _, own, _ in rows(recipes))
    others = {(dominant, own, other) for dominant, _, own, other in rows(recipes)}
    assert len(others) == len(recipes)
    assert max(met.values()) <= min(partners, len(there) - 1)
    memberships = sum(map(len, images))
    assert recipes.askers == memberships
    assert recipes.asked == len(recipes) + recipes.unmatched == memberships * min(partners, len(there) - 1)
    for dominant, phantom, own, other in rows(recipes):
        assert phantom in eligible(clusters, dominant, other, False)
        assert own in images[dominant]
        assert own != other


@given(images=IMAGES, partners=st.none() | st.integers(1, 12), disjoint=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=200)
def test_random_meets_so_many_different_others(
    images: list[set[int]], partners: int | None, disjoint: bool, seed: int
) -> None:
    clusters = clusters_of(*images)
    recipes = planned(clusters, RandomStrategy(partners=partners, disjoint=disjoint), seed)
    allowed = {
        image: {
            other for other in range(len(images)) if other != image and not (disjoint and images[other] & images[image])
        }
        for image in range(len(images))
    }
    wanted = {image: min(len(others), partners or len(images)) for image, others in allowed.items()}
    if recipes is None:
        assert sum(wanted.values()) == 0
        return
    pairs = [(dominant, phantom) for dominant, phantom, _, _ in rows(recipes)]
    assert len(set(pairs)) == len(pairs)
    assert all(phantom in allowed[dominant] for dominant, phantom in pairs)
    met = Counter(dominant for dominant, _ in pairs)
    assert met == Counter({image: count for image, count in wanted.items() if count})
    assert recipes.dominant_class is not None
    assert recipes.phantom_class is not None
    assert set(recipes.dominant_class.tolist()) == set(recipes.phantom_class.tolist()) == {NO_CLASS}
    assert recipes.asked == len(recipes) + recipes.unmatched


@given(images=IMAGES, partners=st.none() | st.integers(1, 12), seed=st.integers(0, 99))
def test_within_category_meets_so_many_different_members_of_the_same_cluster(
    images: list[set[int]], partners: int | None, seed: int
) -> None:
    clusters = clusters_of(*images)
    recipes = planned(clusters, WithinCategoryStrategy(partners=partners), seed)
    size = Counter(category for sets in images for category in sets)
    wanted = {
        (image, own): min(size[own] - 1, partners or len(images))
        for image, sets in enumerate(images)
        for own in sets
        if size[own] > 1
    }
    if recipes is None:
        assert not wanted
        return
    assert len(set(rows(recipes))) == len(recipes)
    assert Counter((dominant, own) for dominant, _, own, _ in rows(recipes)) == Counter(wanted)
    for dominant, phantom, own, other in rows(recipes):
        assert own == other
        assert dominant != phantom
        assert own in images[dominant] & images[phantom]
    assert recipes.unmatched == sum(1 for count in size.values() if count == 1)


@given(images=IMAGES, seed=st.integers(0, 99))
def test_fixed_delta_is_random_with_one_delta(images: list[set[int]], seed: int) -> None:
    clusters = clusters_of(*images)
    recipes, random = (planned(clusters, strategy, seed) for strategy in (FixedDeltaStrategy(), RandomStrategy()))
    if recipes is None or random is None:
        assert recipes is random is None
        return
    assert rows(recipes) == rows(random)
    assert set(recipes.delta.tolist()) == {float(np.float32(0.6))}


def test_fixed_delta_takes_one_value() -> None:
    with pytest.raises(ValueError, match=r"one value, not 0\.5 to 0\.6"):
        FixedDeltaStrategy(delta=(0.5, 0.6))


@given(images=IMAGES, disjoint=st.booleans(), seed=st.integers(0, 99))
def test_half_is_category_with_every_other_sample_plain(images: list[set[int]], disjoint: bool, seed: int) -> None:
    clusters = clusters_of(*images)
    strategies = HalfStrategy(disjoint=disjoint), CategoryStrategy(disjoint=disjoint)
    recipes, category = (planned(clusters, strategy, seed) for strategy in strategies)
    if recipes is None or category is None:
        assert recipes is category is None
        return
    assert recipes.phantom_image is not None
    plain = recipes.phantom_image < 0
    assert np.all(np.abs(np.cumsum(plain) - np.arange(1, len(plain) + 1) / 2) <= 0.5)
    for is_plain, half, whole in zip(plain, rows(recipes), rows(category), strict=True):
        assert half == ((whole[0], -1, whole[2], NO_CLASS) if is_plain else whole)
    assert np.array_equal(recipes.delta, np.where(plain, np.float32(1), category.delta))
    assert -1 not in recipes.images().tolist()


@given(images=IMAGES, partners=st.none() | st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=200)
def test_co_occurrence_meets_categories_that_occur_together(
    images: list[set[int]], partners: int | None, seed: int
) -> None:
    clusters = clusters_of(*images)
    recipes = planned(clusters, CoOccurrenceStrategy(partners=partners), seed)
    there = {category for sets in images for category in sets}
    if recipes is None:
        return
    memberships = sum(map(len, images))
    assert len(recipes) + recipes.unmatched == memberships * (partners or len(there) - 1)
    for dominant, phantom, own, other in rows(recipes):
        together = {category for sets in images if own in sets for category in sets} - {own}
        assert other in (together or there - {own})
        assert phantom in eligible(clusters, dominant, other, False)


def test_co_occurrence_is_proportional() -> None:
    """The row of a is 30 b, 10 c and no d; that of d is all zero, so a, b and c are as likely."""
    clusters = clusters_of(*[{1, 2}] * 30, *[{1, 3}] * 10, *[{4}] * 40)
    counts: dict[int, Counter[int]] = {1: Counter(), 4: Counter()}
    for _, _, own, other in rows(plan_recipes(clusters, CoOccurrenceStrategy(partners=100), 0)):
        if own in counts:
            counts[own][other] += 1
    assert set(counts[1]) == {2, 3}
    assert set(counts[4]) == {1, 2, 3}
    assert stats.chisquare([counts[1][2], counts[1][3]], [3000, 1000]).pvalue > 1e-3
    assert stats.chisquare(list(counts[4].values())).pvalue > 1e-3


@pytest.mark.parametrize("name", BLENDING)
@given(images=IMAGES, seed=st.integers(0, 99), limit=st.integers(1, 60))
@settings(max_examples=30)
def test_a_limited_plan_is_the_beginning_of_the_whole_one(
    name: str, images: list[set[int]], seed: int, limit: int
) -> None:
    clusters = clusters_of(*images)
    whole = planned(clusters, STRATEGIES[name](), seed)
    part = planned(clusters, STRATEGIES[name](), seed, limit)
    if whole is None or part is None:
        assert whole is part is None
        return
    assert rows(part) == rows(whole)[:limit]
    assert np.array_equal(part.delta, whole.delta[:limit])
    assert part.asked == whole.asked
    assert part.unmatched <= whole.unmatched


@pytest.mark.parametrize("name", [name for name in BLENDING if name != "fixed-delta"])
def test_another_range_of_delta_keeps_the_pairs(name: str) -> None:
    clusters = clusters_of(*[{1}, {2}, {1, 3}, {3}] * 10)
    wide = plan_recipes(clusters, STRATEGIES[name].model_validate({"delta": (0.1, 0.9)}), 5)
    narrow = plan_recipes(clusters, STRATEGIES[name].model_validate({"delta": (0.8, 0.85)}), 5)
    assert rows(wide) == rows(narrow)
    blended = np.array([phantom >= 0 for _, phantom, _, _ in rows(narrow)])
    assert narrow.delta[blended].min() >= 0.8
    assert narrow.delta[blended].max() <= np.float32(0.85)
    assert np.all(narrow.delta[~blended] == 1)
    assert wide.delta[blended].min() < 0.3


@pytest.mark.parametrize("name", DISJOINT)
@given(images=IMAGES, seed=st.integers(0, 99))
@settings(max_examples=50)
def test_disjoint_partners_share_no_category(name: str, images: list[set[int]], seed: int) -> None:
    clusters = clusters_of(*images)
    recipes = planned(clusters, STRATEGIES[name].model_validate({"disjoint": True}), seed)
    for dominant, phantom, _, _ in [] if recipes is None else rows(recipes):
        assert phantom < 0 or not images[dominant] & images[phantom]


@pytest.mark.parametrize("name", CAPPED)
@given(images=IMAGES, cap=st.integers(1, 20), seed=st.integers(0, 99))
@settings(max_examples=50)
def test_the_cap_bounds_the_recipes_of_a_dominant_category(
    name: str, images: list[set[int]], cap: int, seed: int
) -> None:
    clusters = clusters_of(*images)
    whole = planned(clusters, STRATEGIES[name](), seed)
    capped = planned(clusters, STRATEGIES[name].model_validate({"per_category_cap": cap}), seed)
    if whole is None or capped is None:
        return
    asked = Counter(own for _, _, own, _ in rows(whole))
    kept = Counter(own for _, _, own, _ in rows(capped))
    assert all(count <= cap for count in kept.values())
    if not whole.unmatched:
        bounded = Counter({own: min(count, cap) for own, count in asked.items()})
        # Drawn anew, a partner category may hold nobody to meet, though those that were drawn without the cap did.
        assert name == "co-occurrence" or not capped.unmatched
        assert kept <= bounded
        assert kept.total() + capped.unmatched == bounded.total()


def test_the_cap_chooses_uniformly() -> None:
    """Of the 60 recipes whose dominant image is an a, each of its images and each other cluster is as likely."""
    clusters = clusters_of(*[{1}] * 20, *[{2}] * 4, *[{3}] * 4, *[{4}] * 4)
    met: Counter[tuple[int, int]] = Counter()
    for seed in range(300):
        recipes = plan_recipes(clusters, CategoryStrategy(per_category_cap=12), seed)
        met.update((dominant, other) for dominant, _, own, other in rows(recipes) if own == 1)
    assert len(met) == 60
    assert stats.chisquare(list(met.values())).pvalue > 1e-3


def test_partners_are_uniform_whether_drawn_by_rejection_or_from_the_list() -> None:
    """An image of a, b and c meets the one in twenty d's that holds nothing else: too rare for rejection alone."""
    clusters = clusters_of({1, 2, 3}, *[{1, 4}] * 1500, *[{4}] * 5)
    groups, company = Groups.clusters(clusters), Company(clusters, disjoint=True)
    count = 5000
    drawn = draw_partners(np.zeros(count, np.int32), np.full(count, 3), groups, company, np.random.default_rng(0))
    assert set(drawn.tolist()) == set(range(1501, 1506))
    assert stats.chisquare(np.unique(drawn, return_counts=True)[1]).pvalue > 1e-3


def test_every_set_of_distinct_numbers_is_as_likely() -> None:
    """Rejection, the list after it, and a rule: 3 of 5, where a row may not have its own number."""
    choices = np.full(20_000, 6)
    rule = Rule(lambda row, number: number != row % 2, lambda row: np.delete(np.arange(6), row % 2))
    table = draw_distinct(choices, 3, np.random.default_rng(0), rule)
    for parity in (0, 1):
        sets = Counter(map(tuple, np.sort(table[parity::2], axis=1).tolist()))
        assert len(sets) == 10
        assert not any(parity in numbers for numbers in sets)
        assert stats.chisquare(list(sets.values())).pvalue > 1e-3
    assert draw_distinct(np.array([0, 2]), 3, np.random.default_rng(0)).tolist() == [[-1, -1, -1], [0, 1, -1]]


def test_the_list_completes_what_rejection_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fbind.pipeline.recipes.partners.ROUNDS", 1)
    table = draw_distinct(np.full(20_000, 5), 3, np.random.default_rng(0))
    sets = Counter(map(tuple, np.sort(table, axis=1).tolist()))
    assert len(sets) == 10
    assert stats.chisquare(list(sets.values())).pvalue > 1e-3


@given(images=IMAGES, seed=st.integers(0, 99))
@settings(max_examples=50)
@pytest.mark.parametrize("strategy", [CategoryStrategy(disjoint=True), RandomStrategy(partners=40, disjoint=True)])
def test_the_list_alone_finds_the_same_partners_as_rejection(
    strategy: AnyStrategy, images: list[set[int]], seed: int
) -> None:
    clusters = clusters_of(*images)
    usual = planned(clusters, strategy, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fbind.pipeline.recipes.partners.ROUNDS", 0)
        listed = planned(clusters, strategy, seed)
    if usual is None or listed is None:
        assert usual is listed is None
        return
    if isinstance(strategy, RandomStrategy):  # 40 are all there are
        assert sorted(rows(listed)) == sorted(rows(usual))
    else:
        assert sorted((a, own, other) for a, _, own, other in rows(listed)) == sorted(
            (a, own, other) for a, _, own, other in rows(usual)
        )


@given(total=st.integers(0, 3000), seed=st.integers(0, 9), cut=st.integers(0, 3000))
@settings(max_examples=50)
@pytest.mark.parametrize("most", [0, 10_000])
def test_an_order_has_every_number_once_and_parts_agree(most: int, total: int, seed: int, cut: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "PERMUTED", most)  # 0: the way of orders too long to be made whole
        order = Order(total, np.random.SeedSequence(seed))
    whole = order.part(0, total + 5)
    assert sorted(whole.tolist()) == list(range(total))
    assert np.array_equal(np.concatenate([order.part(0, cut), order.part(cut, total)])[:total], whole[:total])


def test_a_very_long_order_looks_random() -> None:
    total = 10**11
    begin, later = (Order(total, np.random.SeedSequence(0)).part(first, first + 50_000) for first in (0, 10**10))
    both = np.concatenate([begin, later])
    assert len(np.unique(both)) == 100_000
    assert stats.kstest(both / total, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(begin[:-1], begin[1:])[0, 1]) < 0.02
    assert not np.isin(Order(total, np.random.SeedSequence(1)).part(0, 1000), begin).any()


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5), data=st.data())
def test_pairings_are_numbered_by_group_member_and_slot(sizes: list[int], data: st.DataObject) -> None:
    slots = data.draw(st.lists(st.integers(0, 4), min_size=len(sizes), max_size=len(sizes)))
    first = np.concatenate([[0], np.cumsum(sizes)])
    groups = Groups(np.arange(len(sizes), dtype=np.uint8), first, np.arange(first[-1], dtype=np.int32))
    pairings = Pairings(groups, np.array(slots), None, np.random.SeedSequence(0))
    place = pairings.locate(np.arange(len(pairings)))
    assert list(zip(*(part.tolist() for part in place), strict=True)) == [
        (group, first[group] + member, slot)
        for group, size in enumerate(sizes)
        for member in range(size)
        for slot in range(slots[group])
    ]


def test_254_categories_fit_their_columns() -> None:
    labels = LabelSet(names=tuple(map(str, range(254))), palette=voc_palette(254), background=None)
    table = tuple(ImageRecord(id=str(c), height=9, width=9, pixels={c: 5}) for c in range(254))
    clusters = build_manifest(labels, SourceSpec(kind="folder", root="/", split="t"), MembershipRule(), table)
    recipes = plan_recipes(clusters, CategoryStrategy(disjoint=True), 0)
    assert len(recipes) == 254 * 253
    for dominant, phantom, own, other in rows(recipes):
        assert (dominant, phantom) == (own, other)


def test_a_plan_too_large_for_memory_is_refused_and_a_limit_makes_it_small() -> None:
    clusters = clusters_of(*[{1}] * 10_100)
    strategy = RandomStrategy(partners=None)
    with pytest.raises(ConfigError, match="101,999,900 recipes are more than a plan can hold"):
        plan_recipes(clusters, strategy, 0)
    recipes = plan_recipes(clusters, strategy, 0, 100)
    assert recipes.asked == 10_100 * 10_099 > MOST_RECIPES
    assert len(set(rows(recipes))) == 100


@pytest.mark.parametrize(
    ("strategy", "needed"),
    [
        (RandomStrategy(), "at least two images are needed"),
        (WithinCategoryStrategy(), "a category with two images"),
        (CoOccurrenceStrategy(disjoint=True), r"two categories with images that share no category \(--disjoint\)"),
    ],
)
def test_clusters_that_allow_no_blends_are_refused(strategy: AnyStrategy, needed: str) -> None:
    with pytest.raises(ConfigError, match=needed):
        plan_recipes(clusters_of({1, 2}), strategy, 0)
