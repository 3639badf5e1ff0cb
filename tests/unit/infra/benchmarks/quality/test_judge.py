"""Metrics of a line are those that a direct computation gives; settings are chosen by the loss."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from iak.pipeline.publish.predictions import TaskColumns
from iak.pipeline.runs.load import load_catalog
from infra.benchmarks.quality.judge import (
    lines_of,
    load_predictions,
    save_predictions,
    selection_loss,
)
from infra.benchmarks.quality.setup import Rows

TASKS = ("ctr", "cvr", "ctcvr")


@pytest.fixture
def rows():
    draw = np.random.default_rng(5)
    click = (draw.random(900) < 0.4).astype(float)
    order = click * (draw.random(900) < 0.5)
    everywhere = np.ones(900, bool)
    columns = TaskColumns(
        labels={"ctr": click, "cvr": order, "ctcvr": order},
        masks={"ctr": everywhere, "cvr": click == 1, "ctcvr": everywhere},
        kept=dict.fromkeys(TASKS, 1.0),
    )
    domain_N = draw.integers(-1, 2, 900)
    return Rows(
        columns=columns,
        domain_names=("a", "b"),
        domain_N=domain_N,
        users_N=draw.integers(0, 90, 900),
    )


def guesses(seed):
    draw = np.random.default_rng(seed)
    return {task: draw.uniform(0.01, 0.99, 900) for task in TASKS}


def test_metrics_are_those_of_a_direct_computation(rows):
    mine, other = guesses(1), guesses(2)
    lines = {(line.task, line.domain): line for line in lines_of(rows, mine, other)}
    for task in TASKS:
        label_N, mask_N = rows.columns.labels[task], rows.columns.masks[task]
        sizes, aucs = [], []
        for index, domain in enumerate(rows.domain_names):
            chosen_N = mask_N & (rows.domain_N == index)
            line = lines[task, domain]
            auc, beside = (
                roc_auc_score(label_N[chosen_N], p[task][chosen_N]) for p in (mine, other)
            )
            assert line.rows == chosen_N.sum()
            assert line.auc == pytest.approx(auc)
            assert line.delta_auc == pytest.approx(auc - beside)
            assert line.log_loss == pytest.approx(log_loss(label_N[chosen_N], mine[task][chosen_N]))
            assert line.low < line.delta_auc < line.high
            sizes.append(line.rows)
            aucs.append(auc)
        assert lines[task, "all"].auc == pytest.approx(np.average(aucs, weights=sizes))


def test_rows_without_a_domain_are_left_out(rows):
    lines = lines_of(rows, guesses(1), guesses(2))
    (pooled,) = [line for line in lines if (line.task, line.domain) == ("ctr", "pooled")]
    assert pooled.rows == (rows.domain_N >= 0).sum() < 900


def test_a_method_beside_itself_differs_by_nothing(rows):
    for line in lines_of(rows, guesses(1), guesses(1)):
        assert line.delta_auc == line.delta_log_loss == 0.0


def test_settings_are_chosen_by_the_loss_that_training_lowers(rows):
    """A click, and a conversion over all rows by its weight; not the conversion of clicked rows."""
    catalog, p = load_catalog(Path("frappe")), guesses(3)
    expected = log_loss(rows.columns.labels["ctr"], p["ctr"])
    expected += 0.2 * log_loss(rows.columns.labels["ctcvr"], p["ctcvr"])
    assert selection_loss(rows, p, catalog) == pytest.approx(expected)
    other = p | {"cvr": guesses(4)["cvr"]}
    assert selection_loss(rows, other, catalog) == selection_loss(rows, p, catalog)


def test_predictions_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "below" / "p.parquet"
    save_predictions(path, guesses(1))
    again = load_predictions(path)
    assert set(again) == {*TASKS}
    for task, p in guesses(1).items():
        np.testing.assert_array_equal(again[task], p)
