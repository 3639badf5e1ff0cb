"""Build the planted world: everything that is drawn once, before the first row.

Letters: C categories, D days of the log, R regions, X coefficients of a domain's part.
"""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from iak.pipeline.planted.population import (
    CATEGORIES,
    CITY_TIERS,
    DAYS_STREAM,
    F64,
    I64,
    Knobs,
    Population,
    draw_population,
)
from iak.pipeline.planted.taste import Taste, domain_coefficients, draw_tastes


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """Draws indices in proportion to weights, over all of them or within a range of them."""

    index: I64
    edges: F64
    """Cumulative weight before each index and after the last, from 0 to 1."""

    def pick(self, points: F64) -> I64:
        """Return the indices at these points of the cumulative weight, 0 <= point < 1."""
        positions = np.searchsorted(self.edges[1:], points, side="right")
        return self.index[np.minimum(positions, len(self.index) - 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """One region's users, its menu, and its tastes by day.

    Of a pair, `[0]` holds in the base's window and `[1]` after it, when fresh ids have appeared.
    """

    name: str
    number: int
    city_tier: int
    users: tuple[Draw, Draw]
    items: tuple[Draw, Draw]
    category_edges: tuple[F64, F64]
    """Cumulative weight at which each category of the menu begins, and 1, (C + 1,)."""
    click: F64
    """Coefficients of the click's domain part, (D, X)."""
    order: F64
    """Coefficients of the order's domain part, (D, X)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Everything that is drawn once, before the first row."""

    knobs: Knobs
    population: Population
    click: Taste
    order: Taste
    regions: tuple[Region, ...]
    rows_RD: I64
    """Rows of each region and day."""


def build_world(knobs: Knobs) -> World:
    """Draw the population, the tastes and the regions."""
    sizes = _region_sizes(knobs)
    population = draw_population(knobs, sizes)
    click, order = draw_tastes(population, seed=knobs.seed)
    return World(
        knobs=knobs,
        population=population,
        click=click,
        order=order,
        regions=_regions(knobs, population),
        rows_RD=_rows_by_region_and_day(knobs, sizes),
    )


def _region_sizes(knobs: Knobs) -> F64:
    """Return each region's share of the rows, (R,), falling geometrically by `skew` overall."""
    count = len(knobs.regions)
    weights = knobs.skew ** (-np.arange(count) / max(1, count - 1))
    return np.asarray(weights / weights.sum())


def _rows_by_region_and_day(knobs: Knobs, sizes: F64) -> I64:
    """Return the rows of each partition, (R, D); weekends are busier, and the sum is `rows`."""
    rng = np.random.default_rng((knobs.seed, DAYS_STREAM))
    weekend = [(knobs.start_date + timedelta(days=d)).weekday() >= 5 for d in range(knobs.days)]
    busy = np.where(weekend, 1.10, 1.0) * rng.uniform(0.97, 1.03, knobs.days)
    exact = knobs.rows * np.outer(sizes, busy / busy.sum())
    rows = np.floor(exact).astype(np.int64)
    # Rounding down left some rows over. They go where it cut off most.
    short = knobs.rows - int(rows.sum())
    most_cut = np.argsort((rows - exact).ravel(), kind="stable")[:short]
    rows.ravel()[most_cut] += 1
    return np.asarray(rows, dtype=np.int64)


def _regions(knobs: Knobs, population: Population) -> tuple[Region, ...]:
    click_RDX = domain_coefficients(knobs, task=0)
    order_RDX = domain_coefficients(knobs, task=1)
    tiers = np.arange(len(knobs.regions)) * len(CITY_TIERS) // len(knobs.regions)
    regions = []
    for number, name in enumerate(knobs.regions):
        users, menu = _who_and_what(population, number)
        user_draws = tuple(_draw_of(users, w) for w in _old_and_all(population, users, "user"))
        item_weights = _old_and_all(population, menu, "item")
        item_draws = tuple(_draw_of(menu, w) for w in item_weights)
        starts = np.searchsorted(population.item_category[menu], np.arange(len(CATEGORIES) + 1))
        regions.append(
            Region(
                name=name,
                number=number,
                city_tier=int(tiers[number]),
                users=(user_draws[0], user_draws[1]),
                items=(item_draws[0], item_draws[1]),
                category_edges=(item_draws[0].edges[starts], item_draws[1].edges[starts]),
                click=click_RDX[number],
                order=order_RDX[number],
            )
        )
    return tuple(regions)


def _who_and_what(population: Population, region: int) -> tuple[I64, I64]:
    """Return a region's users, and its items (local shops and chains) sorted by category."""
    users = np.flatnonzero(population.user_region == region)
    regions = population.shop_region[population.item_shop]
    menu = np.flatnonzero((regions == region) | (regions == -1))
    return users, menu[np.argsort(population.item_category[menu], kind="stable")]


def _old_and_all(population: Population, index: I64, kind: str) -> tuple[F64, F64]:
    """Return weights over `index` in the base's window, where fresh ids weigh nothing, and after.

    Args:
        population: users and items.
        index: users or items of one region.
        kind: `user` or `item`.
    """
    weight: F64 = getattr(population, f"{kind}_weight")[index]
    is_fresh: NDArray[np.bool_] = getattr(population, f"{kind}_is_fresh")[index].copy()
    if is_fresh.all():
        is_fresh[0] = False  # somebody must be there to draw
    return np.where(is_fresh, 0.0, weight), weight


def _draw_of(index: I64, weight: F64) -> Draw:
    edges = np.r_[0.0, np.cumsum(weight / weight.sum())]
    return Draw(index=index, edges=edges / edges[-1])
