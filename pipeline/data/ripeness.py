"""Decide when a label is ripe: old enough that it can no longer change.

A task with `matures_after` has an unripe label in each row that happened less than that time before
the labels were last collected (`as_of`). Training masks unripe labels, so a missing conversion is
not learned as a negative.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import hashing, splits
from iak.pipeline.data.breaches import Breach, Kind
from iak.schemas.log import Catalog

Mask = npt.NDArray[np.bool_]


def unripe(rows: pa.RecordBatch, catalog: Catalog, as_of: date | None) -> Mapping[str, Mask]:
    """Return, by task, the rows whose label was not ripe when labels were last collected.

    Args:
        rows: raw rows, with the event time or the date key.
        catalog: the log's catalogue.
        as_of: last date whose labels were collected, to the end of that day; None takes every label
            as ripe.

    Returns:
        Task -> mask of B rows; tasks without `matures_after` have no entry.
    """
    ripening = [t for t in catalog.tasks if t.matures_after]
    if not ripening or as_of is None:
        return {}
    _, collected = splits.window_seconds(as_of, as_of, catalog.log.time_zone)
    happened = _event_seconds(rows, catalog)
    return {
        t.title: happened + (t.matures_after or timedelta()).total_seconds() > collected
        for t in ripening
    }


def unripe_counts(
    masks: Mapping[str, Mask], catalog: Catalog, as_of: date | None
) -> Counter[Breach]:
    """Count the rows of each mask that `unripe` returned.

    Args:
        masks: task -> its unripe rows.
        catalog: the log's catalogue.
        as_of: last date whose labels were collected, for the name of the count.
    """
    rows = {title: int(mask.sum()) for title, mask in masks.items()}
    breaches = {
        t.title: Breach(Kind.NOT_RIPE, f"{Kind.NOT_RIPE} by {as_of} in {t.label_text}", t.label)
        for t in catalog.tasks
    }
    return +Counter({breaches[title]: count for title, count in rows.items()})


def _event_seconds(rows: pa.RecordBatch, catalog: Catalog) -> npt.NDArray[np.float64]:
    """Return the time at which each row happened, in Unix seconds.

    Where the log knows only dates, a row happened at the end of its day.
    A row without a time happened at infinity, so its label is never ripe.
    """
    log = catalog.log
    if log.event_time:
        seconds = splits.event_seconds(rows.column(log.event_time), log)
        return np.where(np.isfinite(seconds), seconds, np.inf)
    names = rows.column(log.date_key).dictionary_encode()
    days = [splits.day_of(name, log) for name in names.dictionary.to_pylist()]
    ends = [splits.window_seconds(d, d, log.time_zone)[1] if d else np.inf for d in days]
    return np.array([*ends, np.inf])[hashing.dictionary_indices(names)]
