"""Open a log with a run's dates, and describe it for the run's record."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from iak.pipeline.data import logs
from iak.pipeline.data.content import DIGESTS, KeptContents
from iak.pipeline.data.splits import Selection
from iak.pipeline.data.view import LogView, open_log
from iak.pipeline.events import LogListed, Report
from iak.pipeline.fresh.past import Past
from iak.pipeline.runs import skipped
from iak.schemas.job import LogJobSpec
from iak.schemas.log import Catalog
from iak.schemas.log_snapshot import CountedRows, LogSnapshot, SplitRows, Warned


def list_log(
    spec: LogJobSpec,
    catalog: Catalog,
    report: Report,
    *,
    wanted: Sequence[str],
    digests_in: Path | None = None,
) -> LogView:
    """Open the log with the run's dates, and report its files and rows.

    Args:
        spec: settings of the log: its folder, and the dates that count.
        catalog: the log's catalogue.
        report: gets `LogListed`.
        wanted: names of the splits that are read.
        digests_in: folder in which digests of the log's files are stored between runs; None stores
            none.

    Raises:
        BadLog: the log does not keep its contract.
        BadRequest: there is no such log, or no such split.
    """
    view = open_log(
        catalog,
        spec.data_root,
        wanted=wanted,
        as_of=spec.as_of,
        today=skipped.today_of(spec, catalog),
        kept=KeptContents(digests_in / DIGESTS) if digests_in else None,
    )
    report(LogListed(files=len(view.snapshot.files), rows=sum(f.rows for f in view.snapshot.files)))
    return view


def describe_log(view: LogView, past: Past | None = None) -> LogSnapshot:
    """Return the log for a run's record: files with fingerprints, and rows by split.

    Args:
        view: the run's view of the log.
        past: rows that fresh statistics count; None where there are none.
    """
    counted = {"counted": _describe_past(past, view)} if past else {}
    return LogSnapshot(
        **dict(logs.describe(view.snapshot)),
        splits={name: _describe_split(chosen) for name, chosen in view.selections.items()},
        as_of=str(view.as_of or ""),
        skipped=skipped.describe_skipped(view),
        dates=skipped.describe_dates(view.dates),
        warnings=tuple(Warned(**asdict(finding)) for finding in view.findings),
        **counted,
    )


def _describe_split(selection: Selection) -> SplitRows:
    return SplitRows(
        rows=selection.rows,
        first=selection.split.first,
        last=selection.split.last,
        row_groups=len(selection.groups),
    )


def _describe_past(past: Past, view: LogView) -> CountedRows:
    """Return what was counted: its rows, and the files among them that no split names."""
    named = {file.path for file in view.snapshot.files}
    counted = {
        file.path: file
        for selection in past.selections
        for file in logs.describe(selection.snapshot).files
    }
    return CountedRows(
        fingerprint=past.fingerprint,
        rows=sum(selection.rows for selection in past.selections),
        last_day=past.last_day,
        files=tuple(file for path, file in sorted(counted.items()) if path not in named),
    )
