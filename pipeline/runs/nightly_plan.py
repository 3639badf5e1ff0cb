"""Plan a night: read the log's newest days, the registry and the history, and decide.

Nothing is trained and no pointer moves here. The decisions themselves are pure functions of
pipeline/nightly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.data.content import DIGESTS, KeptContents
from iak.pipeline.data.dates import LogDates
from iak.pipeline.data.label_days import count_labels
from iak.pipeline.data.partition_days import (
    NewestDays,
    PartitionFiles,
    list_partitions,
    log_dates,
    read_newest_days,
)
from iak.pipeline.data.window_shift import domain_drift
from iak.pipeline.errors import BadLog
from iak.pipeline.nightly.choice import Candidate, Request, choose
from iak.pipeline.nightly.history import History
from iak.pipeline.nightly.identity import night_id
from iak.pipeline.nightly.partitions import (
    Clock,
    Labels,
    held_partitions,
    judge_partitions,
    last_complete_day,
)
from iak.pipeline.nightly.windows import (
    expected_days,
    night_catalog,
    task_windows,
    window_days,
)
from iak.pipeline.registry.live import data_until, live_pointers, registry_head
from iak.pipeline.runs.load import load_catalog
from iak.pipeline.runs.nightly_known_days import base_notices
from iak.pipeline.runs.preflight import open_frozen_base
from iak.pipeline.runs.stored_run import local_cache
from iak.pipeline.storage.store import Store, open_store
from iak.schemas.domain import Domain
from iak.schemas.log import Catalog, SplitSpec
from iak.schemas.night import Decision, Level, NightRecord, PartitionDay, TaskWindow
from iak.schemas.nightly import NightlySpec
from iak.schemas.registry import Commit, Pointer

_MAX_DRIFTS = 100
"""Domains whose drift is measured at most. Each measurement reads a sample of rows."""
_LATE_DAYS = 7
"""Days before the newest one among which the last complete day is searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NightPlan:
    """What a night is to do, before anything is trained."""

    id: str
    night: date
    catalog: Catalog
    """The platform's catalogue, with the splits of the night."""
    base: PublishedBase
    base_path: Path
    decisions: tuple[Decision, ...]
    paths: Mapping[str, tuple[str, ...]]
    """Domain -> names of the levels above it, outermost first."""
    windows: tuple[TaskWindow, ...]
    days: tuple[PartitionDay, ...]
    head: Commit | None
    """The registry's newest commit; None where there is none."""
    history: History
    notices: tuple[str, ...]
    base_notices: tuple[str, ...]
    """Days of the windows that the base was trained on, in words."""

    @property
    def trained(self) -> tuple[str, ...]:
        """Return the names of the domains that train."""
        return tuple(d.name for d in self.decisions if d.choice == "train")

    @property
    def live(self) -> dict[str, Pointer]:
        """Return the live pointers of the night's base, by domain."""
        return live_pointers(self.head, self.base.manifest.fingerprint)


def plan_night(
    spec: NightlySpec,
    records: Sequence[NightRecord],
    *,
    asked: date | None,
    now: datetime,
    base: Path | None = None,
) -> NightPlan:
    """Decide what a night does.

    Args:
        spec: the platform's settings.
        records: records of all nights so far.
        asked: nominal date; None takes the log's last complete day.
        now: the present moment, with a zone.
        base: base that the night freezes; None takes the newest refreshed one, else the file's.

    Raises:
        BadLog: there is no complete day, or the log does not keep its contract.
        BadRequest: catalogue, base, registry or log are not what the settings say.
    """
    catalog = load_catalog(spec.catalog)
    clock = Clock(now=now, ready=spec.ready)
    dated = _dated(catalog)
    listed, night, dates = _find_night(spec, dated, clock, asked)
    history = History(records, until=night)
    base_path = base or base_of(spec, history)
    opened = open_frozen_base(base_path, catalog, spec.finetune.tables)
    fingerprint = opened.manifest.fingerprint
    days = window_days(windows := task_windows(catalog, night, spec.window.days), night)
    newest = _read_window(spec, dated, days, opened)
    seen = [*(files for files in listed if files.day < days[0]), *newest.partitions]
    labels = _ripe_labels(newest, dated, windows)
    expected = expected_days(days, dates.period)
    judged = judge_partitions(seen, expected, clock, history.partition_days(), labels)
    split, notices = _split_catalog(spec, catalog, days, judged)
    head = registry_head(store := open_store(spec.registry))
    candidates = _candidates(newest, catalog, _live_since(store, head, fingerprint))
    domains = [candidate.domain for candidate in candidates]
    request = _request(spec, night, fingerprint)
    decisions = choose(candidates, judged, history, request)
    # Drift is measured only for domains that it may still make train, since it reads rows.
    if few := _with_few_new_rows(decisions):
        drifts = _drifts(spec, dated, few, days, history, fingerprint)
        decisions = choose(_with_drifts(candidates, drifts), judged, history, request)
    return NightPlan(
        id=night_id(spec, catalog, night=night, base=fingerprint, domains=domains, days=judged),
        night=night,
        catalog=split,
        base=opened,
        base_path=base_path,
        decisions=tuple(decisions),
        paths=_paths(domains, catalog),
        windows=tuple(windows),
        days=tuple(judged),
        head=head,
        history=history,
        notices=(*notices, *_without_rows(newest, days, dates)),
        base_notices=tuple(base_notices(opened, windows, split)),
    )


