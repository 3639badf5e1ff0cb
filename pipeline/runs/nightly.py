"""Run a night, from its decisions to its page: plan, tune in one bank, judge, promote, record.

`night.json` is written at every phase. A night that was interrupted is resumed when it is run
again: its decisions stay, its tuning resumes, and a promotion that was made is not made twice.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from iak.pipeline.data.window_shift import measure_shift
from iak.pipeline.errors import INTERRUPTED, PipelineError
from iak.pipeline.events import Notice, Report, silent
from iak.pipeline.launcher import Launcher
from iak.pipeline.nightly.outcomes import (
    NightOutcomes,
    domain_nights,
    exit_code,
)
from iak.pipeline.nightly.refresh import refresh_reason
from iak.pipeline.nightly.schedule import deadline_of
from iak.pipeline.publish.judge_chains import NightChains
from iak.pipeline.registry.bases import open_base
from iak.pipeline.registry.commits import read_commit
from iak.pipeline.registry.live import live_pointers, registry_head
from iak.pipeline.registry.promote import ChainsOfNight
from iak.pipeline.report.nights import PAGE
from iak.pipeline.report.pages import write_pages
from iak.pipeline.runs.finished_run import finished_run
from iak.pipeline.runs.nightly_cost import share_cost, tuning_cost
from iak.pipeline.runs.nightly_plan import NightPlan, plan_night
from iak.pipeline.runs.nightly_promotion import NightPromotion, promote_night
from iak.pipeline.runs.nightly_records import (
    REFRESH,
    SCRATCH,
    TUNE,
    LockedNights,
    changed,
    locked_nights,
    night_folder,
    read_nights,
)
from iak.pipeline.runs.nightly_refresh import base_age_days, base_days, refresh_base
from iak.pipeline.runs.nightly_retention import apply_retention
from iak.pipeline.runs.nightly_shadow import replay_night
from iak.pipeline.runs.nightly_traffic import TrafficCounter
from iak.pipeline.runs.nightly_tuning import finetune_spec, refuse_changed_log, tune_once
from iak.pipeline.runs.record import (
    AlreadyFinished,
    machine,
    now,
    reported_phase,
    versions,
)
from iak.pipeline.storage.store import open_store
from iak.pipeline.storage.store_counter import OF_PROCESS
from iak.schemas.chain import ChainState
from iak.schemas.night import DriftLine, NightRecord, RefreshResult
from iak.schemas.nightly import NightlySpec
from iak.schemas.paths import reference_text
from iak.schemas.record import RunRecord
from iak.schemas.registry import Commit
from iak.schemas.shadow import ShadowGateSpec
from iak.schemas.tuning import KernelResult, TuningResult


@dataclass(frozen=True, slots=True, kw_only=True)
class NightRequest:
    """The request for one night, beside the platform's settings."""

    night: date | None = None
    """Nominal date; None takes the log's last complete day."""
    dry_run: bool = False
    """Decide and change nothing."""
    clock: Callable[[], datetime] = now
    """Returns the present moment, with a zone."""


def run_night(
    spec: NightlySpec,
    launcher: Launcher,
    request: NightRequest | None = None,
    report: Report = silent,
) -> NightRecord:
    """Run a night to its end, or resume one that was interrupted.

    Args:
        spec: the platform's settings.
        launcher: starts the workers.
        request: date and clock; the last complete day and the machine's clock when absent.
        report: gets the events of the night.

    Returns:
        The night's record; of a dry run as it would begin.

    Raises:
        AlreadyFinished: this night is finished, or nothing is new since it was; nothing was done.
        Busy: another night runs, and `schedule.if_busy` is `leave`.
        PipelineError: the night cannot be planned or tuned. Run it again to resume it.
    """
    request = request or NightRequest()
    OF_PROCESS.take()  # what this process read and wrote before is not the night's
    waits = spec.schedule.if_busy == "wait"
    # A dry run writes nothing, so it needs no lock and may look while another night runs.
    lock = nullcontext(None) if request.dry_run else locked_nights(spec.nights, waits=waits)
    with lock as locked:
        nights = read_nights(locked.folder if locked else spec.nights)
        records = nights.records
        with reported_phase(report, "plan", "deciding which domains train"):
            start = time.monotonic()
            plan = plan_night(spec, records, asked=request.night, now=request.clock())
            plan = replace(plan, notices=(*plan.notices, *map(_unread_notice, nights.problems)))
            seconds = time.monotonic() - start
        if locked is None:
            return _planned(spec, plan, request.clock())
        before = next((r for r in records if r.id == plan.id), None)
        if before is not None and before.status == "finished":
            # The process may have been killed after it wrote the record and before the page.
            _write_page(night_folder(locked.folder, before), report)
        _refuse_repeated(spec, plan, before, records)
        night = _Night(spec, plan, records, launcher, report, request.clock, locked)
        return night.run(before, seconds)


