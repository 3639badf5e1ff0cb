import itertools
from datetime import date

import pytest

from iak.pipeline.nightly.outcomes import (
    NightOutcomes,
    domain_nights,
    exit_code,
    scores_of,
    serving,
)
from iak.pipeline.stats.evidence import BETS
from iak.schemas.chain import ChainState, ChainVerdict
from iak.schemas.tuning import KernelResult, OutsideLoss
from iak.schemas.verdict import Comparison, TaskVerdict, Verdict
from tests.unit.nightly.nights import IN_A, domain_night, verdict

NIGHT = date(2026, 10, 9)


def kernel(*, publish=True):
    return KernelResult(
        domain="region=a", tuning_rows=9, published=publish, reason="as judged",
        gate=verdict(publish=publish), best_epoch=1, valid_gain=0.1, bundle="region=a",
    )  # fmt: skip


def came_to(choice="train", live=None, **done):
    decision = domain_night(IN_A, choice=choice).decision
    paths = {"region=a": ("pooled",)}
    return domain_nights([decision], NightOutcomes(**done), live or {}, paths)[0]


@pytest.mark.parametrize(
    ("done", "outcome", "sentence"),
    [
        ({"kernels": {"region=a": kernel()}, "promoted": ["region=a"]}, "promoted", "as judged"),
        ({"kernels": {"region=a": kernel(publish=False)}}, "held", "as judged"),
        ({"kernels": {"region=a": kernel()}, "held": {"region=a": "moved"}}, "held", "moved"),
        ({"failed": {"region=a": "its loss is nan"}}, "failed", "its loss is nan"),
        ({}, "held", "no kernel was tuned: too few of its rows are fit to be tuned on"),
    ],
    ids=["promoted", "held by the gate", "overtaken", "failed", "no kernel"],
)
def test_what_a_domain_that_was_to_train_came_to(done, outcome, sentence):
    found = came_to(**done)
    assert (found.outcome, found.sentence) == (outcome, sentence)


def test_a_night_has_what_its_kernel_borrowed_and_costs_outside():
    outside = OutsideLoss(rows=9, change=0.1, error=0.01)
    tuned = kernel().model_copy(update={"own_share": 0.25, "outside": outside})
    found = came_to(kernels={"region=a": tuned}, promoted=["region=a"])
    assert (found.own_share, found.outside) == (0.25, outside)
    untuned = came_to("wait")
    assert (untuned.own_share, untuned.outside) == (None, None)


def test_a_domain_held_for_its_data_and_one_that_waits_say_why():
    assert (came_to("hold").outcome, came_to("hold").sentence) == ("held", "as decided")
    assert came_to("wait").outcome == "waiting"


def test_a_domain_that_is_to_train_waits_until_the_night_has_tuned():
    planned = came_to("train", is_tuned=False)
    assert (planned.outcome, planned.sentence) == ("waiting", "as decided")
    assert came_to("hold", is_tuned=False).outcome == "held"


def test_a_domain_is_served_by_the_nearest_kernel():
    live, above = {"pooled": "p" * 64, "region=a": "a" * 64}, ("pooled", "city=x")
    assert serving("region=a", live, above) == ("own", "a" * 64)
    assert serving("region=b", live, above) == ("pooled", "p" * 64)
    assert serving("region=b", live | {"city=x": "c" * 64}, above) == ("parent", "c" * 64)
    assert serving("region=b", {}, above) == ("base", None)


def test_the_exit_code_names_the_worst():
    worst = {"failed": 5, "held": 4, "promoted": 0, "waiting": 6}
    for outcomes in itertools.product(worst, repeat=3):
        nights = [domain_night(IN_A, outcome=outcome) for outcome in outcomes]
        expected = next(code for outcome, code in worst.items() if outcome in outcomes)
        assert exit_code(nights) == expected


def test_the_scores_of_a_task_are_those_that_the_gate_compared():
    compared = Comparison(kernel=0.7, base=0.6, delta=0.1, low=0.05, high=0.15)
    task = TaskVerdict(
        task="ctr", rows=9, positives=4, negatives=5, auc=compared, judged=True, holds=False,
        reason="",
    )  # fmt: skip
    curve = [(0.1, 0.2, 30)]
    found = scores_of(task, {task.task: curve, "another": []})
    assert found.reliability == curve
    assert (found.auc, found.delta_auc) == ((0.6, None, 0.7), (0.1, 0.05, 0.15))
    assert scores_of(task.model_copy(update={"auc": Comparison()}), {}).delta_auc is None


def test_the_live_kernels_numbers_stand_between_the_bases_and_the_candidates():
    base, live = (
        TaskVerdict(
            task="ctr", rows=9, positives=3, negatives=6, judged=True, holds=False, reason="",
            auc=Comparison(base=before, kernel=0.8), log_loss=Comparison(base=before, kernel=0.5),
        )
        for before in (0.6, 0.7)
    )  # fmt: skip
    gauc = Comparison(base=0.55, kernel=0.65)
    gauc_live = Comparison(base=0.6, kernel=0.65)
    found = scores_of(base, {}, live=live, gauc=gauc, gauc_live=gauc_live)
    assert (found.auc, found.log_loss) == ((0.6, 0.7, 0.8), (0.6, 0.7, 0.5))
    assert found.gauc == (0.55, 0.6, 0.65)
    assert scores_of(base, {}, gauc=gauc).gauc == (0.55, None, 0.65)
    assert scores_of(base, {}).auc == (0.6, None, 0.8)


def chained(**canary):
    """A kernel whose chain was judged, with a canary that found what `canary` says."""
    task = TaskVerdict(
        task="ctr", rows=80, positives=40, negatives=40, reason="",
        **{"judged": True, "holds": False} | canary,
    )  # fmt: skip
    judged = Verdict(publish=True, reason="", rows=80, tasks=(task,))
    chain = ChainVerdict(
        outcome="promote", sentence="as judged", log_evidence=2.5, needed=3.69,
        against={"canary": judged}, canary_rows="the newest 6 hours",
        state=ChainState(
            domain=[("region", "a")], base_fingerprint="b", began=NIGHT, scale=0.5, floor=0.02,
            log_wealth=(2.5,) * len(BETS), nights=4, last_night=NIGHT, counted_to={},
            proved_on=NIGHT,
        ),
    )  # fmt: skip
    return kernel().model_copy(update={"chain": chain})


@pytest.mark.parametrize(
    ("canary", "said"),
    [
        ({}, "no harm shown"),
        ({"holds": True}, "harm of ctr"),
        ({"judged": False}, "too few labels to be judged"),
    ],
)
def test_a_domain_says_how_far_its_chain_is_and_what_its_newest_hours_say(canary, said):
    found = came_to(kernels={"region=a": chained(**canary)})
    assert found.canary == f"the newest 6 hours: 80 gate rows, {said}"
    assert (found.log_evidence, found.evidence_needed) == (2.5, 3.69)
    assert (found.evidence_nights, found.proved_on) == (4, NIGHT)
    state = chained().chain.state.model_copy(update={"needed": 3.5})
    waits = came_to("wait", chains={"region=a": state})
    assert (waits.evidence_needed, waits.evidence_nights, waits.canary) == (3.5, 4, "")
    assert waits.log_evidence == pytest.approx(2.5)
    without = came_to(kernels={"region=a": kernel()})
    assert (without.canary, without.log_evidence, without.evidence_needed) == ("", None, None)
