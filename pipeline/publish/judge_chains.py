"""Judge a level's kernels on the evidence of all nights, and decide which of them serve.

Levels are judged from the pooled kernel down. So the fallback of a held domain is known already.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np

from iak.pipeline.events import Report, WorkDone, silent
from iak.pipeline.publish.canary import newest_rows
from iak.pipeline.publish.chain import ChainAfterNight, LossRows, advance
from iak.pipeline.publish.decision import DomainVerdicts, decide, shrunk_gains
from iak.pipeline.publish.gate import judge_each
from iak.pipeline.publish.gate_tasks import gate_rows_of
from iak.pipeline.publish.gauc_harm import gaucs_of, held_by_gauc
from iak.pipeline.stats.clusters import mean_and_error
from iak.pipeline.tuning.gate_rows import PairedRows
from iak.pipeline.tuning.work import Level
from iak.schemas.chain import ChainState, ChainVerdict
from iak.schemas.job import GateSpec
from iak.schemas.predictions import MetricTask
from iak.schemas.verdict import Comparison, Verdict

TUNED, SERVING = "tonight's kernel above it", "what serves without it"
"""Names of a candidate's rivals in the reasons of a decision."""
BASE, LIVE, CANARY, LIVE_OVER_SERVING = "base", "live", "canary", "live_over_serving"
"""Names of what else is judged."""
REPORT_EVERY = 100
"""Kernels between two reports of progress. Each takes milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NightChains:
    """The chains before a night."""

    night: date
    """Its nominal date."""
    states: Mapping[str, ChainState] = field(default_factory=dict)
    """Domain -> its chain, as the registry has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedKernel:
    """One kernel after the gate."""

    verdict: Verdict
    """The kernel against the base; `publish` and `reason` are the chain's."""
    chain: ChainVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """The gate rows that one kernel is judged on."""

    base: PairedRows | None
    """The candidate against the base; None without gate rows."""
    rivals: Mapping[str, PairedRows] = field(default_factory=dict)
    """The candidate against each kernel that would serve without it; `base` where that is one."""
    others: Mapping[str, PairedRows] = field(default_factory=dict)
    """What else is judged, by its name."""
    canary_rows: str = ""
    """Which rows the canary's are."""

    def judged(self) -> dict[str, PairedRows | None]:
        """Return all of them by name, each once."""
        rivals = {what: rows for what, rows in self.rivals.items() if rows is not self.base}
        return {BASE: self.base, **rivals, **self.others}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """The gate's verdict on some rows, and the AUC within users of each task."""

    verdict: Verdict
    gaucs: Mapping[str, Comparison]


class ChainJudge:
    """Judges the levels of a run, one after the other."""

    def __init__(
        self,
        chains: NightChains,
        *,
        titles: Sequence[str],
        tasks: Sequence[MetricTask],
        gate: GateSpec,
        base_fingerprint: str,
        live: Collection[str],
    ) -> None:
        """Prepare to judge the levels of one night.

        Args:
            chains: the chains before the night.
            titles: the catalogue's tasks, in the order of the gate rows' columns.
            tasks: what metrics judge.
            gate: floors, margins, and what nights together must show.
            base_fingerprint: the base of the night.
            live: domains that have a kernel of their own serving.
        """
        self._chains, self._titles, self._tasks, self._gate = chains, titles, tasks, gate
        self._base_fingerprint = base_fingerprint
        self._serves = set(live)

    def judge(self, level: Level, report: Report = silent) -> dict[str, JudgedKernel]:
        """Return the verdicts of the next level down, by domain, without kernels that diverged.

        Args:
            level: the level.
            report: called with progress events.
        """
        names = [n for n in level.tuned.bank.names if n not in level.tuned.failed]
        shrunk = shrunk_gains(
            {n: gain for n in names if (gain := _gain(_rival_rows(level, n))) is not None}
        )
        compared = {name: self._compared(level, name) for name in names}
        measured = self._measure(compared)
        judged: dict[str, JudgedKernel] = {}
        for name in names:
            judged[name] = self._judge_kernel(
                level, name, compared[name], measured[name], shrunk.get(name)
            )
            if len(judged) % REPORT_EVERY == 0:
                report(WorkDone("kernels judged", len(judged), len(names)))
        # Only now: the kernels of one level are no fallbacks of each other.
        for name, kernel in judged.items():
            if kernel.chain.outcome == "promote":
                self._serves.add(name)
            elif kernel.chain.outcome == "fall_back":
                self._serves.discard(name)
        return judged

    def _compared(self, level: Level, name: str) -> _Compared:
        """Return the rows that a kernel is judged on; none without gate rows."""
        rows = level.gate_rows.get(name)
        if rows is None:
            return _Compared(base=None)
        live = level.compared.live.get(name)
        rivals = _rivals(level, name, rows)
        newest = newest_rows(
            rivals[SERVING] if live is None else live, self._gate.chain.canary_hours
        )
        others = {
            LIVE: live,
            CANARY: None if newest is None else newest.rows,
            LIVE_OVER_SERVING: level.compared.live_over_above.get(name),
        }
        return _Compared(
            base=rows,
            rivals=rivals,
            others={what: part for what, part in others.items() if part is not None},
            canary_rows="" if newest is None else newest.sentence,
        )

    def _measure(self, compared: Mapping[str, _Compared]) -> dict[str, dict[str, _Measured]]:
        """Return the gate's verdict on everything that each kernel is compared on.

        A task whose AUC within users is worse is held too.
        """
        each = {
            (name, what): rows
            for name, kernel in compared.items()
            for what, rows in kernel.judged().items()
        }
        gates = [gate_rows_of(rows, self._titles, self._tasks) for rows in each.values()]
        verdicts = judge_each(gates, self._gate)
        measured: dict[str, dict[str, _Measured]] = {name: {} for name in compared}
        gaucs = gaucs_of(gates, verdicts, self._gate)
        for (name, what), verdict, by_task in zip(each, verdicts, gaucs, strict=True):
            tasks = [held_by_gauc(t, by_task.get(t.task), self._gate) for t in verdict.tasks]
            held = verdict.model_copy(update={"tasks": tuple(tasks)})
            measured[name][what] = _Measured(verdict=held, gaucs=by_task)
        return measured

    def _judge_kernel(
        self,
        level: Level,
        name: str,
        compared: _Compared,
        measured: Mapping[str, _Measured],
        shrunk_gain: float | None,
    ) -> JudgedKernel:
        """Return the verdict on one kernel. One without gate rows is held.

        Args:
            level: the kernel's level.
            name: name of its domain.
            compared: what it is compared on.
            measured: the gate's verdicts on that.
            shrunk_gain: the kernel's gain after shrinkage towards its level; None where unknown.
        """
        verdict = measured[BASE].verdict
        verdicts = DomainVerdicts(base=verdict)
        after = ChainAfterNight(state=self._chains.states.get(name))
        if compared.base is not None:
            verdicts = _verdicts(compared, measured, shrunk_gain)
            after = self._advance(level, name, compared.base, compared.rivals)
        above = reversed(level.ancestors.get(name, ()))
        fallback = next((ancestor for ancestor in above if ancestor in self._serves), "base")
        decided = decide(after, verdicts, fallback=fallback, spec=self._gate.chain)
        chain = decided.model_copy(
            update={
                "state": _with_numbers(decided, verdict),
                "against": _against(verdicts),
                "gauc": measured[BASE].gaucs,
                "gauc_live": verdicts.live_gauc,
                "canary_rows": verdicts.canary_rows if verdicts.canary else "",
            }
        )
        is_promoted = chain.outcome == "promote"
        final = verdict.model_copy(update={"publish": is_promoted, "reason": chain.sentence})
        return JudgedKernel(verdict=final, chain=chain)

    def _advance(
        self, level: Level, name: str, rows: PairedRows, rivals: Mapping[str, PairedRows]
    ) -> ChainAfterNight:
        """Return a kernel's chain after the night."""
        assert rows.day_n is not None, "gate rows of chains have days"
        losses = LossRows(
            tasks=self._titles,
            mask_nT=rows.mask_nT,
            day_n=rows.day_n,
            base_loss_nT=rows.base_loss_nT,
            gain_nT={
                key: part.base_loss_nT.astype(np.float64) - part.candidate_loss_nT
                for key, part in rivals.items()
            },
            users_n=rows.user_n,
        )
        return advance(
            self._chains.states.get(name),
            losses,
            night=self._chains.night,
            domain=level.domains[name],
            base_fingerprint=self._base_fingerprint,
            spec=self._gate.chain,
        )


