"""`iak nightly …`: decide, tune, judge and promote every night, by one file.

Only what trains or opens a base imports torch and Ray, which take seconds; `status` needs neither.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from iak.jobs._progress import console
from iak.jobs._tables import number, show_facts, show_table
from iak.jobs.console_report import console_report
from iak.jobs.path_settings import check_paths
from iak.jobs.schedule import backfill, watch
from iak.pipeline.errors import BadRequest, PipelineError
from iak.pipeline.files import put_file
from iak.pipeline.nightly.identity import with_overrides
from iak.pipeline.registry.live import data_until, live_pointers, registry_head
from iak.pipeline.report.summary import sentence_of
from iak.pipeline.runs.load import load_catalog, load_nightly
from iak.pipeline.runs.nightly_file import commented
from iak.pipeline.runs.nightly_records import night_folder, read_nights
from iak.pipeline.runs.record import now
from iak.pipeline.storage.store import open_store
from iak.schemas.base import Spec
from iak.schemas.night import DomainNight, NightRecord
from iak.schemas.nightly import NightlySpec
from iak.schemas.nightly_job import (
    NightlyBackfillSpec,
    NightlyCheckSpec,
    NightlyInitSpec,
    NightlyRunSpec,
    NightlyStatusSpec,
    NightlyWatchSpec,
)
from iak.schemas.paths import reference_text

MOST_DOMAINS = 40
"""Domains shown in a table; the page has all."""
FILE = Path("nightly.toml")
TOKEN = "MLFLOW_TRACKING_TOKEN"
"""Environment variable that MLflow's own client also reads. No file and no message holds it."""


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
    """Run one night, or say what it would do: here, or on the cluster that the file names."""
    settings = load_nightly(spec.file)
    if settings.cluster != "local" and not spec.here:
        from iak.jobs.submit_night import submit_night

        return submit_night(spec, settings)  # before Ray is imported, which then reads its token
    check_paths(settings)
    asked = with_overrides(settings, rows=spec.rows, minutes=spec.minutes, deadline=spec.deadline)
    return _run_here(spec, asked)


def _run_here(spec: NightlyRunSpec, asked: NightlySpec) -> int:
    from iak.jobs.ray_launcher import RayLauncher
    from iak.pipeline.runs.nightly import NightRequest, run_night
    from iak.pipeline.runs.record import AlreadyFinished

    request = NightRequest(night=spec.date, dry_run=spec.dry_run)
    launcher = RayLauncher.of(asked.workers)
    began = now()
    try:
        with console_report() as report:
            record = run_night(asked, launcher, request, report)
    except AlreadyFinished:
        raise
    except PipelineError:
        _notify_of_failure(asked, began)
        raise
    if spec.dry_run:
        _show_decisions(record)
        return 0
    show_night(asked, record)
    _notify(asked, record)
    return record.exit_code or 0


def _notify_of_failure(spec: NightlySpec, began: datetime) -> None:
    """Send out a notice of the failed night of this command, if it has a record."""
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
    # A stop of systemd or Kubernetes is as gentle as Ctrl-C: the night's record says so.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _metrics(spec):
        watch(spec, lambda night: run(NightlyRunSpec(file=spec.file, date=night)))
    return 0


def _metrics(spec: NightlyWatchSpec) -> AbstractContextManager[object]:
    """Return what serves the newest night's numbers while nights are waited for, if asked for."""
    if spec.metrics_port is None:
        return nullcontext()
    from iak.pipeline.report.metrics_server import serving_metrics

    nights = load_nightly(spec.file).nights
    address = str(spec.metrics_address)
    console.print(f"metrics: http://{address}:{spec.metrics_port}/metrics", markup=False)
    return serving_metrics(nights, address=address, port=spec.metrics_port)


def _loaded(file: Path) -> NightlySpec:
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
            for d in decisions[:MOST_DOMAINS]
        ],
        caption=_more(len(decisions)),
        text=("decision",),
    )
    windows = [f"{w.task} {w.first} to {w.last}" for w in record.windows]
    show_facts(
        "nothing was changed",
        {"days with ripe labels": ", ".join(windows), "base": record.base, "id": record.id},
    )


def show_night(spec: NightlySpec, record: NightRecord) -> None:
    """Show what a night did for every domain, and the path of its page."""
    shown = record.domains[:MOST_DOMAINS]
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
    left = domains - MOST_DOMAINS
    return f"{left:,} more; the page has all" if left > 0 else ""


