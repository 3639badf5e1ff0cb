"""The table of tests/faults/README.md is that of the record."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def page():
    place = importlib.util.spec_from_file_location(
        "faults_readme", ROOT / "infra/benchmarks/faults_readme.py"
    )
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def records(page):
    return [json.loads(path.read_text()) for path in (page.RECORD, page.BEFORE)]


def test_the_page_holds_the_record(page, records):
    text = page.PAGE.read_text()
    assert page.written(text, *records) == text


def test_another_number_is_another_page_and_a_wrong_one_stands_out(page, records):
    record, before = records
    changed = json.loads(json.dumps(record))
    changed["rows"][0]["wrong"] = 41
    told = page.chapter(changed, before)
    assert "**41**" in told
    assert told != page.chapter(record, before)
