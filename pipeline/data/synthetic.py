"""A delivery platform's log with a planted truth: every row's real click and order probability.

    logit p(row) = level + taste(row) + standing(region, row) + drift(region, day, row)

`taste` is global and does not change. The other two are the domain's part: how a region differs
over the base's window, and how its tastes move in time. Both weigh category, price, scene,
distance and category by daypart, so they reorder the items a user sees and do not only lift a
region. A second set of coefficients gives the order, given the click.

Drift is a Gaussian process in day time (Matern 3/2: tastes have a direction as well as a place),
centred on the base's window, so that `standing` is what a base can learn and `drift` is what it
cannot. `p_*_global` is the same row without the domain's part: the best a model can do that
knows what holds everywhere, always.

The log is written region by region, day by day, in blocks of at most `BLOCK_ROWS` rows. A block
lies inside one daypart and shares no second with the next. Histories are read before a block and
updated after it: a row sees the user's clicks up to the last block, as in a platform whose user
features lag by some hours, and never a click at or after its own second.

Letters: B rows of a block, C categories, S segments, P dayparts, N scenes, K factors,
D days of the log, R regions, H history length.
Sources: the ruler of known probabilities follows Open Bandit Pipeline's synthetic data
(Saito et al. 2021); the kernel of the drift is Rasmussen & Williams 2006, eq. 4.17.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.random import Generator
from numpy.typing import NDArray

from iak.pipeline.errors import BadRequest
from iak.pipeline.files import put_file, putting_folder
from iak.pipeline.formats import first_format
from iak.schemas.synth import SynthManifest, SynthPart, SynthSpec

VERSION = 2
"""Version of the rows: raise it when the same knobs give other rows."""

BLOCK_ROWS = 16_384
"""Most rows drawn at once; a row group holds this many to twice as many."""
HISTORY = 20
"""Most clicks in a history, H."""
FACTORS = 4
"""Size K of the low-rank interaction between a user and an item."""

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

WINDOWS = (
    # first hour, hour after the last, daypart, share of a day's rows
    (0, 5, 4, 0.03),
    (5, 10, 0, 0.13),
    (10, 14, 1, 0.32),
    (14, 17, 2, 0.12),
    (17, 21, 3, 0.30),
    (21, 24, 4, 0.10),
)
SEGMENT_SHARES = (0.18, 0.26, 0.15, 0.08, 0.12, 0.07, 0.06, 0.08)
AGE_SHARES = (0.10, 0.42, 0.28, 0.13, 0.07)
SCENE_SHARES = (0.58, 0.22, 0.12, 0.08)

TRUTH_COLUMNS = ("p_click", "p_order", "p_click_global", "p_order_global")
EVENT_SCHEMA = pa.schema(
    [
        ("event_id", pa.int64()),
        ("event_time", pa.int64()),
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("shop_id", pa.int64()),
        ("category", pa.string()),
        ("price", pa.float32()),
        ("distance_km", pa.float32()),
        ("daypart", pa.string()),
        ("scene", pa.string()),
        ("weekday", pa.int8()),
        ("age_group", pa.string()),
        ("user_segment", pa.string()),
        ("city_tier", pa.string()),
        ("hist_item_ids", pa.list_(pa.int64())),
        ("hist_categories", pa.list_(pa.string())),
        ("label_click", pa.int8()),
        ("label_order", pa.int8()),
    ]
)
TRUTH_SCHEMA = pa.schema([(name, pa.float64()) for name in TRUTH_COLUMNS])

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
I8 = NDArray[np.int8]

# Every random stream is named by (seed, stream, ...), so that no draw depends on another's count.
_CATALOGUE, _TASTE, _STANDING, _DRIFT, _ROWS, _PILOT, _DAYS, _WARM = range(8)


@dataclass(frozen=True, kw_only=True, slots=True)
class Knobs:
    """What the generator may be told; `SynthSpec` says what each one means."""

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
        """Days, oldest first, in the base's window."""
        return max(1, round(self.days * self.base_share))


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthResult:
    """What was written, or found already written."""

    out: Path
    rows: int
    clicks: int
    orders: int
    digest: str
    was_there: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Standard deviation, in logits, of each effect of one task."""

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
    distance: float
    scene: tuple[float, ...]
    weekend: float
    history: float
    factors: float


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
    """Standard deviation, in logits, of each effect of a domain's part at size 1."""

    category: float
    daypart_category: float
    price: float
    distance: float
    scene: float
    level: float

    @property
    def per_coefficient(self) -> F64:
        """One size per coefficient, in the order in which `DomainTaste` unpacks them."""
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
    """The global part of one task's logit: what holds everywhere, always."""

    item: F64
    user: F64
    segment_category: F64
    daypart_category: F64
    segment_price: F64
    distance: float
    scene: F64
    weekend: float
    history: float
    user_factors: F32
    item_factors: F32


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainTaste:
    """One region's part of one task's logit on one day."""

    daypart_category: F64
    price: float
    distance: float
    scene: F64
    level: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """Every user, shop and item; an id is its index plus one."""

    user_region: I64
    user_segment: I8
    user_age: I8
    user_favourite: I8
    user_weight: F64
    user_is_fresh: NDArray[np.bool_]
    shop_region: I64
    item_shop: I32
    item_category: I8
    item_price: F32
    item_weight: F64
    item_is_fresh: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """Draws indices in proportion to weights, over all of them or inside one run of them."""

    index: I64
    edges: F64

    def pick(self, at: F64) -> I64:
        """The indices at these points of the cumulative weight, 0 <= at < 1."""
        place = np.searchsorted(self.edges[1:], at, side="right")
        return self.index[np.minimum(place, len(self.index) - 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """One region's people, its menu, and its tastes by day; `[0]` old, `[1]` with fresh ids."""

    name: str
    number: int
    city_tier: int
    users: tuple[Draw, Draw]
    items: tuple[Draw, Draw]
    category_edges: tuple[F64, F64]
    click: F64
    order: F64


@dataclass(frozen=True, kw_only=True, slots=True)
class Levels:
    """Intercepts that give the rates asked for, with and without the domain's part."""

    click: float
    order: float
    click_global: float
    order_global: float


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Everything that is fixed before the first row is drawn."""

    knobs: Knobs
    catalogue: Catalogue
    click: Taste
    order: Taste
    regions: tuple[Region, ...]
    rows_RD: I64
    levels: Levels


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Rows of one region inside one daypart, in order of time, before their labels."""

    time: I64
    user: I64
    item: I64
    scene: NDArray[np.intp]
    price: F32
    distance_km: F32
    history_BH: I32
    daypart: int
    is_weekend: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a block's truth depends on besides ids, (B,); price and distance about standard."""

    segment: I8
    category: I8
    pair: NDArray[np.intp]
    price: F32
    distance: F32
    match: F64


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """A block's real probabilities."""

    p_click: F64
    p_order: F64
    p_click_global: F64
    p_order_global: F64


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """A block's drawn labels, (B,); `ordered` counts where the row was clicked."""

    clicked: NDArray[np.bool_]
    ordered: NDArray[np.bool_]


class Histories:
    """The last clicks of every user: (users, H) item indices, newest last, -1 for none."""

    def __init__(self, *, users: int) -> None:
        self.last_UH = np.full((users, HISTORY), -1, dtype=np.int32)

    def read(self, user: I64) -> I32:
        """The histories of these users, (B, H), as they stand."""
        return self.last_UH[user]

    def add(self, user: I64, item: I64) -> None:
        """Append these clicks, given in order of time."""
        order = np.argsort(user, kind="stable")
        user, item = user[order], item[order]
        starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]]) if len(user) else user
        nth = np.arange(len(user)) - np.repeat(starts, np.diff(np.r_[starts, len(user)]))
        for n in range(int(nth.max(initial=-1)) + 1):
            now = nth == n
            self.last_UH[user[now], :-1] = self.last_UH[user[now], 1:]
            self.last_UH[user[now], -1] = item[now]


