"""The lines of an evaluation's tables: order, verdict, and reasons of missing numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.report.evaluation_lines import MAX_LINES, task_part
from iak.schemas.prediction import EvaluationResult, GateSummary
from tests.unit.report.rows import metric

RESULT = EvaluationResult(
    contract={},
    digest="d",
    unseen={},
    gate={"a": GateSummary(publish=True, holding=(), not_judged={})},
    served={"a": "a", "b": "pooled"},
)


def part_of(rows, curves=None):
    return task_part(0, rows, RESULT, curves or {})


def both(domain, *, delta=(0.0, -0.1, 0.1), rows=100, **changes):
    """The base's row of a domain, and the tuned kernel's."""
    return [
        metric("base", domain, rows=rows),
        metric("iak", domain, rows=rows, delta=delta, **changes),
    ]


def test_summaries_come_first_and_then_the_largest_domains():
    rows = [*both("a", rows=10), *both("b", rows=30), *both("all", rows=40), *both("pooled")]
    lines = part_of(rows).lines
    assert [line.domain for line in lines] == ["all", "pooled", "b", "a"]
    assert [line.is_summary for line in lines] == [True, True, False, False]


def test_a_domain_says_what_the_gate_decided_and_what_serves_it():
    lines = {line.domain: line for line in part_of([*both("all"), *both("a"), *both("b")]).lines}
    assert (lines["a"].gate, lines["a"].served) == ("published", "own")
    assert (lines["b"].gate, lines["b"].served) == ("no kernel", "pooled")
    assert (lines["all"].gate, lines["all"].served) == ("-", "-")


DELTAS = {"better": (0.2, 0.1, 0.3), "worse": (-0.2, -0.3, -0.1), "unclear": (0.1, -0.1, 0.3)}


@given(st.lists(st.sampled_from([*DELTAS, "missing"]), min_size=1, max_size=12))
def test_the_verdict_counts_each_domain_once(kinds):
    rows = [row for k, kind in enumerate(kinds) for row in both(f"d{k}", delta=DELTAS.get(kind))]
    part = part_of(rows)
    better, worse = kinds.count("better"), kinds.count("worse")
    # A missing interval shows no difference.
    unclear = len(kinds) - better - worse
    assert f"better than the base in {better} of {len(kinds)} domains" in part.sentence
    assert f"worse in {worse}; {unclear} show no clear difference" in part.sentence
    drawn = {rect.title.split(":")[0] for rect in part.verdict_bar.rects}
    counts = {"better": better, "unclear": unclear, "worse": worse}
    assert drawn == {name for name, count in counts.items() if count}


def test_an_interval_that_ends_at_zero_is_no_difference():
    part = part_of([*both("a", delta=(0.1, 0.0, 0.2)), *both("b", delta=(-0.1, -0.2, 0.0))])
    assert "better than the base in 0 of 2 domains and worse in 0" in part.sentence


def test_of_very_many_domains_the_largest_are_shown():
    rows = [row for k in range(MAX_LINES + 3) for row in both(f"d{k}", rows=1000 + k)]
    part = part_of(rows)
    assert (len(part.lines), part.left_out) == (MAX_LINES, 3)
    assert part.lines[0].domain == f"d{MAX_LINES + 2}"
    assert f"of {MAX_LINES + 3} domains" in part.sentence


def test_log_loss_is_shown_in_per_cent_and_less_is_better():
    lower = {"delta_logloss": -0.02, "delta_logloss_low": -0.03, "delta_logloss_high": -0.01}
    (line,) = part_of(both("a", **lower)).lines
    auc, logloss = line.differences
    assert auc.of == "delta_auc"
    assert logloss.value == pytest.approx(-2)
    assert logloss.mark.kind == "better"


def test_a_missing_number_has_its_reason_once():
    reasons = {"auc": "no positive row", "gauc": "no positive row", "ne": "one class"}
    (line,) = part_of(both("a", delta=None, auc=None, reasons=reasons)).lines
    assert line.reason == "no positive row; one class"
    assert [each.mark for each in line.differences] == [None, None]


def test_a_domain_that_kernels_do_not_know_has_the_base_s_numbers_alone():
    lines = {line.domain: line for line in part_of([*both("a"), metric("base", "b")]).lines}
    assert lines["b"].differences == ()
    assert lines["b"].calibration == (1.05,)
    assert lines["b"].gate == "-"


def test_the_base_alone_has_no_verdict_and_no_differences():
    part = part_of([metric("base", "all"), metric("base", "a")])
    assert part.sentence == "There are no kernels: this is the base alone."
    assert part.verdict_bar is None
    assert part.methods == ("base",)


def test_calibration_is_drawn_of_base_and_kernels_only():
    curve = [(0.1, 0.12, 50)]
    rows = [*both("all"), *both("a")]
    drawn = part_of(rows, {"iak": curve, "oracle": curve, "base": curve}).calibration
    assert [path.kind for path in drawn.paths[2:]] == ["beside", "curve"]
    assert part_of(rows).calibration is None
