"""The gate's verdicts, as a table."""

import math

import numpy as np
import pytest

from pipeline.publish.gate import GateRows, judge
from pipeline.stats.auc import PairedAuc


def rows(gain, spread, count, *, auc=None):
    """Gate rows whose gain has exactly this mean and sample deviation."""
    base = np.full(count, 0.5)
    noise = np.resize([1.0, -1.0], count)
    noise = (noise - noise.mean()) / noise.std(ddof=1) if count > 1 else noise
    return GateRows(base_loss=base, candidate_loss=base - gain - spread * noise, auc=auc)


def auc(low, high):
    middle = (low + high) / 2
    return PairedAuc(auc_a=0.7 + middle, auc_b=0.7, delta=middle, se=0.01, low=low, high=high)


@pytest.mark.parametrize(
    ("gate_rows", "publish", "reason"),
    [
        pytest.param(
            rows(0.00123, 0.0444410, 12_345),
            True,
            "gain 0.00123 ± 0.00040 nats/row on 12,345 gate rows: beyond 1.64 standard errors",
            id="clear gain",
        ),
        pytest.param(
            rows(0.00060, 0.0444410, 12_345),
            False,
            "gain 0.00060 ± 0.00040 nats/row on 12,345 gate rows: not beyond 1.64 standard errors",
            id="gain within noise",
        ),
        pytest.param(
            rows(-0.01, 0.02, 1000),
            False,
            "gain -0.01000 ± 0.00063 nats/row on 1,000 gate rows: not beyond 1.64 standard errors",
            id="harm",
        ),
        pytest.param(
            rows(0.0, 0.0, 1000),
            False,
            "gain 0.00000 ± 0.00000 nats/row on 1,000 gate rows: not beyond 1.64 standard errors",
            id="the base itself",
        ),
        pytest.param(
            rows(0.1, 0.01, 12), False, "gate slice has 12 rows, fewer than 200", id="few rows"
        ),
        pytest.param(
            rows(0.1, 0.01, 0), False, "gate slice has 0 rows, fewer than 200", id="no rows"
        ),
        pytest.param(
            rows(0.01, 0.02, 1000, auc=auc(-0.02, -0.001)),
            False,
            "gain 0.01000 ± 0.00063 nats/row on 1,000 gate rows: beyond 1.64 standard errors, but "
            "AUC fell by 0.0105 (95 % interval -0.0200 to -0.0010)",
            id="recalibrated, ranks worse",
        ),
        pytest.param(
            rows(0.01, 0.02, 1000, auc=auc(-0.02, 0.001)),
            True,
            "gain 0.01000 ± 0.00063 nats/row on 1,000 gate rows: beyond 1.64 standard errors",
            id="AUC lower within noise",
        ),
        pytest.param(
            rows(math.nan, 0.02, 1000),
            False,
            "1,000 of 1,000 gate rows have a loss that is not finite",
            id="diverged",
        ),
    ],
)
def test_the_gate_decides_by_paired_gain_and_says_why(gate_rows, publish, reason):
    verdict = judge(gate_rows)
    assert (verdict.publish, verdict.reason) == (publish, reason)
    assert verdict.rows == gate_rows.base_loss.size


def test_gain_low_is_z_standard_errors_below_the_gain():
    verdict = judge(rows(0.01, 0.2, 400), z=2.0)
    assert verdict.gain == pytest.approx(0.01)
    assert verdict.gain_low == pytest.approx(0.01 - 2 * 0.2 / 20)


def test_a_single_row_is_never_enough():
    assert not judge(rows(0.1, 0.0, 1), min_rows=0).publish


def test_half_precision_losses_are_summed_in_double():
    losses = np.full(5000, 0.5, dtype=np.float32)
    verdict = judge(GateRows(base_loss=losses, candidate_loss=losses - np.float32(1e-5)))
    assert verdict.publish
    assert verdict.gain == pytest.approx(1e-5, rel=0.01)


def test_losses_of_different_rows_are_refused():
    with pytest.raises(ValueError, match="same rows"):
        judge(GateRows(base_loss=np.zeros(3), candidate_loss=np.zeros(4)))


def test_one_useless_candidate_in_twenty_passes():
    random = np.random.default_rng(0)
    passed = 0
    for _ in range(2000):
        losses = random.normal(size=400)
        noise = random.normal(size=400)
        passed += judge(GateRows(base_loss=losses, candidate_loss=losses + noise)).publish
    assert passed / 2000 == pytest.approx(0.05, abs=0.015)