def _unread_notice(problem: str) -> str:
    """Return the notice about an earlier night that the decisions do not take into account."""
    return f"an earlier night could not be read, so decisions do not depend on it: {problem}"


def _refuse_repeated(
    spec: NightlySpec, plan: NightPlan, before: NightRecord | None, records: Sequence[NightRecord]
) -> None:
    """Refuse a night that is finished, or that has nothing new after a finished one of its date.

    Raises:
        AlreadyFinished: in both cases.
    """
    if before is not None and before.status == "finished":
        raise AlreadyFinished(
            f"the night of {plan.night} is finished since {before.ended_at:%Y-%m-%d %H:%M} (UTC), "
            f"with exit code {before.exit_code}: "
            f"{reference_text(night_folder(spec.nights, before))}. Nothing was done"
        )
    same_date = [r for r in records if r.night == plan.night and r.status == "finished"]
    if before is None and same_date and not plan.trained:
        raise AlreadyFinished(
            f"the night of {plan.night} is finished, and nothing that may train is new since then. "
            "Nothing was done"
        )


def _write_page(folder: Path, report: Report) -> None:
    """Write a night's page and the index from its record; an error becomes a warning."""
    try:
        write_pages(folder)
    except Exception as error:  # noqa: BLE001 - the kernels serve already, so the night succeeded
        report(Notice(f"the page was not written: {error}", is_warning=True))


def _planned(spec: NightlySpec, plan: NightPlan, started_at: datetime) -> NightRecord:
    """Return the record of a night before anything is trained."""
    live = {name: pointer.bundle for name, pointer in plan.live.items()}
    return NightRecord(
        id=plan.id,
        name=spec.name,
        night=plan.night,
        status="planned",
        started_at=started_at,
        deadline=deadline_of(spec.schedule, started_at),
        base_fingerprint=plan.base.manifest.fingerprint,
        base=reference_text(plan.base_path),
        base_age_days=base_age_days(plan.base, plan.night),
        registry=spec.registry,
        registry_before=plan.head.generation if plan.head else 0,
        windows=list(plan.windows),
        days=list(plan.days),
        domains=domain_nights(plan.decisions, NightOutcomes(is_tuned=False), live, plan.paths),
        currency=spec.cost.currency,
        is_scratch_night=_is_scratch_night(spec, plan),
        notices=[*plan.notices, *plan.base_notices],
        versions=versions(),
        machine=machine(),
    )


def _is_scratch_night(spec: NightlySpec, plan: NightPlan) -> bool:
    """Return whether kernels are also tuned from scratch, for comparison with those that are not.

    In a first night no kernel serves, so all kernels start from scratch anyway.
    """
    is_due = plan.history.nights_since_scratch() >= spec.scratch_every > 0
    return is_due and bool(plan.trained) and bool(plan.live)


def _ending(error: BaseException) -> dict[str, Any]:
    """Return the fields of the record of a night that ends with an error."""
    if isinstance(error, KeyboardInterrupt):
        message = "interrupted; run it again to resume"
        return {"status": "interrupted", "exit_code": INTERRUPTED, "error": message}
    code = error.exit_code if isinstance(error, PipelineError) else 1
    return {"status": "failed", "exit_code": code, "error": str(error)}


