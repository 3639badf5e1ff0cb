"""Cut the splits of a log: by its days, by a column that says train and test, or by hashes.

The last tenth of the rows is tested on, and kernels are tuned on a fifth before it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data import splits
from iak.pipeline.data.guess_folders import SPLIT_WORDS, part_of
from iak.pipeline.data.guess_labels import Guess
from iak.pipeline.data.guess_order import OrderGuess
from iak.pipeline.data.guess_time import DAY_S, TimeGuess
from iak.pipeline.data.log_sample import LogSample, kind_of

Parts = Mapping[str, tuple[str, ...]]
"""Part of a log (train, valid or test) -> values of its column."""
_STRAY_DAYS = 30
"""Days without rows beyond which the dates at either end may be stray ones."""
_STRAY_SHARE = 0.001
"""Largest share of the rows that stray dates have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCut:
    """The rows of one split, as a catalogue declares them."""

    share: float
    """Approximate share of the log's rows."""
    days: tuple[int, int] | None = None
    """First and last day; days before the last one count backwards from -1."""
    dates: tuple[date, date] | None = None
    """First and last date."""
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column -> the values that rows of the split have."""
    slice: tuple[float, float] | None = None
    """Part of the rows' hash; None for all of it."""


def split_columns(sample: LogSample) -> dict[str, Parts]:
    """Return columns that say train, valid or test: column -> part -> its values.

    The name of a folder may say it in one of its words, such as `shop_test`.
    """
    rows = sample.rows
    columns: dict[str, Parts] = {}
    for name in rows.schema.names:
        if kind_of(rows.schema.field(name).type) != "text":
            continue
        values = [v for v in pc.unique(rows.column(name)).to_pylist() if v is not None]
        is_key = name in sample.partition_keys
        parts = {
            part: tuple(
                sorted(v for v in values if v.lower() in names or (is_key and part_of(v) == part))
            )
            for part, names in SPLIT_WORDS.items()
        }
        if parts["train"] and parts["test"] and sum(map(len, parts.values())) == len(values):
            columns[name] = {part: own for part, own in parts.items() if own}
    return columns


def cut_splits(
    sample: LogSample,
    date_key: Guess | None,
    time: TimeGuess | None,
    columns: Mapping[str, Parts],
    order: OrderGuess | None,
) -> tuple[dict[str, SplitCut], str]:
    """Cut splits by days where folders are dated, else by a split column, event times, or hashes.

    Where nothing has a date, numbered periods are cut as days are.

    Returns:
        Split -> its rows; and why.
    """
    by_day = _rows_by_day(sample, date_key, None)
    if len(by_day) > 2:
        return _by_days(by_day)
    if columns:
        name = split_column(columns)
        return _by_column(name, columns[name], sample.rows)
    by_day = _rows_by_day(sample, None, time)
    if len(by_day) > 2:
        return _by_days(by_day)
    if order:
        return _by_order(order)
    cuts = (0.0, 0.6, 0.65, 0.8, 0.85, 0.9, 1.0)
    names = ("pretrain", "pretrain_valid", "tune", "valid", "gate", "test")
    return {
        name: SplitCut(slice=(low, high), share=high - low)
        for name, low, high in zip(names, cuts, cuts[1:], strict=False)
    }, "no dates and no parts to test on were found: slices of the rows' hash"


def validated_on_others(cuts: Mapping[str, SplitCut]) -> dict[str, SplitCut]:
    """Return splits whose base is validated on rows of `valid`, where these are a part of the log.

    A slice of the training users is too few users, and another part has users of its own.
    """
    pretrain, own = cuts["pretrain"], cuts.get("pretrain_valid")
    if own is None or cuts["valid"].where == pretrain.where:
        return dict(cuts)
    whole = replace(pretrain, slice=None, share=pretrain.share + own.share)
    return {name: cut for name, cut in cuts.items() if name != "pretrain_valid"} | {
        "pretrain": whole
    }


def split_column(columns: Mapping[str, Parts]) -> str:
    """Return the first column that names every part, or else the first one."""
    whole = [name for name, parts in columns.items() if len(parts) == len(SPLIT_WORDS)]
    return next(iter(whole or columns))


def days_of(
    sample: LogSample, date_key: Guess | None, time: TimeGuess | None, order: OrderGuess | None
) -> tuple[date, ...]:
    """Return the first and the last day that splits are cut by; empty where none has a day."""
    days = [*(_rows_by_day(sample, date_key, None) or _rows_by_day(sample, None, time))]
    days = days or [*((order.days if order else None) or {}).values()]
    return (days[0], days[-1]) if days else ()


