"""One worker under torchrun: it leaves a result or an error in the folder, and says no more."""

import json
import pickle

import pytest

from iak.pipeline import torchrun
from iak.pipeline.errors import BadLog
from iak.pipeline.launcher import Launch


def add_up(worker, work, report):
    report({"event": "step", "step": worker.rank, "of": worker.world})
    return {"sum": sum(work), "world": worker.world}


def refuse(_worker, work, _report):
    raise BadLog(f"the log lacks {work}")


def crash(_worker, _work, _report):
    raise ZeroDivisionError


@pytest.fixture
def alone(monkeypatch):
    """The environment that torchrun gives its only worker."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)


def folder_with(tmp_path, function, work):
    launch = Launch(
        function=function, work=work, result=dict, title="t", run_dir=tmp_path, workers=1,
        device="cpu", max_failures=0,
    )  # fmt: skip
    (tmp_path / torchrun.WORK).write_bytes(pickle.dumps((launch, "gloo")))
    return tmp_path


@pytest.mark.usefixtures("alone")
def test_worker_0_leaves_the_result_and_reports(tmp_path):
    torchrun.main(folder_with(tmp_path, add_up, [1, 2, 3]))
    assert json.loads((tmp_path / torchrun.RESULT).read_text()) == {"sum": 6, "world": 1}
    (line,) = (tmp_path / "progress.jsonl").read_text().splitlines()
    assert json.loads(line).items() >= {"event": "step", "step": 0, "of": 1}.items()


@pytest.mark.usefixtures("alone")
def test_a_deliberate_error_is_left_with_its_kind_and_raised(tmp_path):
    with pytest.raises(BadLog, match="lacks rows"):
        torchrun.main(folder_with(tmp_path, refuse, "rows"))
    left = pickle.loads((tmp_path / torchrun.ERROR.format(rank=0)).read_bytes())
    assert isinstance(left, BadLog)
    assert str(left) == "the log lacks rows"
    assert not (tmp_path / torchrun.RESULT).exists()


@pytest.mark.usefixtures("alone")
def test_a_bug_leaves_no_file_that_looks_deliberate(tmp_path):
    with pytest.raises(ZeroDivisionError):
        torchrun.main(folder_with(tmp_path, crash, None))
    assert {path.name for path in tmp_path.iterdir()} & {"error-0.pickle", "result.json"} == set()
