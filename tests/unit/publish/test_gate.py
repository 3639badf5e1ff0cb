"""The gate's verdicts: the gain's table, what each task may say, and how often it errs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.publish import gate
from iak.pipeline.publish.gate import GateRows, TaskRows, judge, judge_each
from iak.pipeline.stats.losses import cross_entropy
from iak.schemas.job import GateSpec


def sigmoid(logit):
    return 1 / (1 + np.exp(-logit))


def gain_rows(gain, spread, count, *, users=None):
    """Gate rows of one task whose gain has exactly this mean and sample deviation.

    Base and kernel predict the same: no measure moves, the gain alone decides.
    """
    noise = np.resize([1.0, -1.0], count)
    noise = (noise - noise.mean()) / noise.std(ddof=1) if count > 1 else noise
    p = np.resize([0.4, 0.6, 0.5], count)
    task = TaskRows(
        task="ctr", mask_n=np.ones(count, np.bool_), labels_n=np.resize([0, 0, 1], count),
        base_p_n=p, kernel_p_n=p, gain_n=gain + spread * noise,
    )  # fmt: skip
    return GateRows(tasks=(task,), users_n=users)


def task_rows(name, labels, base_logit, kernel_logit, *, mask=None, has_loss=True, kept=1.0):
    """A task with these labels under two models."""
    before, after = sigmoid(base_logit), sigmoid(kernel_logit)
    gain = cross_entropy(labels, before) - cross_entropy(labels, after)
    return TaskRows(
        task=name, mask_n=np.ones(labels.size, np.bool_) if mask is None else mask,
        labels_n=labels, base_p_n=before, kernel_p_n=after, gain_n=gain if has_loss else None,
        kept=kept,
    )  # fmt: skip


def drawn(seed, count, *, rate=0.0):
    """Logits, and labels that follow them."""
    draw = np.random.default_rng(seed)
    logit = draw.normal(rate, 1.2, count)
    return logit, (draw.random(count) < sigmoid(logit)).astype(np.float64), draw


@pytest.mark.parametrize(
    ("gate_rows", "publish", "reason"),
    [
        pytest.param(
            gain_rows(0.00123, 0.0444410, 12_345),
            True,
            "gain 0.00123 ± 0.00040 nats/row on 12,345 gate rows: beyond 1.64 standard errors",
            id="clear gain",
        ),
        pytest.param(
            gain_rows(0.00060, 0.0444410, 12_345),
            False,
            "gain 0.00060 ± 0.00040 nats/row on 12,345 gate rows: not beyond 1.64 standard errors",
            id="gain within noise",
        ),
        pytest.param(
            gain_rows(-0.01, 0.02, 1000),
            False,
            "gain -0.01000 ± 0.00063 nats/row on 1,000 gate rows: not beyond 1.64 standard errors",
            id="harm",
        ),
        pytest.param(
            gain_rows(0.0, 0.0, 1000),
            False,
            "gain 0.00000 ± 0.00000 nats/row on 1,000 gate rows: not beyond 1.64 standard errors",
            id="the base itself",
        ),
        pytest.param(
            gain_rows(0.1, 0.01, 12),
            False,
            "no task is judged: ctr has 4 positives and 8 negatives (4 positives, fewer than 30)",
            id="few rows",
        ),
        pytest.param(gain_rows(0.1, 0.01, 0), False, "no gate row has a label", id="no rows"),
        pytest.param(
            gain_rows(math.nan, 0.02, 1000),
            False,
            "1,000 of 1,000 gate rows have a loss that is not finite",
            id="diverged",
        ),
        pytest.param(
            gain_rows(0.01, 0.02, 1200, users=np.zeros(1200, np.int64)),
            False,
            "no task is judged: ctr has 400 positives and 800 negatives "
            "(all 1,200 rows are one user's)",
            id="one user",
        ),
    ],
)
def test_the_gate_decides_by_paired_gain_and_says_why(gate_rows, publish, reason):
    verdict = judge(gate_rows)
    assert (verdict.publish, verdict.reason) == (publish, reason)
    assert verdict.rows == gate_rows.tasks[0].mask_n.size


def test_gain_low_is_z_standard_errors_below_the_gain():
    verdict = judge(gain_rows(0.01, 0.2, 400), GateSpec(z=2.0))
    assert verdict.gain == pytest.approx(0.01)
    assert verdict.gain_low == pytest.approx(0.01 - 2 * 0.2 / 20)


def test_the_same_gain_is_worth_less_where_few_users_made_it():
    """50 users who gain alike within themselves, whose rows would pass as independent ones."""
    by_user = np.resize([0.9, -0.7], 50)
    gain, users = np.repeat(by_user, 40), np.repeat(np.arange(50), 40)
    rows = gain_rows(0.0, 1.0, 2000)
    task = TaskRows(
        **{f: getattr(rows.tasks[0], f) for f in rows.tasks[0].__slots__} | {"gain_n": gain}
    )
    assert judge(GateRows(tasks=(task,))).publish
    verdict = judge(GateRows(tasks=(task,), users_n=users))
    assert not verdict.publish
    assert "on 2,000 gate rows of 50 users: not beyond 1.67 standard errors" in verdict.reason


def test_a_kernel_that_repairs_one_task_and_ruins_anothers_ranking_is_held():
    """The click is miscalibrated and repaired; the conversion's AUC falls from about .69."""
    clicks_logit, clicked, draw = drawn(0, 6000, rate=-1.0)
    cvr_logit = draw.normal(-0.5, 0.8, 6000)
    bought = clicked * (draw.random(6000) < sigmoid(cvr_logit))
    lost = 0.25 * cvr_logit + draw.normal(0, 0.7, 6000) - 0.3
    mask = clicked == 1
    ctr = task_rows("ctr", clicked, clicks_logit + 1.5, clicks_logit)
    cvr = task_rows("cvr", bought, cvr_logit, lost, mask=mask, has_loss=False)
    entire = [
        np.log(p / (1 - p)) for p in (ctr.base_p_n * cvr.base_p_n, ctr.kernel_p_n * cvr.kernel_p_n)
    ]
    ctcvr = task_rows("ctcvr", bought, *entire)
    verdict = judge(GateRows(tasks=(ctr, cvr, ctcvr)))
    assert verdict.gain_low > 0
    assert not verdict.publish
    assert "cvr" in verdict.holding
    assert "ctr" not in verdict.holding
    assert verdict.reason.startswith("cvr holds it: AUC 0.")
    cvr_said = verdict.tasks[1]
    assert cvr_said.auc.high < -0.002
    assert cvr_said.auc.harm
    assert (cvr_said.rows, cvr_said.judged) == (mask.sum(), True)
    alone = judge(GateRows(tasks=(ctr,)))
    assert alone.publish
    assert alone.holding == ()


