"""`iak init` on logs that nobody described: the public ones, slices of them, and the cases."""

import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from iak.jobs.init import catalog_text
from iak.pipeline.data.check import check_log
from iak.pipeline.data.guess_catalog import guess_catalog
from iak.pipeline.data.log_sample import read_sample
from iak.schemas.log import Catalog
from tests.unit.cases.slices import DATA, LOGS, REPOSITORY, anonymous, retyped, write_slice

CASES = REPOSITORY.parent / "shared" / "cases"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public logs are not beside the code")
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside the code")
READ = {
    "base", "nullid", "strayday", "nanlabel", "millis", "naive", "aware", "newcol2", "strview",
    "tspart", "mess", "padded", "floatid2", "idturn", "future",
}  # fmt: skip
"""Cases whose plain files are the log."""


def described(folder, *, rows=20_000):
    """What init finds in a folder, and the catalogue that it writes."""
    sample = read_sample(str(folder), rows=rows)
    guess = guess_catalog(sample)
    parent, _, path = sample.uri.rpartition("/")
    text = catalog_text(guess, sample, name="x", path=path)
    return guess, Catalog.model_validate(tomllib.loads(text)), parent


def refused(catalog, data_root):
    report = check_log(catalog, data_root, sample_rows=20_000)
    return [f.what for f in report.findings if f.level == "refuse"], report


@needs_data
@pytest.mark.parametrize("name", LOGS)
def test_init_alone_describes_a_public_log_well_enough_for_check(name):
    guess, catalog, data_root = described(DATA / name)
    findings, report = refused(catalog, data_root)
    assert not findings
    assert all(report.split_rows.values()), report.split_rows
    assert [task.column for task in guess.tasks] == list(LOGS[name])
    assert guess.tasks[0].kind == "click"
    assert {task.kind for task in guess.tasks[1:]} <= {"conversion"}
    assert guess.row_id
    assert guess.row_id.column == "event_id"


@needs_data
@pytest.mark.parametrize(
    ("name", "leak"),
    [
        ("frappe", "usage_count"),
        ("movielens_100k", "rating"),
        ("xmrec_markets", "rating"),
        ("open_bandit_zozotown", "propensity_score"),
    ],
)
def test_a_column_that_knows_the_label_is_a_leak_column(name, leak):
    _, catalog, _ = described(DATA / name)
    assert catalog.log.leak_columns == (leak,)


@needs_data
def test_dates_times_users_and_shared_tables_are_found():
    guess, catalog, _ = described(DATA / "open_bandit_zozotown")
    assert (catalog.log.date_key, catalog.log.event_time) == ("dt", "event_time")
    assert guess.time.unit == "ms"
    assert catalog.splits["test"].days == (-1, -1)
    _, catalog, _ = described(DATA / "movielens_100k")
    assert catalog.log.user == "user_id"
    tables = {f.name: f.table for f in catalog.features if f.kind == "list"}
    assert tables == {
        "genres": None, "hist_item_ids": "item_id", "hist_liked_item_ids": "item_id"
    }  # fmt: skip


CHANGES = {
    "other types": retyped,
    "other types, columns without names": lambda table: anonymous(retyped(table)),
}


@needs_data
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", LOGS)
def test_init_alone_describes_a_changed_slice_well_enough_for_check(name, change, tmp_path):
    def key(before):
        return f"p_{before[0]}" if change != "other types" else before

    write_slice(name, tmp_path / "rows", CHANGES[change], rows=300, keys=key)
    source = next((DATA / name / "events").rglob("*.parquet"))
    names = _names_of(source, is_renamed=change != "other types")
    guess, catalog, data_root = described(tmp_path / "rows")
    findings, report = refused(catalog, data_root)
    assert not findings
    assert all(report.split_rows.values()), report.split_rows
    assert [names[task.column] for task in guess.tasks] == list(LOGS[name])
    assert guess.tasks[0].kind == "click"
    if name == "open_bandit_zozotown":
        assert guess.date_key
        assert names[guess.time.column] == "event_time"


def _names_of(path, *, is_renamed):
    columns = pq.read_schema(path).names
    return {f"col_{at + 1}" if is_renamed else c: c for at, c in enumerate(columns)}


@needs_cases
@pytest.mark.parametrize("case", sorted(READ))
def test_init_describes_a_case_and_finds_its_labels(case):
    guess, catalog, data_root = described(CASES / case / "events")
    assert [(t.column, t.kind) for t in guess.tasks] == [
        ("label_click", "click"),
        ("label_order", "conversion"),
    ]
    if case in ("base", "nullid"):
        assert guess.row_id
        assert guess.row_id.column == "event_id"
    assert guess.user or any(note.startswith("user_id") for note in guess.notes)
    assert "region" in catalog.domain.keys
    assert guess.date_key or guess.time
    assert Path(data_root) == CASES / case
    if case != "strview":  # described as text; reading such columns is the reader's part
        findings, report = refused(catalog, data_root)
        assert not findings
        assert all(report.split_rows.values()), report.split_rows
