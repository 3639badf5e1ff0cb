"""Find problems of a log's windows for `iak check`: lost rows, repeated ids, untuned domains."""

from collections.abc import Iterator, Mapping
from contextlib import suppress

from iak.pipeline.data import domains, repeats, skipped
from iak.pipeline.data.contract import Finding
from iak.pipeline.data.event_dates import DaysByFile
from iak.pipeline.data.notice import notice
from iak.pipeline.data.snapshot import Snapshot
from iak.pipeline.data.splits import Selection
from iak.pipeline.errors import PipelineError
from iak.schemas.log import Catalog


def find_in_windows(
    snapshot: Snapshot,
    selections: Mapping[str, Selection],
    catalog: Catalog,
    days_by_file: DaysByFile,
) -> Iterator[Finding]:
    """Yield the rows that splits lose to unreadable files, and domains without tuning rows.

    Args:
        snapshot: the whole log.
        selections: name of a split -> its rows.
        catalog: the log's catalogue.
        days_by_file: rows by date of each file whose folder does not name its day.
    """
    chosen = [selection.split for selection in selections.values()]
    lost = skipped.find_skipped(snapshot, chosen, log=catalog.log, days_of=days_by_file.get)
    if lost.undated:
        yield notice(
            skipped.undated_message(lost),
            column=catalog.log.event_time or "-",
            count=lost.undated,
            remedy="Fill the time; jobs refuse more than max_skipped_share of such rows",
        )
    for loss in lost.windows:
        yield notice(
            loss.amount,
            column="-",
            count=loss.lost,
            remedy="Jobs refuse to lose a whole day, or more than max_skipped_share of a window, "
            "unless allow_skipped=true",
        )
    with suppress(PipelineError):  # rows that cannot be decoded are a finding of the sample
        yield from _untuned_domains(selections, catalog)


def find_repeated_ids(
    selection: Selection, catalog: Catalog, *, all_ids: bool
) -> Iterator[Finding]:
    """Yield a finding where row ids repeat.

    Args:
        selection: the rows.
        catalog: the log's catalogue.
        all_ids: read all of them, not the newest million.
    """
    with suppress(PipelineError):
        rows = None if all_ids else repeats.LOOKED_AT_ROWS
        counted = repeats.count_repeats([selection], catalog, rows=rows)
        if counted and (finding := counted.finding(catalog.log, selection.snapshot.uri)):
            yield finding


def _untuned_domains(selections: Mapping[str, Selection], catalog: Catalog) -> Iterator[Finding]:
    """Yield the domains of gate and test without tuning rows; one finding for each split."""
    if "tune" not in selections:
        return
    looked_at = {n: s for n, s in selections.items() if n == "tune" or n in domains.JUDGED}
    rows = domains.count_domains(looked_at, catalog)
    untuned = domains.find_untuned(rows, domains.expected_serving(rows, catalog.domain))
    for split in domains.JUDGED:
        if message := domains.untuned_message(untuned, split):
            yield notice(
                message,
                column=", ".join(catalog.domain.keys),
                count=sum(domain.rows for domain in untuned if domain.split == split),
                remedy="Widen the tune window, or accept that the named kernel serves them",
            )