def _with_few_new_rows(decisions: Sequence[Decision]) -> list[Domain]:
    """Return the domains that wait although they have new rows. A large drift makes them train.

    Those with most rows come first. Of more than `_MAX_DRIFTS`, the others wait.
    """
    few = [d for d in decisions if d.level == "domain" and d.choice == "wait" and d.new_rows]
    few.sort(key=lambda decision: -decision.window_rows)
    return [Domain(tuple(decision.domain)) for decision in few[:_MAX_DRIFTS]]


def _drifts(
    spec: NightlySpec,
    catalog: Catalog,
    domains: Sequence[Domain],
    days: Sequence[date],
    history: History,
    base: str,
) -> dict[str, float]:
    """Return how far each domain's inputs have drifted since its last tuning.

    A domain that was never tuned on this base, or not within the window, is left out.
    """
    drifts: dict[str, float] = {}
    for domain in domains:
        last = next((tuned.night for tuned in history.tunings(domain, base)), None)
        if last is None or not days[0] <= last < days[-1]:
            continue
        before, after = (days[0], last), (last + timedelta(days=1), days[-1])
        index = domain_drift(catalog, spec.data_root, domain, before=before, after=after)
        if index is not None:
            drifts[domain.name] = index
    return drifts


def _with_drifts(
    candidates: Sequence[Candidate], drifts: Mapping[str, float]
) -> Sequence[Candidate]:
    """Return the candidates with the drifts that were measured, by the domain's name."""
    return [replace(each, drift=drifts.get(each.domain.name)) for each in candidates]


def _request(spec: NightlySpec, night: date, base: str) -> Request:
    """Return what the choice of domains depends on besides domains and history."""
    return Request(
        night=night,
        base=base,
        choice=spec.choice,
        budget=spec.budget,
        tuned_share=1 - spec.window.valid - spec.window.gate,
    )


def _read_window(
    spec: NightlySpec, catalog: Catalog, days: Sequence[date], base: PublishedBase
) -> NewestDays:
    """Read the partitions of the window by content, and the rows of every domain."""
    return read_newest_days(
        catalog,
        spec.data_root,
        days=(days[0], days[-1]),
        marker=spec.ready.marker,
        kept=_kept_digests(spec, base),
    )


def _ripe_labels(newest: NewestDays, catalog: Catalog, windows: Sequence[TaskWindow]) -> Labels:
    """Return the labels of each partition's day in the windows of their tasks."""
    counts = count_labels(newest.selection, catalog)
    return {
        window.task: {
            key: count
            for key, count in counts[window.task].items()
            if window.first <= key[1] <= window.last
        }
        for window in windows
    }


def changed_days(spec: NightlySpec, plan: NightPlan) -> list[PartitionDay]:
    """Return the days of partitions whose files are not those that the night was planned on.

    Days that are held are left out: their domains do not read them.
    """
    dated = _dated(plan.catalog)
    days = sorted({day.day for day in plan.days})
    newest = _read_window(spec, dated, days, plan.base)
    contents = {(files.day, files.partition): files.content for files in newest.partitions}
    return [
        day
        for day in plan.days
        if not day.holds and contents.get((day.day, tuple(day.partition)), "") != day.content
    ]


def _dated(catalog: Catalog) -> Catalog:
    """Return the catalogue with one split of one day, so that the log's dates are read."""
    return catalog.model_copy(update={"splits": {"tune": SplitSpec(days=(-1, -1))}})


def _live_since(store: Store, head: Commit | None, base: str) -> dict[str, date | None]:
    """Return the last day of the data of every live kernel, by domain."""
    return {name: data_until(store, p) for name, p in live_pointers(head, base).items()}


def base_of(spec: NightlySpec, history: History) -> Path:
    """Return the base that a night freezes: the newest refreshed one, else the file's."""
    for record in reversed(history.records):
        if record.refresh is not None and record.refresh.published:
            return Path(record.refresh.run_dir)
    return spec.base


