import json
import re
import subprocess
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iak.pipeline.errors import BadLog, BadRequest, Corrupt
from iak.pipeline.events import silent
from iak.pipeline.publish.bundle_index import BUNDLES
from iak.pipeline.runs import record as run_records
from iak.pipeline.runs.outputs import file_output
from iak.pipeline.runs.record import AlreadyFinished, read_record, run_record
from iak.pipeline.tuning.checkpoint import CHECKPOINT
from iak.schemas.base import ResultSpec
from iak.schemas.job import PretrainSpec
from iak.schemas.manifest import sha256_of
from iak.schemas.predictions import PREDICTIONS
from tests.builders import run_inputs


class Rows(ResultSpec):
    rows: int


def spec(run_dir, **other):
    return PretrainSpec(catalog="planted", data_root="/logs", run_dir=run_dir, **other)


def finish(run_dir, inputs=None, **other):
    """A finished run whose one result is a file."""
    with run_record("pretrain", spec(run_dir, **other), run_dir) as record:
        record.settle_inputs(inputs or run_inputs())
        (run_dir / "metrics.json").write_text("[1, 2]")
        record.result = Rows(rows=7)
        record.outputs = {"metrics.json": file_output(run_dir / "metrics.json")}


def interrupt(run_dir, error=None, *, work=True):
    """A run that ended after its first checkpoint, or before."""
    error = error or KeyboardInterrupt()
    with suppress(type(error)), run_record("pretrain", spec(run_dir), run_dir) as record:
        record.settle_inputs(run_inputs())
        if work:
            (run_dir / "checkpoints" / "step-00000001").mkdir(parents=True, exist_ok=True)
        raise error


def again(run_dir, inputs=None, *, may_differ=(), report=silent, **other):
    """The same command once more, as far as its inputs."""
    asked = spec(run_dir, **other)
    with run_record("pretrain", asked, run_dir, may_differ=may_differ, report=report) as record:
        record.settle_inputs(inputs or run_inputs())
        return record
    return None


def refused(kind, run_dir, inputs=None, **other):
    """What the same command says once more; the record stays as it was."""
    before = (run_dir / "record.json").read_bytes()
    with pytest.raises(kind) as told:
        again(run_dir, inputs, **other)
    assert (run_dir / "record.json").read_bytes() == before
    return str(told.value)


def test_a_finished_run_says_so_and_is_neither_redone_nor_resumed(tmp_path):
    finish(tmp_path)
    told = refused(AlreadyFinished, tmp_path)
    assert "nothing was done" in told
    assert AlreadyFinished.exit_code == 6


def test_a_failed_run_records_why_and_may_be_tried_again(tmp_path):
    with pytest.raises(BadLog), run_record("pretrain", spec(tmp_path), tmp_path):
        raise BadLog("a hole in the log")
    found = read_record(tmp_path)
    assert (found.status, found.exit_code, found.error) == ("failed", 1, "a hole in the log")
    assert again(tmp_path).before is not None
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
    again(tmp_path, seed=1)
    assert read_record(tmp_path).status == "finished"


@pytest.mark.parametrize(
    ("verb", "other"),
    [
        pytest.param("pretrain", {"seed": 1}, id="other settings"),
        pytest.param("finetune", {}, id="other verb"),
    ],
)
def test_a_folder_of_another_run_is_refused(tmp_path, verb, other):
    finish(tmp_path)
    with (
        pytest.raises(BadRequest, match="another run"),
        run_record(verb, spec(tmp_path, **other), tmp_path),
    ):
        pytest.fail("another run's folder was opened")


def test_an_unfinished_run_may_move_to_other_workers_but_to_no_other_seed(tmp_path):
    move = {"may_differ": ("workers", "placement")}
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
    moved = spec(tmp_path, workers=1, placement={"sharding": {"item": "table_wise"}})
    with run_record("pretrain", moved, tmp_path, **move) as record:
        record.settle_inputs(run_inputs())
        assert record.before is not None
    assert read_record(tmp_path).spec["workers"] == 1
    with (
        pytest.raises(BadRequest, match="another run"),
        run_record("pretrain", spec(tmp_path), tmp_path, **move),
    ):
        pytest.fail("a finished run was opened under other settings")


