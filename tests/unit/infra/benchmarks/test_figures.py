"""The picture of a record shows its numbers."""

from datetime import UTC, datetime

import pytest
from matplotlib.figure import Figure

from iak.jobs.figures import draw
from iak.schemas.record import BenchmarkRecord
from infra.benchmarks.figures import picture_of


def record(bench, rows, **more):
    return BenchmarkRecord(
        bench=bench, spec={}, is_smoke=False, command=f"iak bench {bench}", seconds=1.0,
        started_at=datetime(2026, 10, 1, tzinfo=UTC), rows=rows, commit="abc",
        machine={"cores": 2, "processor": "a processor"}, **more,
    )  # fmt: skip


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draw a record; the figure, as it was written."""
    figures = []
    savefig = Figure.savefig

    def kept(self, *args, **kwargs):
        figures.append(self)
        savefig(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", kept)

    def figure_of(shown):
        path = tmp_path / "p.png"
        draw(shown, picture_of(shown), path)
        assert path.exists()
        return figures[-1]

    return figure_of


def stage(name, rate, encoding="mixed"):
    return {"table": "stages", "stage": name, "encoding": encoding, "rows_per_s": rate,
            "of_raw_decode": 1.0}  # fmt: skip


STAGES = [stage("raw decode", 2e6), stage("batches", 1.5e6), stage("batches", 9e6, "other")]


def test_rates_of_data_stand_beside_raw_decode_and_its_target(drawn):
    (panel,) = drawn(record("data", STAGES)).axes
    assert [bar.get_width() for bar in panel.patches] == pytest.approx([1.5, 2.0])
    assert [text.get_text() for text in panel.texts] == ["1.50 M/s  75%", "2.00 M/s  100%"]
    (target,) = panel.get_lines()
    assert list(target.get_xdata()) == pytest.approx([1.4, 1.4])


def fault(table, name, **verdicts):
    none = {
        "survived": 0,
        "refused_by_name": 0,
        "wrong": 0,
        "where": "log",
        "injected": 9,
        "lost": 0,
    }
    return {"table": table, "fault": name, **none, **verdicts}


def test_faults_are_added_up_by_the_first_word_of_their_class(drawn):
    rows = [
        fault("classes", "log truncated", survived=3), fault("classes", "log flipped", wrong=1),
        fault("bad inputs", "a hole", refused_by_name=5),
    ]  # fmt: skip
    (panel,) = drawn(record("faults", rows)).axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["bad inputs", "log"]
    bars = [(bar.get_x(), bar.get_width()) for bar in panel.patches]
    assert bars == [(0, 0), (0, 3), (0, 5), (3, 0), (5, 0), (3, 1)]


def size(rows, step, rate):
    return {
        "rows": rows, "step_p50_ms": step, "lookup_p50_ms": step / 2, "frozen_int8_per_s": rate,
        "step_p90_ms": step, "ratio": 1.0, "uniform_through_all_workers_per_s": 0,
        "zipf_through_all_workers_per_s": 0,
    }  # fmt: skip


def test_times_of_tables_run_from_the_smallest_with_their_bound(drawn):
    steps, lookups = drawn(record("tables", [size(10**9, 3.0, 4e6), size(10**6, 2.0, 8e6)])).axes
    step, lookup, bound = steps.get_lines()
    assert list(step.get_xdata()) == [10**6, 10**9]
    assert list(step.get_ydata()) == [2.0, 3.0]
    assert list(lookup.get_ydata()) == [1.0, 1.5]
    assert list(bound.get_ydata()) == [3.0, 3.0]
    *declared, rate = lookups.get_lines()
    assert [line.get_label() for line in declared] == [
        "uniform through all workers", "zipf through all workers",
    ]  # fmt: skip
    assert rate.get_label() == "frozen int8"
    assert list(rate.get_ydata()) == [8.0, 4.0]
