"""The tables hold every method alike, keep both kinds of doubt apart, and say what is not told."""

import pytest

from infra.benchmarks.quality.findings import (
    MARGIN,
    LeagueLine,
    PairLine,
    harmed,
    league_lines,
    notes,
    pair_lines,
    targets,
    verdict,
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
    lines = league_lines(played)
    assert [line.method for line in lines] == [*METHOD_NAMES]
    for line in lines:
        deltas = [played.finished(line.method, seed).lines[0].delta_auc for seed in (0, 1)]
        assert line.seeds == 2
        assert line.delta_auc == pytest.approx(sum(deltas) / 2)
        assert (line.lowest_seed, line.highest_seed) == (min(deltas), max(deltas))
        assert line.high - line.low == pytest.approx(2e-3)
        assert line.of_continued == 1.0


def test_iak_stands_beside_every_other_method(played):
    lines = pair_lines(played)
    assert [(line.method, line.rival) for line in lines] == [*played.pairs]
    assert len(lines) == 10
    assert all(line.verdict in ("better", "not inferior", "open", "worse") for line in lines)


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


NOTHING = dict.fromkeys(("delta_auc", "low", "high", "lowest_seed", "highest_seed"))


def pair(log, rival, shown, *, is_first=True, method="iak"):
    line = {"log": log, "method": method, "rival": rival, "what": rival, "task": "ctr", "seeds": 1}
    return PairLine(**line, **NOTHING, verdict=shown, is_first=is_first)


def at_cap(method, seeds):
    line = {"log": "frappe", "method": method, "what": method, "task": "ctr", "seeds": 1}
    measured = dict.fromkeys(("auc", "delta_gauc", "delta_log_loss", "ne", "calibration"), 0.5)
    costs = dict.fromkeys(("harmed", "domains", "parameters", "copies", "cpu_s"), 1)
    return LeagueLine(**line, **NOTHING, **measured, **costs, at_cap=seeds, is_first=True)


def test_targets_count_logs_that_can_tell():
    lines = [pair(f"log{n}", "continued", "better") for n in range(3)]
    lines += [pair("log3", "continued", "open"), pair("log4", "continued", "cannot tell")]
    lines += [pair("log7", "continued", "worse, too wide to count")]
    lines += [pair("log5", "continued", "better", is_first=False)]
    won, lost, *_ = targets([], lines)
    assert (won.measured, won.is_met) == (3, False)
    assert (lost.measured, lost.is_met) == (1, False)
    other = pair("log6", "continued", "better", method="iak_counts")
    assert not targets([], [*lines, other])[0].is_met
    won, *_ = targets([], [*lines, pair("log6", "continued", "better")])
    assert won.is_met


def test_wins_with_counts_are_counted_apart():
    lines = [pair(f"log{n}", "continued", "better", method="iak_counts") for n in range(4)]
    lines.append(pair("log4", "lora", "worse", method="iak_counts"))
    made = {target.name: target for target in targets([], lines)}
    assert made["logs on which IAK beats continued training of everything"].measured == 0
    name = "IAK with out-of-fold counts"
    counted = made[f"logs on which {name} beats continued training of everything"]
    assert (counted.measured, counted.is_met) == (4, True)
    lost = made[f"logs that can tell, and {name} may lose to LoRA on trunk and towers"]
    assert (lost.measured, lost.is_met) == (1, False)
    assert not any(name in target.name for target in targets([], []))


@pytest.mark.parametrize(("share", "is_met"), [(0.69, True), (0.6, False)])
def test_iak_is_compared_with_the_ceiling_of_a_planted_log(share, is_met):
    lines = [
        at_cap(method, 0).model_copy(update={"reachable": reachable})
        for method, reachable in (("iak", share), ("ceiling", 0.8), ("lora", 0.9))
    ]
    (target,) = [t for t in targets(lines, []) if "ceiling" in t.name]
    assert (target.measured, target.is_met) == (pytest.approx(share / 0.8, abs=1e-4), is_met)
    assert not any("ceiling" in t.name for t in targets(lines[:1], []))


def test_a_rival_at_its_cap_misses_the_target_and_a_kernel_does_not():
    assert not targets([at_cap("lora", 1)], [])[-1].is_met
    assert targets([at_cap("lora", 0)], [])[-1].is_met
    assert targets([at_cap("iak_counts", 1)], [])[-1].is_met


class TwoTasks(FakeRunner):
    """Tests every method on two tasks."""

    def test(self, key):
        cell = super().test(key)
        second = [line.model_copy(update={"task": "cvr"}) for line in cell.lines]
        return cell.model_copy(update={"lines": (*cell.lines, *second)})


def test_only_the_first_task_of_a_log_counts(tmp_path):
    played = league(tmp_path, TwoTasks())
    played.play()
    lines = league_lines(played)
    assert [line.task for line in lines[:2]] == ["ctr", "cvr"]
    assert [line.is_first for line in lines] == [True, False] * len(METHOD_NAMES)


def test_notes_name_what_is_not_finished(played):
    lines = league_lines(played)
    assert not any("Not finished" in note for note in notes([played], lines))
    said = notes([played], [line for line in lines if line.method != "lora"])
    assert said[-1] == "Not finished: frappe lora (0 of 2 seeds)."
    assert any(f"{MARGIN:g}" in note for note in said)
    assert said[0].startswith("A first look: 3 trials and 2 seeds")


def test_a_note_has_the_reachable_share_of_each_method_of_a_planted_log(played):
    lines = [
        at_cap(method, 0).model_copy(update={"reachable": share})
        for method, share in (("base", 0.0), ("iak", 0.661), ("ceiling", 0.792), ("lora", None))
    ]
    (note,) = [note for note in notes([played], lines) if "true probabilities" in note]
    assert note.endswith(": iak 0.661; ceiling 0.792.")
    assert not any("true probabilities" in note for note in notes([played], lines[:1]))
