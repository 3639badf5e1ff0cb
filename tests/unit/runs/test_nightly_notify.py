from iak.pipeline.runs.nightly_notify import notify
from iak.schemas.nightly import NotifySpec
from tests.unit.nightly.nights import record


def test_nobody_hears_of_a_night_unless_the_file_says_so():
    assert notify(NotifySpec(), record(1), None) == []


def test_metrics_are_written_and_what_cannot_be_written_is_a_notice(tmp_path):
    assert notify(NotifySpec(metrics=tmp_path / "prom"), record(1), None) == []
    assert "iak_night" in (tmp_path / "prom" / "iak_shop.prom").read_text()
    (tmp_path / "file").write_text("no folder")
    (notice,) = notify(NotifySpec(metrics=tmp_path / "file"), record(1), None)
    assert str(tmp_path / "file") in notice


def test_an_address_that_is_not_set_is_a_notice_that_names_the_variable():
    (notice,) = notify(NotifySpec(webhook="CHAT_HOOK"), record(1), None)
    assert "CHAT_HOOK" in notice
