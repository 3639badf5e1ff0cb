"""The information plane: a line for each kernel, its last epoch a dot, and words for all of it."""

import pytest

from iak.pipeline.report.information_plane import MAX_LINES, information_plane, path_words
from iak.schemas.tuning import TrainingPoint


def epoch(number, rate, told, beta=1e-3, phase="matching"):
    return TrainingPoint(phase=phase, epoch=number, beta=beta, rate=rate, label_nats=told)


PATH = [epoch(1, 2.0, 0.01), epoch(2, 1.0, 0.02)]


def test_a_line_runs_from_the_first_epoch_to_a_dot_at_the_last():
    """Rates up to 2 span x from 52 to 342, nats up to 0.02 span y from 228 to 8."""
    chart = information_plane("plane", [("thin", "region=a", PATH)])
    (line,) = [p.d for p in chart.paths if p.kind == "thin"]
    assert line == "M342.0 118.0L197.0 8.0h0"
    (dot,) = chart.dots
    assert (dot.x, dot.y, dot.title) == (197.0, 8.0, "region=a")
    assert "keeps 2 nats a row after the first epoch and 1 after the last" in chart.summary


def test_without_an_epoch_that_tells_anything_there_is_no_picture():
    assert information_plane("plane", []) is None
    assert information_plane("plane", [("thin", "region=a", [])]) is None
    assert information_plane("plane", [("thin", "region=a", [epoch(1, 2.0, None)])]) is None


def test_nats_below_zero_lie_below_the_line_of_zero():
    chart = information_plane(
        "plane", [("thin", "a", [epoch(1, 1.0, -0.01), epoch(2, 1.0, -0.02)])]
    )
    (zero,) = [p.d for p in chart.paths if p.kind == "diagonal"]
    height = float(zero.split()[1].split("H")[0])
    assert all(dot.y > height for dot in chart.dots)


@pytest.mark.parametrize("count", [1, MAX_LINES, MAX_LINES + 40])
def test_of_many_kernels_those_on_top_are_drawn(count):
    kernels = [("thin", f"region={k}", PATH) for k in range(count)]
    chart = information_plane("plane", kernels)
    assert len(chart.dots) == min(count, MAX_LINES)
    assert chart.dots[-1].title == f"region={count - 1}"


def test_the_words_name_every_epoch_with_its_beta():
    compressed = epoch(1, 0.5, None, beta=0.25, phase="compression")
    assert path_words([compressed, PATH[0]]) == (
        "compression 1: keeps 0.5 (beta 0.25); matching 1: keeps 2, tells 0.0100 (beta 0.001)"
    )
    assert path_words([]) == ""