def build_knobs(spec: SynthSpec) -> Knobs:
    """The plain values of `spec`."""
    return Knobs(**{name: getattr(spec, name) for name in Knobs.__slots__})


def generate(knobs: Knobs, out: Path, progress: Callable[[int], None]) -> SynthResult:
    """Write the planted log that `knobs` describe under `out`; the same knobs, the same bytes.

    Args:
        knobs: plain values of a valid `SynthSpec`.
        out: a folder that is absent, empty, or already holds this very log.
        progress: told after each row group how many rows it added.

    Returns:
        Counts and digest. Memory holds the catalogue, one (users, H) table of histories and at
        most two blocks of rows, however many rows are asked for.

    Raises:
        BadRequest: `out` holds anything else.
    """
    found = _finished(knobs, out)
    if found is not None:
        return _result(found, out, was_there=True)
    with putting_folder(out) as partial:
        manifest = _write_log(build_world(knobs), partial, progress)
        put_file(partial / "manifest.json", manifest.model_dump_json(indent=1) + "\n")
    return _result(manifest, out, was_there=False)


def _finished(knobs: Knobs, out: Path) -> SynthManifest | None:
    """The manifest of this very log in `out`, or None where there is room to write."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    refusal = BadRequest(
        f"{out} is not empty and is not the log asked for (same knobs, seed and version "
        f"{VERSION}, every file whole).\n  Name another folder, or remove this one."
    )
    try:
        manifest = _manifest_of(out / "manifest.json")
    except (OSError, ValueError):
        raise refusal from None
    same = manifest.version == VERSION and build_knobs(manifest.spec) == knobs
    if not (same and all(_is_whole(part, out) for part in manifest.parts)):
        raise refusal
    return manifest


def _manifest_of(path: Path) -> SynthManifest:
    """Return the manifest of a planted log, in the current format."""
    return first_format(
        SynthManifest,
        json.loads(path.read_bytes()),
        kind="planted log's manifest",
        where=path,
        mend="Remove the log, and run `iak synth` again",
    )


def _is_whole(part: SynthPart, out: Path) -> bool:
    """Whether both files of `part` are there with their sizes."""
    sizes = {"events": part.events_bytes, "truth": part.truth_bytes}
    paths = {kind: _part_path(out, kind, part.region, part.dt) for kind in sizes}
    return all(
        path.is_file() and path.stat().st_size == sizes[kind] for kind, path in paths.items()
    )


def _result(manifest: SynthManifest, out: Path, *, was_there: bool) -> SynthResult:
    return SynthResult(
        out=out,
        rows=manifest.rows,
        clicks=manifest.clicks,
        orders=manifest.orders,
        digest=manifest.digest,
        was_there=was_there,
    )


# --- The world ------------------------------------------------------------------------------


def build_world(knobs: Knobs) -> World:
    """Draw the catalogue, the tastes and the regions, and find the levels."""
    sizes = _region_sizes(knobs)
    catalogue = _catalogue(knobs, sizes)
    click = _taste(catalogue, CLICK, np.random.default_rng((knobs.seed, _TASTE, 0)))
    order = _taste(catalogue, ORDER, np.random.default_rng((knobs.seed, _TASTE, 1)))
    world = World(
        knobs=knobs,
        catalogue=catalogue,
        click=click,
        order=order,
        regions=_regions(knobs, catalogue),
        rows_RD=_rows_by_region_and_day(knobs, sizes),
        levels=Levels(click=0.0, order=0.0, click_global=0.0, order_global=0.0),
    )
    return replace(world, levels=_levels(world))


def _region_sizes(knobs: Knobs) -> F64:
    """Each region's share of the rows, (R,), falling geometrically by `skew` overall."""
    count = len(knobs.regions)
    weights = knobs.skew ** (-np.arange(count) / max(1, count - 1))
    return np.asarray(weights / weights.sum())