def status(spec: NightlyStatusSpec) -> int:
    """Show the last nights, the live kernels with their age, and what the newest night held."""
    asked = _loaded(spec.file)
    nights = read_nights(asked.nights)
    for problem in nights.problems:
        console.print(f"warning: {problem}", markup=False, style="yellow")
    if not nights.records:
        nowhere = reference_text(asked.nights)
        console.print(f"no night has run: {nowhere} holds none", markup=False)
        return 0
    show_table(
        f"{asked.name}, last nights",
        ("night", "status", "exit", "promoted", "held", "failed", "waiting", "minutes", "id"),
        [_night_row(record) for record in nights.records[-spec.last :]],
        text=("status",),
    )
    newest = nights.records[-1]
    _show_live(asked, newest)
    _show_held(newest)
    return 0


def _night_row(record: NightRecord) -> tuple[str, ...]:
    counts = record.counts
    ended = record.ended_at - record.started_at if record.ended_at else None
    return (
        str(record.night),
        record.status,
        "-" if record.exit_code is None else str(record.exit_code),
        *(str(counts[name]) for name in ("promoted", "held", "failed", "waiting")),
        f"{ended.total_seconds() / 60:.1f}" if ended else "-",
        record.id,
    )


def _show_live(spec: NightlySpec, newest: NightRecord) -> None:
    """Show whose kernel serves how many domains, and the live kernels with their age."""
    store = open_store(spec.registry)
    live = live_pointers(registry_head(store), newest.base_fingerprint)
    rows = []
    for name, pointer in sorted(live.items())[:MOST_DOMAINS]:
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
    kept = [d for d in newest.domains if d.outcome in ("held", "failed")]
    if newest.error:
        console.print(f"the night of {newest.night}: {newest.error}", markup=False, style="yellow")
    if not kept:
        console.print(f"the night of {newest.night} held nothing", markup=False)
        return
    show_table(
        f"held or failed on {newest.night}",
        ("domain", "outcome", "why"),
        [_held_row(domain) for domain in kept[:MOST_DOMAINS]],
        text=("outcome",),
        caption=_more(len(kept)),
    )


def _held_row(domain: DomainNight) -> tuple[str, ...]:
    return domain.decision.name, domain.outcome, domain.sentence


def check(spec: NightlyCheckSpec) -> int:
    """Show everything that would stop a night, and what the night would do."""
    from iak.pipeline.runs.nightly_check import check_nightly
    from iak.pipeline.runs.nightly_notify import check_tracking

    asked = _loaded(spec.file)
    found = check_nightly(asked, reachable=_reach)
    tracking = check_tracking(asked, os.environ.get(TOKEN))
    problems = [*found.problems, *_missing_variables(asked), *tracking]
    if found.plan is not None:
        choices = Counter(decision.choice for decision in found.plan.decisions)
        show_facts(
            f"{asked.name}: the next night is that of {found.plan.night}",
            {
                "domains": ", ".join(f"{n} {choice}" for choice, n in sorted(choices.items())),
                "base": f"{found.plan.base_path}, {found.plan.base.manifest.fingerprint[:16]}",
                "registry": f"{asked.registry}, {len(found.plan.live)} live kernels",
            },
        )
    if problems:
        show_table("problems", ("where", "what"), problems)
        raise BadRequest(f"{spec.file}: {len(problems)} problems; nothing was spent")
    console.print("no problem was found")
    return 0


def _missing_variables(spec: NightlySpec) -> Sequence[tuple[str, str]]:
    """Return settings that name an environment variable which is not set, each with a message."""
    name = spec.notify.webhook
    if name is None or name in os.environ:
        return []
    return [("notify.webhook", f"the environment has no variable {name}")]


def _reach(address: str) -> None:
    """Check that a Ray job server answers."""
    from iak.jobs.job_server import connect  # Ray's client takes a second to load

    connect(address).get_version()


def init(spec: NightlyInitSpec) -> int:
    """Write a commented file that `iak nightly run` takes as it is."""
    from iak.pipeline.registry.bases import open_base

    out = spec.out or FILE
    if out.exists() and not spec.overwrite:
        raise BadRequest(f"out={out} exists; name another file, or give overwrite=true")
    catalog = load_catalog(spec.catalog)
    base = open_base(spec.base)
    data_root = spec.data_root or base.manifest.spec.get("data_root")
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
    out.parent.mkdir(parents=True, exist_ok=True)
    put_file(out, commented(settings))
    console.print(f"wrote {out}; `iak nightly check {out}` looks at it", markup=False)
    return 0
