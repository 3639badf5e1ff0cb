"""A label is read alike from a column of any type, and once for each task of a column."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import contract, features, parquet
from iak.pipeline.data.labels import LabelCounts
from iak.pipeline.data.pieces import pieces_of, spread_pieces
from iak.pipeline.data.task_labels import label_numbers, read_label
from iak.pipeline.fresh.counts import count_rows
from iak.schemas.task import TaskSpec
from tests.builders import (
    EVERYTHING,
    batch_of,
    draw_rows,
    encoding_of,
    partition,
    small_catalog,
    snapshot_of,
    write_file,
)
from tests.unit.fresh.small import FRESH, drawn, raw_of

CODES = st.lists(st.none() | st.integers(-3, 6), max_size=12)
SOME = st.lists(st.integers(-3, 6), min_size=1, max_size=3, unique=True)


def positives(values, *positive):
    """Labels of a column's values by a task that reads it with `positive`."""
    return read_label(values, TaskSpec(label="x", positive=positive)).to_pylist()


@given(values=CODES, positive=SOME)
def test_positive_reads_a_column_of_any_type_alike(values, positive):
    wanted = [None if v is None else v in positive for v in values]
    texts = [None if v is None else str(v) for v in values]
    columns = [pa.array(values, t) for t in (pa.int8(), pa.int64(), pa.float32(), pa.float64())]
    columns += [pa.array(texts, t) for t in (pa.string(), pa.large_string())]
    columns += [column.dictionary_encode() for column in (columns[0], columns[-2])]
    for column in columns:
        assert positives(column, *positive) == wanted, column.type
        assert positives(column, *map(str, positive)) == wanted, "a value may be written as text"


@given(values=st.lists(st.none() | st.booleans(), max_size=12), is_true=st.booleans())
def test_positive_reads_booleans_as_the_words_true_and_false(values, is_true):
    wanted = [None if v is None else v == is_true for v in values]
    words = [None if v is None else str(v).lower() for v in values]
    assert positives(pa.array(values, pa.bool_()), is_true) == wanted
    assert positives(pa.array(words, pa.string()), is_true) == wanted


def test_no_word_is_no_label_and_case_differs():
    words = pa.array(["buy", "", None, "Buy", "cart", "buy "])
    assert positives(words, "buy") == [True, None, None, False, False, False]
    assert positives(words.dictionary_encode(), "buy") == positives(words, "buy")
    assert positives(pa.array([4.0, math.nan, 4.5, -0.0, 1e15]), 4, 0, 10**15) == [
        True, None, False, True, True,
    ]  # fmt: skip


@given(values=st.lists(st.none() | st.floats(), max_size=9), bound=st.integers(-9, 9))
def test_a_number_is_a_label_from_its_bound_on(values, bound):
    read = read_label(pa.array(values, pa.float64()), TaskSpec(label="x", at_least=bound))
    wanted = [None if v is None or math.isnan(v) else v >= bound for v in values]
    assert read.to_pylist() == wanted


def test_numbers_in_text_are_labels_and_words_are_none():
    texts, task = pa.array(["1", "0", "4.5", "-2", "", "yes", None]), {"at_least": 1}
    read = read_label(texts, TaskSpec(label="click", **task))
    assert read.to_pylist() == [True, False, True, False, None, None, None]
    assert read_label(texts.dictionary_encode(), TaskSpec(label="click", **task)).equals(read)
    catalog = small_catalog(tasks=[{"label": "click"} | task, {"label": "order"}])
    assert problem(pa.string(), catalog) is None


def problem(kind, catalog):
    """Why a log whose clicks have this type cannot be read."""
    schema = draw_rows(1).schema
    changed = schema.set(schema.get_field_index("click"), pa.field("click", kind))
    found = contract.schema_problem(changed, catalog)
    return found and (found.what, contract.type_advice(found.expected))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.string_view(), pa.binary(), pa.int8(), pa.bool_(), pa.float64(),
             pa.dictionary(pa.int8(), pa.string()), pa.decimal128(9, 0), pa.null()],
)  # fmt: skip
def test_events_may_have_any_type_of_words_and_numbers(kind):
    assert problem(kind, small_catalog(tasks=[{"label": "click", "positive": ["buy"]}])) is None


def test_what_has_no_word_is_refused_with_advice():
    lists, times = pa.list_(pa.string()), pa.timestamp("s")
    what, advice = problem(lists, small_catalog(tasks=[{"label": "click", "positive": ["buy"]}]))
    assert "click: list<item: string>, expected event" in what
    assert "positive reads text" in advice
    what, advice = problem(times, small_catalog(tasks=[{"label": "click", "at_least": 1}]))
    assert "expected grade" in what
    assert "at_least reads numbers" in advice
    _, advice = problem(pa.string(), small_catalog(tasks=[{"label": "click"}]))
    assert "give the task positive" in advice


EVENTS = ("view", "cart", "buy", None)
IN_COLUMNS = [{"label": "click", "kind": "click"}, {"label": "order", "kind": "conversion"}]
OF_ONE = [
    {"label": "event", "positive": ["cart", "buy"], "kind": "click", "name": "ctr"},
    {"label": "event", "positive": ["buy"], "kind": "conversion", "name": "cvr"},
]


