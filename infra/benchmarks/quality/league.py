"""Run the cells of a benchmark: search on validation rows, then measure on test rows."""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from iak.pipeline.events import BenchAdvanced
from iak.pipeline.runs.record import commit, machine, versions
from infra.benchmarks.quality.cells import Cell, CellFolder, CellKey, Cost, Hyper
from infra.benchmarks.quality.ground import Ground, Predicted, Rows, Slice, train_base
from infra.benchmarks.quality.judge import (
    lines_of,
    load_predictions,
    save_predictions,
    selection_loss,
)
from infra.benchmarks.quality.logs import SeparatedLog
from infra.benchmarks.quality.methods import Fitted, Method
from infra.benchmarks.quality.registry import METHODS
from infra.benchmarks.quality.space import Space, trial_settings, trials_of
from infra.benchmarks.specs import BenchQualitySpec

Report = Callable[[Mapping[str, Any]], None]
IAK = "iak"


class OutOfBudget(Exception):
    """The minutes of this sitting are over."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a sitting may begin cells."""

    ends_at: float | None
    """On the monotonic clock; None for no end."""

    @classmethod
    def of(cls, minutes: float | None) -> "Budget":
        """Return a budget that begins now."""
        return cls(None if minutes is None else time.monotonic() + 60 * minutes)

    def check(self) -> None:
        """Refuse to begin another cell after the end.

        Raises:
            OutOfBudget: the time is over.
        """
        if self.ends_at is not None and time.monotonic() >= self.ends_at:
            raise OutOfBudget


