"""A tuning's checkpoint: every byte of it counts, and the one before it stands in for it."""

import dataclasses
import json
import logging
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from iak.pipeline.errors import BadLog, NotPermitted, OtherFormat
from iak.pipeline.iak.bank import stack
from iak.pipeline.process import Worker
from iak.pipeline.tuning import checkpoint
from iak.pipeline.tuning.checkpoint import (
    CHECKPOINT,
    PREVIOUS,
    TuningCheckpoint,
    content_digest,
    remove_checkpoint,
)
from iak.pipeline.tuning.information import InformationPoint
from iak.pipeline.tuning.tuned_kernels import Tuned
from tests.unit.iak.small import ALONE, SHAPE, moved_kernel
from tests.unit.workers import CPU, on_threads


def tuned(seed):
    bank = stack(SHAPE, {name: moved_kernel(seed + k) for k, name in enumerate("ab")})
    return Tuned(
        bank=bank, start_loss=[0.5, 0.1 * seed], best_loss=[0.4, 0.3], best_epoch=[1, seed],
        epochs=2, stopped_at_cap=["a"], failed={"b": "its loss is nan"},
    )  # fmt: skip


def checkpoint_in(folder, events=None, snapshot="log"):
    report = (events if events is not None else []).append
    return TuningCheckpoint(folder, snapshot=snapshot, every_s=0, worker=ALONE, report=report)


def read(folder, events=None):
    """The second loss of the level that is loaded, which tells the generations apart."""
    result = checkpoint_in(folder, events).load()
    return {depth: (s.numbers.best_epoch[1], s.flat_KN) for depth, s in result.items()}


@pytest.fixture
def two(tmp_path):
    """Two generations: the first with seed 1, the newest with seed 2."""
    writer = checkpoint_in(tmp_path)
    for seed in (1, 2):
        writer.save([tuned(seed)])
    return tmp_path


def is_of(result, seed):
    return result[0][0] == seed and torch.equal(result[0][1], tuned(seed).bank.flat_KN)


def flip(path, share, mask=1):
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= mask
    path.write_bytes(data)


def test_the_newest_is_read_and_the_one_before_it_is_kept(two):
    events = []
    assert is_of(read(two, events), 2)
    assert events == []
    assert sorted(p.name for p in two.iterdir()) == [PREVIOUS, CHECKPOINT]


def test_a_checkpoint_names_its_kernels(two):
    assert checkpoint_in(two).load()[0].names == ("a", "b")


def test_metadata_is_spelled_as_earlier_versions_spelled_it(tmp_path):
    point = InformationPoint("matching", 1, 1e-5, 2.0, None)
    begun = dataclasses.replace(tuned(2), best_loss=[0.4, math.inf], path={"a": (point,)})
    checkpoint_in(tmp_path).save([tuned(1)], begun)
    with safe_open(tmp_path / CHECKPOINT, framework="pt") as file:
        written = file.metadata()["tuning"]
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    document = {
        "format": 3, "snapshot": "log", "finished": 1,
        "levels": [dataclasses.asdict(level.numbers()) for level in (tuned(1), begun)],
        "names": [("a", "b"), ("a", "b")],
    }  # fmt: skip
    assert written == json.dumps(document | {"content": content_digest(tensors, document)})
    assert checkpoint_in(tmp_path).load()[1].numbers == begun.numbers()


def test_without_a_checkpoint_nothing_is_said(tmp_path):
    events = []
    assert read(tmp_path, events) == {}
    assert events == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_of_any_flipped_byte_the_workers_go_back_or_read_the_very_content(two, share, mask):
    sound = (two / CHECKPOINT).read_bytes()
    events = []
    try:
        flip(two / CHECKPOINT, share, mask)
        result = read(two, events)
    finally:
        (two / CHECKPOINT).write_bytes(sound)
    # A blank of the header may become another blank, which changes nothing.
    assert is_of(result, 1) if events else is_of(result, 2)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda _: b"",
        lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
        lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        None,
    ],
    ids=["torn", "a byte short", "empty", "metadata", "weights", "missing"],
)
def test_a_damaged_newest_one_falls_back_aloud_to_the_one_before_it(two, caplog, damage):
    newest = two / CHECKPOINT
    if damage is None:
        newest.unlink()
    else:
        newest.write_bytes(damage(newest.read_bytes()))
    events = []
    with caplog.at_level(logging.WARNING):
        assert is_of(read(two, events), 1)
    (event,) = events
    for words in (str(newest), PREVIOUS, "a few more steps are replayed"):
        assert words in event["message"]
        assert words in caplog.text


