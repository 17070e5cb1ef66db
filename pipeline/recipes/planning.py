"""The strategies of Table 5(a) as functions from clusters to pairings, and the plan that draws from them.

Pairings are numbered, not listed; they are brought into a random order, and only as many as the plan keeps are given
partners, block by block. The seed feeds separate generators for order, partners and δ, and every block its own: a
limited plan is the beginning of the whole one, and another range of δ does not change who meets whom.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...manifests.clusters import ClusterManifest
from ...manifests.errors import ConfigError
from ...manifests.strategies import (
    NO_CLASS,
    AnyBlending,
    CategoryStrategy,
    CoOccurrenceStrategy,
    FixedDeltaStrategy,
    HalfStrategy,
    PlainStrategy,
    RandomStrategy,
    Strategy,
    WithinCategoryStrategy,
)
from .columns import Recipes
from .order import Order
from .pairings import Groups, Pairings
from .partners import Company, Rule, draw_distinct, draw_partners

BLOCK = 1 << 16
"""Pairings that are given partners together; part of what a seed means, so changing it changes the recipes."""
MOST_RECIPES = 100_000_000
"""Columns of so many recipes fill 1.4 GB, their blends some 50 TB."""


class Meetings(NamedTuple):
    """n pairings and who fills them."""

    dominant_image: np.ndarray
    """(n,) int32."""
    phantom_image: np.ndarray
    """(n,) int32; -1 where nobody can."""
    dominant_class: np.ndarray
    """(n,) uint8."""
    phantom_class: np.ndarray
    """(n,) uint8."""


@dataclass(frozen=True)
class Scheme:
    """What a strategy makes of clusters: the pairings it asks for, and how they are filled."""

    pairings: Pairings
    meet: Callable[[np.ndarray, np.random.Generator], Meetings]
    """From pairing numbers (n,) int64."""


def plan_recipes(clusters: ClusterManifest, strategy: Strategy, seed: int, limit: int | None = None) -> Recipes:
    """Plan the first ``limit`` recipes of a strategy, in their order.

    Because the order is a good shuffle already, reading a store's shards in sequence is too, and a limited store is a
    uniform sample of the whole one. Raises :class:`ConfigError` when the clusters allow no recipe at all, or so many
    that the plan would not fit into memory.
    """
    scheme_seed, order_seed, partner_seed, delta_seed, half_seed = np.random.SeedSequence(seed).spawn(5)
    if isinstance(strategy, PlainStrategy):
        count = len(clusters.images)
        rows = Order(count, order_seed).part(0, count if limit is None else limit)
        return Recipes(rows.astype(np.int32), np.ones(len(rows), np.float32), asked=count, askers=count)
    scheme = scheme_of(clusters, strategy, scheme_seed)
    asked = len(scheme.pairings)
    wanted = asked if limit is None else min(limit, asked)
    _check_memory(wanted, "recipes")
    met, unmatched = _meet(scheme, wanted, Order(asked, order_seed), partner_seed)
    count = len(met.dominant_image)
    if count == 0:
        raise ConfigError(_none_possible(strategy))
    delta = uniform_delta(count, *strategy.delta, np.random.default_rng(delta_seed))
    if strategy.partly_plain:
        plain = one_of_two(count, np.random.default_rng(half_seed))
        delta[plain], met.phantom_image[plain], met.phantom_class[plain] = 1.0, -1, NO_CLASS
    return Recipes(
        dominant_image=met.dominant_image,
        delta=delta,
        phantom_image=met.phantom_image,
        dominant_class=met.dominant_class,
        phantom_class=met.phantom_class,
        asked=asked,
        askers=len(scheme.pairings.groups.images),
        unmatched=unmatched,
    )


def scheme_of(clusters: ClusterManifest, strategy: AnyBlending, seed: np.random.SeedSequence) -> Scheme:
    """The scheme of any strategy that blends."""
    match strategy:
        case CategoryStrategy() | HalfStrategy():
            return across_clusters(clusters, strategy, seed)
        case CoOccurrenceStrategy():
            return by_cooccurrence(clusters, strategy, seed)
        case WithinCategoryStrategy():
            return within_groups(Groups.clusters(clusters), Company(clusters, disjoint=False), strategy, seed)
        case RandomStrategy() | FixedDeltaStrategy():
            company = Company(clusters, disjoint=strategy.disjoint)
            return within_groups(Groups.everyone(clusters), company, strategy, seed)


def across_clusters(
    clusters: ClusterManifest, strategy: CategoryStrategy | HalfStrategy, seed: np.random.SeedSequence
) -> Scheme:
    """C_fb: every member of every cluster meets one image of each other cluster (section 3.1).

    With ``partners``, one image of each of so many other clusters, which are drawn anew for every membership.
    """
    cap_seed, cluster_seed = seed.spawn(2)
    groups, company = Groups.clusters(clusters), Company(clusters, disjoint=strategy.disjoint)
    others = max(len(groups) - 1, 0)
    count = others if strategy.partners is None else min(strategy.partners, others)
    table = None
    if count < others:
        members = len(groups.images)
        _check_memory(members * count, "partners")
        generator = np.random.default_rng(cluster_seed)
        table = draw_distinct(np.full(members, others), count, generator).astype(np.uint8)
    pairings = Pairings(groups, np.full(len(groups), count), strategy.per_category_cap, cap_seed)

    def meet(numbers: np.ndarray, generator: np.random.Generator) -> Meetings:
        place = pairings.locate(numbers)
        other = place.slot if table is None else table[place.membership, place.slot].astype(np.int64)
        other = other + (other >= place.group)  # the other clusters are counted without one's own
        return _across(groups, company, place.membership, place.group, other, generator)

    return Scheme(pairings, meet)


def by_cooccurrence(clusters: ClusterManifest, strategy: CoOccurrenceStrategy, seed: np.random.SeedSequence) -> Scheme:
    """As :func:`across_clusters`, the partner's cluster drawn in proportion to how often it occurs with one's own.

    The proportions are the co-occurrence matrix's row without the diagonal, the background and empty clusters; where
    nothing remains, every other cluster is as likely. Draws are independent, so a cluster may come twice.
    """
    groups, company = Groups.clusters(clusters), Company(clusters, disjoint=strategy.disjoint)
    others = max(len(groups) - 1, 0)
    count = others if strategy.partners is None else strategy.partners * (others > 0)
    pairings = Pairings(groups, np.full(len(groups), count), strategy.per_category_cap, seed)
    weights = np.array(clusters.cooccurrence, np.int64)[np.ix_(groups.categories, groups.categories)]
    np.fill_diagonal(weights, 0)
    weights[weights.sum(axis=1) == 0] = 1
    np.fill_diagonal(weights, 0)
    upto = np.cumsum(weights)
    sums = weights.sum(axis=1)

    def meet(numbers: np.ndarray, generator: np.random.Generator) -> Meetings:
        place = pairings.locate(numbers)
        group = place.group
        drawn = (np.cumsum(sums) - sums)[group] + generator.integers(0, sums[group])
        other = np.searchsorted(upto, drawn, side="right") - group * len(groups)
        return _across(groups, company, place.membership, group, other, generator)

    return Scheme(pairings, meet)


def within_groups(
    groups: Groups,
    company: Company,
    strategy: RandomStrategy | FixedDeltaStrategy | WithinCategoryStrategy,
    seed: np.random.SeedSequence,
) -> Scheme:
    """R_fb and Ca_fb: every member of a group meets ``partners`` different others of it, or all where there are fewer.

    A member alone in its group asks for one partner all the same, which is counted as unmatched.
    """
    cap_seed, partner_seed = seed.spawn(2)
    others = groups.sizes - 1
    wanted = others if strategy.partners is None else np.minimum(strategy.partners, others)
    cap = strategy.per_category_cap if isinstance(strategy, WithinCategoryStrategy) else None
    pairings = Pairings(groups, np.maximum(wanted, 1), cap, cap_seed)
    table = None
    if strategy.partners is not None and len(groups):
        owner = np.repeat(np.arange(len(groups)), groups.sizes)
        count = max(int(wanted.max()), 1)
        _check_memory(len(owner) * count, "partners")

        @functools.cache
        def candidates(common: int, group: int) -> np.ndarray:
            members = np.arange(groups.first[group], groups.first[group + 1])
            return members[np.isin(groups.images[members], company.without(common, groups.images[members]))]

        def allowed(memberships: np.ndarray, others: np.ndarray) -> np.ndarray:
            partners = _step_over(groups, owner[memberships], memberships, others)
            return company.allowed(groups.images[memberships], groups.images[partners])

        def numbers(membership: int) -> np.ndarray:
            image, group = groups.images[membership], owner[membership]
            common = int(company.commonest(image[None])[0])
            found = candidates(common, int(group))
            found = found[company.allowed(image, groups.images[found])] - groups.first[group]
            return found - (found > membership - groups.first[group])

        rule = Rule(allowed, numbers) if company.disjoint else None
        table = draw_distinct(others[owner], count, np.random.default_rng(partner_seed), rule)

    def meet(numbers: np.ndarray, _: np.random.Generator) -> Meetings:
        group, membership, slot = pairings.locate(numbers)
        other = slot if table is None else table[membership, slot].astype(np.int64)
        there = (other >= 0) & (others[group] > 0)
        partner = _step_over(groups, group, membership, np.where(there, other, 0))
        dominant, phantom = groups.images[membership], groups.images[np.where(there, partner, 0)]
        if table is None:
            there &= company.allowed(dominant, phantom)
        own = groups.categories[group]
        return Meetings(dominant, np.where(there, phantom, -1).astype(np.int32), own, own.copy())

    return Scheme(pairings, meet)


def one_of_two(count: int, generator: np.random.Generator) -> np.ndarray:
    """(count,) bool: of the samples 2k and 2k + 1, one, chosen by a coin; so it is half of every beginning."""
    coins = generator.random(-(-count // 2)) < 0.5
    return np.stack([coins, ~coins], axis=1).reshape(-1)[:count]


def uniform_delta(count: int, low: float, high: float, generator: np.random.Generator) -> np.ndarray:
    """(count,) float32, uniform in [low, high]; rounding to float32 never leaves the range."""
    values = generator.random(count)
    values *= high - low
    values += low
    # Compared as Python floats: against a float32, NumPy would round the bound to float32 first.
    least, most = np.float32(low), np.float32(high)
    if float(least) < low:
        least = np.nextafter(least, np.float32(2))
    if float(most) > high:
        most = np.nextafter(most, np.float32(-1))
    return np.clip(values.astype(np.float32), least, max(least, most))


def _meet(scheme: Scheme, wanted: int, order: Order, seed: np.random.SeedSequence) -> tuple[Meetings, int]:
    """Fill pairings in their order until ``wanted`` are filled; also how many on the way could not be."""
    blocks, filled, unmatched = [], 0, 0
    for first in range(0, order.total, BLOCK):
        # A whole block even when fewer are wanted: the draws in it must not depend on the limit.
        met = scheme.meet(order.part(first, first + BLOCK), np.random.default_rng(seed.spawn(1)[0]))
        found = np.flatnonzero(met.phantom_image >= 0)[: wanted - filled]
        filled += len(found)
        looked_at = found[-1] + 1 if filled == wanted and len(found) else len(met.phantom_image)
        unmatched += int(looked_at) - len(found)
        blocks.append(Meetings(*(column[found] for column in met)))
        if filled == wanted:
            break
    empty = Meetings(*(np.empty(0, dtype) for dtype in (np.int32, np.int32, np.uint8, np.uint8)))
    return Meetings(*(np.concatenate(columns) for columns in zip(empty, *blocks, strict=True))), unmatched


def _across(
    groups: Groups,
    company: Company,
    membership: np.ndarray,
    group: np.ndarray,
    other: np.ndarray,
    generator: np.random.Generator,
) -> Meetings:
    """Each membership of a group meets an image of another group."""
    dominant = groups.images[membership]
    phantom = draw_partners(dominant, other, groups, company, generator)
    return Meetings(dominant, phantom, groups.categories[group], groups.categories[other])


def _step_over(groups: Groups, group: np.ndarray, membership: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Index into ``groups.images`` of the nth other member of each membership's group."""
    chosen = groups.first[group] + others
    return chosen + (chosen >= membership)


def _check_memory(count: int, what: str) -> None:
    if count > MOST_RECIPES:
        raise ConfigError(
            f"{count:,} {what} are more than a plan can hold ({MOST_RECIPES:,}): give --limit N, fewer "
            "--partners N or, where the strategy goes by categories, --per-category-cap N"
        )


def _none_possible(strategy: AnyBlending) -> str:
    if isinstance(strategy, WithinCategoryStrategy):
        needed = "a category with two images"
    else:
        needed = "two categories with images" if strategy.grouped else "two images"
        needed += " that share no category (--disjoint)" if strategy.disjoint else ""
    return f"these clusters allow no blends: at least {needed} are needed"