@dataclass(frozen=True)
class League:
    """All cells of one log."""

    spec: BenchQualitySpec
    log: SeparatedLog
    folder: CellFolder
    budget: Budget
    report: Report

    def play(self) -> None:
        """Run every cell that is not finished yet.

        Seed by seed, so that a sitting that ends early has all methods on few seeds.

        Raises:
            OutOfBudget: the time is over; what is finished is kept.
        """
        for seed in self.spec.seeds:
            for name in self.spec.methods:
                self.test(name, seed)
            for rival in self.spec.methods:
                if IAK in self.spec.methods and rival != IAK:
                    self.pair(IAK, rival, seed)

    # ------------------------------------------------------------ cells

    def trial(self, name: str, hyper: Hyper) -> Cell:
        """Return the validation loss of a method under some settings, on the search's seed."""
        seed = self.spec.seeds[0]
        key = self._key("trial", name, hyper, seed)
        return self._run_once(key, lambda: self._fitted(key)[1])

    def chosen(self, name: str) -> Hyper:
        """Return the settings whose trial has the lowest validation loss."""
        name = METHODS[name].searched_as or name
        space, seed = self._space(METHODS[name]), self.spec.seeds[0]
        trials = [
            trial_settings(space, name=name, trial=trial, seed=seed)
            for trial in range(trials_of(space, self.spec.trials))
        ]
        if len(trials) == 1:
            return trials[0]
        losses = [self.trial(name, hyper).valid_loss for hyper in trials]
        return trials[min(range(len(trials)), key=lambda trial: losses[trial] or 0.0)]

    def test(self, name: str, seed: int) -> Cell:
        """Return the metrics of a method under its chosen settings, on test rows."""
        key = self._key("test", name, self.chosen(name), seed)
        return self._run_once(key, lambda: self._tested(key))

    def pair(self, name: str, rival: str, seed: int) -> Cell | None:
        """Return the metrics of a method beside a rival; None where predictions are elsewhere."""
        mine, other = (self._key("test", n, self.chosen(n), seed) for n in (name, rival))
        key = mine.model_copy(
            update={
                "kind": "pair",
                "rival": rival,
                "rival_version": other.version,
                "rival_hyper": other.hyper,
            }
        )
        if self.folder.get(key) is None and not all(map(self._has_predictions, (mine, other))):
            return None
        return self._run_once(key, lambda: self._paired(key, mine, other))

    # ------------------------------------------------------------ their results

    def _fitted(self, key: CellKey) -> tuple[Fitted, Cell]:
        """Fit a method; return it, and its cell with what validation rows show."""
        ground = self._ground(key.seed)
        if key.kind == "test":
            # Without the frozen rows that trials share, so that the cost has the base's pass.
            ground = replace(ground)
        started = time.process_time()
        fitted = METHODS[key.method].fit(ground, key.hyper)
        cost = Cost(
            cpu_s=round(time.process_time() - started, 2),
            parameters=fitted.parameters,
            kernels=fitted.copies,
        )
        valid = Slice(self.log.window, "valid")
        loss = selection_loss(self._valid_rows, fitted.predict(valid), self.log.window.catalog)
        cell = Cell(
            key=key, valid_loss=round(loss, 6), at_cap=fitted.at_cap, cost=cost, run=_run_facts()
        )
        return fitted, cell

    def _tested(self, key: CellKey) -> Cell:
        fitted, cell = self._fitted(key)
        predicted = fitted.predict(Slice(self.log.test, "test"))
        save_predictions(self._predictions(key), predicted)
        base = predicted if key.method == "base" else self._base_predictions(key.seed)
        return cell.model_copy(update={"lines": lines_of(self._test_rows, predicted, base)})

    def _paired(self, key: CellKey, mine: CellKey, other: CellKey) -> Cell:
        predicted = [load_predictions(self._predictions(k)) for k in (mine, other)]
        return Cell(key=key, lines=lines_of(self._test_rows, *predicted), run=_run_facts())

    def _base_predictions(self, seed: int) -> Predicted:
        path = self._predictions(self._key("test", "base", {}, seed))
        if not path.is_file():
            ground = self._ground(seed)
            rows = Slice(self.log.test, "test")
            save_predictions(path, ground.predicted(rows, base=ground.base))
        return load_predictions(path)

    def _run_once(self, key: CellKey, run: Callable[[], Cell]) -> Cell:
        """Return a finished cell, or run it within the budget."""
        finished = self.folder.get(key)
        if finished is not None:
            return finished
        self.budget.check()
        started = time.monotonic()
        cell = self.folder.run_once(key, run)
        shown = {"log": key.log, "method": key.method, "seed": key.seed}
        shown |= {"rival": key.rival} if key.rival else {}
        seconds = round(time.monotonic() - started, 1)
        self.report(BenchAdvanced(key.kind, shown | {"seconds": seconds, **_all_delta(cell)}))
        return cell

    # ------------------------------------------------------------ what they stand on

    @property
    def _root(self) -> Path:
        return self.log.window.root.parent

    @cached_property
    def _grounds(self) -> dict[int, Ground]:
        return {}

    def _ground(self, seed: int) -> Ground:
        """Return the base of a seed, trained where no earlier sitting did."""
        if seed not in self._grounds:
            # One at a time: each holds the frozen rows of its base.
            self._grounds.clear()
            self._grounds[seed] = Ground(
                window=self.log.window,
                base=self._base(seed),
                seed=seed,
                scratch=self._root / f"scratch-{seed}",
            )
        return self._grounds[seed]

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

    @cached_property
    def _valid_rows(self) -> Rows:
        return self._ground(self.spec.seeds[0]).rows(Slice(self.log.window, "valid"))

    @cached_property
    def _test_rows(self) -> Rows:
        return self._ground(self.spec.seeds[0]).rows(Slice(self.log.test, "test"))

    def _predictions(self, key: CellKey) -> Path:
        return self._root / "predictions" / f"{key.method}-seed{key.seed}-{key.id}.npz"

    def _has_predictions(self, key: CellKey) -> bool:
        return self._predictions(key).is_file()

    def _key(self, kind: str, name: str, hyper: Hyper, seed: int) -> CellKey:
        return CellKey.model_validate(
            {
                "kind": kind,
                "log": self.log.window.name,
                "fingerprint": self.log.fingerprint,
                "method": name,
                "version": METHODS[name].version,
                "hyper": hyper,
                "seed": seed,
            }
        )

    def _space(self, method: Method) -> Space:
        return method.space(self.log.window.catalog.presets.get(method.verb, {}))


def _all_delta(cell: Cell) -> dict[str, float]:
    """Return the difference in AUC of the first task over all domains, for the progress."""
    for line in cell.lines:
        if line.domain == "all" and line.delta_auc is not None:
            return {"delta_auc": round(line.delta_auc, 5)}
    return {} if cell.valid_loss is None else {"valid_loss": cell.valid_loss}


def _run_facts() -> dict[str, Any]:
    """Return when, where and by which code a cell was run."""
    return {
        "at": datetime.now(UTC).replace(microsecond=0).isoformat(),
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
    }