def _rows_by_region_and_day(knobs: Knobs, sizes: F64) -> I64:
    """Rows of every partition, (R, D): weekends a little busier, the sum exactly `rows`."""
    rng = np.random.default_rng((knobs.seed, _DAYS))
    weekend = [(knobs.start_date + timedelta(days=d)).weekday() >= 5 for d in range(knobs.days)]
    busy = np.where(weekend, 1.10, 1.0) * rng.uniform(0.97, 1.03, knobs.days)
    exact = knobs.rows * np.outer(sizes, busy / busy.sum())
    rows = np.floor(exact).astype(np.int64)
    short = knobs.rows - int(rows.sum())
    most_cut = np.argsort((rows - exact).ravel(), kind="stable")[:short]
    rows.ravel()[most_cut] += 1
    return np.asarray(rows, dtype=np.int64)


def _zipf(count: int, exponent: float, rng: Generator) -> F64:
    """Weights that fall as a shifted power of the rank, in random order of rank."""
    weights = (np.arange(count) + 10.0) ** -exponent
    return np.asarray(rng.permutation(weights))


def _catalogue(knobs: Knobs, sizes: F64) -> Catalogue:
    """Draw every user, shop and item."""
    rng = np.random.default_rng((knobs.seed, _CATALOGUE))
    segment = rng.choice(len(SEGMENTS), knobs.users, p=np.array(SEGMENT_SHARES))
    liking_SC = rng.gumbel(size=(len(SEGMENTS), len(CATEGORIES)))
    favourite = (liking_SC[segment] + rng.gumbel(size=(knobs.users, len(CATEGORIES)))).argmax(1)
    shop_region = np.where(
        rng.random(knobs.shops) < knobs.chain_share, -1, _spread(knobs.shops, sizes**0.7, rng)
    )
    shop_category = rng.integers(len(CATEGORIES), size=knobs.shops)
    item_shop = np.r_[
        np.arange(knobs.shops), rng.integers(knobs.shops, size=knobs.items - knobs.shops)
    ]
    keeps = rng.random(knobs.items) < 0.8
    category = np.where(
        keeps, shop_category[item_shop], rng.integers(len(CATEGORIES), size=knobs.items)
    )
    usual_price = rng.normal(3.2, 0.35, len(CATEGORIES))
    return Catalogue(
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
    """Give each of `count` things a region by weight; no region goes without."""
    regions = len(weights)
    drawn = rng.choice(regions, count, p=weights / weights.sum())
    drawn[: 2 * regions] = np.arange(2 * regions) % regions
    return np.asarray(rng.permutation(drawn), dtype=np.int64)


def _taste(catalogue: Catalogue, sizes: Sizes, rng: Generator) -> Taste:
    """Draw one task's global coefficients; what category, shop and segment explain is added in."""
    users, items = len(catalogue.user_region), len(catalogue.item_shop)
    shops = len(catalogue.shop_region)
    of_category = rng.normal(0.0, sizes.category, len(CATEGORIES))
    of_shop = rng.normal(0.0, sizes.shop, shops)
    of_segment = rng.normal(0.0, sizes.segment, len(SEGMENTS))
    of_age = rng.normal(0.0, sizes.age, len(AGE_GROUPS))
    scale = np.sqrt(sizes.factors / np.sqrt(FACTORS))
    return Taste(
        item=of_category[catalogue.item_category]
        + of_shop[catalogue.item_shop]
        + rng.normal(0.0, sizes.item, items),
        user=of_segment[catalogue.user_segment]
        + of_age[catalogue.user_age]
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


def _regions(knobs: Knobs, catalogue: Catalogue) -> tuple[Region, ...]:
    click_RDX = domain_coefficients(knobs, task=0)
    order_RDX = domain_coefficients(knobs, task=1)
    tiers = np.arange(len(knobs.regions)) * len(CITY_TIERS) // len(knobs.regions)
    regions = []
    for number, name in enumerate(knobs.regions):
        users, menu = _who_and_what(catalogue, number)
        user_draws = tuple(_draw_of(users, w) for w in _old_and_all(catalogue, users, "user"))
        item_weights = _old_and_all(catalogue, menu, "item")
        item_draws = tuple(_draw_of(menu, w) for w in item_weights)
        starts = np.searchsorted(catalogue.item_category[menu], np.arange(len(CATEGORIES) + 1))
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


def _who_and_what(catalogue: Catalogue, region: int) -> tuple[I64, I64]:
    """A region's users, and its items (local shops and chains) sorted by category."""
    users = np.flatnonzero(catalogue.user_region == region)
    at = catalogue.shop_region[catalogue.item_shop]
    menu = np.flatnonzero((at == region) | (at == -1))
    return users, menu[np.argsort(catalogue.item_category[menu], kind="stable")]


def _old_and_all(catalogue: Catalogue, index: I64, kind: str) -> tuple[F64, F64]:
    """Weights over `index` inside the base's window, where fresh ids weigh nothing, and after."""
    weight: F64 = getattr(catalogue, f"{kind}_weight")[index]
    is_fresh: NDArray[np.bool_] = getattr(catalogue, f"{kind}_is_fresh")[index].copy()
    if is_fresh.all():
        is_fresh[0] = False
    return np.where(is_fresh, 0.0, weight), weight


def _draw_of(index: I64, weight: F64) -> Draw:
    edges = np.r_[0.0, np.cumsum(weight / weight.sum())]
    return Draw(index=index, edges=edges / edges[-1])


def domain_coefficients(knobs: Knobs, *, task: int) -> F64:
    """One task's domain part by region and day, (R, D, coefficients), in logits.

    Over regions the lasting part sums to zero; over the base's days the drift sums to zero.
    """
    sizes = (DOMAIN_CLICK, DOMAIN_ORDER)[task].per_coefficient
    regions, width = len(knobs.regions), len(sizes)
    rng = np.random.default_rng((knobs.seed, _STANDING, task))
    standing = rng.normal(size=(regions, width))
    standing -= standing.mean(axis=0)
    rng = np.random.default_rng((knobs.seed, _DRIFT, task))
    white = rng.normal(size=(regions, knobs.days, width))
    common = rng.normal(size=(knobs.days, width))
    white = np.sqrt(1 - knobs.drift_shared) * white + np.sqrt(knobs.drift_shared) * common
    path = _drift_in_time(knobs) @ white
    moved = knobs.domain_difference * standing[:, None, :] + knobs.drift * path
    return np.asarray(sizes * moved)


def _drift_in_time(knobs: Knobs) -> F64:
    """A matrix F, (D, D), that turns white noise over days into drift.

    F F' is the Matern-3/2 covariance with length `drift_days`, centred on the base's window and
    scaled to unit variance on the last day.
    """
    day = np.arange(knobs.days)
    lag = np.sqrt(3.0) * np.abs(np.subtract.outer(day, day)) / knobs.drift_days
    path = np.linalg.cholesky((1.0 + lag) * np.exp(-lag) + 1e-9 * np.eye(knobs.days))
    path -= path[: knobs.base_days].mean(axis=0)
    return np.asarray(path / max(1e-6, float(np.linalg.norm(path[-1]))))


def domain_taste(coefficients: F64) -> DomainTaste:
    """Unpack one region's coefficients of one day; category adds to category by daypart."""
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


# --- Rows -----------------------------------------------------------------------------------


def _windows(start_s: int, rows: int, rng: Generator) -> Iterator[tuple[int, int, int, int]]:
    """Cut a day into blocks: (first second, second after the last, daypart, rows)."""
    counts = rng.multinomial(rows, [share for *_, share in WINDOWS])
    for (first, last, daypart, _), count in zip(WINDOWS, counts.tolist(), strict=True):
        pieces = -(-count // BLOCK_ROWS)
        if pieces > (last - first) * 3600:
            raise BadRequest(
                f"{rows:,} rows in one region's day are more than {BLOCK_ROWS:,} a second; "
                "ask for more days or regions"
            )
        for piece in range(pieces):
            edges = [first * 3600 + (last - first) * 3600 * p // pieces for p in (piece, piece + 1)]
            share = count * (piece + 1) // pieces - count * piece // pieces
            yield start_s + edges[0], start_s + edges[1], daypart, share


def _draw_block(
    world: World,
    region: Region,
    histories: Histories,
    rng: Generator,
    *,
    day: int,
    window: tuple[int, int, int, int],
) -> Block:
    """Draw who sees what, when and where; the histories are read, not changed."""
    first, last, daypart, rows = window
    catalogue = world.catalogue
    is_late = int(day >= world.knobs.base_days)
    user = region.users[is_late].pick(rng.random(rows))
    item = region.items[is_late].pick(_favouring(world, region.category_edges[is_late], user, rng))
    discount = rng.normal(0.0, 0.12, rows).astype(np.float32)
    distance = rng.standard_gamma(2.0, rows, dtype=np.float32) * np.float32(1.1)
    return Block(
        time=np.sort(rng.integers(first, last, rows)),
        user=user,
        item=item,
        scene=np.searchsorted(np.cumsum(SCENE_SHARES)[:-1], rng.random(rows), side="right"),
        price=catalogue.item_price[item] * np.exp(discount),
        distance_km=np.clip(distance, 0.1, 12.0),
        history_BH=histories.read(user),
        daypart=daypart,
        is_weekend=(world.knobs.start_date + timedelta(days=day)).weekday() >= 5,
    )


def _favouring(world: World, edges: F64, user: I64, rng: Generator) -> F64:
    """Points of the menu's cumulative weight, some of them inside the user's favourite category."""
    at = rng.random(len(user))
    favourite = world.catalogue.user_favourite[user]
    low, high = edges[favourite], edges[favourite + 1]
    inside = (rng.random(len(user)) < world.knobs.favourite_share) & (high > low)
    return np.where(inside, low + at * (high - low), at)


def _facts(world: World, block: Block) -> Facts:
    """What the truth depends on, from the values as the log shows them."""
    catalogue = world.catalogue
    segment = catalogue.user_segment[block.user]
    category = catalogue.item_category[block.item]
    return Facts(
        segment=segment,
        category=category,
        pair=segment.astype(np.intp) * len(CATEGORIES) + category,
        price=(np.log(block.price) - np.float32(3.2)) * np.float32(2.0),
        distance=(np.log1p(block.distance_km) - np.float32(1.06)) * np.float32(2.2),
        match=_history_match(catalogue, block, category),
    )


def _history_match(catalogue: Catalogue, block: Block, category: I8) -> F64:
    """Share of the history in the item's category, shrunk by two clicks of no match, (B,)."""
    category_of = np.r_[catalogue.item_category, np.int8(-1)]
    matches = (category_of[block.history_BH] == category[:, None]).sum(axis=1)
    clicks = (block.history_BH >= 0).sum(axis=1)
    return np.asarray(matches / (clicks + 2.0))


def _logits(block: Block, facts: Facts, taste: Taste, domain: DomainTaste) -> tuple[F64, F64]:
    """One task's logit with the domain's part and without it, both before the level, (B,)."""
    common = (
        taste.item[block.item]
        + taste.user[block.user]
        + taste.segment_category[facts.pair]
        + taste.daypart_category[block.daypart][facts.category]
        + taste.segment_price[facts.segment] * facts.price
        + taste.distance * facts.distance
        + taste.scene[block.scene]
        + taste.weekend * block.is_weekend
        + taste.history * facts.match
        + np.einsum("bk,bk->b", taste.user_factors[block.user], taste.item_factors[block.item])
    )
    own = (
        domain.daypart_category[block.daypart][facts.category]
        + domain.price * facts.price
        + domain.distance * facts.distance
        + domain.scene[block.scene]
        + domain.level
    )
    return common + own, common


def _truth(world: World, region: Region, block: Block, *, day: int) -> Truth:
    """The block's real probabilities."""
    facts = _facts(world, block)
    click, click_global = _logits(block, facts, world.click, domain_taste(region.click[day]))
    order, order_global = _logits(block, facts, world.order, domain_taste(region.order[day]))
    levels = world.levels
    return Truth(
        p_click=_sigmoid(click + levels.click),
        p_order=_sigmoid(order + levels.order),
        p_click_global=_sigmoid(click_global + levels.click_global),
        p_order_global=_sigmoid(order_global + levels.order_global),
    )


def _sigmoid(logit: F64) -> F64:
    return np.asarray(1.0 / (1.0 + np.exp(-logit)))


def _warm(world: World, region: Region) -> Histories:
    """Histories as they stand when the log opens: old users' clicks of earlier days."""
    histories = Histories(users=world.knobs.users)
    if world.knobs.warm_clicks == 0:
        return histories
    rng = np.random.default_rng((world.knobs.seed, _WARM, region.number))
    draw = region.users[0]
    user = draw.pick(rng.random(world.knobs.warm_clicks * len(draw.index)))
    at = _favouring(world, region.category_edges[0], user, rng)
    histories.add(user, region.items[0].pick(at))
    return histories


def _levels(world: World) -> Levels:
    """Intercepts that give the rates asked for on a pilot drawn from the base's window.

    The pilot reads histories as they stand when the log opens; as they fill, clicks come a
    little more often (3 % with the default `warm_clicks`, more from empty ones).
    """
    logits: list[tuple[F64, F64, F64, F64]] = []
    for region in world.regions:
        histories = _warm(world, region)
        rng = np.random.default_rng((world.knobs.seed, _PILOT, region.number))
        share = world.rows_RD[region.number].sum() / world.knobs.rows
        for day in np.linspace(0, world.knobs.base_days - 1, 5).astype(int).tolist():
            for window in _windows(0, 100 + int(12_000 * share), rng):
                block = _draw_block(world, region, histories, rng, day=day, window=window)
                facts = _facts(world, block)
                click = _logits(block, facts, world.click, domain_taste(region.click[day]))
                order = _logits(block, facts, world.order, domain_taste(region.order[day]))
                logits.append((*click, *order))
    full, common, full_order, common_order = (np.concatenate(p) for p in zip(*logits, strict=True))
    clicks, orders = world.knobs.click_rate, world.knobs.order_rate
    level = _level_for(full, clicks, np.ones_like(full))
    clicked = _sigmoid(full + level)
    return Levels(
        click=level,
        click_global=_level_for(common, clicks, np.ones_like(common)),
        order=_level_for(full_order, orders, clicked),
        order_global=_level_for(common_order, orders, clicked),
    )


def _level_for(logit: F64, rate: float, weight: F64) -> float:
    """The intercept under which the weighted mean probability is `rate`, by bisection."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2.0
        too_high = np.average(_sigmoid(logit + middle), weights=weight) > rate
        low, high = (low, middle) if too_high else (middle, high)
    return (low + high) / 2.0


# --- Files ----------------------------------------------------------------------------------


def _write_log(world: World, folder: Path, progress: Callable[[int], None]) -> SynthManifest:
    """Write every partition and return the finished manifest."""
    first_id = np.r_[0, np.cumsum(world.rows_RD)]
    parts = []
    for region in world.regions:
        histories = _warm(world, region)
        for day in range(world.knobs.days):
            id_from = int(first_id[region.number * world.knobs.days + day])
            parts.append(
                _write_part(world, region, histories, folder, progress, day=day, id_from=id_from)
            )
    digests = "".join(part.events_sha256 + part.truth_sha256 for part in parts)
    return SynthManifest(
        version=VERSION,
        spec=SynthSpec.model_validate(asdict(world.knobs)),
        base_days=world.knobs.base_days,
        rows=sum(part.rows for part in parts),
        clicks=sum(part.clicks for part in parts),
        orders=sum(part.orders for part in parts),
        digest=hashlib.sha256(digests.encode()).hexdigest(),
        parts=tuple(parts),
    )


def _part_path(folder: Path, kind: str, region: str, dt: date) -> Path:
    return folder / kind / f"region={region}" / f"dt={dt}" / "part-00000.parquet"


def _write_part(
    world: World,
    region: Region,
    histories: Histories,
    folder: Path,
    progress: Callable[[int], None],
    *,
    day: int,
    id_from: int,
) -> SynthPart:
    """Write one region's day, events and truth with the same row groups."""
    dt = world.knobs.start_date + timedelta(days=day)
    paths = [_part_path(folder, kind, region.name, dt) for kind in ("events", "truth")]
    clicks = orders = 0
    with PairedFiles(events=paths[0], truth=paths[1], progress=progress) as files:
        for events, truth in _day_tables(world, region, histories, day=day, id_from=id_from):
            files.add(events, truth)
            clicks += int(events["label_click"].to_numpy().sum())
            orders += int(events["label_order"].to_numpy().sum())
    return SynthPart(
        region=region.name,
        dt=dt,
        rows=files.rows,
        clicks=clicks,
        orders=orders,
        events_bytes=paths[0].stat().st_size,
        truth_bytes=paths[1].stat().st_size,
        events_sha256=_sha256(paths[0]),
        truth_sha256=_sha256(paths[1]),
    )


def _day_tables(
    world: World, region: Region, histories: Histories, *, day: int, id_from: int
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Each block of one region's day as events and truth; its clicks then join the histories."""
    dt = world.knobs.start_date + timedelta(days=day)
    start_s = int(datetime(dt.year, dt.month, dt.day, tzinfo=UTC).timestamp())
    rng = np.random.default_rng((world.knobs.seed, _ROWS, region.number, day))
    for window in _windows(start_s, int(world.rows_RD[region.number, day]), rng):
        block = _draw_block(world, region, histories, rng, day=day, window=window)
        truth = _truth(world, region, block, day=day)
        clicked = rng.random(len(block.time)) < truth.p_click
        labels = Labels(clicked=clicked, ordered=rng.random(len(block.time)) < truth.p_order)
        yield (
            _event_table(world, region, block, labels, weekday=dt.weekday(), id_from=id_from),
            _truth_table(truth),
        )
        histories.add(block.user[clicked], block.item[clicked])
        id_from += len(block.time)


class PairedFiles:
    """An event file and its truth file, written together, row group by row group.

    Law: a row group holds `BLOCK_ROWS` to 2 x `BLOCK_ROWS` rows, only the last may hold fewer;
    no more rows than that wait in memory.
    """

    def __init__(self, *, events: Path, truth: Path, progress: Callable[[int], None]) -> None:
        for path in (events, truth):
            path.parent.mkdir(parents=True)
        self.rows = 0
        self._progress = progress
        self._waiting: list[tuple[pa.Table, pa.Table]] = []
        self._events = _writer(events, _STORED_SCHEMA, dictionary=_DICTIONARY)
        self._truth = _writer(truth, TRUTH_SCHEMA, dictionary=[])

    def __enter__(self) -> "PairedFiles":
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        if failure is None:
            self._flush()
        self._events.close()
        self._truth.close()

    def add(self, events: pa.Table, truth: pa.Table) -> None:
        """Take one block, at most `BLOCK_ROWS` rows."""
        self._waiting.append((events, truth))
        self.rows += events.num_rows
        if sum(table.num_rows for table, _ in self._waiting) >= BLOCK_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            events, truth = (pa.concat_tables(kind) for kind in zip(*self._waiting, strict=True))
            self._events.write_table(events, row_group_size=2 * BLOCK_ROWS)
            self._truth.write_table(truth, row_group_size=2 * BLOCK_ROWS)
            self._progress(events.num_rows)
            self._waiting.clear()


_CODED = pa.dictionary(pa.int8(), pa.string())
_CODED_AS = {pa.string(): _CODED, pa.list_(pa.string()): pa.list_(_CODED)}
_STORED_SCHEMA = pa.schema([(f.name, _CODED_AS.get(f.type, f.type)) for f in EVENT_SCHEMA])
_DICTIONARY = [
    "user_id",
    "item_id",
    "shop_id",
    "category",
    "daypart",
    "scene",
    "weekday",
    "age_group",
    "user_segment",
    "city_tier",
    "hist_item_ids.list.element",
    "hist_categories.list.element",
]


def _writer(path: Path, schema: pa.Schema, *, dictionary: list[str]) -> pq.ParquetWriter:
    """A zstd writer that forgets Arrow's own types: coded text is read back as text."""
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=dictionary,
        write_statistics=["event_id", "event_time"] if dictionary else False,
        store_schema=False,
        write_page_checksum=True,
    )


def _event_table(
    world: World,
    region: Region,
    block: Block,
    labels: Labels,
    *,
    weekday: int,
    id_from: int,
) -> pa.Table:
    """The block as a table with the columns of `EVENT_SCHEMA`, text as codes."""
    catalogue, rows = world.catalogue, len(block.time)
    known = block.history_BH >= 0
    ends = np.r_[0, np.cumsum(known.sum(axis=1))].astype(np.int32)
    past = block.history_BH[known]
    columns = {
        "event_id": np.arange(id_from, id_from + rows),
        "event_time": block.time,
        "user_id": block.user + 1,
        "item_id": block.item + 1,
        "shop_id": catalogue.item_shop[block.item].astype(np.int64) + 1,
        "category": _coded(catalogue.item_category[block.item], CATEGORIES),
        "price": block.price,
        "distance_km": block.distance_km,
        "daypart": _coded(np.full(rows, block.daypart, dtype=np.int8), DAYPARTS),
        "scene": _coded(block.scene.astype(np.int8), SCENES),
        "weekday": np.full(rows, weekday, dtype=np.int8),
        "age_group": _coded(catalogue.user_age[block.user], AGE_GROUPS),
        "user_segment": _coded(catalogue.user_segment[block.user], SEGMENTS),
        "city_tier": _coded(np.full(rows, region.city_tier, dtype=np.int8), CITY_TIERS),
        "hist_item_ids": pa.ListArray.from_arrays(ends, past.astype(np.int64) + 1),
        "hist_categories": pa.ListArray.from_arrays(
            ends, _coded(catalogue.item_category[past], CATEGORIES)
        ),
        "label_click": labels.clicked.astype(np.int8),
        "label_order": (labels.clicked & labels.ordered).astype(np.int8),
    }
    return pa.table(columns, schema=_STORED_SCHEMA)


def _coded(codes: I8, names: tuple[str, ...]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string()))


def _truth_table(truth: Truth) -> pa.Table:
    return pa.table({name: getattr(truth, name) for name in TRUTH_COLUMNS}, schema=TRUTH_SCHEMA)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
