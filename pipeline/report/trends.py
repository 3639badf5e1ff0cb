"""Draw numbers over nights: one small chart for each number, and the same numbers as a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from iak.pipeline.report.charts import (
    Chart,
    Dot,
    Label,
    Path,
    Rect,
    Scale,
    line_through,
    nice_ceiling,
)
from iak.pipeline.report.domain_lines import mean_auc, tasks_of
from iak.pipeline.report.wording import day, decimal, money, percent, short, signed
from iak.schemas.night import NightRecord, Outcome

OUTCOMES: tuple[Outcome, ...] = ("promoted", "held", "failed", "waiting")
WIDTH, HEIGHT = 260.0, 104.0
_LEFT, _TOP, _BOTTOM = 4.0, 26.0, 84.0
Value = Callable[[NightRecord], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A number that is drawn over nights."""

    title: str
    """What the number is, with its unit."""
    value: Value
    """Returns a night's number; None where it has none."""
    text: Callable[[float | None], str]
    """Writes a number."""
    reference: Value | None = None
    """A second line on the same scale, such as the base's."""
    is_column: bool = False
    """Whether it is drawn as columns from zero, as counts and sums should be, not as a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trends:
    """Charts over nights, and their table."""

    charts: tuple[Chart, ...]
    heads: tuple[str, ...]
    """Headings of the table's columns."""
    rows: tuple[tuple[str, ...], ...]
    """Cells of the table, a row for each night, oldest first."""


def trends_of(nights: Sequence[NightRecord]) -> Trends:
    """Return the charts over nights.

    Args:
        nights: oldest first; the last one is the page's own.
    """
    series = [one for one in _series(nights[-1]) if any(one.value(night) for night in nights)]
    outcomes = [night.counts for night in nights]
    return Trends(
        charts=(_outcome_chart(nights), *(_chart(one, nights) for one in series)),
        heads=("night", *OUTCOMES, *(one.title for one in series)),
        rows=tuple(
            (
                day(night.night),
                *(f"{counts[outcome]:,}" for outcome in OUTCOMES),
                *(one.text(one.value(night)) for one in series),
            )
            for night, counts in zip(nights, outcomes, strict=True)
        ),
    )


def _series(newest: NightRecord) -> list[Series]:
    """Return the numbers that are drawn; the AUC is that of the newest night's first task."""
    task = next(iter(tasks_of(newest)), "")
    return [
        Series(
            title="median gain, 1/1000 nats a row",
            value=_median_gain,
            text=lambda value: signed(value, 2),
        ),
        Series(
            title=f"AUC of {task or 'no task'}, dashed: base",
            value=lambda night: mean_auc(night, task, "candidate"),
            reference=lambda night: mean_auc(night, task, "base"),
            text=decimal,
        ),
        Series(title="rows tuned", value=lambda n: n.rows_tuned, text=short, is_column=True),
        Series(
            title=f"cost, {newest.currency}",
            value=lambda night: night.cost,
            text=lambda value: money(value, newest.currency),
            is_column=True,
        ),
        Series(
            title="largest share of unseen ids",
            value=lambda night: max(night.unseen.values(), default=None),
            text=percent,
            is_column=True,
        ),
        Series(
            title="largest drift of an input or label",
            value=lambda night: max((abs(line.index) for line in night.drift), default=None),
            text=lambda value: decimal(value, 3),
            is_column=True,
        ),
        Series(
            title="median rate, nats a row",
            value=_median_rate,
            text=lambda value: decimal(value, 2),
        ),
    ]


def _median_gain(night: NightRecord) -> float | None:
    """Return the median gain of the night's kernels, in thousandths of a nat per row."""
    gains = [d.verdict.gain for d in night.domains if d.verdict and d.verdict.gain is not None]
    return 1000 * median(gains) if gains else None


def _median_rate(night: NightRecord) -> float | None:
    """Return the median rate of the kernels' codes, in nats per row."""
    rates = [d.rate for d in night.domains if d.rate is not None]
    return median(rates) if rates else None


