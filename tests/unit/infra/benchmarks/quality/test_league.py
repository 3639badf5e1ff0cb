"""Cells are run once, in any sittings; every method is tried as often; test follows validation."""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from iak.pipeline.events import silent
from iak.pipeline.runs.load import load_catalog
from infra.benchmarks.quality.cells import Cell, CellFolder, CellKey, Cost, Line
from infra.benchmarks.quality.league import IAK, Budget, League, OutOfBudget
from infra.benchmarks.quality.logs import SeparatedLog, Window
from infra.benchmarks.quality.registry import METHODS
from infra.benchmarks.specs import BenchQualitySpec

METHOD_NAMES = ("base", "platt", "iak", "iak_counts", "iak_no_kl", "continued", "lora")
SEARCHED = ("platt", "iak", "continued", "lora")


@dataclass
class FakeRunner:
    """Computes cells from their keys alone, and counts them. It may stop after some."""

    stops_after: int | None = None
    lost: tuple[str, ...] = ()
    """Methods whose predictions are elsewhere."""
    seen: list[CellKey] = field(default_factory=list)

    def trial(self, key):
        self._count(key)
        return Cell(key=key, valid_loss=int(key.id, 16) % 1000, cost=COST)

    def test(self, key):
        self._count(key)
        return Cell(key=key, valid_loss=0.5, cost=COST, lines=(line(key),))

    def pair(self, key, mine, other):
        self._count(key)
        assert (mine.method, other.method) == (key.method, key.rival)
        assert (mine.kind, other.kind) == ("test", "test")
        return Cell(key=key, lines=(line(key),))

    def has_predictions(self, key):
        return key.method not in self.lost

    def _count(self, key):
        if self.stops_after is not None and len(self.seen) >= self.stops_after:
            raise OutOfBudget
        self.seen.append(key)


COST = Cost(cpu_s=1.0, parameters=10)


def line(key):
    value = int(key.id, 16) % 97 / 1e4
    return Line(
        task="ctr", domain="all", rows=9, positives=3, auc=0.7, gauc=None, log_loss=0.5, ne=0.9,
        calibration=1.0, delta_auc=value, low=value - 1e-3, high=value + 1e-3, delta_gauc=None,
        delta_log_loss=0.0, delta_log_loss_low=0.0, delta_log_loss_high=0.0,
    )  # fmt: skip


def league(cells, runner, *, minutes=None, **settings):
    spec = BenchQualitySpec(methods=METHOD_NAMES, seeds=(0, 1), trials=3, **settings)
    catalog = load_catalog(Path("frappe"))
    window = Window(name="frappe", root=Path("nowhere"), catalog=catalog, times={})
    log = SeparatedLog(
        name="frappe", window=window, tests=(window,), fingerprint="f" * 64,
        test_fingerprint="f" * 64, rows={}, is_dated=False,
    )  # fmt: skip
    return League(
        spec=spec, log=log, runner=runner, folder=CellFolder(cells), budget=Budget.of(minutes),
        report=silent,
    )  # fmt: skip


def documents(folder):
    return {path.name: path.read_text() for path in folder.glob("*/*.json")}


def test_a_finished_league_runs_nothing_again(tmp_path):
    first, second = FakeRunner(), FakeRunner()
    league(tmp_path, first).play()
    league(tmp_path, second).play()
    assert len(first.seen) == len({key.id for key in first.seen}) > 20
    assert second.seen == []


@pytest.mark.parametrize("stops_after", [0, 1, 5, 13, 21])
def test_sittings_that_are_interrupted_end_in_the_same_cells(stops_after, tmp_path):
    league(tmp_path / "whole", FakeRunner()).play()
    with pytest.raises(OutOfBudget):
        league(tmp_path / "parts", FakeRunner(stops_after)).play()
    assert len(documents(tmp_path / "parts")) == stops_after
    rest = FakeRunner()
    league(tmp_path / "parts", rest).play()
    assert documents(tmp_path / "parts") == documents(tmp_path / "whole")
    assert len(rest.seen) == len(documents(tmp_path / "whole")) - stops_after


