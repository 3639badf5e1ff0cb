"""Compare a level's kernels, on their gate rows, with the other kernels that might serve."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from iak.pipeline.activations.rows import TuningRows
from iak.pipeline.iak.bank import Bank
from iak.pipeline.tuning.context import TuningContext
from iak.pipeline.tuning.gate_rows import PairedRows, collect_gate_rows
from iak.pipeline.tuning.levels import Rivals

RowsByName = Mapping[str, PairedRows]
"""Name of a kernel -> its gate rows; on worker 0 alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Gate rows in which another kernel takes the place of the base, by domain."""

    tuned_above: RowsByName = field(default_factory=dict)
    """Candidate against the nearest tuned ancestor; empty for the pooled kernel."""
    serving_above: RowsByName = field(default_factory=dict)
    """Candidate against what would serve now if the domain had no kernel of its own; empty where
    that is the base for all domains."""
    live: RowsByName = field(default_factory=dict)
    """Candidate against the domain's own live kernel, for the domains that have one."""
    live_over_above: RowsByName = field(default_factory=dict)
    """The domain's own live kernel, in the candidate's columns, against what would serve without
    it."""


def compare_level(
    bank: Bank, rivals: Rivals, level: int, context: TuningContext, rows: TuningRows
) -> Compared:
    """Return a level's gate rows against its rivals; a collective call.

    Args:
        bank: the level's kernels at their best.
        rivals: what they are compared with.
        level: number of the level.
        context: towers, tasks and this worker.
        rows: this worker's rows of the gate slice.
    """

    def against(candidate: Bank, rival: Bank | None) -> dict[str, PairedRows]:
        # A collective call. Every worker makes the same ones, since which banks there are does not
        # depend on its rows.
        there = rival and rival.to(context.worker.device)
        return collect_gate_rows(candidate, level, context, rows, rival=there)

    def of_live(compared: RowsByName) -> dict[str, PairedRows]:
        return {name: part for name, part in compared.items() if name in rivals.live_names}

    tuned, serving, live = rivals.tuned_above, rivals.serving_above, rivals.live
    return Compared(
        tuned_above=against(bank, tuned) if tuned else {},
        serving_above=against(bank, serving) if serving else {},
        live=of_live(against(bank, live)) if live else {},
        live_over_above=of_live(against(live.to(context.worker.device), serving)) if live else {},
    )
