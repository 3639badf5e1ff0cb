"""Compute small charts as shapes; `templates/charts.j2` writes them as SVG.

A chart has a title and a summary for readers who do not see it, and the page has its numbers in a
table as well. Colours are classes of the style sheet, which has other ones for the dark theme and
for print.

Units of every position are those of the chart's own box, whose origin is its upper left corner.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Curve = Sequence[tuple[float, float, int]]
"""A calibration curve: mean prediction, observed share and rows of each bin."""


@dataclass(frozen=True, slots=True)
class Rect:
    """A bar or a part of one."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    """Class of the style sheet."""
    title: str = ""
    """Shown under the pointer."""


@dataclass(frozen=True, slots=True)
class Path:
    """A line, in SVG's own notation."""

    d: str
    kind: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A point."""

    x: float
    y: float
    radius: float
    kind: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """A text; `anchor` says which of its ends lies at `x`."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    kind: str = "label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Shapes in a box, those that come later on top."""

    title: str
    summary: str
    """What the chart shows, in words."""
    width: float
    height: float
    rects: tuple[Rect, ...] = ()
    paths: tuple[Path, ...] = ()
    dots: tuple[Dot, ...] = ()
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True)
class Scale:
    """Map the values of [low, high] to positions between `start` and `stop`.

    `start` may be greater than `stop`: heights grow upwards, and SVG counts downwards.
    """

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Return the position of a value, to a tenth; values outside lie on the nearer end."""
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return round(self.start + (self.stop - self.start) * min(1.0, max(0.0, share)), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalMark:
    """One interval on a column's common scale, in a box of `WIDTH` by `HEIGHT`."""

    zero: float
    low: float
    value: float
    high: float
    is_cut_low: bool
    """Whether the interval goes on beyond the scale's lower end."""
    is_cut_high: bool
    kind: str
    """`better` or `worse` where the whole interval lies on one side of zero, else `unclear`."""


WIDTH, HEIGHT = 92, 16
PLANE_WIDTH, PLANE_HEIGHT = 350, 250
_PAD = 3
_MIN_REACH = 1e-12
"""Reach of a scale below which all its intervals count as zero."""
_MAX_REACH = 2.5
"""Multiple of the median reach at which a column's scale ends; longer intervals are cut."""
_MAX_CURVES = 60
"""Curves of one picture at most: more of them could not be told apart."""


def interval_scale(intervals: Iterable[tuple[float, float, float]]) -> Scale:
    """Return a scale that shows most of a column's intervals, and zero.

    A few domains with little data have intervals many times as wide as the others'. They are cut,
    so that the others can be read.

    Args:
        intervals: value, low and high of each.
    """
    known = list(intervals)
    if not known:
        return Scale(-1.0, 1.0, _PAD, WIDTH - _PAD)
    reaches = sorted(max(abs(low), abs(high)) for _, low, high in known)
    reach = min(reaches[-1], _MAX_REACH * reaches[len(reaches) // 2])
    if reach < _MIN_REACH:
        reach = 1.0
    # Zero never lies on the border, where it would hide on which side of it an interval is.
    low = max(-reach, min(-0.1 * reach, *(low for _, low, _ in known)))
    high = min(reach, max(0.1 * reach, *(high for _, _, high in known)))
    return Scale(low, high, _PAD, WIDTH - _PAD)


def interval_mark(
    interval: tuple[float, float, float], scale: Scale, *, is_better_below: bool = False
) -> IntervalMark:
    """Return where an interval lies on its column's scale.

    Args:
        interval: value, low and high.
        scale: scale of the column.
        is_better_below: whether less is better, as of a loss.
    """
    value, low, high = interval
    above, below = ("worse", "better") if is_better_below else ("better", "worse")
    return IntervalMark(
        zero=scale(0.0),
        low=scale(low),
        value=scale(value),
        high=scale(high),
        is_cut_low=low < scale.low,
        is_cut_high=high > scale.high,
        kind=above if low > 0 else below if high < 0 else "unclear",
    )


def stacked_bar(
    title: str, parts: Mapping[str, tuple[float, str]], *, width: float = 1000
) -> Chart:
    """Return one bar that is cut into parts.

    Args:
        title: what the parts are of.
        parts: name of each -> its size and its class; those of size 0 are left out.
        width: width of the box.
    """
    total = sum(size for size, _ in parts.values()) or 1.0
    rects, at = [], 0.0
    for name, (size, kind) in parts.items():
        if size > 0:
            wide = width * size / total
            # A gap separates neighbours for readers who do not see colours.
            rects.append(
                Rect(round(at, 1), 0, round(max(wide - 2, 1), 1), 10, kind, f"{name}: {size:,.0f}")
            )
            at += wide
    sizes = ", ".join(f"{name} {size:,.0f}" for name, (size, _) in parts.items())
    return Chart(title=title, summary=sizes, width=width, height=10, rects=tuple(rects))


def outcome_columns(title: str, nights: Sequence[tuple[str, float | None]]) -> Chart:
    """Return one column for each night: its height is the gain, its class the outcome.

    Args:
        title: title of the chart.
        nights: outcome and gain of each, oldest first. A night without a gain is a short mark.
    """
    width, height, step = max(1, len(nights)) * 5, 16, 5
    gains = [gain for _, gain in nights if gain is not None]
    scale = Scale(min(0.0, *gains, 0.0), max(0.0, *gains, 0.0), height - 1, 1)
    zero = scale(0.0) if gains else height - 1
    lines: dict[str, list[str]] = {}
    for index, (outcome, gain) in enumerate(nights):
        end = scale(gain) if gain is not None else zero
        if abs(end - zero) < 2:
            # At least 2 units long, so that a gain near zero is visible, and inside the box.
            end = zero - 2 if zero > 2 else zero + 2
        lines.setdefault(outcome, []).append(f"M{index * step + 2} {zero}V{end}")
    counts = ", ".join(f"{sum(o == name for o, _ in nights)} {name}" for name in lines)
    paths = tuple(Path("".join(d), f"column {name}") for name, d in lines.items())
    return Chart(
        title=title, summary=f"Oldest first: {counts}", width=width, height=height, paths=paths
    )


def line_through(values: Sequence[float | None], x: Scale, y: Scale) -> str:
    """Return a line through values at 0, 1, 2, ...; it is broken where there is none."""
    parts, is_drawn = [], False
    for index, value in enumerate(values):
        if value is not None:
            # A point between two gaps is a line of length 0, which round ends make a dot.
            parts.append(f"{'L' if is_drawn else 'M'}{x(index)} {y(value)}" + "h0" * (not is_drawn))
        is_drawn = value is not None
    return "".join(parts)


def calibration_chart(
    title: str, curves: Sequence[tuple[str, Curve]], *, size: float = 250
) -> Chart:
    """Return calibration curves over the diagonal, where predicted is observed.

    Args:
        title: title of the chart.
        curves: class and points of each, the most important last.
        size: width and height of the box.
    """
    curves = [(kind, points) for kind, points in curves if points][-_MAX_CURVES:]
    ends = sorted(max(p, y) for _, points in curves for p, y, _ in points)
    # Bins of few rows lie far out. The last hundredth of the points may lie on the border instead.
    high = nice_ceiling(ends[int(0.99 * (len(ends) - 1))]) if ends else 1.0
    left, bottom = 34.0, size - 22
    x, y = Scale(0, high, left, size - 6), Scale(0, high, bottom, 6)
    paths = [
        Path(f"M{left} 6V{bottom}H{size - 6}", "axis"),
        Path(f"M{x(0)} {y(0)}L{x(high)} {y(high)}", "diagonal"),
    ]
    paths += [
        # A curve of one bin is a line of length 0, which round ends make a dot.
        Path("M" + "L".join(f"{x(p)} {y(o)}" for p, o, _ in points) + "h0", kind)
        for kind, points in curves
    ]
    labels = [
        Label(left - 4, y(high) + 8, f"{high:g}", "end"),
        Label(left - 4, bottom, "0", "end"),
        Label(size - 6, size - 8, f"{high:g}", "end"),
        Label((left + size) / 2, size - 8, "predicted", "middle"),
        Label(left + 4, 15, "observed"),
    ]
    last = curves[-1][1] if curves else ()
    bins = "; ".join(f"predicted {p:.3g}, observed {o:.3g}" for p, o, _ in last) or "no rows"
    return Chart(
        title=title,
        summary=f"{len(curves)} calibration curves; the last: {bins}.",
        width=size,
        height=size,
        paths=tuple(paths),
        labels=tuple(labels),
    )


def nice_ceiling(value: float) -> float:
    """Return the next number of 1, 1.5, 2, 3, 5, 7.5 times a power of ten that is not smaller."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        (m * power for m in (1, 1.5, 2, 3, 5, 7.5) if m * power >= value * (1 - 1e-9)), 10 * power
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """Two axes in a box, with their names and greatest values."""

    x: Scale
    y: Scale
    paths: tuple[Path, ...]
    labels: tuple[Label, ...]


def plane(xs: Sequence[float], ys: Sequence[float], *, x_name: str, y_name: str) -> Plane:
    """Return axes that hold all of these values, and 0.

    Args:
        xs: values along the box, at least one.
        ys: values up the box, at least one.
        x_name: what x is, with its unit.
        y_name: the same of y.
    """
    left, right, bottom = 52.0, PLANE_WIDTH - 8, PLANE_HEIGHT - 22
    x = Scale(min(0.0, *xs), nice_ceiling(max(xs)), left, right)
    y = Scale(min(0.0, *ys), nice_ceiling(max(*ys, 1e-12)), bottom, 8)
    paths = [Path(f"M{left} 8V{bottom}H{right}", "axis")]
    if y.low < 0:
        paths.append(Path(f"M{left} {y(0)}H{right}", "diagonal"))
    labels = (
        Label(left - 4, 16, f"{y.high:g}", "end"),
        Label(left - 4, y(0) + 3, "0", "end"),
        Label(right, bottom + 14, f"{x.high:g}", "end"),
        Label((left + PLANE_WIDTH) / 2, bottom + 14, x_name, "middle"),
        Label(left + 4, 17, y_name),
    )
    return Plane(x=x, y=y, paths=tuple(paths), labels=labels)


def scatter_chart(
    title: str, points: Sequence[tuple[float, float, str, str]], *, x_name: str, y_name: str
) -> Chart:
    """Return a point for each domain.

    Args:
        title: title of the chart.
        points: x, y, class and name of each.
        x_name: what x is, with its unit.
        y_name: the same of y.
    """
    xs, ys = [p[0] for p in points] or [1.0], [p[1] for p in points] or [1.0]
    axes = plane(xs, ys, x_name=x_name, y_name=y_name)
    return Chart(
        title=title,
        summary=f"{len(points)} domains; {x_name} from {min(xs):.3g} to {max(xs):.3g}, "
        f"{y_name} from {min(ys):.3g} to {max(ys):.3g}.",
        width=PLANE_WIDTH,
        height=PLANE_HEIGHT,
        paths=axes.paths,
        dots=tuple(
            Dot(axes.x(a), axes.y(b), 3.5, f"dot {kind}", name) for a, b, kind, name in points
        ),
        labels=axes.labels,
    )
