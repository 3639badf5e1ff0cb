"""Replay rows through two sets of kernels, and compare their answers.

Both answer the same encoded rows, batch by batch, on one base. Which of the two goes first
alternates from batch to batch, because the second one finds the rows in the processor's caches.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.publish.predictions import task_columns
from iak.pipeline.serving.encode import ID
from iak.pipeline.serving.scorer import Scorer
from iak.pipeline.serving.stream import plain_schema
from iak.pipeline.stats.metrics import ALL, POOLED_ROWS, MetricRow, evaluate_methods
from iak.pipeline.stats.rank_correlation import rank_correlation
from iak.schemas.predictions import MetricTask
from iak.schemas.shadow import MovedRow, ScoreChange

LIVE, CANDIDATE = "live", "candidate"
QUANTILES = {"p01": 0.01, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99}
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(slots=True)
class Replay:
    """The answers of both sides to the rows that were replayed so far."""

    scorers: Mapping[str, Scorer]
    """`LIVE` and `CANDIDATE`."""
    seconds: dict[str, float] = field(default_factory=lambda: {LIVE: 0.0, CANDIDATE: 0.0})
    tables: list[pa.Table] = field(default_factory=list)

    def add(self, rows: pa.Table, labels: Mapping[str, pa.Array]) -> None:
        """Let both sides answer one batch.

        Args:
            rows: rows from `encode_to_score`.
            labels: `y.TASK` -> labels of these rows, null where they are not known.
        """
        if not self.tables:
            for scorer in self.scorers.values():
                scorer.score(rows)  # not timed: the first products of a process take longer
        is_even = len(self.tables) % 2 == 0
        order = (LIVE, CANDIDATE) if is_even else (CANDIDATE, LIVE)
        answers = {side: self._answer(side, rows) for side in order}
        live = answers[LIVE]
        columns = {
            name: live.column(name) for name in ("row", ID, "domain") if name in live.schema.names
        }
        if "user" in rows.schema.names:
            columns["user"] = rows.column("user")
        for side in (LIVE, CANDIDATE):
            answer = answers[side]
            columns[f"{side}_kernel"] = answer.column("kernel")
            columns |= {
                f"{side}.{name[2:]}": answer.column(name)
                for name in answer.schema.names
                if name.startswith("p.")
            }
        self.tables.append(pa.table(columns | dict(labels)))

    def _answer(self, side: str, rows: pa.Table) -> pa.Table:
        """Return one side's predictions, and add its time."""
        scorer = self.scorers[side]
        began = time.perf_counter()
        answer = scorer.score(rows)
        self.seconds[side] += time.perf_counter() - began
        return answer.cast(plain_schema(scorer.schema))

    @property
    def latency(self) -> float:
        """Return the candidate's time divided by the live kernels' time."""
        return self.seconds[CANDIDATE] / self.seconds[LIVE]

    def whole(self) -> pa.Table:
        """Return all rows and both answers."""
        return pa.concat_tables(self.tables).combine_chunks()


def predicted(table: pa.Table) -> pa.Table:
    """Return the rows that have a prediction; the others break the log's contract."""
    return table.filter(pc.is_valid(table.column(f"{LIVE}_kernel")))


def score_changes(
    table: pa.Table, tasks: Sequence[MetricTask], *, labels: bool
) -> list[ScoreChange]:
    """Return the changes of every task in each domain, and over all rows.

    Args:
        table: rows that both predict.
        tasks: the probabilities that a row has.
        labels: whether the table has labels, so that AUC and calibration are compared.
    """
    names, index = np.unique(
        table.column("domain").to_numpy(zero_copy_only=False), return_inverse=True
    )
    quality = _quality(table, tasks, [str(n) for n in names], index) if labels else {}
    cuts = {str(name): np.flatnonzero(index == number) for number, name in enumerate(names)}
    cuts |= {POOLED_ROWS: np.arange(len(table))}
    has_users = "user" in table.schema.names
    # Ranks are compared within users, or over all rows where the log names no user.
    groups = table.column("user").to_numpy() if has_users else np.zeros(len(table), np.int64)
    kernels = table.column(f"{CANDIDATE}_kernel")
    return [
        _change(task.name, domain, _sides(table, task.name, rows), groups[rows]).model_copy(
            update={"candidate_kernel": kernel} | quality.get((domain, task.name), {})
        )
        for domain, rows in cuts.items()
        for kernel in [_only(kernels.take(rows))]
        for task in tasks
    ]


