"""The table of tests/faults/README.md is that of the record."""

import pytest

from infra.benchmarks import faults_readme as page


@pytest.fixture(scope="module")
def records():
    return [page.record_at(path) for path in (page.RECORD, page.BEFORE)]


def test_the_page_holds_the_record(records):
    text = page.PAGE.read_text()
    assert page.written(text, *records) == text


def test_another_number_is_another_page_and_a_wrong_one_stands_out(records):
    record, before = records
    first, *others = record.rows
    changed = record.model_copy(update={"rows": [first | {"wrong": 41}, *others]})
    told = page.chapter(changed, before)
    assert "**41**" in told
    assert told != page.chapter(record, before)
