"""Draw the tastes of users: the logit of a row, its global part and the part of its region.

    logit p(row) = level + taste(row) + standing(region, row) + drift(region, day, row)

`taste` is global and does not change. The other two are the domain's part: how a region differs
over the base's window (`standing`), and how its tastes move in time (`drift`). Both weigh category,
price, scene, distance and category by daypart, so they reorder the items that a user sees. A second
set of coefficients gives the order, given the click.

Drift is a Gaussian process in day time with a Matern 3/2 covariance, whose paths are smooth: tastes
have a direction as well as a position. It is centred on the base's window, so a base can learn
`standing` and cannot learn `drift`.

Letters: C categories, S segments, P dayparts, K factors, D days, R regions, X coefficients.
Source: the covariance is Rasmussen & Williams 2006, eq. 4.17.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from iak.pipeline.planted.population import (
    AGE_GROUPS,
    CATEGORIES,
    DAYPARTS,
    DRIFT_STREAM,
    F32,
    F64,
    SCENES,
    SEGMENTS,
    STANDING_STREAM,
    TASTE_STREAM,
    Knobs,
    Population,
)

FACTORS = 4
"""Size K of the low-rank interaction between a user and an item."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Size, in logits, of each effect in the global part of one task.

    A size is a standard deviation, except `price`, `distance`, `scene`, `weekend` and `history`,
    which are means or fixed coefficients.
    """

    category: float
    shop: float
    item: float
    segment: float
    age: float
    user: float
    segment_category: float
    daypart_category: float
    price: float
    price_spread: float
    """Standard deviation of the price coefficient over segments."""
    distance: float
    scene: tuple[float, ...]
    """One coefficient for each scene."""
    weekend: float
    history: float
    """Coefficient of the share of the user's history in the item's category."""
    factors: float
    """Standard deviation of the low-rank interaction of user and item."""


CLICK = Sizes(
    category=0.30,
    shop=0.15,
    item=0.10,
    segment=0.15,
    age=0.1,
    user=0.08,
    segment_category=0.20,
    daypart_category=0.30,
    price=-0.40,
    price_spread=0.15,
    distance=-0.45,
    scene=(-0.30, 0.55, 0.20, 0.90),
    weekend=0.08,
    history=1.8,
    factors=0.06,
)
ORDER = Sizes(
    category=0.30,
    shop=0.12,
    item=0.08,
    segment=0.15,
    age=0.1,
    user=0.06,
    segment_category=0.12,
    daypart_category=0.15,
    price=-0.50,
    price_spread=0.15,
    distance=-0.55,
    scene=(-0.35, 0.55, 0.40, 0.90),
    weekend=0.05,
    history=1.2,
    factors=0.04,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainSizes:
    """Standard deviation, in logits, of each effect of a domain's part, before it is scaled."""

    category: float
    daypart_category: float
    price: float
    distance: float
    scene: float
    level: float

    @property
    def per_coefficient(self) -> F64:
        """Return the size of each coefficient, (X,), in the order that `domain_taste` unpacks."""
        groups = (
            (self.category, len(CATEGORIES)),
            (self.daypart_category, len(DAYPARTS) * len(CATEGORIES)),
            (self.price, 1),
            (self.distance, 1),
            (self.scene, len(SCENES)),
            (self.level, 1),
        )
        return np.concatenate([np.full(count, size) for size, count in groups])


