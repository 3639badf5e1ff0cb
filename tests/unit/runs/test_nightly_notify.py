from iak.pipeline.runs.nightly_notify import check_tracking, notify
from tests.unit.tracking.tracked import settings, written

NOWHERE = "http://127.0.0.1:1"


def told(tmp_path, **wanted):
    record, folder = written(tmp_path)
    return notify(settings(tmp_path, notify=wanted), record, address=None, token=None), folder


def test_nobody_hears_of_a_night_unless_the_file_says_so(tmp_path):
    notices, folder = told(tmp_path)
    assert notices == []
    assert {path.name for path in folder.iterdir()} == {"night.json", "page.html"}


def test_metrics_are_written_and_what_cannot_be_written_is_a_notice(tmp_path):
    notices, _ = told(tmp_path, metrics=tmp_path / "prom")
    assert notices == []
    assert "iak_night" in (tmp_path / "prom" / "iak_shop.prom").read_text()
    (tmp_path / "file").write_text("no folder")
    (notice,), _ = told(tmp_path, metrics=tmp_path / "file")
    assert str(tmp_path / "file") in notice


def test_an_address_that_is_not_set_is_a_notice_that_names_the_variable(tmp_path):
    (notice,), _ = told(tmp_path, webhook="CHAT_HOOK")
    assert "CHAT_HOOK" in notice


def test_a_server_that_is_down_is_a_notice_and_the_rest_is_written(tmp_path):
    (notice,), folder = told(tmp_path, tracking=NOWHERE, tensorboard=True)
    assert NOWHERE in notice
    assert list((folder / "tensorboard").iterdir())


def test_tensorboard_files_that_cannot_be_written_are_a_notice(tmp_path):
    record, folder = written(tmp_path)
    (folder / "tensorboard").write_text("no folder")
    spec = settings(tmp_path, nights=tmp_path / "elsewhere", notify={"tensorboard": True})
    (tmp_path / "elsewhere").write_text("no folder")
    (notice,) = notify(spec, record, address=None, token=None)
    assert "elsewhere" in notice


def test_a_check_names_the_setting_whose_server_is_down(tmp_path):
    assert check_tracking(settings(tmp_path), None) == []
    spec = settings(tmp_path, notify={"tracking": NOWHERE})
    ((part, problem),) = check_tracking(spec, None)
    assert part == "notify.tracking"
    assert NOWHERE in problem