@pytest.mark.parametrize(
    ("moved", "measure", "reason"),
    [
        (lambda z, draw: 0.3 * z + draw.normal(0, 1.0, z.size), "auc", "AUC"),
        (lambda z, _: 1.6 * z, "log_loss", "log-loss"),
        (lambda z, _: z + 0.5, "calibration", "calibration"),
    ],
    ids=["ranks worse", "too sure", "too high"],
)
def test_a_task_holds_by_the_measure_that_was_harmed(moved, measure, reason):
    logit, labels, draw = drawn(1, 8000)
    verdict = judge(GateRows(tasks=(task_rows("like", labels, logit, moved(logit, draw)),)))
    (task,) = verdict.tasks
    assert verdict.holding == ("like",)
    assert getattr(task, measure).harm
    assert f"{reason} " in task.reason
    assert "wholly" in task.reason


def test_harm_within_the_margin_or_not_beyond_noise_holds_nothing():
    logit, labels, _ = drawn(2, 8000)
    nudged = task_rows("like", labels, logit + 0.2, logit + 0.25)  # calibration moves by .02
    assert judge(GateRows(tasks=(nudged,))).holding == ()
    strict = GateSpec(calibration_margin=0.001, logloss_margin=0.5)
    assert judge(GateRows(tasks=(nudged,)), strict).holding == ("like",)
    logit, labels, draw = drawn(3, 120)
    worse = task_rows("like", labels, logit, logit + draw.normal(0, 0.3, 120))
    verdict = judge(GateRows(tasks=(worse,)))
    assert verdict.tasks[0].judged
    assert verdict.holding == ()


@pytest.mark.parametrize(
    ("positives", "negatives", "judged"),
    [(5, 5000, False), (29, 5000, False), (5000, 29, False), (30, 30, True), (400, 400, True)],
)
def test_floors_are_on_positives_and_on_negatives(positives, negatives, judged):
    labels = np.r_[np.ones(positives), np.zeros(negatives)]
    draw = np.random.default_rng(0)
    dull = draw.normal(0, 0.1, labels.size)
    verdict = judge(GateRows(tasks=(task_rows("ctr", labels, dull, 3 * (2 * labels - 1)),)))
    (task,) = verdict.tasks
    assert (task.judged, verdict.publish) == (judged, judged)
    assert (task.positives, task.negatives) == (positives, negatives)
    if not judged:
        assert f"{positives:,} positives" in verdict.reason
        assert "fewer than 30" in verdict.reason


def test_a_task_below_its_floors_neither_vouches_nor_holds():
    logit, labels, draw = drawn(4, 3000)
    good = task_rows("ctr", labels, logit + 1.0, logit)
    few = np.zeros(3000)
    few[:12] = 1
    ruined = task_rows("cvr", few, 4 * few - 3, -4 * few - 3 + draw.normal(0, 0.1, 3000))
    verdict = judge(GateRows(tasks=(good, ruined)))
    assert verdict.publish
    assert not verdict.tasks[1].judged
    assert not verdict.tasks[1].holds
    assert verdict.tasks[1].reason == "12 positives, fewer than 30"
    assert verdict.tasks[1].auc.delta < -0.5  # shown, not trusted
    assert verdict.gain == pytest.approx(judge(GateRows(tasks=(good,))).gain)
    vouching = task_rows("cvr", few, -4 * few - 3, 4 * few - 3)
    useless = task_rows("ctr", labels, logit, logit)
    assert not judge(GateRows(tasks=(useless, vouching))).publish