class _Night:
    """One night while it runs."""

    def __init__(
        self,
        spec: NightlySpec,
        plan: NightPlan,
        records: Sequence[NightRecord],
        launcher: Launcher,
        report: Report,
        clock: Callable[[], datetime],
        locked: LockedNights,
    ) -> None:
        self._locked = locked
        self.spec, self.plan, self.launcher = spec, plan, launcher
        self._records = records
        # The plan before the base was refreshed; None in a night that refreshes none.
        self._parent: NightPlan | None = None
        self.clock = clock
        self._traffic = TrafficCounter(OF_PROCESS)
        self._report = self._traffic.counted(report)
        self.record = _planned(spec, plan, clock())

    def run(self, before: NightRecord | None, plan_seconds: float) -> NightRecord:
        """Do what the plan says, and write the record whatever happens."""
        if before is not None:
            self.record = before.model_copy(update={"attempts": before.attempts + 1})
            # Pointers may have moved since the first attempt. Every attempt starts from the kernels
            # that served then, so that the tuning run has the same inputs and is resumed.
            self.plan = replace(self.plan, head=self._expected())
            self.say(f"the night of {before.night} is resumed; it was {before.status}")
        self._write(
            status="running",
            error=None,
            timings_s={**self.record.timings_s, "plan": round(plan_seconds, 3)},
        )
        for notice in self.record.notices:
            self._report(Notice(notice, is_warning=True))
        try:
            self._train_and_promote()
        except BaseException as error:  # also Ctrl-C: the record says how the night ended
            self._write(**_ending(error), ended_at=self.clock())
            _write_page(night_folder(self._locked.folder, self.record), self._report)
            raise
        for notice in apply_retention(self.spec):
            self._warn(notice)
        _write_page(night_folder(self._locked.folder, self.record), self._report)
        return self.record

    def _warn(self, text: str) -> None:
        """Report a problem that does not end the night, and put it into the record for the page."""
        self._report(Notice(text, is_warning=True))
        self._write(notices=[*self.record.notices, text])

    def say(self, text: str) -> None:
        """Report a sentence."""
        self._report(Notice(text))

    def _measure_shift(self) -> None:
        """Record how far the log has drifted since the base's days, unless it is recorded."""
        days = base_days(self.plan.base)
        if days is None or self.record.drift or self.record.unseen:
            return
        try:
            with self._phase("shift", "comparing the window with the base's days"):
                moved = measure_shift(
                    self.plan.catalog,
                    self.spec.data_root,
                    before=days,
                    after=(self.plan.days[0].day, self.plan.night),
                    encoding=self.plan.base.encoding,
                )
        except PipelineError as error:
            self._warn(f"the log's drift was not measured: {error}")
            return
        drift = [
            DriftLine(name=s.name, index=s.index, noise=s.noise, word=s.word) for s in moved.shifts
        ]
        self._write(drift=drift, unseen=dict(moved.unseen))

    def _refresh(self) -> None:
        """Refresh the base where it is due, and plan the night again where one was published."""
        if self.record.refresh is None:
            reason = refresh_reason(
                self.spec.refresh,
                night=self.plan.night,
                base_age_days=self.record.base_age_days,
                unseen=self.record.unseen,
                history=self.plan.history,
                base=self.record.base_fingerprint,
            )
            if reason is not None:
                self._train_base(reason)
        if self.record.refresh is not None and self.record.refresh.published:
            self._plan_again(Path(self.record.refresh.run_dir))

    def _train_base(self, reason: str) -> None:
        """Train the base further. Where that fails, the night goes on with the present base."""
        run_dir = night_folder(self.spec.nights, self.record) / REFRESH
        self.say(f"the base is refreshed: {reason}")
        try:
            with self._phase("refresh", ""):
                published = refresh_base(
                    self.spec,
                    self.plan.catalog,
                    self.plan.base,
                    self.plan.base_path,
                    run_dir,
                    night=self.plan.night,
                    launcher=self.launcher,
                    report=self._report,
                )
        except PipelineError as error:
            self._warn(f"the base was not refreshed: {error}")
            return
        result = RefreshResult(
            reason=reason,
            published=published,
            fingerprint=open_base(run_dir).manifest.fingerprint if published else None,
            run_dir=reference_text(run_dir),
            dropped=sorted(self.plan.live) if published else [],
        )
        self._write(refresh=result)

    def _plan_again(self, base: Path) -> None:
        """Plan the night again on the refreshed base, on which no kernel serves yet."""
        plan = plan_night(
            self.spec, self._records, asked=self.plan.night, now=self.clock(), base=base
        )
        self._parent, parent = self.plan, self.plan
        self.plan = replace(plan, head=self._expected())
        live = {name: pointer.bundle for name, pointer in self.plan.live.items()}
        self._write(
            base=reference_text(base),
            base_fingerprint=plan.base.manifest.fingerprint,
            base_age_days=base_age_days(plan.base, plan.night),
            domains=domain_nights(plan.decisions, NightOutcomes(is_tuned=False), live, plan.paths),
            is_scratch_night=False,
            notices=self._notices_after(parent, plan),
        )

    def _notices_after(self, parent: NightPlan, plan: NightPlan) -> list[str]:
        """Return the record's notices with those about the new base for those about its parent."""
        kept = [notice for notice in self.record.notices if notice not in parent.base_notices]
        for notice in plan.base_notices:
            self._report(Notice(notice, is_warning=True))
        return list(dict.fromkeys((*kept, *plan.base_notices)))

    def _train_and_promote(self) -> None:
        """Do all phases after the plan, and write what came of them into the record."""
        if self.plan.trained:
            self._measure_shift()
            self._refresh()
        # From the record, not the plan: a resumed night keeps the decisions of its first attempt.
        trained = [d.decision.name for d in self.record.domains if d.decision.choice == "train"]
        tuned: RunRecord | None = None
        outcomes, promoted = NightOutcomes(), NightPromotion()
        if trained:
            with self._phase("tune", ""):
                tuned = self._tune(trained)
            tuning = tuned.result_as(TuningResult)
            self._warn_of_ancestors(tuning)
            kernels = {kernel.domain: kernel for kernel in tuning.kernels}
            decided = ChainsOfNight.of(tuning.kernels)
            if self.spec.shadow is not None and self.record.shadow is None:
                self._replay(self.spec.shadow, decided)
            with self._phase("promote", "promoting what the gate published"):
                promoted = self._promote(decided)
            outcomes = NightOutcomes(
                kernels=kernels,
                candidates=promoted.candidates,
                promoted=promoted.promoted,
                held={**dict.fromkeys(tuning.not_reached, self._too_late()), **promoted.held},
                failed={**tuning.failed, **promoted.failed},
                scratch_gains=self._scratch_gains(kernels),
            )
        self._finish(outcomes, promoted, tuned)

    def _warn_of_ancestors(self, tuning: TuningResult) -> None:
        """Warn of each kernel that diverged and from which other kernels would have started."""
        above = {ancestor for path in self.plan.paths.values() for ancestor in path}
        for name, sentence in tuning.failed.items():
            if name in above:
                self._warn(
                    f"{sentence}. The kernels below it started from the kernel that it started from"
                )

    def _too_late(self) -> str:
        """Return why a domain was not tuned although it was to train."""
        due = self.record.deadline
        zone = ZoneInfo(self.spec.schedule.time_zone)
        shown = due.astimezone(zone).strftime("%H:%M") if due else "the run"
        return f"the deadline of {shown} came before its turn"

    def _scratch_gains(self, kernels: Mapping[str, KernelResult]) -> dict[str, float]:
        """Return the gain of each kernel from scratch minus that of the night's kernel.

        Empty on a night that tunes none from scratch. The night's kernels serve already, so an
        error here is a warning.
        """
        if not self.record.is_scratch_night:
            return {}
        try:
            with self._phase("scratch", ""):
                scratch = self._tune_from_scratch(list(kernels)).result_as(TuningResult)
        except PipelineError as error:
            self._warn(f"no kernels were tuned from scratch: {error}")
            return {}
        gains = {kernel.domain: kernel.gate.gain for kernel in scratch.kernels}
        pairs = {name: (gains.get(name), kernel.gate.gain) for name, kernel in kernels.items()}
        return {n: a - b for n, (a, b) in pairs.items() if a is not None and b is not None}

    def _tune(self, trained: list[str]) -> RunRecord:
        """Tune the night's kernels, or return the run that did."""
        run_dir = night_folder(self.spec.nights, self.record) / TUNE
        self._write(run_dir=reference_text(run_dir))
        spec = finetune_spec(
            self.spec,
            self.plan,
            trained,
            run_dir,
            deadline=self.record.deadline,
            parent=self._parent,
        )
        return tune_once(
            spec,
            self.plan.catalog,
            self.launcher,
            self._report,
            chains=self._chains(),
            verify_log=lambda: refuse_changed_log(self.spec, self.plan),
        )

    def _tune_from_scratch(self, trained: list[str]) -> RunRecord:
        """Tune the same domains from no live kernel; nothing of it is promoted."""
        run_dir = night_folder(self.spec.nights, self.record) / SCRATCH
        plan = replace(self.plan, head=None)
        spec = finetune_spec(self.spec, plan, trained, run_dir, deadline=self.record.deadline)
        # Without chains: these kernels are compared with the night's, and are no evidence of them.
        return tune_once(spec, plan.catalog, self.launcher, self._report)

    def _replay(self, asked: ShadowGateSpec, decided: ChainsOfNight) -> None:
        """Replay the newest days, and record which kernels are held because of it.

        Only once: a resumed night may have promoted kernels, which then serve.
        """
        with self._phase("shadow", "replaying the newest days"):
            replayed = replay_night(
                self.spec,
                asked,
                self.plan,
                finished_run(night_folder(self.spec.nights, self.record) / TUNE),
                withdrawn=decided.withdrawn,
                scratch_in=night_folder(self._locked.folder, self.record),
                report=self._report,
            )
        self._write(shadow=replayed)

    def _promote(self, decided: ChainsOfNight) -> NightPromotion:
        """Move the pointers, from what the registry was when the night was planned."""
        return promote_night(
            open_store(self.spec.registry),
            finished_run(night_folder(self.spec.nights, self.record) / TUNE),
            self._expected(),
            decided,
            held_by_replay=self.record.shadow.held if self.record.shadow else {},
        )

    def _chains(self) -> NightChains:
        """Return the evidence on every domain's chain when the night was planned."""
        chains = self.plan.head.chains.values() if self.plan.head else ()
        return NightChains(night=self.plan.night, states={chain.name: chain for chain in chains})

    def _expected(self) -> Commit | None:
        """Return the registry's commit that was the newest when the night was planned."""
        number = self.record.registry_before
        return read_commit(open_store(self.spec.registry), number) if number else None

    def _finish(
        self, outcomes: NightOutcomes, promoted: NightPromotion, tuned: RunRecord | None
    ) -> None:
        """Write the results of the night."""
        head = registry_head(open_store(self.spec.registry))
        live = {n: p.bundle for n, p in live_pointers(head, self.record.base_fingerprint).items()}
        decisions = [domain.decision for domain in self.record.domains]
        outcomes = replace(outcomes, chains=self._chains_of(head))
        domains = domain_nights(decisions, outcomes, live, self.plan.paths)
        spent = tuning_cost(self.spec, self.record, tuned)
        refresh = self._with_carried(promoted)
        folder = night_folder(self.spec.nights, self.record)
        self._write(
            status="finished",
            page=reference_text(folder / PAGE),
            exit_code=exit_code(domains),
            ended_at=self.clock(),
            registry_after=promoted.generation,
            refresh=refresh,
            domains=share_cost(domains, outcomes, spent),
            **(dict(spent) if spent else {}),
        )

    def _chains_of(self, head: Commit | None) -> dict[str, ChainState]:
        """Return the chains on the night's base, by domain."""
        chains = head.chains.values() if head else ()
        base = self.record.base_fingerprint
        return {chain.name: chain for chain in chains if chain.base_fingerprint == base}

    def _with_carried(self, promoted: NightPromotion) -> RefreshResult | None:
        """Return the refresh with the domains whose kernel was carried over to the new base."""
        refresh = self.record.refresh
        if refresh is None or not refresh.published:
            return refresh
        before = {*refresh.carried, *refresh.dropped}
        carried = sorted(before & {*promoted.promoted})
        dropped = sorted(before - {*carried})
        return refresh.model_copy(update={"carried": carried, "dropped": dropped})

    @contextmanager
    def _phase(self, name: str, description: str) -> Iterator[None]:
        """Time a phase, and report its beginning and end."""
        start = time.monotonic()
        try:
            with reported_phase(self._report, name, description):
                yield
        finally:
            seconds = self.record.timings_s.get(name, 0.0) + time.monotonic() - start
            self._write(timings_s={**self.record.timings_s, name: round(seconds, 3)})

    def _write(self, **fields: object) -> None:
        """Change fields of the record, and write it; upload it where nights lie on a store."""
        traffic = self.record.traffic + self._traffic.take()
        self.record = changed(self._locked.folder, self.record, traffic=traffic, **fields)
        self._locked.push()
