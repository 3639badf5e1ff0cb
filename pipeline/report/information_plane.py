"""Draw how codes moved over the information plane while they were tuned, and say it in words."""

from collections.abc import Sequence

from iak.pipeline.report.charts import PLANE_HEIGHT, PLANE_WIDTH, Chart, Dot, Path, plane
from iak.pipeline.report.wording import plural
from iak.schemas.tuning import TrainingPoint

MAX_LINES = 60
"""Lines of one picture at most: more of them could not be told apart."""

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
    nats = [label_nats for _, _, line in lines for _, label_nats in line]
    axes = plane(
        rates,
        nats,
        x_name="kept of the inputs, nats a row",
        y_name="told of the labels, nats a row",
    )
    # A kernel of one epoch is a line of length 0, which round ends make a dot.
    paths = [
        Path("M" + "L".join(f"{axes.x(a)} {axes.y(b)}" for a, b in line) + "h0", kind)
        for kind, _, line in lines
    ]
    return Chart(
        title=title,
        summary=_summary(lines),
        width=PLANE_WIDTH,
        height=PLANE_HEIGHT,
        paths=(*axes.paths, *paths),
        dots=tuple(
            Dot(axes.x(line[-1][0]), axes.y(line[-1][1]), 2.5, "dot", name)
            for _, name, line in lines
        ),
        labels=axes.labels,
    )


def _summary(lines: Sequence[tuple[str, str, Sequence[tuple[float, float]]]]) -> str:
    """Describe the picture: how many lines, and how the uppermost one runs."""
    _, name, line = lines[-1]
    (rate, nats), (last_rate, last_nats) = line[0], line[-1]
    return (
        f"{plural(len(lines), 'kernel')}, a line each. The code of {name} keeps {rate:.3g} nats a "
        f"row after the first epoch and {last_rate:.3g} after the last. Its predictions tell "
        f"{nats:.3g} and {last_nats:.3g} nats of the labels."
    )


def path_words(points: Sequence[TrainingPoint]) -> str:
    """Say epoch by epoch what a code keeps, what it says of labels, and at which beta."""
    said = []
    for point in points:
        tells = "" if point.label_nats is None else f", tells {point.label_nats:.4f}"
        said.append(
            f"{point.phase} {point.epoch}: keeps {point.rate:.3g}{tells} (beta {point.beta:.2g})"
        )
    return "; ".join(said)
