"""Rows of a domain in a split are counted from its keys alone; what serves it is said."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.data import domains
from iak.pipeline.data.check import check_log
from iak.pipeline.data.domain_columns import domain_names
from iak.pipeline.data.domains import BASE, DomainRows, UntunedDomain, nearest_of
from iak.pipeline.data.view import open_log, select_also
from iak.schemas.task import DomainSpec
from tests.builders import DAYS, draw_rows, partition, small_catalog, write_file, write_log

SPLITS = {
    "tune": {"days": [0, 0]},
    "gate": {"days": [1, 1], "slice": [0, 0.5]},
    "test": {"days": [1, 1], "slice": [0.5, 1]},
}


@pytest.mark.parametrize(
    ("keys", "parent"),
    [
        pytest.param(["region"], [], id="a partition key"),
        pytest.param(["scene"], [], id="a column"),
        pytest.param(["region", "scene"], ["region"], id="a cross below the partition key"),
        pytest.param(["scene", "region"], ["scene"], id="a cross below the column"),
    ],
)
def test_counts_are_those_of_reading_every_row(tmp_path, keys, parent):
    layout = [(region, day, [30, 25]) for region in ("a", "b") for day in DAYS[:2]]
    write_log(tmp_path / "events", layout)
    catalog = small_catalog(domain={"keys": keys, "parent": parent}, splits=SPLITS)
    view = open_log(catalog, str(tmp_path), wanted=list(SPLITS))
    result = domains.count_domains(view.selections, catalog)
    for name in SPLITS:
        read: dict[tuple[str, ...], int] = {}
        for rows, _ in view.raw_rows(name):
            levels = [domain_names(rows, level) for level in catalog.domain.levels]
            for path in zip(*(names.to_pylist() for names in levels), strict=True):
                if None not in path:
                    read[path] = read.get(path, 0) + 1
        assert result.by_split[name] == read


def test_a_domain_of_gate_or_test_alone_is_found_with_what_serves_it(tmp_path):
    for region, day, rows in (("a", 0, 60), ("a", 1, 40), ("new", 1, 30)):
        path = tmp_path / "events" / partition(region, DAYS[day]) / "a.parquet"
        write_file(path, draw_rows(rows, first=100 * day + (60 if region == "new" else 0)))
    catalog = small_catalog(splits=SPLITS, domain__min_rows=50)
    report = check_log(catalog, str(tmp_path), sample_rows=1_000)
    findings = {f.what.partition(" and none")[0]: f for f in report.findings if "in tune" in f.what}
    rows = {split: report.split_rows[split] for split in ("gate", "test")}
    assert sum(rows.values()) == 70
    for split in rows:
        (what,) = [what for what in findings if what.endswith(f"in {split}")]
        assert "region=new" in findings[what].what
        assert "served by the pooled kernel" in findings[what].what
    assert sum(f.count for f in findings.values()) == 30


PATHS = {
    ("pooled", "city=a", "city=a/x=1"): 900,
    ("pooled", "city=a", "city=a/x=2"): 10,
    ("pooled", "city=b", "city=b/x=1"): 20,
}


@pytest.mark.parametrize(
    ("path", "served_by"),
    [
        (("pooled", "city=a", "city=a/x=1"), "city=a/x=1"),
        (("pooled", "city=a", "city=a/x=2"), "city=a"),
        (("pooled", "city=a", "city=a/x=9"), "city=a"),
        (("pooled", "city=b", "city=b/x=1"), "pooled"),
        (("pooled", "city=c", "city=c/x=1"), "pooled"),
    ],
)
def test_the_nearest_level_with_rows_enough_is_expected_to_serve(path, served_by):
    spec = DomainSpec(keys=("city", "x"), parent=("city",), min_rows=100)
    rows = DomainRows(by_split={"tune": PATHS})
    assert domains.expected_serving(rows, spec)(path) == served_by


def test_without_a_tuning_row_or_a_published_kernel_the_base_serves():
    spec = DomainSpec(keys=("city",))
    nothing = DomainRows(by_split={"tune": {}})
    assert domains.expected_serving(nothing, spec)(("pooled", "city=a")) == BASE
    assert nearest_of(set())(("pooled", "city=a")) == BASE
    assert nearest_of({"pooled"})(("pooled", "city=a")) == "pooled"


def test_one_line_names_the_three_largest_and_counts_the_others():
    untuned = [
        UntunedDomain(domain=f"city={name}", split="test", rows=rows, served_by=BASE)
        for name, rows in (("a", 9_000), ("b", 80), ("c", 7), ("d", 6), ("e", 5))
    ]
    assert domains.untuned_message(untuned, "test") == (
        "5 domains have 9,098 rows in test and none in tune: city=a (9,000 rows, served by the "
        "base); city=b (80 rows, served by the base); city=c (7 rows, served by the base); and 2 "
        "more"
    )
    assert domains.untuned_message(untuned, "gate") is None


COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 900), max_size=6)


@given(COUNTS, COUNTS, COUNTS)
@settings(max_examples=50)
def test_exactly_the_domains_without_tuning_rows_are_found(tune, gate, test):
    by_split = {
        name: {("pooled", domain): rows for domain, rows in counts.items()}
        for name, counts in (("tune", tune), ("gate", gate), ("test", test))
    }
    result = domains.find_untuned(DomainRows(by_split=by_split), nearest_of({"pooled"}))
    expected = {("gate", d, gate[d]) for d in gate.keys() - tune.keys()}
    expected |= {("test", d, test[d]) for d in test.keys() - tune.keys()}
    assert {(d.split, d.domain, d.rows) for d in result} == expected
    assert {d.served_by for d in result} <= {"pooled"}


def test_splits_that_a_job_does_not_read_are_counted_beside_it(tmp_path):
    write_log(tmp_path / "events", [("a", DAYS[0], [40]), ("a", DAYS[1], [40])])
    catalog = small_catalog(splits=SPLITS | {"valid": {"days": [5, 5]}})
    view = open_log(catalog, str(tmp_path), wanted=["tune"])
    also = select_also(view, ["tune", "test", "valid", "pretrain"])
    assert also["tune"] is view.selections["tune"]
    assert (
        also["test"].rows
        == open_log(catalog, str(tmp_path), wanted=["test"]).selections["test"].rows
    )
    assert also["valid"].rows == 0
    assert set(also) == {"tune", "test", "valid"}
    assert view.snapshot.rows == 40


def test_a_row_without_a_domain_is_left_out(tmp_path):
    rows = draw_rows(4)
    scenes = pa.array(["feed", None, "feed", None])
    index = rows.schema.get_field_index("scene")
    path = tmp_path / "events" / partition("a", DAYS[0]) / "a.parquet"
    write_file(path, rows.set_column(index, "scene", scenes))
    catalog = small_catalog(domain__keys=["scene"], splits={"tune": {}})
    view = open_log(catalog, str(tmp_path), wanted=["tune"])
    result = domains.count_domains(view.selections, catalog)
    assert result.by_split["tune"] == {("pooled", "scene=feed"): 2}


def test_a_key_inside_the_files_is_counted_by_its_rows_and_not_by_its_folder(tmp_path):
    regions = ["a b"] * 3 + ["other"] + [None]
    rows = draw_rows(5).append_column("region", pa.array(regions))
    write_file(tmp_path / "events" / partition("a+b", DAYS[0]) / "a.parquet", rows)
    catalog = small_catalog(splits={"tune": {"days": [0, 0]}})
    view = open_log(catalog, str(tmp_path), wanted=["tune"])
    result = domains.count_domains(view.selections, catalog)
    read: dict[tuple[str, ...], int] = {}
    for batch, _ in view.raw_rows("tune"):
        for name in domain_names(batch, ("region",)).to_pylist():
            if name is not None:
                read["pooled", name] = read.get(("pooled", name), 0) + 1
    assert result.by_split["tune"] == read
    assert read["pooled", "region=a b"] == 3
