"""The contract: which rows lose their labels, what is counted, and what `iak check` tells of it."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.data import contract
from iak.pipeline.data.breaches import Kind, SchemaProblem, named
from iak.pipeline.data.check import Report, check_log
from iak.pipeline.data.contract import Finding
from iak.pipeline.data.view import open_log
from iak.pipeline.errors import BadLog
from iak.schemas.log import Catalog
from tests.builders import batch_of, draw_rows, small_catalog, write_file, write_log

CATALOG = small_catalog()


def rows(**columns: Any) -> pa.RecordBatch:
    """Four sound rows, with some columns changed."""
    table = draw_rows(4).append_column("region", pa.array(["ningbo"] * 4))
    sound = {"click": pa.array([0, 1, 0, 1], pa.int8()), "order": pa.array([0, 0, 0, 1], pa.int8())}
    for name, column in {**sound, "price": pa.array([1.0] * 4), **columns}.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return batch_of(table)


@pytest.mark.parametrize(
    ("columns", "lost", "expected"),
    [
        pytest.param({}, None, {}, id="sound rows"),
        pytest.param(
            {"click": pa.array([False, True, None, True])}, None, {}, id="booleans are labels"
        ),
        pytest.param(
            {"order": pa.array([1, 1, None, 1], pa.int8())},
            [True, False, False, False],
            {"quarantine: order without click": 1},
            id="an order without a click",
        ),
        pytest.param(
            {"user_id": pa.array(["a", None, "b", None])},
            [False, True, False, True],
            {"quarantine: null user in user_id": 2},
            id="no user",
        ),
        pytest.param(
            {"region": pa.array(["a", None, "b", "c"])},
            [False, True, False, False],
            {"quarantine: null domain key in region": 1},
            id="no domain",
        ),
        pytest.param(
            {"price": pa.array([1.0, float("nan"), float("inf"), None])},
            None,
            {"warn: NaN or infinite in price": 2},
            id="odd numbers only warn",
        ),
    ],
)
def test_rows_that_break_the_contract_lose_their_labels(columns, lost, expected):
    result = contract.inspect(rows(**columns), CATALOG)
    assert (None if result.quarantined is None else result.quarantined.tolist()) == lost
    assert named(result.counts) == expected


@pytest.mark.parametrize(
    ("click", "lost", "values"),
    [
        pytest.param(
            pa.array([0, 2, -1, 1]), [False, True, True, False], {"2": 1, "-1": 1}, id="a 2"
        ),
        pytest.param(
            pa.array([0.0, 0.5, None, 1.0]), [False, True, False, False], {"0.5": 1}, id="a half"
        ),
        pytest.param(
            pa.array([2**60 + 1, 1, 0, 1]),
            [True, False, False, False],
            {"1.2e+18": 1},
            id="too large for a float",
        ),
        pytest.param(
            pa.array([float("nan"), 3.0, 3.0, 1.0]), [False, True, True, False], {"3": 2}, id="NaN"
        ),
    ],
)
def test_a_row_with_an_impossible_label_loses_that_label_alone(click, lost, values):
    result = contract.inspect(rows(click=click, order=pa.array([0] * 4)), CATALOG)
    assert result.quarantined is None
    assert {task: mask.tolist() for task, mask in result.masked.items()} == {"ctr": lost}
    expected = {
        f"quarantine: label outside {{0, 1}}: {value} in click": n for value, n in values.items()
    }
    assert named(result.counts) == expected


def test_a_label_of_many_values_is_counted_under_few_names():
    many = draw_rows(300).append_column("region", pa.array(["ningbo"] * 300))
    index = many.schema.get_field_index("click")
    seconds = batch_of(many.set_column(index, "click", pa.array(range(300), pa.int64())))
    counts = contract.inspect(seconds, CATALOG).counts
    odd = [breach for breach in counts if breach.kind is Kind.ODD_LABEL]
    assert len(odd) == contract.NAMED_LABELS + 1
    assert sum(counts[breach] for breach in odd) == 298


def test_labels_that_are_lost_join_those_that_are_not_ripe():
    result = contract.inspect(rows(click=pa.array([0, 2, 1, 1])), CATALOG)
    unripe = {"ctr": np.array([True, False, False, False]), "cvr": np.array([False] * 4)}
    joined = {task: mask.tolist() for task, mask in result.masks_with(unripe).items()}
    assert joined == {"ctr": [True, True, False, False], "cvr": [False] * 4}


def test_rows_of_undeclared_domains_lose_their_labels():
    catalog = small_catalog(
        domain__keys=["region", "slot"], domain__values=[["ningbo", "1"], ["hefei", "2"]]
    )
    regions = pa.array(["ningbo", "ningbo", "hefei", None])
    result = contract.inspect(
        rows(region=regions, slot=pa.array([1, 2, 2, 2], pa.int32())), catalog
    )
    assert result.quarantined.tolist() == [False, True, False, True]
    assert named(result.counts)["quarantine: undeclared domain"] == 2


def test_a_row_with_two_faults_is_counted_under_both_and_quarantined_once():
    both = rows(user_id=pa.array([None, "a", "b", "c"]), region=pa.array([None, "a", "b", "c"]))
    result = contract.inspect(both, CATALOG)
    assert result.quarantined.tolist() == [True, False, False, False]
    assert sum(result.counts.values()) == 2


def test_ids_without_a_row_are_counted_in_lists_too():
    catalog = small_catalog(
        features=[
            {"kind": "categorical", "name": "slot"},
            {"kind": "list", "name": "hist", "table": "slot"},
        ],
        tables={"slot": {"encoding": "identity", "rows": 6}},
    )
    odd = rows(
        slot=pa.array([0, 4, None, 3], pa.int32()),
        hist=pa.array([[1, 9, None], None, [], [-1]], pa.list_(pa.int64())),
    )
    assert named(contract.out_of_range(odd, catalog)) == {
        "warn: id out of range in slot": 1,
        "warn: id out of range in hist": 2,
    }


def check(root: Path, catalog: Catalog = CATALOG, **more: Any) -> Report:
    return check_log(catalog, str(root), sample_rows=10_000, **more)


def finding(report: Report, what: str) -> Finding:
    results = [f for f in report.findings if what in f.what]
    assert len(results) == 1, report.findings
    return results[0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_log(
        tmp_path / "events", [("ningbo", "2026-10-01", [40]), ("hangzhou", "2026-10-02", [40])]
    )
    return tmp_path


def file_below(root: Path, name: str = "bad.parquet", day: str = "2026-10-01") -> Path:
    return root / "events" / "region=ningbo" / f"dt={day}" / name


def test_a_sound_log_has_no_findings(root):
    catalog = small_catalog(features=[{"kind": "categorical", "name": "user_id"}], tables={})
    report = check(root, catalog)
    assert report.findings == ()
    assert (report.files, report.rows, report.sampled_rows) == (2, 80, 80)
    assert report.split_rows == {"pretrain": 80}


def with_column(name: str, column: pa.Array) -> pa.Table:
    table = draw_rows(len(column), first=500)
    return table.set_column(table.schema.get_field_index(name), name, column)


@pytest.mark.parametrize(
    ("what", "table", "level", "column", "count"),
    [
        ("label outside", with_column("click", pa.array([3, 1, 4])), "quarantine", "click", 2),
        ("null user", with_column("user_id", pa.array([None, "a"])), "quarantine", "user_id", 1),
        (
            "NaN or infinite",
            with_column("price", pa.array([float("inf")] * 2)),
            "warn",
            "price",
            None,
        ),
        ("id out of range", with_column("slot", pa.array([99], pa.int32())), "warn", "slot", None),
        ("missing columns: age", draw_rows(3).drop_columns(["age"]), "quarantine", "-", 1),
        ("no rows", draw_rows(0), "warn", "-", 0),
    ],
)
def test_a_finding_names_file_column_count_and_remedy(root, what, table, level, column, count):
    write_file(file_below(root), table)
    result = finding(check(root), what)
    assert result.level == level
    assert result.column == column
    assert result.remedy
    if count is not None:
        assert result.count == count
        assert result.file == "region=ningbo/dt=2026-10-01/bad.parquet"


def test_an_order_without_a_click_is_found_with_its_remedy(root):
    table = with_column("click", pa.array([0] * 5, pa.int8()))
    table = table.set_column(
        table.schema.get_field_index("order"), "order", pa.array([1, 0, 1, 0, 0], pa.int8())
    )
    write_file(file_below(root), table)
    result = finding(check(root), "order without click")
    assert (result.count, result.level) == (2, "quarantine")
    assert "correct the join" in result.remedy


def test_a_partition_that_is_no_date_is_found(root):
    write_file(file_below(root, day="someday"), draw_rows(3, first=700))
    result = finding(check(root), "partition dt=someday is not a date")
    assert (result.column, result.count, result.level) == ("dt", 3, "quarantine")


def test_a_domain_with_one_class_is_found(root):
    for path in (root / "events" / "region=ningbo").rglob("*.parquet"):
        path.unlink()
    write_file(file_below(root), with_column("click", pa.array([0, 0, 7, None], pa.int8())))
    result = finding(check(root), "1 of 2 domains show one class or no label in click")
    assert (result.level, result.column, result.count, result.unit) == (
        "warn",
        "click",
        1,
        "domains",
    )
    assert result.examples == ("region=ningbo (only 0 in 2 labels)",)
    assert "AUC" in result.remedy


def test_an_undeclared_domain_is_found(root):
    result = finding(check(root, small_catalog(domain__values=[["ningbo"]])), "undeclared domain")
    assert result.count == 40


def test_labels_that_are_not_ripe_are_counted(root):
    tasks = [{"label": "click", "kind": "click", "matures_after": "P30D"}]
    result = finding(check(root, small_catalog(tasks=tasks)), "not ripe")
    assert (result.count, result.column) == (80, "click")
    late = check(root, small_catalog(tasks=tasks), as_of=date(2027, 1, 1))
    assert not [f for f in late.findings if "ripe" in f.what]


def test_an_empty_split_and_one_that_cannot_be_resolved_are_found(root):
    declared = {"pretrain": {"days": [0, -9]}, "test": {"where": {"region": ["hefei"]}}}
    report = check(
        root,
        small_catalog(
            splits={
                **declared,
                "test": {"dates": ["2030-01-01"] * 2, "slice": [0, 0.5]},
                "pretrain": {"days": [0, -9], "slice": [0.5, 1]},
            }
        ),
    )
    assert report.split_rows == {"pretrain": 0, "test": 0}
    assert "too short" in finding(report, "split 'pretrain'").what
    assert finding(report, "split 'test': it selects no row").remedy


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        pytest.param(lambda p: p.write_bytes(b"PAR1"), "too few for Parquet", id="cut"),
        pytest.param(lambda p: p.unlink(), "no Parquet file at all", id="gone"),
        pytest.param(
            lambda p: write_file(p, draw_rows(2).drop_columns(["age"])),
            "missing columns: age",
            id="schema",
        ),
    ],
)
def test_a_log_without_a_readable_file_is_refused(tmp_path, spoil: Callable[[Path], Any], what):
    path = write_file(file_below(tmp_path), draw_rows(3))
    spoil(path)
    result = finding(check(tmp_path), what)
    assert result.level == "refuse"
    assert result.remedy


def test_damaged_pages_are_found_before_training_meets_them(root):
    path = write_file(file_below(root), draw_rows(30, first=600))
    content = bytearray(path.read_bytes())
    content[4:204] = b"\xff" * 200
    path.write_bytes(content)
    result = finding(check(root), "row group 0 cannot be decoded")
    assert (result.level, result.file) == ("refuse", "region=ningbo/dt=2026-10-01/bad.parquet")


def test_a_conversion_is_sound_without_a_click_task():
    catalog = small_catalog(tasks=[{"label": "order", "kind": "conversion"}])
    rows = batch_of(draw_rows(50).append_column("region", pa.array(["ningbo"] * 50)))
    counts = contract.inspect(rows, catalog).counts
    assert not [breach for breach in counts if breach.kind is Kind.NO_CLICK]


@pytest.mark.parametrize(
    ("feature", "table"),
    [
        ({"kind": "numeric", "name": "region"}, {}),
        (
            {"kind": "categorical", "name": "region"},
            {"region": {"encoding": "identity", "rows": 9}},
        ),
    ],
)
def test_folder_names_that_are_read_as_numbers_and_are_none_are_refused(root, feature, table):
    catalog = small_catalog(features=[feature], tables=table)
    assert finding(check(root, catalog), "a folder says region=").level == "refuse"
    with pytest.raises(BadLog, match="features read these keys as numbers"):
        open_log(catalog, str(root), wanted=["pretrain"])
    hours = [{"kind": "numeric", "name": "hour"}]
    days = small_catalog(features=hours, tables={}, log__partition_keys=["dt", "hour"])
    assert (
        contract.partition_problems([{"hour": "07"}, {"hour": None}, {"hour": "1.5"}], days) == {}
    )


def test_a_column_that_is_read_in_two_ways_must_allow_both():
    catalog = small_catalog(
        features=[
            {"kind": "categorical", "name": "item_id"},
            {"kind": "numeric", "name": "item_number", "column": "item_id"},
        ],
        tables={},
    )
    schema = draw_rows(1).schema
    assert contract.schema_problem(schema, catalog) is None
    index = schema.get_field_index("item_id")
    for kind, expected in ((pa.string(), "number"), (pa.decimal128(10, 2), "id")):
        problem = contract.schema_problem(schema.set(index, pa.field("item_id", kind)), catalog)
        assert problem == SchemaProblem(f"item_id: {kind}, expected {expected}", (expected,))


def test_columns_are_missing_where_nothing_else_is_wrong():
    fields = {field.name: field for field in draw_rows(1).schema}
    catalog = small_catalog()
    lacking = pa.schema([f for name, f in fields.items() if name not in ("price", "slot")])
    problem = contract.schema_problem(lacking, catalog)
    assert problem == SchemaProblem("missing columns: slot, price", missing=("slot", "price"))
    text = pa.schema([f.with_type(pa.binary()) if f.name == "age" else f for f in lacking])
    problem = contract.schema_problem(text, catalog)
    assert problem.what.startswith("missing columns: slot, price; age: binary, expected ")
    assert problem.missing == ()


def test_advice_is_for_every_kind_that_was_expected_and_for_no_other():
    catalog = small_catalog(
        features=[
            {"kind": "categorical", "name": "item_id"},
            {"kind": "numeric", "name": "item_number", "column": "item_id"},
        ],
        tables={},
    )
    schema = draw_rows(1).schema
    index = schema.get_field_index("item_id")
    lists = schema.set(index, pa.field("item_id", pa.list_(pa.int64())))
    problem = contract.schema_problem(lists, catalog)
    assert problem.expected == ("number", "id")
    advice = contract.type_advice(problem.expected)
    assert "An id is a whole number or text" in advice
    assert "A number is an integer" in advice
    assert "list" not in advice
    assert contract.type_advice(()) == ""


def test_four_thousand_domains_of_one_class_are_one_line(tmp_path):
    rows = draw_rows(4_000)
    changed = {"scene": pa.array([f"s{n}" for n in range(4_000)])}
    for name, column in changed.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    write_file(file_below(tmp_path), rows)
    report = check(tmp_path, small_catalog(domain__keys=["scene"]))
    result = finding(report, "4,000 of 4,000 domains show one class or no label in click")
    assert (result.count, result.unit, len(result.examples)) == (4_000, "domains", 3)
    assert len(report.findings) < 10


def test_many_files_with_one_fault_are_one_line_with_rows_and_examples(root):
    for number in range(9):
        write_file(file_below(root, f"bad{number}.parquet"), draw_rows(3).drop_columns(["age"]))
        write_file(file_below(root, f"none{number}.parquet"), draw_rows(3)).write_bytes(
            b"PAR1" * number
        )
    report = check(root)
    lacking = finding(report, "missing columns: age")
    assert (lacking.count, lacking.unit, len(lacking.examples)) == (9, "files", 3)
    assert lacking.share == pytest.approx(27 / 107)
    assert len([f for f in report.findings if f.level == "quarantine"]) <= 3


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        pytest.param(
            {"splits": {"pretrain": {"where": {"scene": ["nowhere"]}}}},
            "split 'pretrain': it selects no row",
            id="nothing to train on",
        ),
        pytest.param(
            {"domain__values": [["hefei"]]}, "all 80 rows looked at are quarantined", id="no domain"
        ),
        pytest.param(
            {"tasks": [{"label": "click", "matures_after": "P90D"}]},
            "task click cannot be trained on split 'pretrain'",
            id="nothing is ripe",
        ),
    ],
)
def test_a_log_on_which_no_job_could_run_is_refused(root, changes, what):
    assert finding(check(root, small_catalog(**changes)), what).level == "refuse"


@pytest.mark.parametrize(("padding", "written"), [("", '""'), ("<pad>", '"<pad>"'), (0, "0")])
def test_undeclared_padding_is_told_as_the_catalogue_would_write_it(tmp_path, padding, written):
    rows = draw_rows(40)
    items = [[str(n) if isinstance(padding, str) else n + 1, *[padding] * 3] for n in range(40)]
    at = rows.schema.get_field_index("hist")
    write_file(file_below(tmp_path), rows.set_column(at, "hist", pa.array(items)))
    user = {"kind": "categorical", "name": "user_id"}
    catalog = small_catalog(features=[user, {"kind": "list", "name": "hist"}], tables={})
    (finding,) = [f for f in check(tmp_path, catalog).findings if "all lists of hist" in f.what]
    assert f"end or begin with {written} twice" in finding.what
    assert f"declare padding = {written} for the feature" in finding.remedy