def _kept_digests(spec: NightlySpec, base: PublishedBase) -> KeptContents:
    """Return the digests of the log's files that earlier tuning runs stored beside their cache."""
    folder = local_cache(spec.finetune.cache) or base.folder.parent
    return KeptContents(folder / DIGESTS if folder.is_dir() else None)


def _find_night(
    spec: NightlySpec, catalog: Catalog, clock: Clock, asked: date | None
) -> tuple[tuple[PartitionFiles, ...], date, LogDates]:
    """Return the log's newest partitions, the night's date, and the dates of the log."""
    # A planted log may have dates after today. In any other log a later date is a mistake.
    zone = ZoneInfo(catalog.log.time_zone)
    today = None if catalog.log.truth else clock.now.astimezone(zone).date()
    dates = log_dates(catalog, spec.data_root, today=today)
    newest = min(filter(None, (asked, dates.newest)), default=None)
    if newest is None or dates.newest is None:
        raise BadLog(
            f"{spec.data_root}: the log has no row with a date, so no night has one. Name the "
            "column of dates in the catalogue: log.date_key or log.event_time"
        )
    # As many days as the window, the history of partitions and the slowest label need together.
    ripening = max((t.matures_after or timedelta(0) for t in catalog.tasks), default=timedelta(0))
    span = timedelta(days=spec.window.days + spec.ready.history_days + _LATE_DAYS) + ripening
    listed = list_partitions(
        catalog, spec.data_root, days=(newest - span, newest), marker=spec.ready.marker
    )
    night = asked or last_complete_day(listed, clock, before=today)
    if night is None:
        raise BadLog(_no_complete_day(dates, spec))
    return listed, night, dates


def _without_rows(newest: NewestDays, days: Sequence[date], dates: LogDates) -> list[str]:
    """Return a notice where the log has no row of the night's days."""
    if newest.partitions:
        return []
    return [
        f"no domain is tuned: no file has rows from {days[0]} to {days[-1]}, the days that this "
        f"night reads; {dates.span}. Name another night by date="
    ]


def _no_complete_day(dates: LogDates, spec: NightlySpec) -> str:
    waits, remedy = "", ""
    if not spec.ready.needs_marker:
        waits = f", or no new file for {spec.ready.quiet_for}"
        remedy = ' For days that are whole when they arrive (a copied log), set quiet_for = "PT0S"'
        remedy += " under [ready]"
    return (
        f"{spec.data_root}: no day is complete: most partitions of a day must have "
        f"{spec.ready.marker}{waits} ([ready]). {dates.span}. Name a day by date=, or wait.{remedy}"
    )


def _split_catalog(
    spec: NightlySpec, catalog: Catalog, days: Sequence[date], judged: Sequence[PartitionDay]
) -> tuple[Catalog, list[str]]:
    """Return the catalogue with the night's splits, and notices.

    The splits leave out the rows of partitions that are held, where that can be expressed.
    """
    held = held_partitions(judged)
    every = list(dict.fromkeys(tuple(day.partition) for day in judged))
    kept = [partition for partition in every if partition not in held]
    if not held or () in held or not kept:
        return night_catalog(catalog, days, spec.window), []
    keys = {key for partition in every for key, _ in partition}
    if len(keys) > 1 or not all(every):
        # `where` lists values key by key, so it cannot leave out one combination of two keys.
        notice = "rows of held partitions are read for the kernels above their domains"
        return night_catalog(catalog, days, spec.window), [notice]
    values = [value for partition in kept for _, value in partition]
    admitted = (keys.pop(), values)
    return night_catalog(catalog, days, spec.window, admitted=admitted), []


def _candidates(
    newest: NewestDays, catalog: Catalog, since: Mapping[str, date | None]
) -> list[Candidate]:
    """Return the domains of the window, of every level."""
    return [
        Candidate(
            domain=domain,
            level=_level(domain, catalog),
            rows=rows,
            floor=catalog.domain.min_rows if domain.pairs else 1,
            live_since=since.get(domain.name),
        )
        for domain, rows in newest.rows.items()
    ]


def _level(domain: Domain, catalog: Catalog) -> Level:
    keys = tuple(key for key, _ in domain.pairs)
    if not keys:
        return "pooled"
    return "domain" if keys == catalog.domain.keys else "parent"


def _paths(domains: Sequence[Domain], catalog: Catalog) -> dict[str, tuple[str, ...]]:
    """Return the names of the levels above each domain, outermost first."""
    paths: dict[str, tuple[str, ...]] = {}
    for domain in domains:
        values = domain.as_dict()
        above = [keys for keys in catalog.domain.levels if len(keys) < len(values)]
        known = [keys for keys in above if set(keys) <= set(values)]
        names = [Domain(tuple((key, values[key]) for key in keys)).name for keys in known]
        paths[domain.name] = tuple(names)
    return paths
