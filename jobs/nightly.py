"""`iak nightly …`: decide, tune, judge and promote every night, by one file.

torch and Ray take seconds to import. So only the functions that train or open a base import them,
and `iak nightly status` answers at once.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from iak.jobs.console_report import console_report
from iak.jobs.path_settings import check_paths
from iak.jobs.progress import console
from iak.jobs.schedule import backfill, watch
from iak.jobs.tables import number, show_facts, show_table
from iak.jobs.worker_server import prepare_workers
from iak.pipeline.errors import OK, BadRequest, PipelineError
from iak.pipeline.files import put_output
from iak.pipeline.nightly.identity import with_overrides
from iak.pipeline.registry.live import data_until, live_pointers, registry_head
from iak.pipeline.report.summary import sentence_of
from iak.pipeline.runs.load import load_catalog, load_nightly
from iak.pipeline.runs.nightly_file import commented
from iak.pipeline.runs.nightly_records import night_folder, read_nights
from iak.pipeline.runs.record import now
from iak.pipeline.storage.store import open_store
from iak.schemas.base import Spec
from iak.schemas.log import Catalog
from iak.schemas.night import DomainNight, NightRecord
from iak.schemas.nightly import NightlySpec, ReadySpec
from iak.schemas.nightly_job import (
    NightlyBackfillSpec,
    NightlyCheckSpec,
    NightlyInitSpec,
    NightlyRunSpec,
    NightlyStatusSpec,
    NightlyWatchSpec,
)
from iak.schemas.paths import reference_text

MAX_DOMAINS = 40
"""Domains shown in a table; the page has all."""
FILE = Path("nightly.toml")
TOKEN = "MLFLOW_TRACKING_TOKEN"
"""Environment variable that MLflow's own client also reads. No file or message has its value."""


def main(spec: Spec) -> int:
    """Run the verb."""
    verbs: dict[type[Spec], Callable[[Any], int]] = {
        NightlyRunSpec: run,
        NightlyBackfillSpec: backfill_nights,
        NightlyWatchSpec: watch_schedule,
        NightlyStatusSpec: status,
        NightlyCheckSpec: check,
        NightlyInitSpec: init,
    }
    return verbs[type(spec)](spec)


def run(spec: NightlyRunSpec) -> int:
    """Run one night, or show what it would do: here, or on the cluster that the file names."""
    settings = load_nightly(spec.file)
    if settings.cluster != "local" and not spec.here:
        # Ray reads its token when it is imported, so nothing above may import it.
        from iak.jobs.submit_night import submit_night

        return submit_night(spec, settings)
    check_paths(settings)
    changed = with_overrides(settings, rows=spec.rows, minutes=spec.minutes, deadline=spec.deadline)
    return _run_here(spec, changed)


def _run_here(spec: NightlyRunSpec, settings: NightlySpec) -> int:
    """Run the night in this process, and send out its notices, also those of a failed night."""
    if not spec.dry_run:
        prepare_workers(settings.workers)  # beside the imports below
    from iak.jobs.launchers import launcher_of
    from iak.pipeline.runs.nightly import NightRequest, run_night
    from iak.pipeline.runs.record import AlreadyFinished

    request = NightRequest(night=spec.date, dry_run=spec.dry_run)
    launcher = launcher_of(settings.workers)
    began = now()
    try:
        with console_report() as report:
            record = run_night(settings, launcher, request, report)
    except AlreadyFinished:  # a PipelineError too, but no failure: nothing was done
        raise
    except PipelineError:
        _notify_of_failure(settings, began)
        raise
    if spec.dry_run:
        _show_decisions(record)
        return OK
    show_night(settings, record)
    _notify(settings, record)
    return record.exit_code or OK


def _notify_of_failure(spec: NightlySpec, began: datetime) -> None:
    """Send out a notice of the failed night of this command, if it has a record."""
    # A night that failed before it was planned has none; older records are of other commands.
    for record in read_nights(spec.nights).records:
        if record.status == "failed" and record.ended_at and record.ended_at >= began:
            _notify(spec, record)


def _notify(spec: NightlySpec, record: NightRecord) -> None:
    """Send out the notices of a night, and show those that failed."""
    from iak.pipeline.runs.nightly_notify import notify

    address = os.environ.get(spec.notify.webhook) if spec.notify.webhook else None
    token = os.environ.get(TOKEN)
    for notice in notify(spec, record, address=address, token=token):
        console.print(notice, markup=False, style="yellow")


def backfill_nights(spec: NightlyBackfillSpec) -> int:
    """Run the nights of a range of dates, oldest first."""
    return backfill(spec, lambda night: run(NightlyRunSpec(file=spec.file, date=night)))


def watch_schedule(spec: NightlyWatchSpec) -> int:
    """Run every night when it is due, until this process is stopped."""
    # systemd and Kubernetes stop a process by SIGTERM. It becomes a KeyboardInterrupt, as Ctrl-C
    # does, so that the night's record says `interrupted`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _metrics(spec):
        watch(spec, lambda night: run(NightlyRunSpec(file=spec.file, date=night)))
    return 0


