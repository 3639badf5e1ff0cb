"""Predictions read back, and the rows of two runs paired by their keys."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.errors import BadRequest, Corrupt, OtherFormat
from iak.pipeline.publish.predictions import (
    Predictions,
    paired_rows,
    probabilities_of,
    read_predictions,
    task_columns,
)
from iak.schemas.predictions import DOCUMENT, PREDICTIONS, PredictionsDocument, metric_tasks
from iak.schemas.task import TaskSpec

CLICK, ORDER = TaskSpec(label="click", kind="click"), TaskSpec(label="order", kind="conversion")
LIKE = TaskSpec(label="like")
TASKS = metric_tasks((CLICK, ORDER), negatives_kept=0.5)


def document(**changes):
    fields = {
        "split": "test", "has_users": True, "tasks": TASKS, "methods": ("base",),
        "base_fingerprint": "f" * 64,
    }  # fmt: skip
    return PredictionsDocument.model_validate(fields | changes)


def table_of(rows, labels=None):
    count = len(rows)
    click = np.resize([0.0, 1.0], count) if labels is None else np.array(labels, float)
    return pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "domain": pa.array(["region=a"] * count),
            "y.ctr": pa.array(click, pa.float32()),
            "y.cvr": pa.array([None, 1.0, 0.0, 1.0][:count] + [0.0] * (count - 4), pa.float32()),
            "own.base.ctr": np.full(count, 0.3),
            "own.base.cvr": np.full(count, 0.5),
            "all.base.ctr": np.full(count, 0.3),
            "all.base.cvr": np.full(count, 0.15),
        }
    )


def write(run_dir, split, parts, said=None):
    folder = run_dir / PREDICTIONS
    folder.mkdir(parents=True, exist_ok=True)
    text = (said or document(split=split)).model_dump_json() if not isinstance(said, str) else said
    for rank, part in parts.items():
        path = folder / f"{split}-{rank}.parquet"
        whole = part.replace_schema_metadata({DOCUMENT: text})
        pq.write_table(whole, path, write_page_checksum=True)
    return run_dir


def run_of(rows, name="a", labels=None):
    table = table_of(rows, labels).drop_columns(["y.cvr"])
    return Predictions(table=table, document=document(), run_dir=name)


def test_a_conversion_is_judged_on_clicked_rows_and_over_all_rows():
    events = [(t.name, t.task, t.space, t.given, t.kept, t.has_loss) for t in TASKS]
    assert events == [
        ("ctr", "ctr", "own", None, 0.5, True),
        ("cvr", "cvr", "own", "ctr", 1.0, False),
        ("ctcvr", "cvr", "all", None, 0.5, True),
    ]
    assert [t.name for t in metric_tasks((LIKE, CLICK), negatives_kept=1.0)] == ["like", "ctr"]


def test_labels_and_masks_are_those_of_each_metric_task():
    table = table_of([1, 2, 3, 4])
    columns = task_columns(table, TASKS)
    assert {name: mask.tolist() for name, mask in columns.masks.items()} == {
        "ctr": [True] * 4,
        "cvr": [False, True, False, True],
        "ctcvr": [False, True, True, True],
    }
    assert columns.kept == {"ctr": 0.5, "cvr": 1.0, "ctcvr": 0.5}
    result = probabilities_of(table, TASKS, ["base"])["base"]
    assert (result["cvr"][0], result["ctcvr"][0]) == (0.5, 0.15)


def test_workers_files_are_read_in_the_order_of_their_ranks(tmp_path):
    parts = {rank: table_of([rank]) for rank in (0, 1, 2, 9, 10, 11)}
    result = read_predictions(write(tmp_path, "test", parts), "test")
    assert result.table.column("row").to_pylist() == [0, 1, 2, 9, 10, 11]
    assert result.document == document()


def test_another_split_names_those_that_are_there(tmp_path):
    for split in ("test", "pretrain_valid"):
        write(tmp_path, split, {0: table_of([1])})
    with pytest.raises(BadRequest, match=r"of split 'gate'; there are pretrain_valid, test\."):
        read_predictions(tmp_path, "gate")
    with pytest.raises(BadRequest, match="there are none at all"):
        read_predictions(tmp_path / "nowhere", "test")


def test_a_missing_file_of_a_worker_is_noticed(tmp_path):
    said = document().model_copy(update={"rows": 3}).model_dump_json()
    folder = write(tmp_path, "test", {rank: table_of([rank]) for rank in range(3)}, said)
    assert len(read_predictions(folder, "test").table) == 3
    next(folder.rglob("test-1.parquet")).unlink()
    with pytest.raises(Corrupt, match=r"have 2 rows, and 3 were written"):
        read_predictions(folder, "test")


def test_a_damaged_page_is_refused_by_name(tmp_path):
    folder = write(tmp_path, "test", {0: table_of([1, 2, 3])})
    path = next(folder.rglob("test-0.parquet"))
    content = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(0)
    content[4 + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(Corrupt, match=r"test-0.parquet cannot be read"):
        read_predictions(folder, "test")


@pytest.mark.parametrize(
    ("said", "error"),
    [("{}", OtherFormat), ('{"format": 9}', OtherFormat), ("[]", Corrupt), ("{", Corrupt)],
    ids=["before the rule", "newer", "a list", "torn"],
)
def test_files_that_say_something_else_are_refused(tmp_path, said, error):
    with pytest.raises(error, match="test-0"):
        read_predictions(write(tmp_path, "test", {0: table_of([1])}, said), "test")


def test_the_same_rows_in_another_order_are_paired():
    one, other = (
        run_of([5, 6, 7, 7], labels=[0, 1, 0, 1]),
        run_of([7, 6, 7, 5], labels=[0, 1, 1, 0]),
    )
    first, second = paired_rows(one, other, common=False)
    assert first.tolist() == [0, 1, 2, 3]
    assert second.tolist() == [3, 1, 0, 2]


def test_rows_that_differ_are_refused_with_counts_or_cut_to_the_common_ones():
    one, other = run_of([1, 2, 3, 3], "a", [0, 1, 0, 0]), run_of([2, 3, 9], "b", [1, 0, 0])
    with pytest.raises(
        BadRequest,
        match=r"a has 4, b has 3, and 2 are in both \(2 only in the first, 1 only in the second\)",
    ):
        paired_rows(one, other, common=False)
    first, second = paired_rows(one, other, common=True)
    assert (first.tolist(), second.tolist()) == ([1, 2], [0, 1])
    with pytest.raises(BadRequest, match="no row in common"):
        paired_rows(one, run_of([8, 9], "b"), common=True)


def test_labels_that_differ_are_refused():
    one, other = run_of([1, 2, 3], "a", [0, 1, 0]), run_of([1, 2, 3], "b", [0, 1, 1])
    with pytest.raises(BadRequest, match="1 of 3 rows have another label ctr in b than in a"):
        paired_rows(one, other, common=False)


@settings(max_examples=50)
@given(
    keys=st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    more=st.lists(st.integers(-3, 9), max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_pairing_finds_each_key_as_often_as_both_have_it(keys, more, order):
    other = keys + more
    order.shuffle(other)
    # A label that follows from the key: whichever of equal keys are paired, labels agree.
    one, two = (run_of(k, name, [abs(x) % 2 for x in k]) for k, name in ((keys, "a"), (other, "b")))
    first, second = paired_rows(one, two, common=True)
    assert sorted(first.tolist()) == list(range(len(keys)))
    assert len(set(second.tolist())) == len(second)
    assert [keys[i] for i in first] == [other[i] for i in second]
