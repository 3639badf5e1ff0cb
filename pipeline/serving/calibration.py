"""Compare what was served with its labels: sums of predictions and sums of labels.

A prediction waits in memory, under the key of its row, until each of its tasks has a ripe label.
The oldest ones give way to new ones. Sums are kept by task, kernel and the kernel's version.

Shapes: B rows, N rows whose predictions wait, T tasks.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import hashing
from iak.pipeline.serving.encode import ID
from iak.pipeline.stats.losses import undo_sampling
from iak.schemas.predictions import MetricTask

MAX_VERSIONS = 3
"""Versions of a kernel whose sums are kept: those that were served last."""
_SALT = 15
"""Separates the share that is kept from the shares that cut a log into splits."""
Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class Sums:
    """Sums over the rows of a task that one version of a kernel predicted."""

    rows: int = 0
    """Rows whose label is known."""
    predicted: float = 0.0
    """Sum of their probabilities."""
    observed: float = 0.0
    """Sum of their labels."""

    @property
    def ratio(self) -> float | None:
        """Return predicted over observed positives; None where none was observed."""
        return self.predicted / self.observed if self.observed else None


@dataclass(frozen=True, slots=True)
class CalibrationLine:
    """The sums of one task, kernel and version."""

    kernel: str
    version: str
    task: str
    sums: Sums


@dataclass(slots=True)
class _Served:
    """A prediction that waits for its labels."""

    kernel: str
    version: str
    p_T: Floats
    tasks: set[int]
    """Indices of the tasks without a label so far."""


@dataclass(slots=True)
class _Kernel:
    versions: dict[str, dict[int, Sums]] = field(default_factory=dict)
    """Version -> index of a task -> its sums; the version that came last is at the end."""


class ServedCalibration:
    """Predictions that wait for labels, and the sums over those that have one."""

    def __init__(self, tasks: Sequence[MetricTask], *, rows: int, share: float) -> None:
        """Begin without any prediction.

        Args:
            tasks: the probabilities that a row gets.
            rows: most predictions that wait.
            share: share of the rows that is kept, in (0, 1]. The key of a row decides, so that
                every replica keeps the same rows.
        """
        self._tasks, self._rows, self._share = tuple(tasks), rows, share
        self._waiting: dict[int, _Served] = {}
        self._kernels: dict[str, _Kernel] = {}
        self._lock = threading.Lock()  # requests add while another thread reads labels

    @property
    def waiting(self) -> int:
        """Return the number of predictions that wait for a label."""
        return len(self._waiting)

    def add(self, scores: pa.Table) -> None:
        """Keep predictions that were served; the last one of a row counts.

        Args:
            scores: columns that `Scorer.score` returns. Rows without an id or with a breach of the
                contract are left out.
        """
        keys_B = scores.column("row").to_numpy()
        is_kept_B = _is_valid(scores, ID) & _is_valid(scores, "kernel")
        if self._share < 1:
            is_kept_B &= hashing.unit_interval(keys_B.view(np.uint64), salt=_SALT) < self._share
        index = np.flatnonzero(is_kept_B)
        if not len(index):
            return
        kept = scores.take(pa.array(index))
        columns = [
            undo_sampling(kept.column(f"p.{task.name}").to_numpy(), kept=task.kept)
            for task in self._tasks
        ]
        names = (kept.column(name).to_pylist() for name in ("kernel", "version"))
        served = zip(keys_B[index].tolist(), *names, np.stack(columns, axis=1), strict=True)
        with self._lock:
            for key, kernel, version, p_T in served:
                self._waiting.pop(key, None)  # so that the new one is the youngest
                tasks = set(range(len(self._tasks)))
                self._waiting[key] = _Served(kernel, version, p_T, tasks)
                self._open(kernel, version)
            while len(self._waiting) > self._rows:
                del self._waiting[next(iter(self._waiting))]

    def _open(self, kernel: str, version: str) -> None:
        """Begin the sums of a version that is served for the first time, or again."""
        versions = self._kernels.setdefault(kernel, _Kernel()).versions
        if version not in versions:
            versions[version] = {}
            if len(versions) > MAX_VERSIONS:
                del versions[next(iter(versions))]

    def join(self, keys_B: hashing.Keys, labels: Mapping[str, Floats]) -> int:
        """Add rows whose labels are known to the sums; return how many of them had been served.

        A label counts once. A row that comes again with a label that was unknown before counts for
        that task alone.

        Args:
            keys_B: keys of the rows.
            labels: title of a catalogue's task -> labels of these rows; NaN where one is missing
                or not ripe.
        """
        keys = keys_B.view(np.int64)
        with self._lock:
            known = np.fromiter(self._waiting, np.int64, len(self._waiting))
            matches = np.flatnonzero(np.isin(keys, known))
            for row in matches.tolist():
                own = {title: float(values[row]) for title, values in labels.items()}
                key = int(keys[row])
                if key in self._waiting:  # a row may stand in a log twice
                    self._label(key, own)
        return len(matches)

    def _label(self, key: int, labels: Mapping[str, float]) -> None:
        """Count one served row for each task whose label is known now."""
        served = self._waiting[key]
        versions = self._kernels[served.kernel].versions
        for index in sorted(served.tasks):
            task = self._tasks[index]
            label = labels[task.task]
            given = 1.0 if task.given is None else labels[task.given]
            if np.isnan(given) or (given > 0 and np.isnan(label)):
                continue
            served.tasks.discard(index)
            # A version that no longer counts has no sums. A conversion without its click is no row.
            if given > 0 and served.version in versions:
                sums = versions[served.version].setdefault(index, Sums())
                weight = 1.0 if label > 0 else 1.0 / task.kept
                sums.rows += 1
                sums.predicted += weight * float(served.p_T[index])
                sums.observed += label
        if not served.tasks:
            del self._waiting[key]

    def lines(self) -> Iterator[CalibrationLine]:
        """Yield the sums of every task, kernel and version that has labels, sorted by kernel."""
        with self._lock:
            lines = [
                CalibrationLine(kernel, version, self._tasks[index].name, replace(sums))
                for kernel, entry in sorted(self._kernels.items())
                for version, by_task in entry.versions.items()
                for index, sums in sorted(by_task.items())
            ]
        yield from lines


def _is_valid(scores: pa.Table, name: str) -> npt.NDArray[np.bool_]:
    column = scores.column(name).combine_chunks()
    valid: npt.NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False)
    return valid