def _rows_by_day(
    sample: LogSample, date_key: Guess | None, time: TimeGuess | None
) -> dict[date, int]:
    """Return the rows of each date, without single dates far from the others."""
    counts: Counter[date] = Counter()
    if date_key:
        for file in sample.snapshot.files:
            day = splits.parse_date(dict(file.partition).get(date_key.column))
            if day:
                counts[day] += file.rows
    elif time:
        seconds = time.seconds_of(sample.rows)
        days, rows = np.unique(
            np.floor(seconds[~np.isnan(seconds)] / DAY_S).astype(int), return_counts=True
        )
        for day, count in zip(days.tolist(), rows.tolist(), strict=True):
            counts[date(1970, 1, 1) + timedelta(days=day)] = count
    ordered = sorted(counts)
    total = counts.total()
    while len(ordered) > 1:
        gaps = ((0, ordered[1] - ordered[0]), (-1, ordered[-1] - ordered[-2]))
        stray = [ordered[end] for end, gap in gaps if gap.days > _STRAY_DAYS]
        stray = [day for day in stray if counts[day] <= max(_STRAY_SHARE * total, 1)]
        if not stray:
            break
        ordered.remove(stray[0])
    return {day: counts[day] for day in ordered}


def _by_days(by_day: Mapping[date, int]) -> tuple[dict[str, SplitCut], str]:
    """Cut days: the last tenth of the rows to test, a fifth before it to tune, the rest before."""
    days, total = list(by_day), sum(by_day.values())
    last = days[-1]

    def share(first: int, end: int) -> float:
        return sum(by_day[d] for d in days[first:end]) / total

    # Each window has at least one day, however the rows lie.
    test = next(
        day for day in range(len(days) - 1, 1, -1) if share(day, len(days)) >= 0.1 or day == 2
    )
    tune = next(day for day in range(test - 1, 0, -1) if share(day, test) >= 0.2 or day == 1)
    # Days of a catalogue count backwards from the last, which is -1.
    back = {day: (days[day] - last).days - 1 for day in (tune, test)}
    windows = {
        "pretrain": (0, back[tune] - 1),
        "tune": (back[tune], back[test] - 1),
        "test": (back[test], -1),
    }
    shares = {"pretrain": share(0, tune), "tune": share(tune, test), "test": share(test, len(days))}
    cuts: dict[str, SplitCut] = {}
    for name, window, low, high in (
        ("pretrain", "pretrain", 0.0, 0.95),
        ("pretrain_valid", "pretrain", 0.95, 1.0),
        ("tune", "tune", 0.0, 0.7),
        ("valid", "tune", 0.7, 0.85),
        ("gate", "tune", 0.85, 1.0),
        ("test", "test", 0.0, 1.0),
    ):
        cuts[name] = SplitCut(
            days=windows[window], slice=_part(low, high), share=shares[window] * (high - low)
        )
    return cuts, f"{len(days):,} days from {days[0]} to {last}"


def _by_order(order: OrderGuess) -> tuple[dict[str, SplitCut], str]:
    """Cut numbered periods as days are cut; name the numbers of each split where none is a day."""
    values = list(order.rows_by_value)
    if order.days:
        cuts, _ = _by_days({order.days[text]: rows for text, rows in order.rows_by_value.items()})
        return cuts, f"{order.column}: {order.why}"
    days = {date.fromordinal(n): rows for n, rows in enumerate(order.rows_by_value.values(), 1)}
    cuts, _ = _by_days(days)
    named: dict[str, SplitCut] = {}
    for name, cut in cuts.items():
        first, last = cut.days or (0, -1)
        own = tuple(values[first : len(values) + last + 1 if last < 0 else last + 1])
        named[name] = replace(cut, days=None, where={order.column: own})
    return named, f"{order.column}: {order.why}"


def _part(low: float, high: float) -> tuple[float, float] | None:
    """Return a slice; None for all rows."""
    return None if (low, high) == (0.0, 1.0) else (low, high)


def _by_column(name: str, parts: Parts, rows: pa.Table) -> tuple[dict[str, SplitCut], str]:
    """Cut splits by a column; a part that it lacks is a slice of the training rows."""
    counts = dict(Counter(rows.column(name).to_pylist()))
    share = {p: sum(counts[v] for v in values) / len(rows) for p, values in parts.items()}
    cuts: tuple[tuple[str, str, float, float], ...] = (
        ("pretrain", "train", 0.0, 0.7),
        ("pretrain_valid", "train", 0.7, 0.75),
        ("tune", "train", 0.75, 0.9),
        ("valid", "train", 0.9, 0.95),
        ("gate", "train", 0.95, 1.0),
        ("test", "test", 0.0, 1.0),
    )
    if "valid" in parts:
        cuts = (
            ("pretrain", "train", 0.0, 0.95),
            ("pretrain_valid", "train", 0.95, 1.0),
            ("tune", "valid", 0.0, 0.5),
            ("valid", "valid", 0.5, 0.75),
            ("gate", "valid", 0.75, 1.0),
            ("test", "test", 0.0, 1.0),
        )
    splits_by_name = {
        split: SplitCut(
            where={name: parts[part]}, slice=_part(low, high), share=share[part] * (high - low)
        )
        for split, part, low, high in cuts
    }
    return splits_by_name, f"the column {name} says " + ", ".join(parts)
