"""Levels judged on all nights: who is compared with whom, and who serves in the end."""

import dataclasses
from datetime import date, timedelta

import numpy as np
import pytest

from iak.pipeline.publish.judge_chains import ChainJudge, NightChains
from iak.pipeline.tuning.compared import Compared
from iak.schemas.domain import POOLED, Domain
from iak.schemas.job import ChainSpec, GateSpec
from tests.unit.publish.test_publish_bundles import BASE, TASKS, A, level, paired

NIGHT = date(2026, 10, 8)
FIRST_DAY = (NIGHT - date(1970, 1, 1)).days - 6
B = Domain((("region", "b"),))
FLAT = Domain()


def dated(better, *, seed=0, days=7, rows=2100):
    """Gate rows of the week that ends with the night."""
    day_n = FIRST_DAY + 7 - days + np.arange(rows) % days
    return dataclasses.replace(paired(better, rows=rows, seed=seed), day_n=day_n)


def of_level(keys, gate_rows, **compared):
    made = level(keys, gate_rows)
    ancestors = dict.fromkeys(made.domains, (POOLED,) if keys else ())
    by_name = {
        key: {domain.name: rows for domain, rows in parts.items()}
        for key, parts in compared.items()
    }
    return dataclasses.replace(made, ancestors=ancestors, compared=Compared(**by_name))


def judge_of(states=None, *, live=(), night=NIGHT, margins=None, **chain):
    return ChainJudge(
        NightChains(night=night, states=states or {}), titles=("ctr", "cvr"), tasks=TASKS,
        gate=GateSpec(chain=ChainSpec(**chain), **(margins or {})), base_fingerprint=BASE,
        live=live,
    )  # fmt: skip


POOLED_LEVEL = of_level((), {FLAT: dated(0.8)})


def test_a_first_night_promotes_what_is_better_than_all_it_would_replace():
    judge = judge_of()
    pooled = judge.judge(POOLED_LEVEL)[POOLED]
    assert (pooled.chain.outcome, pooled.verdict.publish) == ("promote", True)
    assert pooled.verdict.reason == pooled.chain.sentence
    domains = judge.judge(
        of_level(("region",), {A: dated(0.8), B: dated(0.8, seed=1)},
                 tuned_above={A: dated(0.8), B: dated(0.0, seed=1)})
    )  # fmt: skip
    assert domains["region=a"].chain.outcome == "promote"
    held = domains["region=b"]
    assert (held.chain.outcome, held.verdict.publish) == ("hold", False)
    assert held.chain.sentence.endswith("has to be seen again; pooled serves")
    assert held.chain.state.proved_on is None


def test_a_domain_that_is_held_falls_to_the_base_where_the_one_above_is_held_too():
    judge = judge_of()
    judge.judge(of_level((), {FLAT: dated(-0.5)}))
    held = judge.judge(of_level(("region",), {A: dated(0.0)}))["region=a"]
    assert held.chain.sentence.endswith("; base serves")


def test_a_chain_carries_what_people_ask_of_its_last_night():
    done = judge_of().judge(POOLED_LEVEL)[POOLED]
    state = done.chain.state
    assert (state.needed, state.gain) == (done.chain.needed, done.verdict.gain)
    assert state.gain_low == done.verdict.gain_low < state.gain


def test_a_domain_without_gate_rows_keeps_its_chain():
    state = judge_of().judge(POOLED_LEVEL)[POOLED].chain.state
    empty = judge_of({POOLED: state}).judge(of_level((), {FLAT: None}))[POOLED]
    assert empty.chain.outcome == "hold"
    assert empty.chain.state == state
    assert empty.verdict.rows == 0


def test_nights_gather_evidence_until_the_kernel_serves():
    states, outcomes = {}, []
    for number in range(12):
        night = NIGHT + timedelta(days=number)
        rows = dated(0.15, seed=number)
        rows = dataclasses.replace(rows, day_n=rows.day_n + number)
        judge = judge_of(states, night=night, at_once=0.0)
        done = judge.judge(of_level((), {FLAT: rows}))[POOLED]
        states = {POOLED: done.chain.state}
        outcomes.append(done.chain.outcome)
    assert outcomes[0] == "hold"
    assert outcomes[-1] == "promote"
    assert done.chain.state.nights == 11
    assert done.chain.log_evidence > done.chain.needed


