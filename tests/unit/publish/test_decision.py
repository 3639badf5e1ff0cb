"""What serves a domain after a night, and the sentence that says why."""

from datetime import date

import pytest

from iak.pipeline.publish.chain import ChainAfterNight
from iak.pipeline.publish.decision import DomainVerdicts, decide, shrunk_gains
from iak.pipeline.stats.evidence import BETS
from iak.schemas.chain import ChainState
from iak.schemas.job import ChainSpec
from iak.schemas.verdict import TaskVerdict, Verdict

NIGHT = date(2026, 10, 9)


def verdict(*, holds=False, judged=True, rows=1000):
    """A verdict on one task."""
    reason = "AUC 0.7 -> 0.6" if holds else "" if judged else "12 positives, fewer than 30"
    task = TaskVerdict(
        task="ctr", rows=rows, positives=100, negatives=900, judged=judged, holds=holds,
        reason=reason,
    )  # fmt: skip
    why = f"no task is judged: {reason}" if not judged else "gain"
    return Verdict(publish=False, reason=why, rows=rows, tasks=(task,))


SOUND, HARMFUL, THIN = verdict(), verdict(holds=True), verdict(judged=False)
DIVERGED = Verdict(publish=False, reason="7 of 9 gate rows have a loss that is not finite", rows=9)


def chain(*, proved=None, nights=0, wealth=0.0, first_gain_low=None, observation=None):
    by = {None: None, "one night": NIGHT, "many nights": NIGHT}[proved]
    state = ChainState(
        domain=[("city", "rome")], base_fingerprint="b" * 64, began=date(2026, 10, 1), scale=0.5,
        floor=0.05, log_wealth=(wealth,) * len(BETS), nights=nights, last_night=NIGHT,
        counted_to={}, proved_on=by, proved_by=proved,
    )  # fmt: skip
    return ChainAfterNight(state=state, first_gain_low=first_gain_low, observation=observation)


PROVED = chain(proved="many nights", nights=9, wealth=4.0)
UNPROVED = chain(nights=4, wealth=1.25, observation=0.01)


def decided(after, *, fallback="pooled", **verdicts):
    verdicts = {"base": SOUND, "rivals": {"pooled": SOUND}} | verdicts
    return decide(after, DomainVerdicts(**verdicts), fallback=fallback, spec=ChainSpec())


