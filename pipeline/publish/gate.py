"""The gate: whether a candidate may replace the base for one domain. Pure; no clock, no disk.

Judged on rows that were used for nothing else, paired row by row: the candidate must lower the
loss by more than `z` standard errors of the gain, and its AUC must not be worse beyond noise.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.stats.auc import Array, PairedAuc

MIN_ROWS = 200
"""Below this the normal approximation of a mean loss is not worth relying on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateRows:
    """Loss of every gate row in nats, under the base and under the candidate, in the same order.

    `auc` compares the candidate (a) with the base (b) on the same rows; None where a class is
    missing, and then the loss alone decides.
    """

    base_loss: Array
    candidate_loss: Array
    auc: PairedAuc | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether to publish, and the reason a reader will want tomorrow.

    `gain` is in nats per row, `gain_low` is `z` standard errors below it; both are None when the
    rows are too few, or their losses not finite, to say.
    """

    publish: bool
    reason: str
    gain: float | None
    gain_low: float | None
    rows: int


def judge(candidate: GateRows, *, z: float = 1.64, min_rows: int = MIN_ROWS) -> Verdict:
    """Publish when the paired gain exceeds `z` standard errors and AUC is not clearly worse.

    Args:
        candidate: paired losses on the gate slice.
        z: standard errors the gain must exceed; 1.64 lets 5 % of useless candidates through.
        min_rows: a smaller slice (or one below two rows) holds the candidate back.

    Raises:
        ValueError: if the two losses are not paired.
    """
    if candidate.base_loss.shape != candidate.candidate_loss.shape:
        raise ValueError(
            f"{candidate.base_loss.size:,} base losses and {candidate.candidate_loss.size:,} "
            "candidate losses: the gate needs both on the same rows"
        )
    gains = candidate.base_loss.astype(np.float64) - candidate.candidate_loss
    rows = int(gains.size)
    if rows < max(min_rows, 2):
        reason = f"gate slice has {rows:,} rows, fewer than {max(min_rows, 2):,}"
        return Verdict(publish=False, reason=reason, gain=None, gain_low=None, rows=rows)
    if strange := int(np.count_nonzero(~np.isfinite(gains))):
        reason = f"{strange:,} of {rows:,} gate rows have a loss that is not finite"
        return Verdict(publish=False, reason=reason, gain=None, gain_low=None, rows=rows)
    gain, se = float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(rows))
    publish, reason = _decide(gain, se, rows, z=z, auc=candidate.auc)
    return Verdict(publish=publish, reason=reason, gain=gain, gain_low=gain - z * se, rows=rows)


def _decide(
    gain: float, se: float, rows: int, *, z: float, auc: PairedAuc | None
) -> tuple[bool, str]:
    """(publish, reason) from finished sums."""
    seen = f"gain {gain:.5f} ± {se:.5f} nats/row on {rows:,} gate rows"
    if gain <= z * se:
        return False, f"{seen}: not beyond {z:g} standard errors"
    if auc is not None and auc.high < 0:
        worse = f"AUC fell by {-auc.delta:.4f} (95 % interval {auc.low:+.4f} to {auc.high:+.4f})"
        return False, f"{seen}: beyond {z:g} standard errors, but {worse}"
    return True, f"{seen}: beyond {z:g} standard errors"
