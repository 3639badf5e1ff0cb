"""Compute the cells that are missing: search on validation rows, then measure on test rows."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from iak.pipeline.events import BenchAdvanced, Report
from infra.benchmarks.quality.cells import Cell, CellFolder, CellKey, Hyper
from infra.benchmarks.quality.logs import SeparatedLog
from infra.benchmarks.quality.methods import Method
from infra.benchmarks.quality.registry import METHODS
from infra.benchmarks.quality.space import Space, trial_settings, trials_of
from infra.benchmarks.specs import BenchQualitySpec

IAK = "iak"
SUBJECTS = (IAK, "iak_counts", "iak_pairs", "iak_past", "iak_past_pairs")
"""Forms of IAK that are compared with every rival."""


class OutOfBudget(Exception):
    """The minutes of this run of the benchmark are over."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The time until which this run of the benchmark may begin cells."""

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


class RunsCells(Protocol):
    """Computes single cells; see runner.py."""

    def trial(self, key: CellKey) -> Cell:
        """Return the loss of a method on validation rows."""
        ...

    def test(self, key: CellKey) -> Cell:
        """Return the metrics of a method on test rows."""
        ...

    def pair(self, key: CellKey, mine: CellKey, other: CellKey) -> Cell:
        """Return the metrics of a method beside a rival's, on test rows."""
        ...

    def has_predictions(self, key: CellKey) -> bool:
        """Return whether the test predictions of a cell are on this machine."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class League:
    """All cells of one log."""

    spec: BenchQualitySpec
    log: SeparatedLog
    runner: RunsCells
    folder: CellFolder
    budget: Budget
    report: Report

    def play(self) -> None:
        """Compute every cell that is not finished yet.

        All methods of one seed come first, so that a run that ends early can compare them.

        Raises:
            OutOfBudget: the time is over; what is finished is kept.
        """
        for seed in self.spec.seeds:
            for name in self.methods:
                self.test(name, seed)
            for method, rival in self.pairs:
                self.pair(method, rival, seed)

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the methods that the log allows: some need a known truth, some the rows' times."""
        return tuple(
            name
            for name in self.spec.methods
            if (self.log.has_truth or not METHODS[name].knows_truth)
            and (self.log.has_times or not METHODS[name].needs_times)
        )

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Return method and rival: IAK with all others, its other forms with what is not IAK."""
        methods = [name for name in self.methods if not METHODS[name].knows_truth]
        return tuple(
            (name, rival)
            for name in methods
            for rival in methods
            if name != rival and (name == IAK or (name in SUBJECTS and not rival.startswith(IAK)))
        )

    # ------------------------------------------------------------ cells

    def trial(self, name: str, hyper: Hyper) -> Cell:
        """Return the validation loss of a method under some settings, on the search's seed."""
        seed = self.spec.seeds[0]
        key = self._key("trial", name, hyper, seed)
        return self._run_once(key, self.runner.trial)

    def chosen(self, name: str) -> Hyper:
        """Return the settings whose trial has the lowest validation loss, the first at a tie.

        Every method with settings has the same number of trials. A single trial is not computed.
        """
        name, trials = self.trials(name)
        if len(trials) == 1:
            return trials[0]
        losses = [self.trial(name, hyper).valid_loss for hyper in trials]
        return trials[losses.index(min(loss for loss in losses if loss is not None))]

    def trials(self, name: str) -> tuple[str, list[Hyper]]:
        """Return the method that is searched, and the settings of its trials."""
        name = METHODS[name].searched_as or name
        space, seed = self._space(METHODS[name]), self.spec.seeds[0]
        return name, [
            trial_settings(space, name=name, trial=trial, seed=seed)
            for trial in range(trials_of(space, self.spec.trials))
        ]

    def finished(self, name: str, seed: int) -> Cell | None:
        """Return a method's cell on test rows; None where it or one of its trials is missing."""
        if not self._is_searched(name):
            return None
        return self.folder.get(self._key("test", name, self.chosen(name), seed))

    def finished_pair(self, name: str, rival: str, seed: int) -> Cell | None:
        """Return the cell of a method beside a rival; None where it is missing."""
        if not (self._is_searched(name) and self._is_searched(rival)):
            return None
        return self.folder.get(self._pair_key(name, rival, seed)[0])

    def _is_searched(self, name: str) -> bool:
        searched, trials = self.trials(name)
        keys = [self._key("trial", searched, hyper, self.spec.seeds[0]) for hyper in trials]
        return len(trials) == 1 or all(self.folder.get(key) for key in keys)

    def test(self, name: str, seed: int) -> Cell:
        """Return the metrics of a method under its chosen settings, on test rows."""
        key = self._key("test", name, self.chosen(name), seed)
        return self._run_once(key, self.runner.test)

    def pair(self, name: str, rival: str, seed: int) -> Cell | None:
        """Return a method's metrics beside a rival's.

        None where the predictions of one of them are on another machine.
        """
        key, mine, other = self._pair_key(name, rival, seed)
        if self.folder.get(key) is None and not all(
            map(self.runner.has_predictions, (mine, other))
        ):
            return None
        return self._run_once(key, lambda key: self.runner.pair(key, mine, other))

    def _pair_key(self, name: str, rival: str, seed: int) -> tuple[CellKey, CellKey, CellKey]:
        """Return the keys of a pair, and of both methods on test rows."""
        mine, other = (self._key("test", n, self.chosen(n), seed) for n in (name, rival))
        against = {"rival": rival, "rival_version": other.version, "rival_hyper": other.hyper}
        return mine.model_copy(update={"kind": "pair", **against}), mine, other

    def _run_once(self, key: CellKey, run: Callable[[CellKey], Cell]) -> Cell:
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

    def _key(self, kind: str, name: str, hyper: Hyper, seed: int) -> CellKey:
        # A trial reads no test row, so that logs with one window share it.
        is_trial = kind == "trial"
        return CellKey.model_validate(
            {
                "kind": kind,
                "log": self.log.window.name if is_trial else self.log.name,
                "fingerprint": self.log.fingerprint if is_trial else self.log.test_fingerprint,
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
