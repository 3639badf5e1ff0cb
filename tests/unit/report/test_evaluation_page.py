"""The page of an evaluation, from its record and metrics."""

from datetime import UTC, datetime

import pytest

from iak.pipeline.report.evaluation_page import evaluation_page
from iak.schemas.record import RunRecord
from tests.unit.report.pages import Page, assert_alone
from tests.unit.report.rows import metric

ROWS = [
    metric("base", "all", rows=1234),
    metric("iak", "all", rows=1234, delta=(0.02, 0.01, 0.03)),
    metric("base", "city=rome", rows=1234),
    metric("iak", "city=rome", rows=1234, delta=(0.02, 0.01, 0.03)),
]


def record_with(spec=None, **result):
    fields = {"contract": {}, "digest": "d", "unseen": {}, "split": "test", "rows": 1234}
    return RunRecord(
        verb="evaluate",
        status="finished",
        exit_code=0,
        spec={"base": "/models/base"} if spec is None else spec,
        spec_digest="5" * 64,
        inputs={"log": "0123456789abcdef" * 4},
        started_at=datetime(2026, 10, 29, 5, tzinfo=UTC),
        ended_at=datetime(2026, 10, 29, 6, tzinfo=UTC),
        commit="3f2a9c1",
        result=fields | result,
    )


@pytest.fixture
def page(tmp_path):
    def made(rows=ROWS, record=None, curves=None):
        text = evaluation_page(record or record_with(), rows, curves or {}, tmp_path, tmp_path)
        assert_alone(text)
        return Page(text)

    return made


def test_main_numbers_and_inputs_stand_on_the_page(page):
    text = page().text
    assert "Evaluation on test" in text
    assert "+0.0200" in text
    assert "+0.0100 to +0.0300" in text
    assert "1,234" in text
    assert "0123456789ab" in text
    assert "none: the base alone" in text


def test_a_planted_log_says_what_could_be_reached(page):
    assert "of the reachable gain" not in page().text
    reached = page(record=record_with(reachable_share=0.42)).text
    assert "of the reachable gain" in reached
    assert "42.0\N{NO-BREAK SPACE}%" in reached


def test_unseen_ids_stand_by_split_and_table(page):
    text = page(record=record_with(unseen={"test": {"item": 0.034}})).text
    assert "3.40\N{NO-BREAK SPACE}%" in text


def test_files_that_are_there_are_linked(page, tmp_path):
    (tmp_path / "metrics.json").touch()
    links = [found["href"] for found in page().of("a")]
    assert "./metrics.json" in links
    assert not any("metrics.parquet" in link for link in links)


def test_a_run_of_an_older_release_has_a_page(page):
    text = page(record=record_with(spec={}, split="", rows=0)).text
    assert "Evaluation on unknown rows" in text


def test_every_task_has_its_part(page):
    rows = [*ROWS, metric("base", "all", task="cvr"), metric("base", "city=rome", task="cvr")]
    ids = page(rows).ids
    assert {"t0", "t1"} <= {*ids}