def test_sampled_negatives_weigh_as_evaluation_weighs_them():
    """Of the log's negatives a tenth was kept; a kernel calibrated on the sample is calibrated."""
    draw = np.random.default_rng(5)
    logit = draw.normal(-4, 1, 200_000)
    labels = (draw.random(logit.size) < sigmoid(logit)).astype(np.float64)
    stays = (labels == 1) | (draw.random(logit.size) < 0.1)
    sampled = logit[stays] + np.log(10)
    rows = task_rows("ctr", labels[stays], sampled + 0.3, sampled, kept=0.1)
    (task,) = judge(GateRows(tasks=(rows,))).tasks
    assert task.calibration.kernel == pytest.approx(1, abs=0.05)
    assert task.calibration.base > 1.2
    assert task.calibration.high < 0


def test_arrays_of_different_rows_are_refused():
    rows = gain_rows(0.1, 0.1, 100)
    with pytest.raises(ValueError, match="same rows"):
        judge(GateRows(tasks=rows.tasks, users_n=np.zeros(4)))


def test_one_useless_candidate_in_twenty_passes_the_gain():
    random = np.random.default_rng(0)
    passed, times = 0, 600
    for _ in range(times):
        rows = gain_rows(0.0, 1.0, 400).tasks[0]
        fields = {f: getattr(rows, f) for f in rows.__slots__}
        noisy = TaskRows(**fields | {"gain_n": random.normal(size=400)})
        passed += judge(GateRows(tasks=(noisy,))).publish
    assert passed / times == pytest.approx(0.05, abs=0.027)


def false_holds(positives, *, times, by_user):
    """Share of candidates exactly as good as the base, on three tasks, that harm tests hold."""
    held = 0
    for seed in range(times):
        draw = np.random.default_rng(seed)
        count = positives * 6
        users = np.repeat(np.arange(count // 5), 5)
        tasks = []
        for name in ("ctr", "cvr", "like"):
            logit = draw.normal(-1.6, 1.0, count)
            labels = (draw.random(count) < sigmoid(logit)).astype(np.float64)
            # Exchangeable errors: which of the two is the base is a toss, so no measure is worse.
            errors = [draw.normal(0, 0.25, count) for _ in range(2)]
            if by_user:
                errors = [e + draw.normal(0, 0.25, users[-1] + 1)[users] for e in errors]
            tasks.append(task_rows(name, labels, logit + errors[0], logit + errors[1]))
        held += bool(judge(GateRows(tasks=tuple(tasks), users_n=users)).holding)
    return held / times


@pytest.mark.parametrize("by_user", [False, True])
def test_few_harmless_candidates_are_held_for_harm(by_user):
    """Nine tests each; the margins keep what multiplicity would cost far below 9 x 2.5 %."""
    few = false_holds(40, times=100, by_user=by_user)
    assert few <= 0.15, few


def kernel_of(seed, count, *, has_users, is_finite, is_known=0.8):
    """Gate rows of two tasks, of a few users; of some labels nothing is known."""
    logit, labels, draw = drawn(seed, count)
    moved_logit = logit + draw.choice([0.0, 0.3], count) if is_finite else np.full(count, np.nan)
    tasks = tuple(
        task_rows(name, labels, logit, moved_logit, mask=draw.random(count) < is_known, kept=kept)
        for name, kept in (("ctr", 1.0), ("like", 0.5))
    )
    return GateRows(tasks=tasks, users_n=draw.integers(0, 5, count) if has_users else None)


KERNELS = st.builds(
    kernel_of,
    st.integers(0, 1000),
    st.integers(0, 30) | st.sampled_from([300]),
    has_users=st.booleans(),
    is_finite=st.sampled_from([True, True, True, False]),
)


@given(st.lists(KERNELS, max_size=6), st.sampled_from([1, 50, 2**20]))
def test_many_kernels_judged_at_once_get_each_its_own_verdict_bit_for_bit(kernels, rows_at_once):
    spec = GateSpec(min_positives=5, min_negatives=5)
    alone = [judge(kernel, spec) for kernel in kernels]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gate, "_ROWS_AT_ONCE", rows_at_once)
        assert judge_each(kernels, spec) == alone


def test_kernels_of_other_tasks_are_not_measured_together():
    logit, labels, _ = drawn(0, 200)
    kernels = [GateRows(tasks=(task_rows(t, labels, logit, logit),)) for t in ("ctr", "like")]
    assert [verdict.tasks[0].task for verdict in judge_each(kernels)] == ["ctr", "like"]
    assert judge_each([]) == []
