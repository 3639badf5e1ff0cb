"""Say which days of a night's windows its base, or a base that it continues, was trained on."""

from collections.abc import Sequence
from pathlib import Path

from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.errors import PipelineError
from iak.pipeline.nightly.known_days import known_days_notices, trained_days
from iak.pipeline.registry.bases import open_base
from iak.schemas.log import Catalog
from iak.schemas.night import TaskWindow


def base_notices(base: PublishedBase, windows: Sequence[TaskWindow], catalog: Catalog) -> list[str]:
    """Return notices about days of the windows that the base was trained on; mostly none.

    Args:
        base: the base that the night freezes.
        windows: days of each task.
        catalog: the night's catalogue, with the night's splits.
    """
    lineage, lost = _lineage(base)
    trained = [days for each in lineage if (days := trained_days(each))]
    notices = known_days_notices(windows, catalog, trained)
    # Days before those of the oldest base that can be opened may be days of the lost one.
    first = min((days.first for days in trained), default=None)
    if lost and first and min(window.first for window in windows) < first:
        notices.append(lost)
    return notices


def _lineage(base: PublishedBase) -> tuple[list[PublishedBase], str | None]:
    """Return a base and those that it continues, and a notice where one cannot be opened."""
    lineage = [base]
    while parent := lineage[-1].manifest.parent:
        path = lineage[-1].manifest.settings.from_
        opened = _opened(path)
        if opened is None or opened.manifest.fingerprint != parent:
            return lineage, (
                f"the base continues base {parent[:16]}, which does not lie where it was any "
                f"more: {path or 'unknown'}. Days of the windows that only that one was trained on "
                "are not known, so the gate may measure too small a gain"
            )
        lineage.append(opened)
    return lineage, None


def _opened(path: str | None) -> PublishedBase | None:
    """Return the base at a path that a manifest names; None where none can be opened."""
    try:
        return open_base(Path(path)) if path is not None else None
    except PipelineError:
        return None