def _outcome_chart(nights: Sequence[NightRecord]) -> Chart:
    """Return a stacked column for each night."""
    most = max((len(night.domains) for night in nights), default=1) or 1
    y = Scale(0, most, _BOTTOM, _TOP)
    rects = []
    for night, (left, wide) in zip(nights, _columns(len(nights)), strict=True):
        done = 0
        for outcome in OUTCOMES:
            number = night.counts[outcome]
            if number:
                top, below = y(done + number), y(done)
                title = f"{day(night.night)}: {number:,} {outcome}"
                rects.append(Rect(left, top, wide, round(below - top, 1), outcome, title))
                done += number
    counts = nights[-1].counts
    return Chart(
        title="kernels by outcome",
        summary=f"{len(nights)} nights; the last: "
        + ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES),
        width=WIDTH,
        height=HEIGHT,
        rects=tuple(rects),
        labels=(
            *_dates(nights),
            Label(WIDTH - 4, 15, f"{counts['promoted']:,} promoted", "end", "last"),
        ),
    )


def _chart(series: Series, nights: Sequence[NightRecord]) -> Chart:
    """Return one number over nights, as a line or as columns."""
    values = [series.value(night) for night in nights]
    reference = [series.reference(night) for night in nights] if series.reference else []
    known = [value for value in (*values, *reference) if value is not None]
    last = series.text(values[-1])
    blank = Chart(
        title=series.title,
        summary="no values",
        width=WIDTH,
        height=HEIGHT,
        labels=(*_dates(nights), Label(WIDTH - 4, 15, last, "end", "last")),
    )
    if not known:
        return blank
    ends = " to ".join(series.text(end) for end in (min(known), max(known)))
    summary = f"{len(nights)} nights, from {ends}, the last {last}"
    if series.is_column:
        y = Scale(0, nice_ceiling(max(known)), _BOTTOM, _TOP)
        return replace(blank, summary=summary, rects=_rects(values, nights, y, series))
    labels = (*blank.labels, Label(_LEFT, 15, ends))
    y = _padded(known)
    x = Scale(0, max(1, len(nights) - 1), _LEFT + 8, WIDTH - 14)
    return replace(
        blank,
        summary=summary,
        labels=labels,
        paths=(
            Path(line_through(reference, x, y), "beside"),
            Path(line_through(values, x, y), "curve"),
        ),
        dots=() if values[-1] is None else (Dot(x(len(nights) - 1), y(values[-1]), 3, "accent"),),
    )


def _padded(known: Sequence[float]) -> Scale:
    """Return a scale with a margin, so that no line touches the border."""
    low, high = min(known), max(known)
    pad = 0.1 * (high - low) or 0.1 * abs(high) or 1.0
    return Scale(low - pad, high + pad, _BOTTOM, _TOP)


def _rects(
    values: Sequence[float | None], nights: Sequence[NightRecord], y: Scale, series: Series
) -> tuple[Rect, ...]:
    """Return a column for each night that has a value; the last night's stands out."""
    return tuple(
        Rect(
            left,
            y(value),
            wide,
            round(_BOTTOM - y(value), 1),
            "accent" if night is nights[-1] else "past",
            f"{day(night.night)}: {series.text(value)}",
        )
        for value, night, (left, wide) in zip(values, nights, _columns(len(nights)), strict=True)
        if value is not None
    )


def _columns(number: int) -> list[tuple[float, float]]:
    """Return the left end and the width of each column, which is 36 units at most."""
    step = (WIDTH - 2 * _LEFT) / number
    wide = round(min(step * 0.78, 36.0), 1)
    return [(round(_LEFT + (n + 0.5) * step - wide / 2, 1), wide) for n in range(number)]


def _dates(nights: Sequence[NightRecord]) -> tuple[Label, ...]:
    """Return labels with the first and the last date, for the foot of the chart."""
    first, last = (f"{n.night.day} {n.night:%b}" for n in (nights[0], nights[-1]))
    if len(nights) == 1:
        return (Label(_LEFT, HEIGHT - 6, first),)
    return (Label(_LEFT, HEIGHT - 6, first), Label(WIDTH - 4, HEIGHT - 6, last, "end"))