def test_a_damaged_newest_one_never_takes_the_place_of_the_one_before_it(two, monkeypatch):
    flip(two / CHECKPOINT, 0.99)
    again = checkpoint_in(two)
    assert again.load()[0].numbers.best_epoch[1] == 1

    def dies(*_args, **_how):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", dies)
    with pytest.raises(KeyboardInterrupt):
        again.save([tuned(3)])
    monkeypatch.undo()
    assert is_of(read(two), 1)
    again.save([tuned(3)])
    flip(two / CHECKPOINT, 0.99)
    assert is_of(read(two), 1)
    again = checkpoint_in(two)
    again.load()
    again.save([tuned(3)])
    again.save([tuned(4)])
    flip(two / CHECKPOINT, 0.99)
    assert is_of(read(two), 3)


def test_a_process_that_dies_between_the_two_renames_leaves_the_one_before(two):
    (two / CHECKPOINT).replace(two / PREVIOUS)
    assert is_of(read(two), 2)


def test_where_both_are_damaged_tuning_starts_from_the_beginning_aloud(two, caplog):
    for name in (CHECKPOINT, PREVIOUS):
        flip(two / name, 0.99)
    events = []
    with caplog.at_level(logging.WARNING):
        assert read(two, events) == {}
    (event,) = events
    for words in ("from the beginning", CHECKPOINT, PREVIOUS):
        assert words in event["message"]
        assert words in caplog.text


def test_another_log_is_refused(two):
    with pytest.raises(BadLog, match="the log changed since"):
        checkpoint_in(two, snapshot="another").load()


def test_a_checkpoint_from_before_kernels_failed_alone_goes_on_with_none_failed(two):
    with safe_open(two / CHECKPOINT, framework="pt") as file:
        document = json.loads(file.metadata()["tuning"]) | {"format": 2}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for level in document["levels"]:
        del level["failed"]
    document["content"] = content_digest(tensors, document)
    save_file(tensors, two / CHECKPOINT, metadata={"tuning": json.dumps(document)})
    numbers = checkpoint_in(two).load()[0].numbers
    assert numbers == dataclasses.replace(tuned(2).numbers(), failed={})


@pytest.mark.parametrize("number", [1, 99])
def test_another_format_is_refused_with_what_to_do(two, number):
    with safe_open(two / CHECKPOINT, framework="pt") as file:
        document = json.loads(file.metadata()["tuning"]) | {"format": number}
    del document["content"]
    save_file({}, two / CHECKPOINT, metadata={"tuning": json.dumps(document)})
    with pytest.raises(OtherFormat, match=f"format {number}"):
        checkpoint_in(two).load()


def test_a_permission_error_is_no_damage(two, monkeypatch):
    real = type(two).open

    def denied(path, *args, **how):
        if path.name == CHECKPOINT:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **how)

    monkeypatch.setattr(type(two), "open", denied)
    with pytest.raises(NotPermitted, match=f"{CHECKPOINT}: Permission denied. It belongs to user"):
        checkpoint_in(two).load()


def test_nothing_is_left_when_a_run_is_over(two):
    (two / f".{CHECKPOINT}.77.ab.part").write_bytes(b"half")
    (two / "record.json").write_text("{}")
    remove_checkpoint(two)
    assert [p.name for p in two.iterdir()] == ["record.json"]


def test_a_checkpoint_is_written_when_it_is_due_and_on_demand(tmp_path, monkeypatch):
    clock = SimpleNamespace(seconds=0.0, monotonic=lambda: clock.seconds)
    monkeypatch.setattr(checkpoint, "time", clock)
    writer = TuningCheckpoint(
        tmp_path, snapshot="log", every_s=60, worker=ALONE, report=lambda _: None
    )
    newest = {}
    for seconds in (59, 60, 119, 120):
        clock.seconds = float(seconds)
        writer.save([tuned(seconds)])
        newest[seconds] = read(tmp_path)[0][0] if (tmp_path / CHECKPOINT).exists() else None
    assert newest == {59: None, 60: 60, 119: 60, 120: 120}
    writer.save([tuned(7)], is_due=True)
    assert is_of(read(tmp_path), 7)


def on_worker(folder, worker, events):
    return TuningCheckpoint(
        folder, snapshot="log", every_s=0, worker=worker, report=events.append
    )  # fmt: skip


def test_worker_0_alone_writes(tmp_path):
    on_worker(tmp_path, Worker(rank=1, world=2, device=CPU), []).save([tuned(1)])
    assert list(tmp_path.iterdir()) == []


def test_all_workers_take_a_generation_that_each_of_them_can_read(two, tmp_path_factory):
    """A damaged disk may show a damaged file to one worker alone."""
    other = shutil.copytree(two, tmp_path_factory.mktemp("other") / "run")
    flip(other / CHECKPOINT, 0.99)
    folders, events = (two, other), ([], [])
    loaded = on_threads(lambda w: on_worker(folders[w.rank], w, events[w.rank]).load(), 2)
    assert [levels[0].numbers.best_epoch[1] for levels in loaded] == [1, 1]
    assert [len(told) for told in events] == [1, 0], "worker 0 reports for all"
