"""Draw the users, shops and items of the planted world from a seed.

Letters: C categories, S segments, R regions.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from iak.schemas.synth import SynthSpec

CATEGORIES = (
    "rice",
    "noodles",
    "dumplings",
    "hotpot",
    "malatang",
    "sichuan",
    "jiangzhe",
    "burger",
    "pizza",
    "fried_chicken",
    "sushi",
    "korean",
    "milk_tea",
    "coffee",
    "dessert",
    "fruit",
)
SEGMENTS = (
    "student",
    "office",
    "family",
    "night_owl",
    "bargain",
    "gourmet",
    "healthy",
    "newcomer",
)
AGE_GROUPS = ("under_20", "20_29", "30_39", "40_49", "50_plus")
SCENES = ("feed", "search", "coupon", "revisit")
DAYPARTS = ("breakfast", "lunch", "tea", "dinner", "night")
CITY_TIERS = ("tier_1", "tier_2", "tier_3")
SEGMENT_SHARES = (0.18, 0.26, 0.15, 0.08, 0.12, 0.07, 0.06, 0.08)
AGE_SHARES = (0.10, 0.42, 0.28, 0.13, 0.07)

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
I8 = NDArray[np.int8]

# Each random stream is named by (seed, stream, ...), so no draw depends on how many another made.
POPULATION_STREAM, TASTE_STREAM, STANDING_STREAM, DRIFT_STREAM = range(4)
ROWS_STREAM, PILOT_STREAM, DAYS_STREAM, WARM_STREAM = range(4, 8)


@dataclass(frozen=True, kw_only=True, slots=True)
class Knobs:
    """Settings of the generator as plain values; `SynthSpec` says what each one means."""

    rows: int
    days: int
    start_date: date
    regions: tuple[str, ...]
    users: int
    items: int
    shops: int
    seed: int
    skew: float
    base_share: float
    domain_difference: float
    drift: float
    drift_days: float
    drift_shared: float
    fresh_share: float
    chain_share: float
    user_zipf: float
    item_zipf: float
    favourite_share: float
    warm_clicks: int
    click_rate: float
    order_rate: float

    @property
    def base_days(self) -> int:
        """Return the number of days, oldest first, in the base's window."""
        return max(1, round(self.days * self.base_share))


def build_knobs(spec: SynthSpec) -> Knobs:
    """Return the plain values of a spec."""
    return Knobs(**{name: getattr(spec, name) for name in Knobs.__slots__})


@dataclass(frozen=True, kw_only=True, slots=True)
class Population:
    """Every user, shop and item, one entry each; the id in the log is the index plus one."""

    user_region: I64
    """Index of the one region where the user lives."""
    user_segment: I8
    user_age: I8
    user_favourite: I8
    """Category from which some of the user's rows are drawn."""
    user_weight: F64
    """Activity: rows are drawn in proportion to it."""
    user_is_fresh: NDArray[np.bool_]
    """Whether the user appears only after the base's window."""
    shop_region: I64
    """Index of the shop's region; -1 for a chain, which is in every region."""
    item_shop: I32
    item_category: I8
    item_price: F32
    item_weight: F64
    """Popularity: rows are drawn in proportion to it."""
    item_is_fresh: NDArray[np.bool_]


def draw_population(knobs: Knobs, sizes: F64) -> Population:
    """Draw every user, shop and item.

    Args:
        knobs: settings of the generator.
        sizes: each region's share of the rows, (R,).
    """
    rng = np.random.default_rng((knobs.seed, POPULATION_STREAM))
    segment = rng.choice(len(SEGMENTS), knobs.users, p=np.array(SEGMENT_SHARES))
    liking_SC = rng.gumbel(size=(len(SEGMENTS), len(CATEGORIES)))
    # The argmax of logits plus Gumbel noise is a draw from their softmax (the Gumbel-max trick).
    favourite = (liking_SC[segment] + rng.gumbel(size=(knobs.users, len(CATEGORIES)))).argmax(1)
    shop_region = np.where(
        rng.random(knobs.shops) < knobs.chain_share, -1, _spread(knobs.shops, sizes**0.7, rng)
    )
    shop_category = rng.integers(len(CATEGORIES), size=knobs.shops)
    # Each shop sells one item at least; the other items are spread at random.
    item_shop = np.r_[
        np.arange(knobs.shops), rng.integers(knobs.shops, size=knobs.items - knobs.shops)
    ]
    is_of_shop = rng.random(knobs.items) < 0.8
    category = np.where(
        is_of_shop, shop_category[item_shop], rng.integers(len(CATEGORIES), size=knobs.items)
    )
    usual_price = rng.normal(3.2, 0.35, len(CATEGORIES))
    return Population(
        user_region=_spread(knobs.users, sizes, rng),
        user_segment=segment.astype(np.int8),
        user_age=rng.choice(len(AGE_GROUPS), knobs.users, p=np.array(AGE_SHARES)).astype(np.int8),
        user_favourite=favourite.astype(np.int8),
        user_weight=_zipf(knobs.users, knobs.user_zipf, rng),
        user_is_fresh=rng.random(knobs.users) < knobs.fresh_share,
        shop_region=shop_region,
        item_shop=item_shop.astype(np.int32),
        item_category=category.astype(np.int8),
        item_price=np.exp(rng.normal(usual_price[category], 0.3)).astype(np.float32),
        item_weight=_zipf(knobs.items, knobs.item_zipf, rng),
        item_is_fresh=rng.random(knobs.items) < knobs.fresh_share,
    )


def _spread(count: int, weights: F64, rng: Generator) -> I64:
    """Return a region for each of `count` things, in proportion to weights, (R,).

    The first two rounds are dealt out evenly, so that every region has some.
    """
    regions = len(weights)
    drawn = rng.choice(regions, count, p=weights / weights.sum())
    drawn[: 2 * regions] = np.arange(2 * regions) % regions
    return np.asarray(rng.permutation(drawn), dtype=np.int64)


def _zipf(count: int, exponent: float, rng: Generator) -> F64:
    """Return weights that fall as a shifted power of the rank, ranks in random order."""
    weights = (np.arange(count) + 10.0) ** -exponent
    return np.asarray(rng.permutation(weights))