DOMAIN_CLICK = DomainSizes(
    category=0.50, daypart_category=0.10, price=0.30, distance=0.20, scene=0.30, level=0.10
)
DOMAIN_ORDER = DomainSizes(
    category=0.40, daypart_category=0.08, price=0.30, distance=0.20, scene=0.35, level=0.10
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Taste:
    """The global part of one task's logit, the same in every region on every day."""

    item: F64
    """Coefficient of each item, its category and shop included."""
    user: F64
    """Coefficient of each user, segment and age included."""
    segment_category: F64
    """Flat, (S * C,): segment s and category c at s * C + c."""
    daypart_category: F64
    segment_price: F64
    distance: float
    scene: F64
    weekend: float
    history: float
    user_factors: F32
    item_factors: F32


def draw_tastes(population: Population, *, seed: int) -> tuple[Taste, Taste]:
    """Draw the global coefficients of the click, and of the order given the click."""
    return (
        _taste(population, CLICK, np.random.default_rng((seed, TASTE_STREAM, 0))),
        _taste(population, ORDER, np.random.default_rng((seed, TASTE_STREAM, 1))),
    )


def _taste(population: Population, sizes: Sizes, rng: Generator) -> Taste:
    """Draw one task's global coefficients.

    Effects of category, shop, segment and age are added to items and users.
    """
    users, items = len(population.user_region), len(population.item_shop)
    shops = len(population.shop_region)
    of_category = rng.normal(0.0, sizes.category, len(CATEGORIES))
    of_shop = rng.normal(0.0, sizes.shop, shops)
    of_segment = rng.normal(0.0, sizes.segment, len(SEGMENTS))
    of_age = rng.normal(0.0, sizes.age, len(AGE_GROUPS))
    # The product of two factor vectors then has a standard deviation of `sizes.factors`.
    scale = np.sqrt(sizes.factors / np.sqrt(FACTORS))
    return Taste(
        item=of_category[population.item_category]
        + of_shop[population.item_shop]
        + rng.normal(0.0, sizes.item, items),
        user=of_segment[population.user_segment]
        + of_age[population.user_age]
        + rng.normal(0.0, sizes.user, users),
        segment_category=rng.normal(
            0.0, sizes.segment_category, (len(SEGMENTS), len(CATEGORIES))
        ).ravel(),
        daypart_category=rng.normal(0.0, sizes.daypart_category, (len(DAYPARTS), len(CATEGORIES))),
        segment_price=rng.normal(sizes.price, sizes.price_spread, len(SEGMENTS)),
        distance=sizes.distance,
        scene=np.array(sizes.scene),
        weekend=sizes.weekend,
        history=sizes.history,
        user_factors=rng.normal(0.0, scale, (users, FACTORS)).astype(np.float32),
        item_factors=rng.normal(0.0, scale, (items, FACTORS)).astype(np.float32),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainTaste:
    """One region's part of one task's logit on one day."""

    daypart_category: F64
    price: float
    distance: float
    scene: F64
    level: float


def domain_taste(coefficients: F64) -> DomainTaste:
    """Unpack one region's coefficients of one day, (X,).

    The coefficient of a category is added to each daypart's coefficient of that category.
    """
    cells = len(DAYPARTS) * len(CATEGORIES)
    ends = np.cumsum([len(CATEGORIES), cells, 1, 1, len(SCENES)])
    category, daypart_category, price, distance, scene, level = np.split(coefficients, ends)
    return DomainTaste(
        daypart_category=daypart_category.reshape(len(DAYPARTS), -1) + category,
        price=float(price[0]),
        distance=float(distance[0]),
        scene=scene,
        level=float(level[0]),
    )


def domain_coefficients(knobs: Knobs, *, task: int) -> F64:
    """Return one task's domain part by region and day, (R, D, X), in logits.

    The lasting part sums to zero over regions. The drift sums to zero over the base's days.

    Args:
        knobs: settings of the generator.
        task: 0 for the click, 1 for the order.
    """
    sizes = (DOMAIN_CLICK, DOMAIN_ORDER)[task].per_coefficient
    regions, width = len(knobs.regions), len(sizes)
    rng = np.random.default_rng((knobs.seed, STANDING_STREAM, task))
    standing = rng.normal(size=(regions, width))
    # Without the mean: what all regions share is taste, which the global part has already.
    standing -= standing.mean(axis=0)
    rng = np.random.default_rng((knobs.seed, DRIFT_STREAM, task))
    white = rng.normal(size=(regions, knobs.days, width))
    common = rng.normal(size=(knobs.days, width))
    # The weights keep the variance at 1, whatever share the regions have in common.
    white = np.sqrt(1 - knobs.drift_shared) * white + np.sqrt(knobs.drift_shared) * common
    path = _drift_in_time(knobs) @ white
    moved = knobs.domain_difference * standing[:, None, :] + knobs.drift * path
    return np.asarray(sizes * moved)


def _drift_in_time(knobs: Knobs) -> F64:
    """Return the matrix F, (D, D), that turns white noise over days into drift.

    F F' is the Matern 3/2 covariance with length scale `drift_days`, centred on the base's window
    and scaled to unit variance on the last day.
    """
    day = np.arange(knobs.days)
    lag = np.sqrt(3.0) * np.abs(np.subtract.outer(day, day)) / knobs.drift_days
    # The small diagonal keeps the matrix positive definite in floating point.
    path = np.linalg.cholesky((1.0 + lag) * np.exp(-lag) + 1e-9 * np.eye(knobs.days))
    path -= path[: knobs.base_days].mean(axis=0)
    return np.asarray(path / max(1e-6, float(np.linalg.norm(path[-1]))))
