"""What `iak check` finds on a log's windows: what they lose, repeated ids, untuned domains."""

from collections.abc import Iterator, Mapping
from contextlib import suppress

from iak.pipeline.data import domains, repeats, skipped
from iak.pipeline.data.contract import Finding
from iak.pipeline.data.notice import notice
from iak.pipeline.data.snapshot import Snapshot
from iak.pipeline.data.splits import Selection
from iak.pipeline.data.view import DaysByFile
from iak.pipeline.errors import PipelineError
from iak.schemas.log import Catalog


def find_in_windows(
    snapshot: Snapshot,
    selections: Mapping[str, Selection],
    catalog: Catalog,
    days_by_file: DaysByFile,
) -> Iterator[Finding]:
    """Find what splits lose to files that cannot be read, and domains that nothing tunes.

    Args:
        snapshot: the whole log.
        selections: of it, by split.
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
    with suppress(PipelineError):  # what cannot be decoded is found where rows are looked at
        yield from _untuned_domains(selections, catalog)


def find_repeated_ids(
    selection: Selection, catalog: Catalog, *, all_ids: bool
) -> Iterator[Finding]:
    """Find out whether row ids repeat.

    Args:
        selection: the rows.
        catalog: the log's catalogue.
        all_ids: look at all of them, not at the newest million.
    """
    with suppress(PipelineError):
        rows = None if all_ids else repeats.LOOKED_AT_ROWS
        counted = repeats.count_repeats([selection], catalog, rows=rows)
        if counted and (found := counted.finding(catalog.log, selection.snapshot.uri)):
            yield found


def _untuned_domains(selections: Mapping[str, Selection], catalog: Catalog) -> Iterator[Finding]:
    """Domains of gate and test without tuning rows, and what will serve them; a line a split."""
    if "tune" not in selections:
        return
    looked_at = {n: s for n, s in selections.items() if n == "tune" or n in domains.JUDGED}
    rows = domains.count_domains(looked_at, catalog)
    found = domains.find_untuned(rows, domains.expected_serving(rows, catalog.domain))
    for split in domains.JUDGED:
        if message := domains.untuned_message(found, split):
            yield notice(
                message,
                column=", ".join(catalog.domain.keys),
                count=sum(domain.rows for domain in found if domain.split == split),
                remedy="Widen the tune window, or accept that the named kernel serves them",
            )
