"""Choose the rows of the canary: the newest hours of a kernel's gate rows.

A kernel that is good over a week may be bad since this morning. Shapes: n gate rows.
"""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from iak.pipeline.stats.auc import Bools
from iak.pipeline.tuning.gate_rows import PairedRows

_DAY_HOURS, _HOUR_S, _DAY_S = 24, 3600, 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class NewestRows:
    """The rows of the canary."""

    rows: PairedRows
    sentence: str
    """Which rows they are, and why whole days where hours are not known."""


def newest_rows(rows: PairedRows, hours: float) -> NewestRows | None:
    """Return the rows of the newest hours; None where none are asked for, or no day is known.

    Event times say which rows these are. Where the log has none, the hours are rounded up to whole
    days.

    Args:
        rows: a kernel's gate rows.
        hours: how many; 0 asks for none.
    """
    if not hours or rows.day_n is None or not rows.day_n.size:
        return None
    if rows.second_n is not None and np.isfinite(rows.second_n).any():
        is_newest_n = _is_in_newest_hours(rows.second_n, rows.day_n, hours)
        return NewestRows(rows=_chosen(rows, is_newest_n), sentence=f"the newest {hours:g} hours")
    days = math.ceil(hours / _DAY_HOURS)
    what = "day" if days == 1 else f"{days:,} days"
    why = "log has no event time" if rows.second_n is None else "rows have no event time"
    return NewestRows(
        rows=_chosen(rows, rows.day_n > rows.day_n.max() - days),
        sentence=f"the newest {what} (the {why})",
    )


def _is_in_newest_hours(
    second_n: npt.NDArray[np.float64], day_n: npt.NDArray[np.int64], hours: float
) -> Bools:
    """Return which rows happened in the hours before the newest of them.

    A clock that runs ahead must not leave the canary with its own row alone. So a time counts only
    up to a day after the newest day, which leaves room for every time zone.
    """
    latest = (int(day_n.max()) + 2) * _DAY_S
    is_plausible_n = np.isfinite(second_n) & (second_n <= latest)
    if not is_plausible_n.any():
        return is_plausible_n
    newest = second_n[is_plausible_n].max()
    chosen_n: Bools = is_plausible_n & (second_n > newest - hours * _HOUR_S)
    return chosen_n


def _chosen(rows: PairedRows, chosen_n: Bools) -> PairedRows:
    """Return some of the rows, without the moments of their code."""
    columns = {f.name: getattr(rows, f.name) for f in fields(PairedRows) if f.name != "code"}
    chosen = {n: c[chosen_n] for n, c in columns.items() if c is not None}
    return replace(rows, code=None, **chosen)
