"""Draw the rows of one region's day in blocks: users, items, times, true probabilities, labels.

A block lies inside one daypart and shares no second with the next. Histories are read before a
block and updated after it. So a row sees the user's clicks up to the last block, as in a platform
whose user features lag by some hours, and never a click at or after its own second.

`p_*_global` is the probability of the same row without the domain's part: the best that a model can
do if it knows only what holds everywhere, always.

Letters: B rows of a block, C categories, S segments, H history length.
Source: an oracle of known probabilities follows Open Bandit Pipeline's synthetic data (Saito et al.
2021).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from iak.pipeline.errors import BadRequest
from iak.pipeline.planted.population import (
    CATEGORIES,
    F32,
    F64,
    I8,
    I32,
    I64,
    PILOT_STREAM,
    ROWS_STREAM,
    WARM_STREAM,
    Population,
)
from iak.pipeline.planted.taste import DomainTaste, Taste, domain_taste
from iak.pipeline.planted.world import Region, World

Window = tuple[int, int, int, int]
"""First second of a block, the second after its last, its daypart, its rows."""

BLOCK_ROWS = 16_384
"""Most rows that are drawn at once."""
HISTORY = 20
"""Most clicks in a history, H."""

WINDOWS = (
    # first hour, hour after the last, daypart, share of a day's rows
    (0, 5, 4, 0.03),
    (5, 10, 0, 0.13),
    (10, 14, 1, 0.32),
    (14, 17, 2, 0.12),
    (17, 21, 3, 0.30),
    (21, 24, 4, 0.10),
)
SCENE_SHARES = (0.58, 0.22, 0.12, 0.08)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Rows of one region inside one daypart, (B,), in order of time, without labels."""

    time: I64
    """Unix seconds."""
    user: I64
    item: I64
    scene: NDArray[np.intp]
    price: F32
    distance_km: F32
    history_BH: I32
    """Indices of the items that the user clicked last, newest last, -1 for none."""
    daypart: int
    is_weekend: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Values on which a block's truth depends, besides ids, (B,)."""

    segment: I8
    category: I8
    pair: NDArray[np.intp]
    """Index of segment and category in `Taste.segment_category`."""
    price: F32
    """Logarithm of the price, about standardised."""
    distance: F32
    """Logarithm of the distance, about standardised."""
    match: F64
    """Share of the history in the item's category."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """True probabilities of a block, (B,)."""

    p_click: F64
    p_order: F64
    """Probability of an order, given the click."""
    p_click_global: F64
    p_order_global: F64


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """Drawn labels of a block, (B,)."""

    clicked: NDArray[np.bool_]
    ordered: NDArray[np.bool_]
    """Drawn for each row; it counts only where the row was clicked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Levels:
    """Intercepts, in logits, that give the declared rates, with and without the domain's part."""

    click: float
    order: float
    click_global: float
    order_global: float


class Histories:
    """The last clicks of every user: (users, H) item indices, newest last, -1 for none."""

    def __init__(self, *, users: int) -> None:
        """Start with empty histories.

        Args:
            users: users of the whole world.
        """
        self.last_UH = np.full((users, HISTORY), -1, dtype=np.int32)

    def copy(self) -> "Histories":
        """Return the same histories, which later clicks of these do not change."""
        other = Histories(users=0)
        other.last_UH = self.last_UH.copy()
        return other

    def read(self, user: I64) -> I32:
        """Return the current histories of these users, (B, H)."""
        return self.last_UH[user]

    def add(self, user: I64, item: I64) -> None:
        """Append clicks, given in order of time.

        Args:
            user: index of the user of each click.
            item: index of the item of each click.
        """
        # Sort by user, stable, so that each user's clicks stay in order of time.
        order = np.argsort(user, kind="stable")
        user, item = user[order], item[order]
        starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]]) if len(user) else user
        nth = np.arange(len(user)) - np.repeat(starts, np.diff(np.r_[starts, len(user)]))
        # The nth click of every user at once: no user occurs twice in one assignment.
        for n in range(int(nth.max(initial=-1)) + 1):
            is_nth = nth == n
            self.last_UH[user[is_nth], :-1] = self.last_UH[user[is_nth], 1:]
            self.last_UH[user[is_nth], -1] = item[is_nth]


def windows(start_s: int, rows: int, rng: Generator) -> Iterator[Window]:
    """Cut a region's day into the windows of its blocks.

    Args:
        start_s: Unix seconds at which the day starts.
        rows: rows of the region on that day.
        rng: draws the number of rows in each part of the day.

    Raises:
        BadRequest: there are more blocks than seconds.
    """
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


def draw_block(
    world: World,
    region: Region,
    histories: Histories,
    rng: Generator,
    *,
    day: int,
    window: Window,
) -> Block:
    """Draw the users, items, times and scenes of a block. Histories are read, not changed.

    Args:
        world: world in which the day happens.
        region: region whose users see items of its menu.
        histories: the users' clicks before the block.
        rng: the random stream of the region's day.
        day: index of the day in the log.
        window: seconds, daypart and rows of the block.
    """
    first, last, daypart, rows = window
    population = world.population
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
        price=population.item_price[item] * np.exp(discount),
        distance_km=np.clip(distance, 0.1, 12.0),
        history_BH=histories.read(user),
        daypart=daypart,
        is_weekend=(world.knobs.start_date + timedelta(days=day)).weekday() >= 5,
    )