def both_logs(rows):
    """The same rows with a column for each label, and with one column of events."""
    events = np.random.default_rng(1).choice(len(EVENTS), len(rows))
    words = pa.array([EVENTS[event] for event in events])
    click = pc.if_else(words.is_valid(), pc.is_in(words, pa.array(["cart", "buy"])), None)
    order = pc.equal(words, "buy")
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    apart = columns | {"click": click.cast(pa.int8()), "order": order.cast(pa.int8())}
    shared = {n: c for n, c in columns.items() if n not in ("click", "order")}
    return apart, shared | {"event": words.dictionary_encode()}


def read_of(root, rows, catalog):
    """The rows as a job reads them from a file of their own."""
    write_file(root / f"{partition('rome', '2026-10-01')}/part-0.parquet", pa.table(rows))
    selection = parquet.select(snapshot_of(root, catalog), EVERYTHING, catalog)
    (piece,) = pieces_of(selection, rank=0, world=1)
    return parquet.read_piece(selection, piece, catalog).rows


def test_two_tasks_of_one_column_learn_what_two_columns_would_teach(tmp_path):
    apart, shared = both_logs(draw_rows(300))
    by_log = []
    for name, rows, tasks in (("apart", apart, IN_COLUMNS), ("shared", shared, OF_ONE)):
        catalog = small_catalog(tasks=tasks)
        read = read_of(tmp_path / name, rows, catalog)
        counts = LabelCounts(catalog)
        counts.add(read, contract.inspect(read, catalog).quarantined)
        (encoded,) = features.encode_parts(
            read, [len(read)], identity=np.zeros(len(read), np.uint64), catalog=catalog,
            encoding=encoding_of(read, catalog),
        )  # fmt: skip
        by_log.append((encoded.select(["y.ctr", "y.cvr"]), counts.counts()))
    assert by_log[0][0].equals(by_log[1][0])
    assert by_log[0][1] == by_log[1][1]
    assert by_log[0][1]["positive cvr"] > 30


def test_fresh_statistics_count_each_task_of_a_column():
    apart, shared = both_logs(drawn(400))
    one, other = (
        count_rows(raw_of(batch_of(rows)), small_catalog(tasks=tasks, fresh=FRESH))
        for rows, tasks in ((apart, IN_COLUMNS), (shared, OF_ONE))
    )
    assert one.keys() == other.keys()
    for table, entries in one.items():
        assert np.array_equal(entries.counts_nC, other[table].counts_nC), table
        assert np.array_equal(entries.keys_n, other[table].keys_n), table


def test_one_column_may_be_a_label_of_several_bounds_and_as_it_is():
    catalog = small_catalog(
        tasks=[
            {"label": "click", "name": "is"},
            {"label": "click", "name": "half", "at_least": 0.5},
            {"label": "click", "name": "not", "positive": [0]},
        ]
    )
    rows = batch_of({"click": pa.array([0.0, 1.0, 0.75, None])})
    read = [label_numbers(rows, task) for task in catalog.tasks]
    assert np.array_equal(
        read, [[0, 1, 0.75, np.nan], [0, 1, 1, np.nan], [1, 0, 0, np.nan]], equal_nan=True
    )
    assert contract.expected_kinds(catalog)["click"] == "label", "the strictest"


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (pa.array([7, None, 0]), [True, False, True]),
        (pa.array([float("nan"), 0.5, None]), [False, True, False]),
        (pa.array(["", "a", None]).dictionary_encode(), [False, True, False]),
        (pa.array([1, None, 2], pa.timestamp("ms")), [True, False, True]),
        (pa.array([{"a": None}, None, {"a": 1}]), [True, False, True]),
    ],
)
def test_a_label_may_be_whether_there_is_a_value(values, labels):
    assert read_label(values, TaskSpec(label="x", has_value=True)).to_pylist() == labels


@pytest.mark.parametrize(
    ("values", "reading", "labels"),
    [
        (pa.array([-1, 0, 1, None]), {}, [None, 0, 1, None]),
        (pa.array([-1.0, 0.0, 1.0]), {}, [None, 0.0, 1.0]),
        (pa.array([-1, 2, 5]), {"at_least": 4}, [None, False, True]),
        (pa.array(["-1", "2", "x"]), {"at_least": 4}, [None, False, None]),
        (pa.array(["-1", "buy", "pv"]).dictionary_encode(), {"positive": ["buy"]},
         [None, True, False]),
        (pa.array([-1, 1_790_812_800, None]), {"has_value": True}, [False, True, False]),
        (pa.array([{"a": 1}, None]), {"has_value": True}, [True, False]),
    ],
)  # fmt: skip
def test_a_value_that_stands_for_none_is_read_as_null(values, reading, labels):
    task = TaskSpec(label="x", missing=(-1,), **reading)
    assert read_label(values, task).to_pylist() == labels


def test_a_time_that_is_null_where_nothing_happened_is_read_as_a_label(tmp_path):
    rows = draw_rows(40)
    times = [None if n % 4 else 1_790_812_800_000 + n for n in range(40)]
    write_file(
        tmp_path / partition("ningbo", "2026-10-01") / "a.parquet",
        rows.append_column("clicked_at", pa.array(times, pa.timestamp("ms"))),
    )
    catalog = small_catalog(tasks=[{"label": "clicked_at", "has_value": True, "kind": "click"}])
    counts = LabelCounts(catalog)
    selection = parquet.select_all(snapshot_of(tmp_path, catalog), catalog)
    for piece in spread_pieces(selection, rows=100):
        counts.add(parquet.read_piece(selection, piece, catalog).rows, None)
    assert counts.counts() == {"known ctr": 40, "positive ctr": 10}
    assert catalog.tasks[0].label_text == "clicked_at has a value"
