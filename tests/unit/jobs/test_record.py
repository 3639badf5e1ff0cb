import json
import subprocess

import pytest

from jobs import _record
from jobs._record import AlreadyFinished, read_record, run_record
from pipeline.errors import BadLog, BadRequest
from schemas.job import PretrainSpec


def spec(run_dir, **other):
    return PretrainSpec(catalog="planted", data_root="/logs", run_dir=run_dir, **other)


def test_a_finished_run_says_so_and_is_neither_redone_nor_resumed(tmp_path):
    with run_record("pretrain", spec(tmp_path), tmp_path) as record:
        record.result = {"rows": 7}
    before = (tmp_path / "record.json").read_text()
    again = run_record("pretrain", spec(tmp_path), tmp_path)
    with pytest.raises(AlreadyFinished, match="nothing was done") as told, again:
        pytest.fail("a finished run was opened again")
    assert told.value.exit_code == 6
    assert (tmp_path / "record.json").read_text() == before


def test_a_failed_run_records_why_and_may_be_tried_again(tmp_path):
    with pytest.raises(BadLog), run_record("pretrain", spec(tmp_path), tmp_path):
        raise BadLog("a hole in the log")
    found = read_record(tmp_path)
    assert (found.status, found.exit_code, found.error) == ("failed", 1, "a hole in the log")
    with run_record("pretrain", spec(tmp_path), tmp_path) as record:
        assert record.is_resumed
    assert read_record(tmp_path).status == "finished"
    assert read_record(tmp_path).attempts == 2


def test_an_interrupted_run_says_how_to_go_on(tmp_path):
    with pytest.raises(KeyboardInterrupt), run_record("pretrain", spec(tmp_path), tmp_path):
        raise KeyboardInterrupt
    found = read_record(tmp_path)
    assert (found.status, found.exit_code) == ("interrupted", 130)


def test_a_refused_request_may_be_put_otherwise_in_the_same_folder(tmp_path):
    with pytest.raises(BadRequest), run_record("pretrain", spec(tmp_path), tmp_path):
        raise BadRequest("no such base")
    with run_record("pretrain", spec(tmp_path, seed=1), tmp_path):
        pass
    assert read_record(tmp_path).status == "finished"


@pytest.mark.parametrize(
    ("verb", "other"),
    [
        pytest.param("pretrain", {"seed": 1}, id="other settings"),
        pytest.param("finetune", {}, id="other verb"),
    ],
)
def test_a_folder_of_another_run_is_refused(tmp_path, verb, other):
    with run_record("pretrain", spec(tmp_path), tmp_path):
        pass
    with (
        pytest.raises(BadRequest, match="another run"),
        run_record(verb, spec(tmp_path, **other), tmp_path),
    ):
        pytest.fail("another run's folder was opened")


def test_an_unfinished_run_may_move_to_other_workers_but_to_no_other_seed(tmp_path):
    move = {"may_move": ("workers", "sharding")}
    with pytest.raises(BadLog), run_record("pretrain", spec(tmp_path), tmp_path):
        raise BadLog("two workers were too many")
    with (
        pytest.raises(BadRequest, match="another run"),
        run_record("pretrain", spec(tmp_path, workers=1), tmp_path),
    ):
        pytest.fail("a run moved that may not")
    with (
        pytest.raises(BadRequest, match="another run"),
        run_record("pretrain", spec(tmp_path, workers=1, seed=1), tmp_path, **move),
    ):
        pytest.fail("another run's folder was opened")
    moved = spec(tmp_path, workers=1, sharding={"item": "table_wise"})
    with run_record("pretrain", moved, tmp_path, **move) as record:
        assert record.is_resumed
    assert read_record(tmp_path).spec["workers"] == 1
    with (
        pytest.raises(BadRequest, match="another run"),
        run_record("pretrain", spec(tmp_path), tmp_path, **move),
    ):
        pytest.fail("a finished run was opened under other settings")


def test_the_record_holds_the_resolved_spec_and_the_versions(tmp_path):
    with run_record("pretrain", spec(tmp_path, seed=3), tmp_path) as record, record.phase("train"):
        pass
    document = json.loads((tmp_path / "record.json").read_text())
    assert document["spec"]["seed"] == 3
    assert document["spec"]["optim"]["decay_share"] > 0
    assert document["versions"]["torch"]
    assert document["timings_s"]["train"] >= 0


def test_a_record_that_is_no_record_is_refused(tmp_path):
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(BadRequest, match="no record"):
        read_record(tmp_path)


def test_a_folder_of_another_run_names_the_settings_that_differ(tmp_path):
    with run_record("pretrain", spec(tmp_path), tmp_path):
        pass
    other = spec(tmp_path, seed=7, optim={"decay_share": 0.5})
    with (
        pytest.raises(BadRequest, match=r"optim\.decay_share was 0\.4, is 0\.5") as told,
        run_record("pretrain", other, tmp_path),
    ):
        pytest.fail("another run's folder was opened")
    assert "seed was 0, is 7" in str(told.value)
    assert "run_dir" not in str(told.value).partition("settings differ")[2].partition(". ")[0]


def test_a_package_inside_another_repository_has_no_commit(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "jobs"
    package.mkdir(parents=True)
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        author = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
        subprocess.run(["git", "-C", str(tmp_path), *author, *words], check=True)
    monkeypatch.setattr(_record, "__file__", str(package / "_record.py"))
    assert _record.commit() is None
    monkeypatch.setattr(_record, "__file__", str(tmp_path / "jobs" / "_record.py"))
    assert _record.commit()