def _only(names: pa.ChunkedArray) -> str | None:
    """Return the one name that all rows have; None where they have several."""
    distinct = names.unique().to_pylist()
    return str(distinct[0]) if len(distinct) == 1 else None


def _sides(table: pa.Table, task: str, rows: Ints) -> tuple[Floats, Floats]:
    """Return the live and the candidate's probabilities of some rows."""
    live, candidate = (
        table.column(f"{side}.{task}").to_numpy()[rows] for side in (LIVE, CANDIDATE)
    )
    return live, candidate


def _change(task: str, domain: str, sides: tuple[Floats, Floats], groups: Ints) -> ScoreChange:
    """Return how one task's probabilities changed in a domain, without what labels decide."""
    live, candidate = sides
    change = candidate - live
    ranks = rank_correlation(live, candidate, groups)
    return ScoreChange(
        domain=domain,
        task=task,
        rows=change.size,
        mean=float(change.mean()),
        mean_absolute=float(np.abs(change).mean()),
        quantiles={name: float(np.quantile(change, q)) for name, q in QUANTILES.items()},
        rank_correlation=ranks.mean if ranks else None,
        groups=ranks.groups if ranks else 0,
    )


def _quality(
    table: pa.Table, tasks: Sequence[MetricTask], names: Sequence[str], index: Ints
) -> dict[tuple[str, str], dict[str, float | int | None]]:
    """Return, by domain and task, the fields of `ScoreChange` that labels decide."""
    columns = task_columns(table, tasks)
    sides = {
        side: {task.name: table.column(f"{side}.{task.name}").to_numpy() for task in tasks}
        for side in (LIVE, CANDIDATE)
    }
    measured = evaluate_methods(
        columns.labels,
        sides,
        domain_index=index,
        domain_names=names,
        users=table.column("user").to_numpy() if "user" in table.schema.names else None,
        masks=columns.masks,
        kept=columns.kept,
        base=LIVE,
    )
    by_side: dict[str, dict[tuple[str, str], MetricRow]] = {LIVE: {}, CANDIDATE: {}}
    for row in measured:
        if row.domain != ALL:
            by_side[row.method][row.domain, row.task] = row
    return {
        key: {
            "labelled": live.rows,
            "positives": live.positives,
            "live_auc": live.auc,
            "candidate_auc": candidate.auc,
            "delta_auc": candidate.delta_auc,
            "delta_auc_low": candidate.delta_auc_low,
            "delta_auc_high": candidate.delta_auc_high,
            "live_calibration": live.calibration,
            "candidate_calibration": candidate.calibration,
        }
        for key, live in by_side[LIVE].items()
        for candidate in [by_side[CANDIDATE][key]]
    }


def most_moved(table: pa.Table, tasks: Sequence[MetricTask], *, most: int) -> list[MovedRow]:
    """Return the rows and tasks whose probability changed most, largest change first.

    Args:
        table: rows that both predict.
        tasks: the probabilities that a row has.
        most: rows that are returned at most; a row appears once, with its largest change.
    """
    every = np.arange(len(table))
    sides = [_sides(table, task.name, every) for task in tasks]
    change_TB = np.abs(np.stack([candidate - live for live, candidate in sides]))
    # Stable, so that rows with one change stay in the log's order.
    order = np.argsort(-change_TB.max(axis=0), kind="stable")[:most]
    most_moved_task = change_TB.argmax(axis=0)
    moved = []
    for index, row in zip(order.tolist(), table.take(pa.array(order)).to_pylist(), strict=True):
        task = tasks[most_moved_task[index]].name
        moved.append(
            MovedRow(
                row=row["row"],
                id=row.get(ID),
                domain=row["domain"],
                task=task,
                live=row[f"{LIVE}.{task}"],
                candidate=row[f"{CANDIDATE}.{task}"],
                live_kernel=row[f"{LIVE}_kernel"],
                candidate_kernel=row[f"{CANDIDATE}_kernel"],
            )
        )
    return moved
