"""The tables hold every method alike, keep both kinds of doubt apart, and say what is not told."""

import pytest

from infra.benchmarks.quality.findings import (
    MARGIN,
    harmed,
    league_rows,
    notes,
    pair_rows,
    targets,
    verdict,
    with_first,
)
from tests.unit.infra.benchmarks.quality.test_league import METHOD_NAMES, FakeRunner, league


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (5e-4, 15e-4, "better"),
        (-15e-4, -5e-4, "worse"),
        (-15e-4, 15e-4, "not inferior"),
        (-25e-4, 10e-4, "open"),
        (5e-4, 50e-4, "better, too wide to count"),
        (-50e-4, -5e-4, "worse, too wide to count"),
        (-50e-4, 5e-4, "cannot tell"),
        (None, None, "cannot tell"),
    ],
)
def test_an_interval_shows_what_it_can(low, high, shown):
    delta = None if low is None else (low + high) / 2
    assert verdict(delta, low, high) == shown


@pytest.fixture
def played(tmp_path):
    played = league(tmp_path, FakeRunner())
    played.play()
    return played


def test_every_method_has_a_line_and_the_mean_of_its_seeds(played):
    rows = league_rows(played)
    assert [row["method"] for row in rows] == [*METHOD_NAMES]
    for row in rows:
        deltas = [played.finished(row["method"], seed).lines[0].delta_auc for seed in (0, 1)]
        assert row["seeds"] == 2
        assert row["delta_auc"] == pytest.approx(sum(deltas) / 2)
        assert (row["lowest_seed"], row["highest_seed"]) == (min(deltas), max(deltas))
        assert row["high"] - row["low"] == pytest.approx(2e-3)
        assert row["of_continued"] == 1.0


def test_iak_stands_beside_every_other_method(played):
    rows = pair_rows(played)
    assert [(row["method"], row["rival"]) for row in rows] == [*played.pairs]
    assert len(rows) == 10
    assert all(row["verdict"] in ("better", "not inferior", "open", "worse") for row in rows)


def test_a_domain_is_harmed_where_its_whole_interval_is_below_zero(played):
    one = played.finished("iak", 0).lines[0]
    low = [-30e-4, -30e-4, 5e-4, None]
    high = [-10e-4, 10e-4, 9e-4, None]
    lines = [
        one.model_copy(update={"domain": f"d={i}", "low": a, "high": b})
        for i, (a, b) in enumerate(zip(low, high, strict=True))
    ]
    overall = one.model_copy(update={"low": -9e-4, "high": -1e-4})
    assert harmed([*lines, overall]) == (1, 3)


def pair(log, rival, shown, *, is_first=True):
    row = {"table": "pairs", "log": log, "method": "iak", "rival": rival}
    return row | {"verdict": shown, "is_first": is_first}


def test_targets_count_logs_that_can_tell():
    rows = [pair(f"log{n}", "continued", "better") for n in range(3)]
    rows += [pair("log3", "continued", "open"), pair("log4", "continued", "cannot tell")]
    rows += [pair("log7", "continued", "worse, too wide to count")]
    rows += [pair("log5", "continued", "better", is_first=False)]
    won, lost, *_ = targets(rows)
    assert (won.measured, won.is_met) == (3, False)
    assert (lost.measured, lost.is_met) == (1, False)
    other = pair("log6", "continued", "better") | {"method": "iak_counts"}
    assert not targets([*rows, other])[0].is_met
    won, *_ = targets([*rows, pair("log6", "continued", "better")])
    assert won.is_met


def test_a_rival_at_its_cap_misses_the_target_and_a_kernel_does_not():
    row = {"table": "league", "log": "frappe", "method": "lora", "is_first": True, "at_cap": 1}
    assert not targets([row])[-1].is_met
    assert targets([row | {"at_cap": 0}])[-1].is_met
    assert targets([row | {"method": "iak_counts"}])[-1].is_met


def test_only_the_first_task_of_a_log_counts():
    rows = with_first([{"log": "a", "task": t} for t in ("ctr", "cvr", "ctr")])
    assert [row["is_first"] for row in rows] == [True, False, True]


def test_notes_name_what_is_not_finished(played):
    assert not any("Not finished" in note for note in notes([played], league_rows(played)))
    said = notes([played], [r for r in league_rows(played) if r["method"] != "lora"])
    assert said[-1] == "Not finished: frappe lora (0 of 2 seeds)."
    assert any(f"{MARGIN:g}" in note for note in said)
    assert said[0].startswith("A first look: 3 trials and 2 seeds")
