"""A finding on the whole log is a warning, and names a folder where one is meant."""

import pytest

from iak.pipeline.data.notice import notice, refusal

SAID = {"what": "ids repeat", "column": "event_id", "count": 3, "remedy": "Write each row once"}


def test_a_notice_says_what_where_how_often_and_what_to_do():
    found = notice(**SAID)
    assert {name: getattr(found, name) for name in SAID} == SAID
    assert (found.level, found.unit) == ("warn", "rows")


@pytest.mark.parametrize(
    ("where", "examples", "file"), [("-", (), "-"), ("/log/dt=1", ("/log/dt=1",), "/log/dt=1")]
)
def test_a_notice_names_a_folder_or_none(where, examples, file):
    found = notice(**SAID, where=where)
    assert (found.examples, found.file) == (examples, file)


def test_a_notice_may_be_worse_than_a_warning():
    assert notice(**SAID, level="refuse").level == "refuse"


def test_a_refusal_stops_a_job():
    finding = refusal("no row", "/log", 0)
    assert (finding.level, finding.file, finding.count) == ("refuse", "/log", 0)