def _metrics(spec: NightlyWatchSpec) -> AbstractContextManager[object]:
    """Return the server of Prometheus's metrics; one that does nothing where no port is named."""
    if spec.metrics_port is None:
        return nullcontext()
    from iak.pipeline.report.metrics_server import serving_metrics

    nights = load_nightly(spec.file).nights
    address = str(spec.metrics_address)
    console.print(f"metrics: http://{address}:{spec.metrics_port}/metrics", markup=False)
    return serving_metrics(nights, address=address, port=spec.metrics_port)


def _checked_settings(file: Path) -> NightlySpec:
    """Return a file's settings, after a check that its paths can be used."""
    spec = load_nightly(file)
    check_paths(spec)
    return spec


def _show_decisions(record: NightRecord) -> None:
    """Show which domains train, and why."""
    decisions = [domain.decision for domain in record.domains]
    show_table(
        f"{record.name}, night of {record.night}",
        ("domain", "decision", "new rows", "window rows", "age", "worth", "why"),
        [
            (
                d.name,
                d.choice,
                f"{d.new_rows:,}",
                f"{d.window_rows:,}",
                "-" if d.age_days is None else f"{d.age_days} d",
                number(d.worth, 2),
                d.reason,
            )
            for d in decisions[:MAX_DOMAINS]
        ],
        caption=_more(len(decisions)),
        text=("decision",),
    )
    windows = [f"{w.task} {w.first} to {w.last}" for w in record.windows]
    show_facts(
        "nothing was changed",
        {"days with ripe labels": ", ".join(windows), "base": record.base, "id": record.id},
    )
    _show_notices(record.notices)


def _show_notices(notices: Sequence[str]) -> None:
    for notice in notices:
        console.print(f"notice: {notice}", markup=False, style="yellow")


def show_night(spec: NightlySpec, record: NightRecord) -> None:
    """Show what a night did for every domain, and the path of its page."""
    shown = record.domains[:MAX_DOMAINS]
    show_table(
        f"{record.name}, night of {record.night}",
        ("domain", "outcome", "tuning rows", "gain", "served by", "sentence"),
        [
            (
                d.decision.name,
                d.outcome,
                f"{d.decision.window_rows:,}",
                number(d.verdict.gain if d.verdict else None, 5, sign=True),
                d.served_by,
                d.sentence,
            )
            for d in shown
        ],
        caption=_more(len(record.domains)),
        text=("outcome", "served by"),
    )
    show_facts(
        sentence_of(record),
        {
            "record": reference_text(night_folder(spec.nights, record)),
            "page": record.page,
            "registry": f"{record.registry}, commit {record.registry_after or 'none: no move'}",
            "rows": f"{record.rows_tuned:,} tuned, {record.rows_from_cache:,} from the cache",
            "seconds": record.timings_s,
        },
    )


def _more(domains: int) -> str:
    left = domains - MAX_DOMAINS
    return f"{left:,} more; the page has all" if left > 0 else ""


def status(spec: NightlyStatusSpec) -> int:
    """Show the last nights, the live kernels with their age, and what the newest night held."""
    settings = _checked_settings(spec.file)
    nights = read_nights(settings.nights)
    for problem in nights.problems:
        console.print(f"warning: {problem}", markup=False, style="yellow")
    if not nights.records:
        folder = reference_text(settings.nights)
        console.print(f"no night has run: {folder} has no record of one", markup=False)
        return OK
    show_table(
        f"{settings.name}, last nights",
        ("night", "status", "exit", "promoted", "held", "failed", "waiting", "minutes", "id"),
        [_night_row(record) for record in nights.records[-spec.last :]],
        text=("status",),
    )
    newest = nights.records[-1]
    _show_live(settings, newest)
    _show_held(newest)
    return OK


def _night_row(record: NightRecord) -> tuple[str, ...]:
    counts = record.counts
    duration = record.ended_at - record.started_at if record.ended_at else None
    return (
        str(record.night),
        record.status,
        "-" if record.exit_code is None else str(record.exit_code),
        *(str(counts[name]) for name in ("promoted", "held", "failed", "waiting")),
        f"{duration.total_seconds() / 60:.1f}" if duration else "-",
        record.id,
    )


def _show_live(spec: NightlySpec, newest: NightRecord) -> None:
    """Show the live kernels with their age, and the number of domains by what serves them."""
    store = open_store(spec.registry)
    live = live_pointers(registry_head(store), newest.base_fingerprint)
    rows = []
    for name, pointer in sorted(live.items())[:MAX_DOMAINS]:
        last = data_until(store, pointer)
        age = f"{(newest.night - last).days} d" if last else "-"
        rows.append((name, str(last or "-"), age, pointer.bundle[:12]))
    served = Counter(domain.served_by for domain in newest.domains)
    show_table(
        "live kernels",
        ("domain", "data until", "age", "bundle"),
        rows,
        caption="Served by: " + ", ".join(f"{who} {n}" for who, n in sorted(served.items())),
    )


