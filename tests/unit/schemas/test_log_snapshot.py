"""A log's snapshot in records and manifests: written as it was read, whatever version wrote it."""

import json

from hypothesis import given
from hypothesis import strategies as st

from iak.schemas.log_snapshot import DataWindow, LogSnapshot, ReadFile, SplitRows

FILE = {"path": "dt=2026-10-01/a.parquet", "rows": 9, "bytes": 99, "fingerprint": "f" * 64}
WHOLE = {
    "uri": "/logs/events",
    "table": {"format": "delta", "version": 3, "metadata": "_delta_log/3.json"},
    "fingerprint": "a" * 64,
    "rows": 12,
    "files": [FILE | {"features": "1", "others": "2", "deleted_rows": 3}, FILE],
    "quarantined_files": [{"path": "b.parquet", "reason": "cut", "rows": None, "bytes": 4}],
    "ignored_files": [{"path": "c.csv", "reason": "no Parquet file"}],
    "splits": {
        "tune": {"rows": 12, "first": "2026-10-01", "last": "2026-10-02", "row_groups": 2},
        "test": {"rows": 1, "first": None, "last": None, "row_groups": 1},
    },
    "as_of": "2026-10-03",
    "skipped": {
        "files": [
            {"reason": "cut", "files": 1, "rows": 4, "is_estimated": True, "days": ["2026-10-02"],
             "examples": ["b.parquet"]},
        ],
        "windows": [
            {"splits": ["tune"], "lost": 4, "rows": 16, "is_estimated": False,
             "whole_days": ["2026-10-02"], "reasons": ["cut"], "share": 0.25},
        ],
        "rows_without_a_time": 0,
        "folders_without_a_date": {"dt=x": 2},
    },
    "dates": {
        "first": "2026-10-01", "last": None, "stray": {"2020-01-01": 1},
        "beyond_today": {"2030-01-01": 2}, "today": "",
    },
    "warnings": [
        {"level": "warn", "what": "few rows", "column": "dt", "count": 1, "remedy": "look",
         "unit": "rows", "share": 0.0, "examples": ["a"]},
    ],
    "counted": {"fingerprint": "c" * 64, "rows": 5, "last_day": "2026-09-30", "files": [FILE]},
}  # fmt: skip
"""Every field, in the order in which it is written."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@st.composite
def documents(draw):
    """Draw a snapshot that lacks fields and has some that no version of today knows."""
    kept = draw(st.sets(st.sampled_from(sorted(WHOLE))))
    unknown = draw(st.dictionaries(st.text().map("later ".__add__), JSON, max_size=3))
    file = {name: FILE[name] for name in draw(st.sets(st.sampled_from(sorted(FILE))))} | unknown
    return {name: WHOLE[name] for name in WHOLE if name in kept} | {"files": [file]} | unknown


def written(document):
    return LogSnapshot.model_validate(document).model_dump(mode="json")


def test_a_whole_document_is_written_as_it_was_in_the_same_order():
    assert json.dumps(written(WHOLE)) == json.dumps(WHOLE)


@given(document=documents())
def test_what_any_version_wrote_is_written_again(document):
    assert written(document) == document


@given(document=documents())
def test_a_manifest_leaves_out_the_files_and_nothing_else(document):
    kept = LogSnapshot.model_validate(document).without_files().model_dump(mode="json")
    assert kept == {name: value for name, value in document.items() if name != "files"}


def test_nothing_that_was_not_set_is_written():
    assert written({}) == {}
    assert LogSnapshot(splits={"tune": SplitRows(rows=3)}).model_dump() == {
        "splits": {"tune": {"rows": 3}}
    }


def test_files_of_splits_and_files_that_are_only_counted_are_read():
    snapshot = LogSnapshot.model_validate(WHOLE)
    assert [*snapshot.all_files()] == [*snapshot.files, ReadFile.model_validate(FILE)]
    assert [*LogSnapshot().all_files()] == []


WINDOW = {
    "snapshot": "a" * 64,
    "tune": {"rows": 12, "first": "2026-10-01", "last": "2026-10-02", "row_groups": 2},
    "valid": {"rows": 3, "first": None, "last": None, "row_groups": 1},
    "gate": {"rows": 4, "first": "2026-10-02", "last": "2026-10-02", "row_groups": 1},
    "tuning_rows": 5,
}


@given(
    names=st.sets(st.sampled_from(sorted(WINDOW))),
    unknown=st.dictionaries(st.text().map("later ".__add__), JSON, max_size=3),
)
def test_a_window_of_another_version_is_written_as_it_was_read(names, unknown):
    document = {name: WINDOW[name] for name in WINDOW if name in names} | unknown
    window = DataWindow.model_validate(document)
    assert window.model_dump(mode="json") == document
    assert json.loads(window.model_dump_json()) == document
