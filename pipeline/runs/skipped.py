"""Report the files, days, rows and domains that a run leaves out of its log."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import date, datetime, timedelta, timezone

from iak.pipeline.data import domains, skipped, view
from iak.pipeline.data.dates import LogDates
from iak.pipeline.data.domains import Serving
from iak.pipeline.data.file_problems import file_problems
from iak.pipeline.data.skipped import SkippedFiles, days_listed
from iak.pipeline.data.view import LogView
from iak.pipeline.errors import PipelineError
from iak.pipeline.events import LogPartlyRead, Notice, NotRead, Report
from iak.schemas.job import LogJobSpec
from iak.schemas.log import Catalog
from iak.schemas.log_snapshot import DatesRead, LostRows, SkippedGroup, SkippedRows
from iak.schemas.prediction import UntunedDomain

MAY_DIFFER = ("allow_skipped", "max_skipped_share")
"""Settings that do not change which rows are read. A refused run may be resumed with others."""
_EARLIEST_ZONE = timezone(timedelta(hours=14))
"""The zone in which a day begins first. No row of any log can have a later date than its today."""


def today_of(spec: LogJobSpec, catalog: Catalog) -> date | None:
    """Return the date that no row of the log can lie beyond.

    Args:
        spec: the job's spec; its `today` wins.
        catalog: the log's catalogue. A planted log may have dates after today, so its result is
            None unless `today` is set.
    """
    if spec.today or catalog.log.truth:
        return spec.today
    return datetime.now(_EARLIEST_ZONE).date()


def report_skipped(opened: LogView, spec: LogJobSpec, report: Report) -> None:
    """Report the part of the log that the run does not read, and refuse too large a loss.

    Args:
        opened: the run's view of the log.
        spec: settings, among them the largest allowed loss.
        report: gets the groups that are left out, then a warning for each loss.

    Raises:
        BadLog: a window loses a whole day, or more than `max_skipped_share` of its rows, and
            `allow_skipped` is not set.
    """
    groups = [_group(files) for files in opened.skipped.files]
    groups += _unread_folders(opened) + _ignored(opened)
    if groups:
        report(LogPartlyRead(opened.catalog.log.name, tuple(groups)))
    for loss in opened.skipped.windows:
        report(Notice(loss.message, is_warning=True))
    if opened.skipped.undated:
        report(Notice(skipped.undated_message(opened.skipped), is_warning=True))
    for finding in opened.findings:
        report(Notice(f"{finding.what}. {finding.remedy}", is_warning=True))
    if not spec.allow_skipped:
        skipped.refuse_skipped(
            opened.skipped, max_share=spec.max_skipped_share, where=opened.snapshot.uri
        )


def _group(files: SkippedFiles) -> NotRead:
    return NotRead(
        reason=files.reason,
        files=files.files,
        rows=files.rows,
        is_estimated=files.is_estimated,
        days=days_listed(files.days),
        examples=files.examples,
    )


def _unread_folders(opened: LogView) -> list[NotRead]:
    """Return the folders whose name is not a date, where the others have one."""
    unread = opened.dates.unread
    if not unread:
        return []
    key = opened.catalog.log.date_key
    return [
        NotRead(
            reason=f"its folder's {key} is not a date, so that it is in no split",
            rows=sum(unread.values()),
            examples=tuple(f"{key}={name}" for name in sorted(unread)[:3]),
        )
    ]


def _ignored(opened: LogView) -> list[NotRead]:
    """Return the files and folders that are not part of the log, by reason."""
    return [
        NotRead(reason=problem.message, files=problem.files, examples=tuple(problem.examples))
        for problem in file_problems(opened.snapshot)
        if problem.is_ignored
    ]


def describe_skipped(opened: LogView) -> SkippedRows:
    """Return the part of the log that is not read, for the run record."""
    return SkippedRows(
        files=tuple(SkippedGroup(**asdict(group)) for group in opened.skipped.files),
        windows=tuple(
            LostRows(**asdict(loss), share=loss.share) for loss in opened.skipped.windows
        ),
        rows_without_a_time=opened.skipped.undated,
        folders_without_a_date=dict(opened.dates.unread),
    )


def describe_dates(dates: LogDates) -> DatesRead:
    """Return the dates of a log, for the run record."""
    return DatesRead(
        first=dates.counted[0] if dates.counted else None,
        last=dates.newest,
        stray=dict(dates.stray),
        beyond_today=dict(dates.future),
        today=str(dates.today or ""),
    )


def report_untuned(
    opened: LogView, serving: Serving, report: Report, judged: Sequence[str] = domains.JUDGED
) -> list[UntunedDomain]:
    """Report the domains of some splits without a tuning row, and the kernels that serve them.

    Args:
        opened: the run's view of the log; splits that it does not read are counted as well.
        serving: returns the kernel that serves a domain.
        report: gets a warning for each split with such domains.
        judged: splits to report on, `gate` or `test`.

    Returns:
        The domains, for the record.
    """
    try:
        selections = view.select_also(opened, ("tune", *judged))
        rows = domains.count_domains(selections, opened.catalog)
    except PipelineError as error:  # of a split that the job itself does not read
        report(Notice(f"domains were not counted: {error}", is_warning=True))
        return []
    if "tune" not in selections:
        return []
    untuned = domains.find_untuned(rows, serving)
    for split in judged:
        if message := domains.untuned_message(untuned, split):
            report(Notice(message, is_warning=True))
    return [UntunedDomain(**asdict(domain)) for domain in untuned]