def _show_held(newest: NightRecord) -> None:
    """Show the domains that the newest night held or failed, with the reason."""
    not_promoted = [d for d in newest.domains if d.outcome in ("held", "failed")]
    if newest.error:
        console.print(f"the night of {newest.night}: {newest.error}", markup=False, style="yellow")
    if not not_promoted:
        console.print(f"the night of {newest.night} held no domain", markup=False)
        return
    show_table(
        f"held or failed on {newest.night}",
        ("domain", "outcome", "why"),
        [_held_row(domain) for domain in not_promoted[:MAX_DOMAINS]],
        text=("outcome",),
        caption=_more(len(not_promoted)),
    )


def _held_row(domain: DomainNight) -> tuple[str, ...]:
    return domain.decision.name, domain.outcome, domain.sentence


def check(spec: NightlyCheckSpec) -> int:
    """Show everything that would stop a night, and what the night would do."""
    from iak.pipeline.runs.nightly_check import check_nightly
    from iak.pipeline.runs.nightly_notify import check_tracking

    settings = _checked_settings(spec.file)
    findings = check_nightly(settings, ask_job_server=_ask_job_server)
    tracking = check_tracking(settings, os.environ.get(TOKEN))
    problems = [*findings.problems, *_missing_variables(settings), *tracking]
    if (plan := findings.plan) is not None:
        choices = Counter(decision.choice for decision in plan.decisions)
        show_facts(
            f"{settings.name}: the next night is that of {plan.night}",
            {
                "domains": ", ".join(f"{n} {choice}" for choice, n in sorted(choices.items())),
                "base": f"{plan.base_path}, {plan.base.manifest.fingerprint[:16]}",
                "registry": f"{settings.registry}, {len(plan.live)} live kernels",
            },
        )
        _show_notices((*plan.notices, *plan.base_notices))
    if problems:
        show_table("problems", ("where", "what"), problems)
        raise BadRequest(
            f"{spec.file}: {len(problems)} problems, listed above; a night would not run as it "
            "should. Correct them, and check again"
        )
    console.print("no problem was found")
    return OK


def _missing_variables(spec: NightlySpec) -> Sequence[tuple[str, str]]:
    """Return settings that name an environment variable which is not set, each with a message."""
    name = spec.notify.webhook
    if name is None or name in os.environ:
        return []
    return [("notify.webhook", f"the environment has no variable {name}")]


def _ask_job_server(address: str) -> None:
    """Check that a Ray job server answers.

    Raises:
        PipelineError: it does not answer, or refuses the token.
    """
    from iak.jobs.job_server import connect  # Ray's client takes a second to load

    connect(address).get_version()


def init(spec: NightlyInitSpec) -> int:
    """Write a commented file that `iak nightly run` takes as it is."""
    from iak.pipeline.registry.bases import open_base

    out = spec.out or FILE
    if out.exists() and not spec.overwrite:
        raise BadRequest(f"out={out} exists; name another file, or give overwrite=true")
    catalog = load_catalog(spec.catalog)
    if not (catalog.log.date_key or catalog.log.event_time):
        raise BadRequest(
            f"the catalogue {spec.catalog} names no dates, and a night has a date. Name them as "
            "log.date_key or log.event_time; for a log without dates, tune by iak finetune"
        )
    base = open_base(spec.base)
    data_root = spec.data_root or base.manifest.settings.data_root
    if not data_root:
        raise BadRequest(
            f"the base {spec.base} does not say where its log lies; give data_root=FOLDER"
        )
    nights = spec.nights or out.parent / "nights"
    settings: dict[str, Any] = {
        "name": catalog.log.name,
        "catalog": spec.catalog,
        "data_root": data_root,
        "base": reference_text(spec.base),
        "registry": spec.registry or reference_text(nights.parent / "registry"),
        "nights": reference_text(nights),
    }
    if catalog.log.truth:  # a planted log is written in one go, without markers
        settings["ready"] = {"quiet_for": timedelta(0)}
    put_output(out, commented(settings))
    console.print(f"wrote {out}; check it by `iak nightly check {out}`", markup=False)
    if "ready" not in settings:
        _tell_of_markers(catalog, data_root)
    return OK


def _tell_of_markers(catalog: Catalog, data_root: str) -> None:
    """Say how long a night waits for each day, where the log's writer leaves no markers."""
    from iak.pipeline.data.partition_days import newest_unmarked  # pyarrow takes a second to load

    ready = ReadySpec()
    if newest := newest_unmarked(catalog, data_root, ready.marker):
        console.print(
            f"no {ready.marker} lies in the log: a day counts as complete once its newest file is "
            f"{ready.quiet_for} old (hours, minutes, seconds); the newest is of "
            f"{newest:%Y-%m-%d %H:%M} UTC. For days that are whole when they arrive (a copied "
            'log), set quiet_for = "PT0S" under [ready]',
            markup=False,
        )
