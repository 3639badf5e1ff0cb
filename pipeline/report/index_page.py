"""Make the index: a table of all nights of a folder, newest first, with links to their pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iak.pipeline.report.charts import Chart, stacked_bar
from iak.pipeline.report.links import relative_link
from iak.pipeline.report.nights import HISTORY, PAGE, NightFolder
from iak.pipeline.report.rendering import render
from iak.pipeline.report.summary import WORDS, failed_and_held
from iak.pipeline.report.trends import OUTCOMES, trends_of
from iak.schemas.night import NightRecord

_GLYPHS = {
    "planned": "waiting",
    "running": "waiting",
    "finished": "promoted",
    "failed": "failed",
    "interrupted": "failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexLine:
    """One night of the index."""

    folder: str
    record: NightRecord | None
    problem: str
    """Why the record cannot be read; empty where it can."""
    sentence: str
    """Which domains failed or were held, or why the night failed."""
    page: str | None
    """Link to its page; none where it was not written or is gone."""
    has_run: bool
    """Whether its run folder is still there. Old ones are removed; records and pages stay."""
    outcome_bar: Chart | None
    """How many kernels had each outcome; none where there are no kernels."""

    @property
    def glyph(self) -> str:
        """Return the mark of the night's own state; its kernels have theirs beside it."""
        return _GLYPHS[self.record.status] if self.record else "failed"


def index_page(folders: Sequence[NightFolder], nights: Path) -> str:
    """Return the index as one HTML file.

    Args:
        folders: folders of all nights.
        nights: the folder above them, where the index will lie.
    """
    lines = sorted((_line(each, nights) for each in folders), key=_age, reverse=True)
    records = [line.record for line in lines if line.record][:HISTORY][::-1]
    names = list(dict.fromkeys(record.name for record in records))
    return render(
        "index.html.j2",
        title=f"Nights of {', '.join(names)}" if names else "Nights",
        lines=lines,
        words=WORDS,
        outcomes=OUTCOMES,
        # Numbers of several services have no common scale.
        trends=trends_of(records) if len(records) > 1 and len(names) == 1 else None,
    )


def _line(folder: NightFolder, nights: Path) -> IndexLine:
    record = folder.record
    return IndexLine(
        folder=folder.path.name,
        record=record,
        problem=folder.problem,
        sentence=failed_and_held(record) if record else folder.problem,
        page=relative_link(folder.path / PAGE, nights),
        has_run=relative_link(record.run_dir, nights) is not None if record else False,
        outcome_bar=_outcome_bar(record) if record and record.domains else None,
    )


def _outcome_bar(record: NightRecord) -> Chart:
    counts = record.counts
    parts = {WORDS[outcome]: (float(counts[outcome]), outcome) for outcome in OUTCOMES}
    return stacked_bar(f"Kernels of {record.night} by outcome", parts, width=160)


def _age(line: IndexLine) -> tuple[bool, str, str]:
    """Return the key by which nights are sorted; those that cannot be read come last."""
    if line.record is None:
        return False, "", line.folder
    return True, line.record.night.isoformat(), line.record.started_at.isoformat()
