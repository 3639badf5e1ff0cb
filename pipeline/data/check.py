"""Check a log against its catalogue: read footers and a sample of rows, and list what is wrong."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date

from iak.pipeline.data import (
    logs,
    parquet,
    stores,
)
from iak.pipeline.data.catalog_files import catalog_files
from iak.pipeline.data.contract import Finding
from iak.pipeline.data.dates import LogDates
from iak.pipeline.data.event_dates import (
    NO_DAYS,
    DaysByFile,
    date_findings,
    read_dates,
    refuse_time_unit,
)
from iak.pipeline.data.file_findings import (
    file_findings,
    folder_findings,
    kind_findings,
    name_findings,
    partition_findings,
)
from iak.pipeline.data.fingerprints import files_without_checksums
from iak.pipeline.data.notice import refusal
from iak.pipeline.data.sample_findings import Sample, leak_findings
from iak.pipeline.data.snapshot import Snapshot
from iak.pipeline.data.split_findings import SplitSample, select_splits
from iak.pipeline.data.window_findings import find_repeated_ids
from iak.pipeline.errors import PipelineError
from iak.schemas.log import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of a check."""

    findings: tuple[Finding, ...]
    files: int
    """Data files of the log, readable or not."""
    rows: int
    """Rows of the readable files."""
    sampled_rows: int
    split_rows: dict[str, int]
    """Split -> its rows."""
    unseen: dict[str, dict[str, float]] = field(default_factory=dict)
    """Split -> table -> share of its ids that the sample of the pretrain split does not have."""
    counted_rows: int = 0
    """Rows of the pretrain split whose ids were counted for that. Where the split has more rows,
    some ids look unseen and are not."""
    without_checksums: tuple[str, ...] = ()
    """Paths of files whose pages carry no checksum: damage in them may be read as values."""


def check_log(
    catalog: Catalog,
    data_root: str,
    *,
    sample_rows: int,
    as_of: date | None = None,
    today: date | None = None,
    all_ids: bool = False,
) -> Report:
    """Check each footer, and a sample of rows.

    Args:
        catalog: the log's catalogue.
        data_root: folder or URI below which `log.path` lies.
        sample_rows: approximate number of rows to read, spread over all row groups.
        as_of: last date whose labels were collected; None takes the catalogue's, or the log's
            newest date.
        today: the last date that a row can have; None where no clock bounds the log.
        all_ids: look for repeated row ids among all rows, not the newest million.

    Raises:
        BadRequest: the folder does not exist.
    """
    uri = stores.below(data_root, catalog.log.path)
    version = logs.table_version(uri, catalog.log.version)
    snapshot = catalog_files(uri, catalog, version=version)
    findings = [*name_findings(snapshot, catalog), *file_findings(snapshot, catalog)]
    findings += folder_findings(snapshot)
    odd_folders = list(partition_findings(snapshot, catalog))
    if odd_folders or not snapshot.files:
        return _report(snapshot, [*findings, *odd_folders])
    findings += kind_findings(snapshot, catalog)
    dates, days_by_file, bad_dates = _dates(snapshot, catalog, today)
    collected = None if bad_dates else dates.collected_by(as_of or catalog.as_of)
    findings += [*bad_dates, *date_findings(dates, catalog, snapshot, as_of)]
    sample, whole = Sample(catalog, as_of=collected), parquet.select_all(snapshot, catalog)
    sample.read(whole, rows=sample_rows)
    findings += sample.findings()
    findings += find_repeated_ids(whole, catalog, all_ids=all_ids)
    findings += leak_findings(snapshot, catalog)
    # Without dates, every split that counts days fails too. `bad_dates` names that cause once.
    chosen, problems = select_splits(snapshot, catalog, dates, days_by_file, undated=not bad_dates)
    findings += problems
    split_sample = SplitSample(catalog, chosen, sample_rows, sample.as_of)
    findings += split_sample.findings()
    rows = {str(name): chosen[name].rows if name in chosen else 0 for name in catalog.splits}
    return _report(
        snapshot,
        findings,
        sampled_rows=sample.rows,
        split_rows=rows,
        unseen=split_sample.shares,
        counted_rows=split_sample.counted_rows,
        without_checksums=tuple(file.path for file in files_without_checksums(snapshot)),
    )


def _dates(
    snapshot: Snapshot, catalog: Catalog, today: date | None
) -> tuple[LogDates, DaysByFile, list[Finding]]:
    """Return the log's dates as far as they can be read, and the finding that would stop a job.

    Returns:
        The dates, the rows by date of each file, and one finding where they cannot be read.
    """
    dates, days_by_file = LogDates(), NO_DAYS
    version = snapshot.table.version if snapshot.table else None
    try:
        dates, days_by_file = read_dates(snapshot.uri, catalog, today, version=version)
        refuse_time_unit(snapshot, catalog)
    except PipelineError as error:
        return dates, days_by_file, [refusal(str(error), snapshot.uri, snapshot.rows)]
    return dates, days_by_file, []


def _report(
    snapshot: Snapshot,
    findings: Iterable[Finding],
    *,
    sampled_rows: int = 0,
    split_rows: dict[str, int] | None = None,
    unseen: dict[str, dict[str, float]] | None = None,
    counted_rows: int = 0,
    without_checksums: tuple[str, ...] = (),
) -> Report:
    return Report(
        findings=tuple(findings),
        files=len(snapshot.files) + len(snapshot.unreadable),
        rows=snapshot.rows,
        sampled_rows=sampled_rows,
        split_rows=split_rows or {},
        unseen=unseen or {},
        counted_rows=counted_rows,
        without_checksums=without_checksums,
    )
