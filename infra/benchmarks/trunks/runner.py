"""Compute single cells: train a base of one model, tune kernels on it, and measure both."""

import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from iak.pipeline.base.dense_parts import build_dense
from iak.schemas.job import PretrainSpec
from iak.schemas.log import Catalog
from infra.benchmarks.quality.cells import Cell, CellFolder, CellKey, Cost, Hyper
from infra.benchmarks.quality.judge import lines_of, load_predictions, save_predictions
from infra.benchmarks.quality.logs import SeparatedLog
from infra.benchmarks.quality.registry import METHODS
from infra.benchmarks.quality.runner import run_facts
from infra.benchmarks.quality.setup import IAK, MethodSetup, Slice, train_base
from infra.benchmarks.specs import BenchTrunksSpec

VERSION = 1
"""Raise it with every change of code that changes a cell's result."""
TUNING: Hyper = {"tables.precision": "fp32"}
"""Settings of the night over the catalogue's. Of a small log, int8 tables may cost a base more AUC
than is tolerated, so that no kernel would be tuned on it."""
MEAN = "mean"
Part = Literal["base", "tuned"]
BASE: Part = "base"
TUNED: Part = "tuned"
PARTS = (BASE, TUNED)
"""What of a model is compared with the first model: its base alone, and with kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """A trunk and how it reads histories."""

    trunk: str
    history: str = MEAN

    @property
    def name(self) -> str:
        """Return its name in cells and tables."""
        return self.trunk if self.history == MEAN else f"{self.trunk}-{self.history}"

    def settings(self, catalog: Catalog) -> dict[str, Any]:
        """Return the settings of `model` that differ from the catalogue's presets."""
        chosen: dict[str, Any] = {"trunk": self.trunk, "history": self.history}
        if self.trunk == "mlp":
            # Its last layer is h, where other trunks have experts after their layers.
            shipped = PretrainSpec.model_fields["model"].default
            widths = catalog.presets.get("pretrain", {}).get("model.mlp", shipped.mlp)
            chosen["mlp"] = (*widths, len(catalog.tasks) * shipped.expert_width)
        return chosen


def models_of(spec: BenchTrunksSpec) -> tuple[BaseModel, ...]:
    """Return all models, the one first that others are compared with."""
    return (
        *(BaseModel(trunk=trunk) for trunk in spec.trunks),
        *(BaseModel(trunk=spec.trunks[0], history=history) for history in spec.histories),
    )


@dataclass(frozen=True, kw_only=True)
class TrunkRunner:
    """Computes the cells of one log, each once."""

    log: SeparatedLog
    folder: CellFolder
    first: BaseModel
    """The model that others are compared with."""

    def run(self, model: BaseModel, seed: int) -> Cell:
        """Return a model's cell; compute it, and what compares it with the first, where missing."""
        cell = self.folder.run_once(self._key(model, seed), lambda key: self.test(key, model))
        for part in PARTS:
            mine, other = (self.predictions(m, seed, part) for m in (model, self.first))
            # Cells may have been computed on another machine, where the predictions still are.
            if model != self.first and mine.is_file() and other.is_file():
                compare = partial(self.pair, mine=mine, other=other)
                self.folder.run_once(self._pair_key(model, seed, part), compare)
        return cell

    def finished(self, model: BaseModel, seed: int) -> Cell | None:
        """Return a model's cell; None where it is missing."""
        return self.folder.get(self._key(model, seed))

    def finished_pair(self, model: BaseModel, seed: int, part: Part) -> Cell | None:
        """Return the cell of a model beside the first one; None where it is missing."""
        return self.folder.get(self._pair_key(model, seed, part))

    def test(self, key: CellKey, model: BaseModel) -> Cell:
        """Train a base, tune kernels on it, and return the metrics of both on test rows."""
        setup, test = self._setup(model, key.seed), Slice(self.log.test, "test")
        shutil.rmtree(self._folder(model, key.seed), ignore_errors=True)
        began = time.process_time()
        is_capped = self._train(model, setup)
        trained = time.process_time()
        fitted = METHODS[IAK].fit(setup, TUNING)
        tuned = time.process_time()
        predicted = {BASE: setup.predicted(test, base=setup.base), TUNED: fitted.predict(test)}
        for part in PARTS:
            save_predictions(self.predictions(model, key.seed, part), predicted[part])
        return Cell(
            key=key,
            at_cap=(*([BASE] if is_capped else []), *fitted.at_cap),
            cost=Cost(
                cpu_s=round(tuned - trained, 2),
                parameters=fitted.parameters,
                kernels=fitted.copies,
            ),
            base=Cost(cpu_s=round(trained - began, 2), parameters=_dense_parameters(setup)),
            lines=lines_of(setup.rows(test), predicted[TUNED], predicted[BASE]),
            run=run_facts(),
        )

    def pair(self, key: CellKey, *, mine: Path, other: Path) -> Cell:
        """Return the metrics of a model's predictions, beside those of the first model."""
        rows = self._setup(self.first, key.seed).rows(Slice(self.log.test, "test"))
        lines = lines_of(rows, load_predictions(mine), load_predictions(other))
        return Cell(key=key, lines=lines, run=run_facts())

    def _train(self, model: BaseModel, setup: MethodSetup) -> bool:
        """Train the base of a setup; return whether it was still improving at its last epoch."""
        settings, catalog = model.settings(setup.catalog), setup.catalog
        run_dir = setup.base.parent
        trained = train_base(setup.window, catalog, run_dir, seed=setup.seed, model=settings)
        return trained.training.improving_at_the_end

    def _key(self, model: BaseModel, seed: int) -> CellKey:
        return CellKey(
            kind="test",
            log=self.log.window.name,
            fingerprint=self.log.fingerprint,
            method=model.name,
            version=VERSION,
            seed=seed,
        )

    def _pair_key(self, model: BaseModel, seed: int, part: Part) -> CellKey:
        against = {"kind": "pair", "rival": self.first.name, "rival_version": VERSION}
        return self._key(model, seed).model_copy(update={**against, "hyper": {"part": part}})

    def _setup(self, model: BaseModel, seed: int) -> MethodSetup:
        folder = self._folder(model, seed)
        return MethodSetup(
            window=self.log.window,
            base=folder / "pretrain" / "base",
            seed=seed,
            scratch=folder / "scratch",
        )

    def predictions(self, model: BaseModel, seed: int, part: Part) -> Path:
        """Return the file of a model's predictions of the test rows."""
        return self._folder(model, seed) / f"{part}.parquet"

    def _folder(self, model: BaseModel, seed: int) -> Path:
        return self.log.window.root.parent / "trunks" / f"{model.name}-{seed}"


def _dense_parameters(setup: MethodSetup) -> int:
    """Return the parameters of a base without its tables, which are the same for every model."""
    dense = build_dense(setup.published.catalog, setup.published.model)
    return sum(p.numel() for part in dense if part is not None for p in part.parameters())
