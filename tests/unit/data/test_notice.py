"""Findings on a log as a whole carry a remedy that fits their text."""

import pytest

from iak.pipeline.data.notice import notice, refusal, remedy_of


def test_a_notice_names_the_log_only_where_it_has_one():
    assert notice("late", column="dt", count=3, remedy="wait", where="/log").file == "/log"
    assert notice("late", column="dt", count=3, remedy="wait").examples == ()


def test_a_refusal_stops_a_job():
    finding = refusal("no row", "/log", 0)
    assert (finding.level, finding.file, finding.count) == ("refuse", "/log", 0)


@pytest.mark.parametrize(
    ("what", "remedy"),
    [
        ("null user in user_id", "Fill the user"),
        ("price: string, expected number", "A number is an integer"),
        ("anything else", "look at it"),
    ],
)
def test_the_remedy_follows_from_the_text(what, remedy):
    assert remedy_of(what, "look at it").startswith(remedy)