@pytest.mark.parametrize(
    ("after", "verdicts", "outcome", "sentence"),
    [
        pytest.param(
            PROVED, {}, "promote",
            "evidence of 9 nights came to 4.00; 3.69 is enough; the new kernel serves",
            id="proved over nights",
        ),
        pytest.param(
            chain(proved="one night", first_gain_low=0.012), {}, "promote",
            "the gain of its first night, 2026-10-09, is at least 1.20% and exceeds 0.30% of the "
            "base's loss; the new kernel serves",
            id="proved at once",
        ),
        pytest.param(
            UNPROVED, {}, "hold",
            "evidence of 4 nights is 1.25, below 3.69; pooled serves",
            id="not proved yet",
        ),
        pytest.param(
            chain(nights=1, wealth=0.25), {}, "hold",
            "evidence of 1 night is 0.25, below 3.69; pooled serves",
            id="its first counted night",
        ),
        pytest.param(
            chain(first_gain_low=0.001), {}, "hold",
            "the gain of its first night is at least 0.10% of the base's loss, not above 0.30%, "
            "and has to be seen again; pooled serves",
            id="first night too small",
        ),
        pytest.param(
            chain(), {}, "hold",
            "a first night of one day or one user proves nothing at once; pooled serves",
            id="first night of one day",
        ),
        pytest.param(
            ChainAfterNight(state=None), {}, "hold", "no gate row has a label; pooled serves",
            id="no labels",
        ),
        pytest.param(
            PROVED, {"base": THIN}, "hold",
            "no task is judged: 12 positives, fewer than 30; pooled serves",
            id="thin",
        ),
        pytest.param(
            PROVED, {"base": HARMFUL}, "hold",
            "worse than the base: ctr: AUC 0.7 -> 0.6; pooled serves",
            id="harm against the base",
        ),
        pytest.param(
            PROVED, {"base": DIVERGED}, "hold",
            "7 of 9 gate rows have a loss that is not finite; pooled serves",
            id="diverged",
        ),
        pytest.param(
            PROVED, {"rivals": {"pooled": HARMFUL}}, "hold",
            "worse than pooled: ctr: AUC 0.7 -> 0.6; pooled serves",
            id="harm against the fallback",
        ),
        pytest.param(
            PROVED, {"canary": HARMFUL}, "hold",
            "worse than what serves in the newest hours: ctr: AUC 0.7 -> 0.6; pooled serves",
            id="canary",
        ),
        pytest.param(
            PROVED, {"canary": HARMFUL, "canary_rows": "the newest 6 hours"}, "hold",
            "worse than what serves in the newest 6 hours: ctr: AUC 0.7 -> 0.6; pooled serves",
            id="canary of six hours",
        ),
        pytest.param(
            PROVED, {"canary": THIN}, "promote",
            "evidence of 9 nights came to 4.00; 3.69 is enough; the new kernel serves",
            id="canary of few rows says nothing",
        ),
        pytest.param(
            PROVED, {"shrunk_gain": -0.001}, "hold",
            "no gain is expected: -0.00100 nats a row, shrunk; pooled serves",
            id="shrunk gain",
        ),
        pytest.param(
            UNPROVED, {"live": SOUND, "live_against_rival": SOUND}, "promote",
            "no harm against the live kernel; the new kernel serves",
            id="successor needs no proof",
        ),
        pytest.param(
            PROVED, {"live": HARMFUL, "live_against_rival": SOUND}, "hold",
            "worse than the live kernel: ctr: AUC 0.7 -> 0.6; the live kernel goes on",
            id="harm against live",
        ),
        pytest.param(
            PROVED, {"live": SOUND, "live_against_rival": HARMFUL}, "promote",
            "no harm against the live kernel (proved on 2026-10-09); the new kernel serves",
            id="sound successor of a harmful live kernel",
        ),
        pytest.param(
            PROVED, {"base": HARMFUL, "live": SOUND, "live_against_rival": HARMFUL}, "fall_back",
            "the live kernel harms its domain: ctr: AUC 0.7 -> 0.6; pooled serves",
            id="both harmful",
        ),
    ],
)  # fmt: skip
def test_a_decision_has_an_outcome_and_a_sentence(after, verdicts, outcome, sentence):
    done = decided(after, **verdicts)
    assert (done.outcome, done.sentence) == (outcome, sentence)
    assert done.log_evidence == pytest.approx(after.log_evidence)


def test_a_chain_that_falls_back_has_to_be_proved_again():
    done = decided(PROVED, base=HARMFUL, live=SOUND, live_against_rival=HARMFUL)
    assert done.state.proved_on is None
    assert done.state.log_wealth == PROVED.state.log_wealth
    assert decided(PROVED, base=HARMFUL, live=SOUND).state == PROVED.state


def test_a_decision_carries_the_numbers_of_its_chain():
    done = decided(UNPROVED, shrunk_gain=0.002, fallback="base")
    assert (done.observation, done.shrunk_gain, done.state) == (0.01, 0.002, UNPROVED.state)
    assert done.sentence.endswith("; base serves")
    verdicts, spec = DomainVerdicts(base=SOUND), ChainSpec(at_once=1.0)
    never = decide(UNPROVED, verdicts, fallback="base", spec=spec)
    assert never.needed is None


def test_gains_are_shrunk_over_the_domains_that_have_an_error():
    shrunk = shrunk_gains({"a": (0.05, 0.001), "b": (0.01, 0.001), "c": (0.3, float("nan"))})
    assert set(shrunk) == {"a", "b"}
    assert 0.01 < shrunk["b"] < shrunk["a"] < 0.05
    assert shrunk_gains({}) == {}