def _favouring(world: World, edges: F64, user: I64, rng: Generator) -> F64:
    """Return points of the menu's cumulative weight, (B,).

    A declared share of them lies within the user's favourite category.

    Args:
        world: world whose users have favourites.
        edges: cumulative weight at which each category of the menu begins, (C + 1,).
        user: index of each row's user.
        rng: the random stream.
    """
    points = rng.random(len(user))
    favourite = world.population.user_favourite[user]
    low, high = edges[favourite], edges[favourite + 1]
    inside = (rng.random(len(user)) < world.knobs.favourite_share) & (high > low)
    return np.where(inside, low + points * (high - low), points)


def _facts(world: World, block: Block) -> Facts:
    """Return the values on which the truth depends, computed from the log's own values."""
    population = world.population
    segment = population.user_segment[block.user]
    category = population.item_category[block.item]
    return Facts(
        segment=segment,
        category=category,
        pair=segment.astype(np.intp) * len(CATEGORIES) + category,
        price=(np.log(block.price) - np.float32(3.2)) * np.float32(2.0),
        distance=(np.log1p(block.distance_km) - np.float32(1.06)) * np.float32(2.2),
        match=_history_match(population, block, category),
    )


def _history_match(population: Population, block: Block, category: I8) -> F64:
    """Return the share of the history in the item's category, (B,).

    Two further clicks that do not match are counted, so that short histories count little.
    """
    # Index -1, which stands for no click, reads the last entry: a category that matches none.
    category_of = np.r_[population.item_category, np.int8(-1)]
    matches = (category_of[block.history_BH] == category[:, None]).sum(axis=1)
    clicks = (block.history_BH >= 0).sum(axis=1)
    return np.asarray(matches / (clicks + 2.0))


def _logits(block: Block, facts: Facts, taste: Taste, domain: DomainTaste) -> tuple[F64, F64]:
    """Return one task's logits with and without the domain's part, both without level, (B,)."""
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


def _truth(world: World, levels: Levels, region: Region, block: Block, *, day: int) -> Truth:
    """Return the true probabilities of a block."""
    facts = _facts(world, block)
    click, click_global = _logits(block, facts, world.click, domain_taste(region.click[day]))
    order, order_global = _logits(block, facts, world.order, domain_taste(region.order[day]))
    return Truth(
        p_click=_sigmoid(click + levels.click),
        p_order=_sigmoid(order + levels.order),
        p_click_global=_sigmoid(click_global + levels.click_global),
        p_order_global=_sigmoid(order_global + levels.order_global),
    )


def _sigmoid(logit: F64) -> F64:
    return np.asarray(1.0 / (1.0 + np.exp(-logit)))


def first_histories(world: World, region: Region) -> Histories:
    """Return the histories at the start of the log: clicks that old users made before it."""
    histories = Histories(users=world.knobs.users)
    if world.knobs.warm_clicks == 0:
        return histories
    rng = np.random.default_rng((world.knobs.seed, WARM_STREAM, region.number))
    draw = region.users[0]
    user = draw.pick(rng.random(world.knobs.warm_clicks * len(draw.index)))
    at = _favouring(world, region.category_edges[0], user, rng)
    histories.add(user, region.items[0].pick(at))
    return histories


def fit_levels(world: World) -> Levels:
    """Return the intercepts that give the declared rates on a pilot sample of the base's window.

    The pilot reads the histories of the log's start. As histories fill, clicks come a little more
    often (3 % more with the default `warm_clicks`, more still if histories start empty).
    """
    logits: list[tuple[F64, F64, F64, F64]] = []
    for region in world.regions:
        histories = first_histories(world, region)
        rng = np.random.default_rng((world.knobs.seed, PILOT_STREAM, region.number))
        share = world.rows_RD[region.number].sum() / world.knobs.rows
        for day in np.linspace(0, world.knobs.base_days - 1, 5).astype(int).tolist():
            for window in windows(0, 100 + int(12_000 * share), rng):
                block = draw_block(world, region, histories, rng, day=day, window=window)
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
    """Return the intercept at which the weighted mean probability is `rate`, by bisection.

    Args:
        logit: logits without an intercept, (B,).
        rate: wanted mean probability, 0 < rate < 1.
        weight: weight of each row, (B,).
    """
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2.0
        too_high = np.average(_sigmoid(logit + middle), weights=weight) > rate
        low, high = (low, middle) if too_high else (middle, high)
    return (low + high) / 2.0


def day_blocks(
    world: World,
    levels: Levels,
    region: Region,
    histories: Histories,
    *,
    day: int,
    repetition: int = 0,
) -> Iterator[tuple[Block, Truth, Labels]]:
    """Yield the blocks of one region's day. The clicks of each then join the histories.

    Args:
        world: world that was drawn once.
        levels: intercepts of `fit_levels`.
        region: region whose day it is.
        histories: the region's histories after the day before.
        day: index of the day in the log.
        repetition: 0 for the log's own rows; other numbers draw other rows from the same truth.
    """
    dt = world.knobs.start_date + timedelta(days=day)
    start_s = int(datetime(dt.year, dt.month, dt.day, tzinfo=UTC).timestamp())
    stream = (world.knobs.seed, ROWS_STREAM, region.number, day)
    rng = np.random.default_rng((*stream, repetition) if repetition else stream)
    for window in windows(start_s, int(world.rows_RD[region.number, day]), rng):
        block = draw_block(world, region, histories, rng, day=day, window=window)
        truth = _truth(world, levels, region, block, day=day)
        clicked = rng.random(len(block.time)) < truth.p_click
        labels = Labels(clicked=clicked, ordered=rng.random(len(block.time)) < truth.p_order)
        yield block, truth, labels
        histories.add(block.user[clicked], block.item[clicked])
