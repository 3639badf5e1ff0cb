"""The table has the mean of all seeds, names models that kernels harm, and says what is missing."""

import pytest

from infra.benchmarks.specs import BenchTrunksSpec
from infra.benchmarks.trunks.findings import notes, target_of, trunk_lines
from tests.unit.infra.benchmarks.trunks.test_runner import FIRST, OTHER, fake_runner

SEEDS = (0, 1)


@pytest.fixture
def runner(tmp_path):
    """All cells but one are finished."""
    runner = fake_runner(tmp_path)
    for model, seed in ((FIRST, 0), (FIRST, 1), (OTHER, 0)):
        runner.run(model, seed)
    return runner


@pytest.fixture
def lines(runner):
    return trunk_lines(runner, (FIRST, OTHER), SEEDS)


def test_a_line_is_the_mean_of_its_seeds(runner, lines):
    first = lines[0]
    gains = [runner.finished(FIRST, seed).lines[0].delta_auc for seed in SEEDS]
    assert (first.method, first.task, first.seeds) == (FIRST.name, "ctr", 2)
    assert first.delta_auc == pytest.approx(sum(gains) / 2)
    assert (first.lowest_seed, first.highest_seed) == (min(gains), max(gains))
    assert first.base_auc == pytest.approx(first.auc - first.delta_auc)
    assert first.base_beside_first is None
    assert (first.base_cpu_s, first.at_cap) == (2.0, 2)


def test_another_model_stands_beside_the_first(runner, lines):
    other = lines[1]
    for part, shown in (("base", other.base_beside_first), ("tuned", other.tuned_beside_first)):
        assert shown == runner.finished_pair(OTHER, 0, part).lines[0].delta_auc


def test_a_model_that_kernels_harm_misses_the_target(lines):
    fine = [line.model_copy(update={"low": -1e-3, "high": 1e-3}) for line in lines]
    assert target_of(fine).is_met
    harmed = fine[1].model_copy(update={"low": -3e-3, "high": -1e-3})
    missed = target_of([fine[0], harmed])
    assert (missed.measured, missed.is_met) == (1, False)
    assert missed.note == f"movielens {OTHER.name} ctr"


def test_missing_seeds_are_named(runner, lines):
    said = notes(BenchTrunksSpec(seeds=SEEDS), [runner], lines)
    assert said[-1] == f"Not all of 2 seeds are finished: movielens {OTHER.name} (1)."
    one = notes(BenchTrunksSpec(seeds=(0,)), [runner], lines)
    assert one == [*said[:-1], "A first look: one seed, which shows no spread over trainings."]
