"""Read labels of served rows from a log as its files arrive."""

import logging
import time
from collections.abc import Mapping
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import hashing, logs, parquet, splits, stores
from iak.pipeline.data.breaches import SchemaProblem
from iak.pipeline.data.event_dates import read_dates
from iak.pipeline.data.ripeness import unripe
from iak.pipeline.data.snapshot import Partition, Snapshot
from iak.pipeline.data.splits import Selection, Split
from iak.pipeline.data.task_labels import label_numbers
from iak.pipeline.errors import BadRequest, PipelineError
from iak.pipeline.repeated import Repeated
from iak.pipeline.serving.calibration import ServedCalibration
from iak.schemas.log import Catalog

_log = logging.getLogger(__name__)


class LabelLog:
    """Looks at a log again and again, and gives the labels of new files to a calibration."""

    def __init__(
        self, calibration: ServedCalibration, catalog: Catalog, data_root: str, *, days: int
    ) -> None:
        """Begin with no file read.

        Args:
            calibration: gets the labels.
            catalog: the log's catalogue, with its tasks. A file needs the row id, the labels, and
                the event time where one is declared; features are not read.
            data_root: folder or URI below which the log lies.
            days: newest days of a log with a date key that are read; of others, all files are.

        Raises:
            BadRequest: rows have no id by which labels could be found.
        """
        if not catalog.log.row_id:
            raise BadRequest(
                "labels.data is given, but the catalogue declares no log.row_id, so that no label "
                "can be found for a served row. Declare the column, or leave labels.data out"
            )
        self.calibration = calibration
        self.problem = ""
        """Why the last look read no labels; empty where it did."""
        self._catalog, self._days = catalog, days
        self._looks = Repeated("labels", self.look)
        self._uri = stores.below(data_root, catalog.log.path)
        self._read: frozenset[tuple[str, str]] = frozenset()
        """Path and digest of the files that were read, under `_as_of`."""
        self._as_of: date | None = None

    def look(self) -> int:
        """Read files that are new; return the rows among them that had been served.

        When labels of a further day were collected, all files are read again: their labels may be
        ripe now.
        """
        try:
            found = self._look()
        except (PipelineError, pa.ArrowException, OSError) as error:
            if str(error) != self.problem:
                _log.warning("labels are not read: %s", error)
            self.problem = str(error)
            return 0
        self.problem = ""
        return found

    def start(self, every_s: float) -> None:
        """Look again and again, in a thread of its own."""
        self._looks.start(every_s)

    def stop(self) -> None:
        """End the thread."""
        self._looks.stop()

    def _look(self) -> int:
        today = splits.date_of_seconds(time.time(), self._catalog.log.time_zone)
        window, collected = self._window(today)
        snapshot = self._snapshot(window)
        as_of = self._catalog.as_of or collected or today - timedelta(days=1)
        before = self._read if as_of == self._as_of else frozenset()
        selection = parquet.select_all(snapshot, self._catalog)
        matches = 0
        for index, group, _ in selection.groups:
            file = snapshot.files[index]
            if (file.path, file.listed) not in before:
                matches += self._join(selection, index, group, as_of)
        self._read = frozenset((file.path, file.listed) for file in snapshot.files)
        self._as_of = as_of
        return matches

    def _window(self, today: date) -> tuple[Split, date | None]:
        """Return the days that are read, and the last one whose labels were collected."""
        first = last = None
        if self._catalog.log.date_key:
            dates, _ = read_dates(self._uri, self._catalog, today)
            last = dates.collected_by(None)
            first = last - timedelta(days=self._days - 1) if last else None
        return Split(name="labels", first=first, last=last, where={}, slice=(0.0, 1.0)), last

    def _snapshot(self, window: Split) -> Snapshot:
        """Return the files of the window that have an id and labels."""
        log = self._catalog.log

        def admits(partition: Partition) -> bool:
            return splits.admits(window, partition, log=log)

        def problem(schema: pa.Schema) -> SchemaProblem | None:
            missing = [name for name in self._columns if name not in schema.names]
            return SchemaProblem(f"lacks the columns {', '.join(missing)}") if missing else None

        snapshot = logs.take_snapshot(
            self._uri,
            partition_keys=log.partition_keys,
            folder_names=log.folder_names,
            admits=admits,
            schema_problem=problem,
        )
        if snapshot.unreadable and not snapshot.files:
            first = snapshot.unreadable[0]
            raise BadRequest(f"no file of {self._uri} has labels; {first.path}: {first.reason}")
        return snapshot

    @property
    def _columns(self) -> tuple[str, ...]:
        log = self._catalog.log
        times = [log.event_time] if log.event_time else []
        named = [str(log.row_id), *(task.label for task in self._catalog.tasks), *times]
        return tuple(dict.fromkeys(named))

    def _join(self, selection: Selection, file: int, group: int, as_of: date) -> int:
        """Give the labels of one row group to the calibration; return the rows that were served."""
        catalog = self._catalog
        rows = parquet.selected_columns(selection, file, group, self._columns, catalog)
        ids = rows.column(str(catalog.log.row_id))
        is_named = ids.is_valid().to_numpy(zero_copy_only=False)
        labels = {title: y[is_named] for title, y in _labels(rows, catalog, as_of).items()}
        return self.calibration.join(hashing.keys_of(ids)[is_named], labels)


def _labels(
    rows: pa.RecordBatch, catalog: Catalog, as_of: date
) -> Mapping[str, npt.NDArray[np.float64]]:
    """Return the labels of rows by task; NaN where one is missing or not ripe."""
    masks = unripe(rows, catalog, as_of)
    labels: dict[str, npt.NDArray[np.float64]] = {}
    for task in catalog.tasks:
        label_B = label_numbers(rows, task).copy()
        label_B[masks.get(task.title, np.zeros(len(rows), np.bool_))] = np.nan
        labels[task.title] = label_B
    return labels
