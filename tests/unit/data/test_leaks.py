"""A column that alone predicts a label is suspected; honest strong ones, and names of rows, not."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from iak.pipeline.data import leaks
from iak.pipeline.data.sample_findings import leak_findings
from iak.pipeline.runs.load import load_catalog
from iak.schemas.log import Catalog
from tests.builders import small_catalog, snapshot_of

CATALOG = small_catalog()
DRAW = np.random.default_rng(0)
CLICK = (DRAW.random(2_000) < 0.3).astype(np.int8)
ORDER = (CLICK * (DRAW.random(2_000) < 0.4)).astype(np.int8)
DATA = Path(__file__).parents[4] / "shared" / "data"


def suspected(column: pa.Array, **more: Any) -> dict[str, float]:
    rows = pa.RecordBatch.from_pydict(
        {"click": pa.array(CLICK), "order": pa.array(ORDER), "c": column, **more}
    )
    return {s.task: s.auc for s in leaks.suspects([rows], CATALOG) if s.column == "c"}


def where(mask: np.ndarray, yes: Any, no: Any = None) -> list[Any]:
    return [yes if is_true else no for is_true in mask]


@pytest.mark.parametrize(
    ("column", "tasks"),
    [
        pytest.param(pa.array(CLICK * 3.5 + DRAW.random(2_000)), {"ctr"}, id="a number"),
        pytest.param(pa.array(-CLICK), {"ctr"}, id="its opposite"),
        pytest.param(pa.array(where(CLICK == 1, "viewed", "shown")), {"ctr"}, id="a word"),
        pytest.param(pa.array(where(CLICK == 1, 1_790_000_000)), {"ctr"}, id="a time of its own"),
        pytest.param(
            pa.array([f"o{n}" if y else None for n, y in enumerate(CLICK)]), {"ctr"}, id="an id"
        ),
        pytest.param(
            pa.array(where(CLICK == 1, 7), pa.timestamp("us", "UTC")), {"ctr"}, id="a timestamp"
        ),
        pytest.param(
            pa.array(where(ORDER == 1, "paid", "open")).dictionary_encode(), {"cvr"}, id="an order"
        ),
        pytest.param(pa.array(CLICK + DRAW.normal(0, 0.5, 2_000)), set(), id="only strong"),
        pytest.param(pa.array([f"e{n}" for n in range(2_000)]), set(), id="names of rows"),
        pytest.param(pa.array(np.arange(2_000)), set(), id="numbers of rows"),
        pytest.param(pa.array([None] * 2_000, pa.int64()), set(), id="nothing"),
        pytest.param(pa.array(DRAW.integers(0, 9, 2_000)), set(), id="chance"),
    ],
)
def test_a_column_is_suspected_for_the_task_that_it_gives_away(column, tasks):
    assert set(suspected(column)) == tasks


def test_pairs_of_one_row_each_do_not_give_a_request_away():
    assert suspected(pa.array(np.arange(2_000) // 2)) == {}


def test_bytes_that_are_no_text_are_not_scored():
    assert suspected(pa.array([b"\xff" + bytes([c]) for c in CLICK])) == {}
    assert suspected(pa.array([b"a" + bytes([c + 65]) for c in CLICK])) != {}


def test_few_positives_suspect_nothing():
    rare = np.zeros(2_000, np.int8)
    rare[: leaks.MIN_OF_CLASS - 1] = 1
    rows = pa.RecordBatch.from_pydict({"click": rare, "order": rare, "c": rare})
    assert list(leaks.suspects([rows], CATALOG)) == []


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2))
def test_the_auc_is_that_of_scikit_learn(pairs):
    values, labels = (np.array(column) for column in zip(*pairs, strict=True))
    if labels.any() and not labels.all():
        found_auc = leaks.auc_of_values(values.astype(float), labels.astype(bool))
        assert found_auc == pytest.approx(roc_auc_score(labels, values))


@pytest.mark.parametrize(("name", "leak"), [("movielens", "rating"), ("frappe", "usage_count")])
def test_a_public_log_shows_its_leak_where_it_is_not_declared_and_no_other(name, leak):
    catalog = load_catalog(Path(name))
    if not (DATA / catalog.log.path).is_dir():
        pytest.skip(f"the public log {name} is not below {DATA}")
    document = catalog.model_dump(mode="json")
    assert leak in document["log"].pop("leak_columns")
    for declared, expected in ((catalog, set()), (Catalog.model_validate(document), {leak})):
        snapshot = snapshot_of(DATA / catalog.log.path, declared)
        assert {f.column for f in leak_findings(snapshot, declared)} == expected