def _verdicts(
    compared: _Compared, measured: Mapping[str, _Measured], shrunk_gain: float | None
) -> DomainVerdicts:
    """Return the verdicts on a kernel with gate rows, as the decision reads them."""
    base, live = measured[BASE], measured.get(LIVE)

    def verdict(what: str) -> Verdict | None:
        return measured[what].verdict if what in measured else None

    return DomainVerdicts(
        base=base.verdict,
        # Where the base is the rival, its rows are the base's, and they are judged already.
        rivals={what: measured.get(what, base).verdict for what in compared.rivals},
        live=verdict(LIVE),
        live_gauc=live.gaucs if live else {},
        canary=verdict(CANARY),
        canary_rows=compared.canary_rows,
        live_against_rival=verdict(LIVE_OVER_SERVING),
        shrunk_gain=shrunk_gain,
    )


def _rivals(level: Level, name: str, rows: PairedRows) -> dict[str, PairedRows]:
    """Return a candidate's rows against what would serve without it, tonight's kernel first."""
    compared = level.compared
    rivals = {SERVING: compared.serving_above.get(name, rows)}
    if name in compared.tuned_above:
        return {TUNED: compared.tuned_above[name], **rivals}
    return rivals


def _with_numbers(decided: ChainVerdict, verdict: Verdict) -> ChainState | None:
    """Return a chain's state with the numbers of its last judged candidate, for `iak registry`."""
    if decided.state is None or not verdict.rows:
        return decided.state
    numbers = {"needed": decided.needed, "gain": verdict.gain, "gain_low": verdict.gain_low}
    return decided.state.model_copy(update=numbers)


def _against(verdicts: DomainVerdicts) -> dict[str, Verdict]:
    """Return the verdicts beside that against the base, by their names in a record."""
    by_name = {
        "live": verdicts.live,
        "serving": verdicts.rivals.get(SERVING),
        "tuned_above": verdicts.rivals.get(TUNED),
        "canary": verdicts.canary,
        "live_over_serving": verdicts.live_against_rival,
    }
    return {name: verdict for name, verdict in by_name.items() if verdict is not None}


def _rival_rows(level: Level, name: str) -> PairedRows | None:
    """Return a kernel's rows against the one above it that was tuned tonight, else the base."""
    return level.compared.tuned_above.get(name, level.gate_rows.get(name))


def _gain(rows: PairedRows | None) -> tuple[float, float] | None:
    """Return the mean gain of labelled rows and its standard error; None below two rows."""
    if rows is None:
        return None
    labelled_n = rows.mask_nT.any(axis=1)
    if np.count_nonzero(labelled_n) < 2:
        return None
    users = None if rows.user_n is None else rows.user_n[labelled_n]
    gain_n = (rows.base_loss - rows.candidate_loss)[labelled_n]
    mean, error, _ = mean_and_error(gain_n, users)
    return mean, error
