"""`iak compare RUN RUN`: paired differences of every method, as a table and as JSON."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iak.jobs.cli import read_spec, run
from iak.schemas.predictions import DOCUMENT, PREDICTIONS, PredictionsDocument, metric_tasks
from iak.schemas.task import TaskSpec
from tests.unit.stats.planted_rows import metric_row

TASKS = metric_tasks(
    (TaskSpec(label="click", kind="click"), TaskSpec(label="order", kind="conversion")),
    negatives_kept=1.0,
)
ROWS = 1200


def log_of(users=True):
    """Labels and a signal, the same for every run."""
    draw = np.random.default_rng(0)
    logit = draw.normal(-0.5, 1.0, ROWS)
    click = (draw.random(ROWS) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    order = click * (draw.random(ROWS) < 0.4)
    columns = {
        "row": np.arange(ROWS) * 7919 - 10**6,
        "domain": pa.array(np.where(np.arange(ROWS) % 3, "region=a", "region=b")),
        "y.ctr": click,
        "y.cvr": pa.array(order, pa.float32(), mask=draw.random(ROWS) < 0.1),
    }
    return logit, columns | ({"user": np.arange(ROWS) // 6} if users else {})


def write_run(folder, noise, *, methods=("base", "iak", "iak_published"), rows=None, users=True):
    """A run whose probabilities are the signal and so much noise, its rows in two files."""
    logit, columns = log_of(users)
    draw = np.random.default_rng(int(100 * noise) + 1)
    for method in methods:
        p = 1 / (1 + np.exp(-logit - noise * draw.normal(size=ROWS)))
        columns |= {f"own.{method}.ctr": p, f"own.{method}.cvr": np.full(ROWS, 0.4) + 0 * p}
        columns |= {f"all.{method}.ctr": p, f"all.{method}.cvr": 0.4 * p}
    table = pa.table(columns).slice(0, rows)
    said = PredictionsDocument(
        split="test", has_users=users, tasks=TASKS, methods=methods, base_fingerprint="f" * 64
    )
    (folder / PREDICTIONS).mkdir(parents=True)
    for rank, part in enumerate((table.slice(0, 500), table.slice(500))):
        told = part.replace_schema_metadata({DOCUMENT: said.model_dump_json()})
        pq.write_table(told, folder / PREDICTIONS / f"test-{rank}.parquet")
    return folder


@pytest.fixture
def runs(tmp_path):
    return write_run(tmp_path / "a", 1.5), write_run(tmp_path / "b", 0.2)


def test_two_runs_are_compared_by_words_alone(runs, tmp_path, capsys):
    first, second = map(str, runs)
    assert run(["compare", first, second, "test", f"json={tmp_path / 'out.json'}"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for words in ("ctr on test", "cvr on test", "ctcvr on test", "iak_published", "1,200 rows"):
        assert words in told
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["kind"], found["format"], found["rows_compared"]) == ("iak-comparison", 1, ROWS)
    by = {(x["compared"], x["method"], x["task"], x["domain"]): x for x in found["lines"]}
    assert len(by) == 3 * 2 * 3 * 4
    (one, other) = (pq.read_table(sorted((r / PREDICTIONS).glob("*.parquet"))) for r in runs)
    expected = metric_row(
        labels=one.column("y.ctr").to_numpy(),
        p=other.column("own.iak.ctr").to_numpy(),
        p_base=one.column("own.iak.ctr").to_numpy(),
        users=one.column("user").to_numpy(),
    )
    line = by["iak", "second", "ctr", "pooled"]
    for name in ("delta_auc", "delta_auc_low", "delta_logloss_high", "delta_calibration_low"):
        assert line[name] == pytest.approx(getattr(expected, name))
    assert line["delta_auc_low"] > 0
    assert (line["cluster"], line["clusters"]) == ("user", ROWS // 6)
    assert by["base", "second", "cvr", "all"]["rows"] == sum(
        1
        for click, order in zip(one["y.ctr"].to_pylist(), one["y.cvr"].to_pylist(), strict=True)
        if click == 1 and order is not None
    )


def test_a_run_compared_with_itself_differs_by_nothing(runs, tmp_path):
    out = tmp_path / "out.json"
    assert run(["compare", str(runs[0]), str(runs[0]), f"json={out}"]) == 0
    for line in json.loads(out.read_text())["lines"]:
        deltas = [value for name, value in line.items() if name.startswith("delta_")]
        assert len(deltas) == 9
        assert all(delta is None or delta == pytest.approx(0, abs=1e-12) for delta in deltas)


def test_rows_that_differ_are_refused_and_may_be_cut(runs, tmp_path, capsys):
    short = write_run(tmp_path / "short", 0.4, rows=900, methods=("base",))
    assert run(["compare", str(runs[0]), str(short)]) == 2
    assert (
        "900 are in both (300 only in the first, 0 only in the second)" in capsys.readouterr().err
    )
    assert run(["compare", str(runs[0]), str(short), "common=true"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "900 rows compared" in told
    assert "methods of one run alone: iak, iak_published" in told


def test_a_log_without_users_says_that_rows_are_independent(tmp_path, capsys):
    runs = [write_run(tmp_path / n, s, users=False) for n, s in (("a", 0.9), ("b", 0.2))]
    assert run(["compare", *map(str, runs)]) == 0
    assert "the log declares no user" in " ".join(capsys.readouterr().out.split())


def test_a_folder_without_predictions_is_refused(runs, tmp_path, capsys):
    assert run(["compare", str(runs[0]), str(tmp_path)]) == 2
    assert "holds no predictions of split 'test'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["A", "B"],
        ["first=A", "second=B"],
        ["A", "second=B"],
        ["--first", "A", "--second", "B"],
        ["A", "B", "test", "common=false"],
    ],
)
def test_the_runs_may_be_named_or_stand_first(words):
    spec = read_spec("compare", words)
    assert (str(spec.first), str(spec.second), spec.split) == ("A", "B", "test")
