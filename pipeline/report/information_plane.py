"""Draw how codes moved over the information plane while they were tuned, and say it in words."""

from collections.abc import Sequence

from iak.pipeline.report.charts import Chart, Dot, Label, Path, Scale, nice_ceiling
from iak.pipeline.report.wording import plural
from iak.schemas.tuning import TrainingPoint

MAX_LINES = 60
"""Lines of one picture at most: more of them could not be told apart."""
_WIDTH, _HEIGHT = 350.0, 250.0

KernelPath = tuple[str, str, Sequence[TrainingPoint]]
"""Class, name of the domain, and epochs of a kernel."""


def information_plane(title: str, kernels: Sequence[KernelPath]) -> Chart | None:
    """Return a line for each kernel, from its first epoch to a dot at its last one.

    Args:
        title: title of the chart.
        kernels: those on top come last. Of more than `MAX_LINES` the last ones are drawn.

    Returns:
        The chart; None where no epoch of any kernel has both numbers.
    """
    lines = [
        (kind, name, [(p.rate, p.label_nats) for p in points if p.label_nats is not None])
        for kind, name, points in kernels
    ]
    lines = [line for line in lines if line[2]][-MAX_LINES:]
    if not lines:
        return None
    rates = [rate for _, _, line in lines for rate, _ in line]
    nats = [told for _, _, line in lines for _, told in line]
    left, bottom = 52.0, _HEIGHT - 22
    x = Scale(0.0, nice_ceiling(max(rates)), left, _WIDTH - 8)
    y = Scale(min(0.0, *nats), nice_ceiling(max(*nats, 1e-12)), bottom, 8)
    paths = [Path(f"M{left} 8V{bottom}H{_WIDTH - 8}", "axis")]
    if y.low < 0:
        paths.append(Path(f"M{left} {y(0)}H{_WIDTH - 8}", "diagonal"))
    # A kernel of one epoch is a line of length 0, which round ends make a dot.
    paths += [
        Path("M" + "L".join(f"{x(rate)} {y(told)}" for rate, told in line) + "h0", kind)
        for kind, _, line in lines
    ]
    return Chart(
        title=title,
        summary=_summary(lines),
        width=_WIDTH,
        height=_HEIGHT,
        paths=tuple(paths),
        dots=tuple(
            Dot(x(line[-1][0]), y(line[-1][1]), 2.5, "dot", name) for _, name, line in lines
        ),
        labels=(
            Label(left - 4, 16, f"{y.high:g}", "end"),
            Label(left - 4, y(0) + 3, "0", "end"),
            Label(_WIDTH - 8, _HEIGHT - 8, f"{x.high:g}", "end"),
            Label((left + _WIDTH) / 2, _HEIGHT - 8, "kept of the inputs, nats a row", "middle"),
            Label(left + 4, 17, "told of the labels, nats a row"),
        ),
    )


def _summary(lines: Sequence[tuple[str, str, Sequence[tuple[float, float]]]]) -> str:
    """Describe the picture: how many lines, and how the uppermost one runs."""
    _, name, line = lines[-1]
    (rate, told), (last_rate, last_told) = line[0], line[-1]
    return (
        f"{plural(len(lines), 'kernel')}, a line each. The code of {name} keeps {rate:.3g} nats a "
        f"row after the first epoch and {last_rate:.3g} after the last. Its predictions tell "
        f"{told:.3g} and {last_told:.3g} nats of the labels."
    )


def path_words(points: Sequence[TrainingPoint]) -> str:
    """Say epoch by epoch what a code kept and told, and at which beta; empty without epochs."""
    said = []
    for point in points:
        told = "" if point.label_nats is None else f", tells {point.label_nats:.4f}"
        said.append(
            f"{point.phase} {point.epoch}: keeps {point.rate:.3g}{told} (beta {point.beta:.2g})"
        )
    return "; ".join(said)