def test_the_record_holds_the_resolved_spec_and_the_versions(tmp_path):
    with run_record("pretrain", spec(tmp_path, seed=3), tmp_path) as record, record.phase("train"):
        record.settle_inputs(run_inputs())
    document = json.loads((tmp_path / "record.json").read_text())
    assert document["spec"]["seed"] == 3
    assert document["spec"]["optim"]["decay_share"] > 0
    assert document["versions"]["torch"]
    assert document["timings_s"]["train"] >= 0


def test_a_record_that_is_no_record_is_refused(tmp_path):
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(BadRequest, match="not a record"):
        read_record(tmp_path)


def test_a_folder_of_another_run_names_the_settings_that_differ(tmp_path):
    finish(tmp_path)
    other = spec(tmp_path, seed=7, optim={"decay_share": 0.5})
    with (
        pytest.raises(BadRequest, match=r"optim\.decay_share was 0\.4, is 0\.5") as told,
        run_record("pretrain", other, tmp_path),
    ):
        pytest.fail("another run's folder was opened")
    assert "seed was 0, is 7" in str(told.value)
    assert "run_dir" not in str(told.value).partition("settings differ")[2].partition(". ")[0]


def test_a_package_inside_another_repository_has_no_commit(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "pipeline" / "runs"
    package.mkdir(parents=True)
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        author = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
        subprocess.run(["git", "-C", str(tmp_path), *author, *words], check=True)
    monkeypatch.setattr(run_records, "__file__", str(package / "record.py"))
    assert run_records.commit() is None
    monkeypatch.setattr(run_records, "__file__", str(tmp_path / "pipeline" / "runs" / "record.py"))
    assert run_records.commit()


# ---------------------------------------------------------------- a run is its inputs

CHANGES = {
    "the catalogue": (
        {"domain__keys": ["scene"]},
        r"catalogue changed from \w{12} to \w{12}: domain.keys was ['region'], is ['scene']",
    ),
    "a split": (
        {"splits": {"pretrain": {"slice": [0.0, 0.5]}}},
        r"splits.pretrain.slice was [0.0, 1.0], is [0.0, 0.5]",
    ),
    "the base": ({"base": "published again"}, r"base changed from \w{12} to \w{12}"),
    "labels": (
        {"files": {"a.parquet": "rows", "b.parquet": "other labels"}},
        r"log changed from \w{12} to \w{12}: 1 file changed (b.parquet)",
    ),
    "files": (
        {"files": {"a.parquet": "rows"} | {f"{n}.parquet": "rows" for n in "cdefg"}},
        r"5 files added (c.parquet, d.parquet, e.parquet, and 2 more), 1 file removed (b.parquet)",
    ),
    "the newest date": (
        {"as_of": "2026-10-09"},
        r"dates changed from \w{12} to \w{12}: as_of was '', is '2026-10-09'",
    ),
}


def words_of(pattern):
    """The words of a pattern, of which only `\\w{12}` is not plain text."""
    return re.escape(pattern).replace(re.escape(r"\w{12}"), r"\w{12}")


@pytest.mark.parametrize(("change", "told"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("begun", [interrupt, finish])
def test_a_run_of_changed_inputs_is_refused_with_what_changed(tmp_path, begun, change, told):
    begun(tmp_path)
    said = refused(BadRequest, tmp_path, run_inputs(**change))
    assert re.search(words_of(told), said)
    assert "--run-dir" in said
    assert len(said.splitlines()) == 3, "one line a changed input"
    assert refused(BadRequest, tmp_path, run_inputs(**change)) == said, "and refused again"


def test_a_killed_run_is_resumed_on_the_same_inputs_and_on_no_others(tmp_path):
    interrupt(tmp_path)
    path = tmp_path / "record.json"
    document = json.loads(path.read_text())
    document |= {"status": "running", "exit_code": None, "error": None}
    path.write_text(sealed(document))
    said = refused(BadRequest, tmp_path, run_inputs(base="published again"))
    assert "unfinished iak pretrain (killed" in said
    assert "It left checkpoints" in said
    assert again(tmp_path).before is not None


def test_a_bad_request_does_not_open_a_folder_that_holds_work(tmp_path):
    interrupt(tmp_path)
    interrupt(tmp_path, BadRequest("the weights' directory: no space left"))
    assert read_record(tmp_path).exit_code == 2
    assert "base changed" in refused(BadRequest, tmp_path, run_inputs(base="published again"))
    assert "another run" in refused(BadRequest, tmp_path, seed=1)


def test_an_attempt_that_left_no_work_starts_again_on_changed_inputs_and_says_so(tmp_path):
    interrupt(tmp_path, work=False)
    events = []
    again(tmp_path, run_inputs(domain__keys=["scene"]), report=events.append)
    assert "left no results" in events[0].text
    assert read_record(tmp_path).inputs == run_inputs(domain__keys=["scene"]).digests


def test_an_input_that_may_move_is_no_change_until_the_run_is_finished(tmp_path):
    now = run_inputs()
    now.digests["plan"] = "d" * 64
    interrupt(tmp_path)
    assert "plan changed from absent to dddddddddddd" in refused(BadRequest, tmp_path, now)
    again(tmp_path, now, may_differ=["plan"])
    assert "plan changed from dddddddddddd to absent" in refused(
        BadRequest, tmp_path, may_differ=["plan"]
    )


def test_what_fails_before_the_inputs_are_known_leaves_a_finished_record_alone(tmp_path):
    finish(tmp_path)
    before = (tmp_path / "record.json").read_bytes()
    with pytest.raises(BadLog), run_record("pretrain", spec(tmp_path), tmp_path):
        raise BadLog("the log is gone")
    assert (tmp_path / "record.json").read_bytes() == before


def test_work_without_a_record_is_refused(tmp_path):
    interrupt(tmp_path)
    (tmp_path / "record.json").unlink()
    with pytest.raises(BadRequest, match=r"holds checkpoints, but no record\.json"):
        again(tmp_path)


def test_half_written_work_is_none(tmp_path):
    (tmp_path / "checkpoints" / ".step-00000001.part").mkdir(parents=True)
    assert run_records.work_left(tmp_path) == []
    again(tmp_path)


def test_the_names_of_work_are_those_that_jobs_use():
    assert {CHECKPOINT, BUNDLES, PREDICTIONS} <= {*run_records.WORK}


def test_other_comments_and_presets_are_the_same_catalogue_and_other_keys_are_not():
    same = run_inputs(presets={"pretrain": {"epochs": 3}}).digests
    assert same == run_inputs().digests
    assert same != run_inputs(log__time_zone="Asia/Shanghai").digests


# ---------------------------------------------------------------- the record's own digest


def sealed(document):
    digest = sha256_of(document, without=frozenset({"record_sha256"}))
    return json.dumps(document | {"record_sha256": digest})


def test_an_edited_record_is_refused_by_name(tmp_path):
    finish(tmp_path)
    path = tmp_path / "record.json"
    path.write_text(path.read_text().replace('"rows": 7', '"rows": 8'))
    with pytest.raises(Corrupt, match=r"record\.json was changed after it was written.*Restore"):
        again(tmp_path)


@given(where=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_byte_of_a_record_may_become_another_and_change_what_it_says(tmp_path, where, byte):
    path = tmp_path / "record.json"
    if not path.exists():
        finish(tmp_path)
        (tmp_path / "whole.json").write_bytes(path.read_bytes())
    whole = (tmp_path / "whole.json").read_bytes()
    place = int(where * len(whole))
    path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
    found = None
    with suppress(BadRequest, Corrupt):
        found = read_record(tmp_path)
    path.write_bytes(whole)
    assert found in (None, read_record(tmp_path)), "but for a blank that takes a blank's place"


def test_a_record_that_lost_its_digest_is_refused(tmp_path):
    finish(tmp_path)
    path = tmp_path / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"record_sha256": None}))
    with pytest.raises(Corrupt, match="it says SHA-256 None"):
        read_record(tmp_path)


@pytest.mark.parametrize("status", ["finished", "interrupted"])
def test_a_record_of_an_older_version_is_read_as_before(tmp_path, status):
    begin = {"finished": finish, "interrupted": interrupt}[status]
    begin(tmp_path)
    path = tmp_path / "record.json"
    new = ("inputs", "catalog", "outputs", "record_sha256")
    document = {k: v for k, v in json.loads(path.read_text()).items() if k not in new}
    path.write_text(json.dumps(document | {"format": 1}))
    assert read_record(tmp_path).inputs == {}
    if status == "finished":
        assert "An earlier version wrote its record" in refused(AlreadyFinished, tmp_path)
    else:
        assert again(tmp_path, run_inputs(base="any")).before is not None