def test_every_method_with_settings_gets_the_same_number_of_trials(tmp_path):
    runner = FakeRunner()
    league(tmp_path, runner).play()
    trials = Counter(key.method for key in runner.seen if key.kind == "trial")
    assert trials == dict.fromkeys(SEARCHED, 3)
    assert {key.seed for key in runner.seen if key.kind == "trial"} == {0}


def test_the_settings_with_the_lowest_validation_loss_are_tested(tmp_path):
    runner = FakeRunner()
    played = league(tmp_path, runner)
    played.play()
    for name in SEARCHED:
        losses = {
            tuple(key.hyper.items()): runner_loss(key)
            for key in runner.seen
            if (key.kind, key.method) == ("trial", name)
        }
        best = dict(min(losses, key=losses.get))
        tested = [k.hyper for k in runner.seen if (k.kind, k.method) == ("test", name)]
        assert tested == [best, best]


def runner_loss(key):
    return FakeRunner().trial(key).valid_loss


def test_an_ablation_has_the_settings_that_iak_was_given(tmp_path):
    runner = FakeRunner()
    played = league(tmp_path, runner)
    played.play()
    assert METHODS["iak_no_kl"].searched_as == IAK
    assert played.chosen("iak_no_kl") == played.chosen(IAK)


def test_what_is_not_finished_is_not_reported(tmp_path):
    unfinished = league(tmp_path, FakeRunner(stops_after=5))
    with pytest.raises(OutOfBudget):
        unfinished.play()
    assert unfinished.finished("base", 0) is not None
    assert unfinished.finished("lora", 0) is None
    assert unfinished.finished_pair(IAK, "lora", 0) is None


def test_a_pair_whose_predictions_are_elsewhere_is_left_out(tmp_path):
    runner = FakeRunner(lost=("lora",))
    played = league(tmp_path, runner)
    played.play()
    assert "lora" not in {key.rival for key in runner.seen}
    assert played.finished_pair(IAK, "lora", 0) is None


def test_iak_is_compared_with_all_and_its_other_forms_with_rivals(tmp_path):
    runner = FakeRunner()
    league(tmp_path, runner).play()
    pairs = Counter((key.method, key.rival) for key in runner.seen if key.kind == "pair")
    rivals = ("base", "platt", "continued", "lora")
    expected = [(IAK, rival) for rival in (*rivals, "iak_counts", "iak_no_kl")]
    assert pairs == dict.fromkeys([*expected, *(("iak_counts", rival) for rival in rivals)], 2)


def test_no_cell_begins_after_the_budget(tmp_path):
    runner = FakeRunner()
    with pytest.raises(OutOfBudget):
        league(tmp_path, runner, minutes=1e-9).play()
    assert runner.seen == []


def test_methods_that_know_the_truth_need_a_planted_log_and_are_no_rivals(tmp_path):
    played = league(tmp_path, FakeRunner())
    spec = played.spec.model_copy(update={"methods": ("base", "iak", "oracle", "ceiling")})
    assert replace(played, spec=spec).methods == ("base", "iak")
    window = replace(played.log.window, root=tmp_path / "log" / "window")
    (tmp_path / "log" / "truth").mkdir(parents=True)
    planted = replace(played, spec=spec, log=replace(played.log, tests=(window,)))
    assert planted.methods == spec.methods
    assert planted.pairs == (("iak", "base"),)


def test_methods_that_count_by_day_need_rows_with_times(tmp_path):
    played = league(tmp_path, FakeRunner())
    spec = played.spec.model_copy(update={"methods": ("iak", "iak_past")})
    assert replace(played, spec=spec).methods == ("iak",)
    window = replace(played.log.window, times={"event_time": "event_time"})
    dated = replace(played, spec=spec, log=replace(played.log, window=window))
    assert dated.methods == spec.methods


def test_another_test_on_the_same_window_is_measured_under_the_same_trials(tmp_path):
    runner = FakeRunner()
    first = league(tmp_path, runner)
    first.play()
    log = replace(first.log, name="larger", test_fingerprint="e" * 64)
    second = FakeRunner()
    replace(first, log=log, runner=second).play()
    assert {key.kind for key in second.seen} == {"test", "pair"}
    assert {key.log for key in second.seen} == {"larger"}
    assert len(second.seen) == len([key for key in runner.seen if key.kind != "trial"])
