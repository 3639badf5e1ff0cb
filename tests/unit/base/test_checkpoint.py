"""What a checkpoint says of itself is read as it was written, or counts as damaged."""

import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iak.pipeline.base.checkpoint import (
    STATE,
    CheckpointDocument,
    list_complete,
    read_state,
    write_state,
)
from iak.pipeline.base.checkpoint_folders import complete
from iak.pipeline.base.train_state import TrainState
from iak.pipeline.data.reader import Cursor
from iak.pipeline.errors import Corrupt, NotPermitted, OtherFormat
from iak.pipeline.sealed import seal, spelled
from iak.pipeline.sharding.rectangles import FileEntry
from tests.unit.workers import on_threads

DENSE = FileEntry(
    path="dense.safetensors", table=None, row_offset=0, rows=0, col_offset=0, cols=0, dtype="",
    sha256="0" * 64, bytes=9,
)  # fmt: skip
DOCUMENT = CheckpointDocument(
    step=400, weights=[DENSE], momentum=[], adam=replace(DENSE, path="adam.safetensors"),
    workers=[TrainState(step=400, cursor=Cursor(epoch=1), steps_per_epoch=399)],
)  # fmt: skip


@pytest.fixture
def place(tmp_path):
    place = tmp_path / "step-00000400"
    place.mkdir()
    write_state(place, DOCUMENT)
    return place


def test_it_comes_back_infinity_and_all(place):
    assert read_state(place) == DOCUMENT
    assert read_state(place).workers[0].best_loss == math.inf


def test_it_is_written_under_the_names_that_earlier_versions_read(place):
    document = json.loads((place / STATE).read_text())
    assert document.keys() == {
        "format", "step", "weights", "momentum", "adam", "workers", "sha256",
    }  # fmt: skip
    assert document["adam"] == asdict(DOCUMENT.adam)
    assert document["workers"] == [{
        "step": 400, "steps_per_epoch": 399, "best_loss": math.inf, "best_step": -1, "waited": 0,
        "validations": 0, "rows": 0, "labelled": [], "child_loss": math.inf, "parent_loss": None,
        "best_tasks": [], "is_over": False, "loaded": [],
        "cursor": {"epoch": 1, "file": "", "group": 0, "row": 0, "selection": "", "worker": ""},
    }]  # fmt: skip


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_any_flipped_byte_is_refused(place, at, mask):
    sound = (place / STATE).read_bytes()
    data = bytearray(sound)
    data[int(at * len(data))] ^= mask
    (place / STATE).write_bytes(data)
    try:
        with pytest.raises(Corrupt):
            read_state(place)
    finally:
        (place / STATE).write_bytes(sound)


def test_one_of_another_step_is_refused(place):
    with pytest.raises(Corrupt, match="of step 400, in a folder named step-00000900"):
        read_state(place.rename(place.with_name("step-00000900")))


@pytest.mark.parametrize("format_", [{}, {"format": 1}], ids=["none", "1"])
def test_one_from_before_digests_is_read_as_it_is(place, format_):
    state = {"step": 400, "cursor": {"epoch": 1, "file": "a"}, "steps_per_epoch": 9}
    document = {"weights": [], "momentum": [], "adam": asdict(DENSE), "workers": [state]} | format_
    (place / STATE).write_text(json.dumps(document))
    (worker,) = read_state(place).workers
    assert worker == TrainState(step=400, cursor=Cursor(epoch=1, file="a"), steps_per_epoch=9)


def test_one_of_a_newer_version_is_refused(place):
    (place / STATE).write_bytes(spelled(seal(DOCUMENT.as_json() | {"format": 99}), allow_nan=True))
    with pytest.raises(OtherFormat, match="written by a newer version"):
        read_state(place)


def test_a_missing_one_says_what_may_have_become_of_it(place):
    (place / STATE).unlink()
    with pytest.raises(Corrupt, match=r"has no state.json: it was lost, or an earlier version"):
        read_state(place)


def test_a_permission_error_is_no_damage(place, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(place), "read_bytes", denied)
    with pytest.raises(NotPermitted, match=r"state.json: Permission denied"):
        read_state(place)


def test_checkpoints_are_listed_newest_first_and_nothing_else_is(tmp_path):
    for name in ("step-00000200", "step-100000000", "step-00000400", ".step-00000600.part",
                 "step-old"):  # fmt: skip
        (tmp_path / name).mkdir()
    assert [p.name for p in complete(tmp_path)] == [
        "step-100000000", "step-00000400", "step-00000200",
    ]  # fmt: skip


def test_all_workers_read_the_checkpoints_that_worker_0_lists(tmp_path):
    """A store may show a new folder to one machine before the others."""
    for rank, step in ((0, 200), (1, 400)):
        (tmp_path / str(rank) / f"step-{step:08d}").mkdir(parents=True)
    lists = on_threads(lambda w: list_complete(tmp_path / str(w.rank), worker=w), 2)
    assert [[path.name for path in paths] for paths in lists] == [["step-00000200"]] * 2
