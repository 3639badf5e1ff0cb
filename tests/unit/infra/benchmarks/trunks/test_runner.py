"""Every model can be built with a catalogue's settings; a cell is computed once."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from iak.pipeline.base.dense_parts import build_dense
from iak.pipeline.runs.load import load_catalog, spec_with_presets
from iak.schemas.job import ModelSpec, PretrainSpec
from infra.benchmarks.quality.cells import Cell, CellFolder, CellKey, Cost
from infra.benchmarks.quality.logs import SeparatedLog, Window
from infra.benchmarks.specs import BenchTrunksSpec, HistoryReader, Trunk
from infra.benchmarks.trunks.runner import PARTS, BaseModel, TrunkRunner, models_of
from tests.unit.infra.benchmarks.quality.test_league import line

ALL_MODELS = models_of(BenchTrunksSpec())
FIRST, OTHER = BaseModel(trunk="dcnv2_mmoe"), BaseModel(trunk="dcnv2_mmoe", history="din")


@dataclass(frozen=True, kw_only=True)
class FakeRunner(TrunkRunner):
    """Computes cells from their keys alone, and counts them."""

    seen: list[CellKey] = field(default_factory=list)
    has_predictions: bool = True

    def test(self, key, model):
        self.seen.append(key)
        if self.has_predictions:
            for part in PARTS:
                path = self.predictions(model, key.seed, part)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        cost = Cost(cpu_s=2.0, parameters=10)
        return Cell(key=key, cost=cost, base=cost, at_cap=("base",), lines=(line(key),))

    def pair(self, key, *, mine, other):
        self.seen.append(key)
        assert mine.is_file()
        assert other.is_file()
        assert mine.name == other.name == f"{key.hyper['part']}.parquet"
        return Cell(key=key, lines=(line(key),))


def fake_runner(folder, **changes):
    catalog = load_catalog(Path("movielens"))
    window = Window(name="movielens", root=folder / "window", catalog=catalog, times={})
    log = SeparatedLog(
        name="movielens", window=window, tests=(window,), fingerprint="f" * 64,
        test_fingerprint="f" * 64, rows={}, is_dated=False,
    )  # fmt: skip
    cells = CellFolder(folder / "cells")
    return FakeRunner(log=log, folder=cells, first=FIRST, **changes)


def test_the_defaults_have_every_trunk_and_every_reader():
    model = TypeAdapter(ModelSpec).json_schema()["properties"]
    assert {m.trunk for m in ALL_MODELS} == {*model["trunk"]["enum"]} == {*Trunk.__args__}
    readers = {m.history for m in ALL_MODELS}
    assert readers == {*model["history"]["enum"]} == {"mean", *HistoryReader.__args__}
    assert len({m.name for m in ALL_MODELS}) == len(ALL_MODELS)


@pytest.mark.parametrize("log", ["movielens", "retailrocket", "planted"])
@pytest.mark.parametrize("model", ALL_MODELS, ids=lambda model: model.name)
def test_a_model_is_built_with_the_settings_of_a_catalogue(model, log):
    catalog = load_catalog(Path(log))
    asked = {"catalog": log, "data_root": "d", "run_dir": "r", "model": model.settings(catalog)}
    spec = spec_with_presets(PretrainSpec, "pretrain", catalog, asked)
    assert (spec.model.trunk, spec.model.history) == (model.trunk, model.history)
    parts = build_dense(catalog, spec.model)
    assert (parts.histories is not None) == (model.history != "mean")


def test_a_cell_and_its_comparisons_are_computed_once(tmp_path):
    first, second = fake_runner(tmp_path), fake_runner(tmp_path)
    for runner in (first, second):
        for model in (FIRST, OTHER):
            assert runner.run(model, 0) == runner.finished(model, 0)
    assert [(key.kind, key.method) for key in first.seen] == [
        ("test", FIRST.name), ("test", OTHER.name), ("pair", OTHER.name), ("pair", OTHER.name)
    ]  # fmt: skip
    assert len({key.id for key in first.seen}) == 4
    assert second.seen == []


def test_another_seed_is_another_cell(tmp_path):
    runner = fake_runner(tmp_path)
    runner.run(FIRST, 0)
    assert runner.finished(FIRST, 1) is None


def test_nothing_is_compared_with_predictions_that_are_elsewhere(tmp_path):
    runner = fake_runner(tmp_path, has_predictions=False)
    for model in (FIRST, OTHER):
        runner.run(model, 0)
    assert [key.kind for key in runner.seen] == ["test", "test"]
    assert runner.finished_pair(OTHER, 0, "base") is None