def test_a_live_kernel_that_harms_is_withdrawn_and_its_domain_falls_back():
    """The candidate is bad as well: both lose against the pooled kernel."""
    bad = dated(-0.8, rows=4200)
    judge = judge_of(live={POOLED, "region=a"})
    done = judge.judge(
        of_level(("region",), {A: bad}, serving_above={A: bad}, live={A: dated(0.0)},
                 live_over_above={A: bad})
    )["region=a"]  # fmt: skip
    assert done.chain.outcome == "fall_back"
    assert done.chain.sentence.startswith("the live kernel harms its domain: ctr: ")
    assert done.chain.sentence.endswith("; pooled serves")


def newest_day_bad():
    """Six days like the base's, and a newest one on which the candidate's log-loss is higher."""
    good, bad = dated(0.3, rows=4200), dated(-0.7, rows=4200)
    is_newest = good.day_n == good.day_n.max()
    columns = {}
    for field in dataclasses.fields(good):
        one, other = getattr(good, field.name), getattr(bad, field.name)
        if one is None:
            continue
        chosen = is_newest[:, None] if one.ndim == 2 else is_newest
        columns[field.name] = np.where(chosen, other, one)
    return dataclasses.replace(good, **columns)


@pytest.mark.parametrize(("hours", "outcome"), [(24.0, "hold"), (0.0, "promote")])
def test_the_canary_holds_a_kernel_whose_newest_day_is_bad(hours, outcome):
    rows = {FLAT: newest_day_bad()}
    margins = {"auc_margin": 1, "calibration_margin": 9, "logloss_margin": 0.03}
    done = judge_of(live={POOLED}, margins=margins, canary_hours=hours).judge(
        of_level((), rows, live=rows, live_over_above={FLAT: dated(0.1)})
    )[POOLED]
    assert done.chain.outcome == outcome
    which = "the newest day (the log has no event time)"
    is_named = f"worse than what serves in {which}: ctr: log-loss" in done.chain.sentence
    assert is_named == (outcome == "hold")


def test_gains_of_a_level_are_shrunk_together():
    good, thin = dated(0.8), dated(0.8, seed=5, rows=140)
    alone = judge_of().judge(of_level(("region",), {B: thin}))["region=b"].chain
    both = judge_of().judge(of_level(("region",), {A: good, B: thin}))["region=b"].chain
    assert both.shrunk_gain != alone.shrunk_gain


def test_a_decision_keeps_the_numbers_of_all_that_was_compared():
    rows, live = {A: dated(0.8)}, {A: dated(0.3)}
    done = judge_of(live={POOLED, "region=a"}).judge(
        of_level(("region",), rows, tuned_above=rows, serving_above=rows, live=live,
                 live_over_above=live)
    )["region=a"].chain  # fmt: skip
    assert done.against.keys() == {"live", "serving", "tuned_above", "canary", "live_over_serving"}
    newest, whole = (done.against[key].tasks[0].rows for key in ("canary", "live"))
    assert newest == whole / 7
    assert done.gauc["ctr"].delta == pytest.approx(done.gauc["ctr"].kernel - done.gauc["ctr"].base)
    alone = judge_of().judge(of_level(("region",), live))["region=a"].chain
    assert done.gauc_live == alone.gauc != done.gauc
    assert alone.gauc_live == {}
    assert done.canary_rows == "the newest day (the log has no event time)"
    without_users = {A: dataclasses.replace(rows[A], user_n=None)}
    assert judge_of().judge(of_level(("region",), without_users))["region=a"].chain.gauc == {}


def test_judging_a_level_reports_how_many_kernels_are_done(monkeypatch):
    monkeypatch.setattr("iak.pipeline.publish.judge_chains.REPORT_EVERY", 2)
    heard = []
    domains = [Domain((("region", name),)) for name in "abcde"]
    judge_of().judge(of_level(("region",), dict.fromkeys(domains)), heard.append)
    assert [(event["step"], event["of"]) for event in heard] == [(2, 5), (4, 5)]
