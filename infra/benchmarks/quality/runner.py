"""Compute single cells: fit a method, predict, measure. Bases and predictions are cached."""

import shutil
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from iak.pipeline.events import BenchAdvanced, Report
from iak.pipeline.runs.metrics import tasks_of
from iak.pipeline.runs.record import commit, machine, versions
from iak.pipeline.stats.losses import reachable_share
from infra.benchmarks.quality.cells import Cell, CellKey, Cost
from infra.benchmarks.quality.generator import true_probabilities
from infra.benchmarks.quality.judge import (
    lines_of,
    load_predictions,
    save_predictions,
    selection_loss,
)
from infra.benchmarks.quality.logs import TEST, SeparatedLog
from infra.benchmarks.quality.methods import Fitted
from infra.benchmarks.quality.registry import METHODS
from infra.benchmarks.quality.setup import (
    MethodSetup,
    Predicted,
    Rows,
    Slice,
    joined,
    joined_rows,
    train_base,
)


@dataclass(frozen=True)
class Runner:
    """Computes the cells of one log."""

    log: SeparatedLog
    report: Report

    def trial(self, key: CellKey) -> Cell:
        """Fit a method, and return its loss on validation rows."""
        return self._fitted(key, self._setup(key.seed))[1]

    def test(self, key: CellKey) -> Cell:
        """Fit a method, and return its metrics on test rows, beside the base of its seed."""
        # A copy, because the setup keeps the frozen rows that trials share. A copy computes them
        # again, so that the cost of the cell has the base's pass over the rows too.
        fitted, cell = self._fitted(key, replace(self._setup(key.seed)))
        predicted = joined([fitted.predict(rows) for rows in self._tests])
        save_predictions(self._predictions(key), predicted)
        base = self._base_predictions(key.seed)
        measured = {"lines": lines_of(self._test_rows, predicted, base)}
        return cell.model_copy(update=measured | {"reachable": self._reachable(predicted, base)})

    def _reachable(self, predicted: Predicted, base: Predicted) -> float | None:
        """Return the share of the reachable gain on test rows; None where no truth is known."""
        if not self.log.has_truth:
            return None
        task = tasks_of(self.log.test.catalog)[0].name
        true_p = joined([true_probabilities(rows) for rows in self._tests])[task]
        return reachable_share(true_p, base[task], predicted[task])

    def pair(self, key: CellKey, mine: CellKey, other: CellKey) -> Cell:
        """Return the metrics of a method on test rows, beside a rival's.

        Args:
            key: of the pair.
            mine: of the method on test rows.
            other: of the rival.
        """
        predicted = [load_predictions(self._predictions(k)) for k in (mine, other)]
        return Cell(key=key, lines=lines_of(self._test_rows, *predicted), run=run_facts())

    def has_predictions(self, key: CellKey) -> bool:
        """Return whether the test predictions of a cell are on this machine."""
        return self._predictions(key).is_file()

    def _fitted(self, key: CellKey, setup: MethodSetup) -> tuple[Fitted, Cell]:
        """Fit a method; return it, and its cell with what validation rows show."""
        started = time.process_time()
        fitted = METHODS[key.method].fit(setup, key.hyper)
        cost = Cost(
            cpu_s=round(time.process_time() - started, 2),
            parameters=fitted.parameters,
            kernels=fitted.copies,
        )
        predicted = fitted.predict(Slice(self.log.window, "valid"))
        loss = selection_loss(self._valid_rows, predicted, self.log.window.catalog)
        cell = Cell(
            key=key, valid_loss=round(loss, 6), at_cap=fitted.at_cap, cost=cost, run=run_facts()
        )
        return fitted, cell

    def _base_predictions(self, seed: int) -> Predicted:
        path = self._predictions_folder / f"base-seed{seed}.parquet"
        if not path.is_file():
            labelled_by, _, predicted = self._labelled
            if seed != labelled_by:
                setup = self._setup(seed)
                predicted = joined([setup.predicted(r, base=setup.base) for r in self._tests])
            save_predictions(path, predicted)
        return load_predictions(path)

    @property
    def _tests(self) -> list[Slice]:
        """Return the test rows, in parts that memory can hold."""
        return [Slice(window, TEST) for window in self.log.tests]

    @property
    def _predictions_folder(self) -> Path:
        # Beside the last part, because logs that differ in their test share the other folders.
        return self.log.tests[-1].root.parent / "predictions"

    @property
    def _root(self) -> Path:
        return self.log.window.root.parent

    @cached_property
    def _setups(self) -> dict[int, MethodSetup]:
        return {}

    def _setup(self, seed: int) -> MethodSetup:
        """Return the setup of a seed; its base is trained once and then read from disk."""
        if seed not in self._setups:
            # One at a time: each holds the frozen rows of its base.
            self._setups.clear()
            self._setups[seed] = MethodSetup(
                window=self.log.window,
                base=self._base(seed),
                seed=seed,
                scratch=self._root / f"scratch-{seed}",
            )
        return self._setups[seed]

    def _base(self, seed: int) -> Path:
        folder, run_dir = self._root / f"base-{seed}", self._root / f"base-{seed}-run"
        if not folder.is_dir():
            shutil.rmtree(run_dir, ignore_errors=True)
            started = time.monotonic()
            window = self.log.window
            trained = train_base(window, window.catalog, run_dir, seed=seed)
            assert trained.base is not None, "a base from scratch has no parent to be worse than"
            trained.base.rename(folder)
            seconds = round(time.monotonic() - started, 1)
            self.report(BenchAdvanced("base", {"log": self.log.window.name, "seconds": seconds}))
        return folder

    # Labels do not depend on the seed, so any base may be evaluated to read them.

    @cached_property
    def _valid_rows(self) -> Rows:
        return self._any_setup.rows(Slice(self.log.window, "valid"))

    @property
    def _test_rows(self) -> Rows:
        return self._labelled[1]

    @cached_property
    def _labelled(self) -> tuple[int, Rows, Predicted]:
        """Return a seed, the labels of the test rows, and what the base of the seed predicts."""
        setup = self._any_setup
        parts = [setup.rows_with_base(rows) for rows in self._tests]
        rows, predicted = zip(*parts, strict=True)
        return setup.seed, joined_rows(rows), joined(predicted)

    @property
    def _any_setup(self) -> MethodSetup:
        return next(iter(self._setups.values()), None) or self._setup(0)

    def _predictions(self, key: CellKey) -> Path:
        return self._predictions_folder / f"{key.method}-seed{key.seed}-{key.id}.parquet"


def run_facts() -> dict[str, Any]:
    """Return when, where and by which code a cell was run."""
    return {
        "at": datetime.now(UTC).replace(microsecond=0).isoformat(),
        "commit": commit(),
        "versions": versions(),
        "machine": machine().model_dump(),
    }
