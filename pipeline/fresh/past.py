"""Choose the rows that fresh statistics count: a log's earlier days, or its training rows."""

import hashlib
import json
from dataclasses import dataclass
from datetime import date, timedelta

from iak.pipeline.data import parquet, splits
from iak.pipeline.data.catalog_files import catalog_files
from iak.pipeline.data.content import KeptContents
from iak.pipeline.data.fingerprints import with_contents
from iak.pipeline.data.fresh_keys import has_days
from iak.pipeline.data.splits import Selection, Split
from iak.pipeline.data.view import LogView, select_also
from iak.pipeline.errors import BadLog
from iak.schemas.fresh import CountsSpec, Use, Window
from iak.schemas.log import Catalog

COUNTED_SPLITS = ("pretrain", "tune")
"""Splits whose rows are counted in a log without days. Rows that judge a kernel are in no count."""
_EPOCH = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """The earlier rows that are counted, the same for every worker."""

    selections: tuple[Selection, ...]
    last: int | None
    """Last day that is counted, in days since 1970-01-01; None in a log without days."""

    @property
    def last_day(self) -> str | None:
        """Return the last day that is counted as text; None in a log without days."""
        return None if self.last is None else str(date.fromordinal(self.last + _EPOCH))

    @property
    def fingerprint(self) -> str:
        """Return SHA-256 over the files and their counted rows."""
        listing = [self.last, [selection.fingerprint for selection in self.selections]]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def past_of(view: LogView, kept: KeptContents, use: Use = "kernel") -> Past | None:
    """Return the rows that a run counts; None where the catalogue declares no statistics.

    In a log with days these are all rows up to the last day of the night's splits, or up to the day
    on which labels were collected, if that is earlier. A later day is unknown to that night, also
    where the log has it. In a log without days these are the rows of `COUNTED_SPLITS`.

    Args:
        view: the night's view of the log.
        kept: digests of files that were read before.
        use: who reads the counts, a night's kernels or a base. In a log without days, a base counts
            only the rows of `pretrain`.
    """
    catalog = view.catalog.counting(use)
    if not catalog.fresh:
        return None
    if not has_days(catalog):
        chosen = select_also(view, COUNTED_SPLITS if use == "kernel" else ("pretrain",))
        return Past(
            selections=tuple(_with_content(s, catalog, kept) for s in chosen.values()), last=None
        )
    last = _last_day(view)
    first = _first_day(view, catalog, last)
    window = Split(name="fresh", first=first, last=last, where={}, slice=(0.0, 1.0))
    snapshot = catalog_files(
        view.snapshot.uri,
        catalog,
        # The version that the night reads, even where the table has a newer one by now.
        version=view.snapshot.table.version if view.snapshot.table else None,
        admits=lambda values: splits.admits(window, values, log=catalog.log),
    )
    selection = parquet.select(with_contents(snapshot, catalog, kept), window, catalog)
    return Past(selections=(selection,), last=last.toordinal() - _EPOCH)


def _with_content(selection: Selection, catalog: Catalog, kept: KeptContents) -> Selection:
    """Return a selection whose files have digests; one that cannot be read is left out."""
    if all(file.content is not None for file in selection.snapshot.files):
        return selection
    snapshot = with_contents(selection.snapshot, catalog, kept)
    return parquet.select(snapshot, selection.split, catalog)


def _last_day(view: LogView) -> date:
    """Return the last day that a night knows.

    Raises:
        BadLog: no row of the log has a date.
    """
    newest = view.dates.newest
    if newest is None:
        source = view.catalog.log.date_key or view.catalog.log.event_time
        raise BadLog(
            f"{view.snapshot.uri}: fresh statistics count earlier days, and no row has a "
            f"date. Fill {source}, or take [[fresh]] out"
        )
    ends = [selection.split.last or newest for selection in view.selections.values()]
    return min(max(ends), newest, view.as_of or newest)


def _first_day(view: LogView, catalog: Catalog, last: date) -> date:
    """Return the first day that a row of the night's splits may read."""
    oldest = view.dates.counted[0]
    begins = [selection.split.first for selection in view.selections.values()]
    windows: list[Window] = []
    for spec in catalog.fresh:
        windows += spec.windows if isinstance(spec, CountsSpec) else ("all",)
    days = [window.days for window in windows if window != "all"]
    # A window or a split without a beginning reads the whole log.
    if "all" in windows or None in begins:
        return oldest
    # A row reads only ripe labels, so its window ends that many days earlier.
    ripening = max(
        -(-(t.matures_after or timedelta()) // timedelta(days=1)) for t in view.catalog.tasks
    )
    earliest = min(day for day in begins if day)
    return max(min(earliest, last) - timedelta(days=max(days) + ripening), oldest)
