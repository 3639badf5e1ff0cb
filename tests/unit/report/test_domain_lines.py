"""The lines of a night's table: which domains, which numbers, in which order."""

import pytest

from iak.pipeline.report import domain_lines as lines_of
from iak.pipeline.report.domain_lines import (
    domain_lines,
    falls_back,
    mean_auc,
    shown_domains,
)
from iak.schemas.tuning import CodeDiagnostics
from tests.nights import a_night


def test_the_mean_weighs_each_domain_by_its_rows_and_leaves_the_pooled_kernel_out():
    record = a_night(domains=5)
    own = [d.scores[0] for d in record.domains[1:] if d.scores]
    rows = sum(s.rows for s in own)
    expected = sum(s.rows * s.auc[2] for s in own) / rows
    assert mean_auc(record, "ctr", "candidate") == pytest.approx(expected)
    assert mean_auc(record, "no such task", "candidate") is None
    within = sum(s.rows * s.gauc[2] for s in own) / rows
    assert mean_auc(record, "ctr", "candidate", "gauc") == pytest.approx(within)


def test_of_too_many_domains_those_that_need_attention_are_shown(monkeypatch):
    monkeypatch.setattr(lines_of, "MAX_LINES", 5)
    record = a_night(domains=40)
    shown = shown_domains(record)
    urgent = [d for d in record.domains if d.outcome in ("failed", "held")]
    assert len(shown) == 5
    assert 0 < len(urgent) < 5
    assert all(domain in shown for domain in urgent)
    order = [record.domains.index(domain) for domain in shown]
    assert order == sorted(order), "they stand in the record's order"


@pytest.mark.parametrize(
    ("level", "served_by", "expected"),
    [
        ("domain", "own", False),
        ("domain", "pooled", True),
        ("domain", "base", True),
        ("parent", "parent", False),
        ("pooled", "pooled", False),
        ("pooled", "base", True),
    ],
)
def test_a_domain_falls_back_where_another_kernel_serves_it(level, served_by, expected):
    night = a_night(domains=1).domains[1]
    decision = night.decision.model_copy(update={"level": level})
    assert falls_back(night.model_copy(update={"decision": decision, "served_by": served_by})) is (
        expected
    )


def test_a_line_has_a_difference_for_each_shown_task_and_its_past():
    history = [a_night(domains=3, number=1)]
    for line in domain_lines(a_night(domains=3), history):
        assert [difference.of for difference in line.differences] == ["ctr", "ctcvr"]
        assert "2 promoted" in line.trend.summary
    assert all(line.trend is None for line in domain_lines(a_night(domains=3), []))


def test_a_line_says_how_far_its_chain_is():
    night = a_night(domains=1).domains[1]
    unproved = night.model_copy(update={"log_evidence": 2.5, "proved_on": None})
    record = a_night(domains=1).model_copy(update={"domains": [unproved]})
    (line,) = domain_lines(record, [])
    assert line.evidence == "2.50 of 3.69 needed after 14 counted nights"
    unjudged = night.model_copy(update={"log_evidence": None})
    (line,) = domain_lines(record.model_copy(update={"domains": [unjudged]}), [])
    assert line.evidence == ""


def test_a_line_says_what_its_code_does():
    night = a_night(domains=1).domains[1]
    code = CodeDiagnostics(
        units=16, active_units=11, label_nats={"ctr": (0.0412, 0.0436)}, prior_distance=0.38,
        largest_change=0.2,
    )  # fmt: skip
    coded = night.model_copy(update={"rate": 1.25, "code": code})
    record = a_night(domains=1).model_copy(update={"domains": [coded]})
    (line,) = domain_lines(record, [])
    assert line.code == (
        "11 of 16 units active; 1.25 nats a row; prior 0.38 nats from the pooled one; "
        "information about ctr: base at least 0.0412 nats, kernel 0.0436"
    )
    bare = night.model_copy(update={"code": None})
    (line,) = domain_lines(record.model_copy(update={"domains": [bare]}), [])
    assert line.code == ""
