"""The progress file: every whole line is reported once, in its order."""

import json

from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.events import RowsDone, StoresUsed, WorkDone, WorkersRestarted
from iak.pipeline.progress import RowCounter, following, line_writer, summed, worker_report


def test_lines_are_reported_once_without_their_time(tmp_path):
    path = tmp_path / "progress.jsonl"
    events = []
    write = line_writer(path)
    write({"event": "before"})
    with following(path, events.append):
        for step in range(3):
            write({"event": "step", "step": step})
    assert events == [{"event": "step", "step": step} for step in range(3)]


def test_a_line_without_its_end_waits_for_it(tmp_path):
    path = tmp_path / "progress.jsonl"
    events = []
    line = json.dumps({"event": "step", "what": "pièces"})
    with following(path, events.append), path.open("a") as file:
        file.write(line[:9])
        file.flush()
    assert events == []
    path.write_text("")
    with following(path, events.append):
        path.write_text(f"{line}\n{line[:9]}")
    assert events == [{"event": "step", "what": "pièces"}]


def test_a_file_that_is_never_written_reports_nothing(tmp_path):
    events = []
    with following(tmp_path / "none.jsonl", events.append):
        pass
    assert events == []


def test_only_worker_0_is_reported_and_the_folder_is_made(tmp_path):
    path = tmp_path / "deep" / "progress.jsonl"
    events = []
    with following(path, events.append):
        for step in range(50):
            worker_report(path, 0)({"event": "step", "step": step})
            worker_report(path, 1)({"event": "step", "step": -1})
    assert [event["step"] for event in events] == list(range(50))


def test_what_a_worker_does_by_itself_is_written_whatever_its_rank(tmp_path):
    path = tmp_path / "progress.jsonl"
    used, rows = StoresUsed(1, 2, 3, 4), RowsDone("rows read", 1, 5, 9)
    events = []
    with following(path, events.append):
        for event in (used, rows, WorkDone("steps", 1, 2)):
            worker_report(path, 1)(event)
    assert events == [used, WorkDone("rows read", 5, 9)]


def counted(shares, draw, seconds):
    """What a reader sees of workers that do pieces of so many rows, in any interleaving."""
    events = []
    report = summed(events.append)
    now = 0.0
    workers = [
        (RowCounter(report, "rows read", rank=rank, of=sum(pieces), clock=lambda: now), [*pieces])
        for rank, pieces in enumerate(shares)
    ]
    while any(left for _, left in workers):
        counter, left = draw(st.sampled_from([worker for worker in workers if worker[1]]))
        now += draw(seconds)
        counter.add(left.pop())
    return events


shares = st.lists(st.lists(st.integers(0, 50), max_size=5), min_size=1, max_size=4)


@given(shares=shares, data=st.data())
def test_the_sum_of_all_workers_ends_at_every_row_once(shares, data):
    events = counted(shares, data.draw, st.sampled_from([0.0, 0.7, 9.0]))
    whole = sum(map(sum, shares))
    steps = [event["step"] for event in events]
    assert steps == sorted(steps)
    assert all(event["step"] <= event["of"] <= whole for event in events)
    assert (steps[-1:], {event["of"] for event in events[-1:]}) == (
        ([whole], {whole}) if whole else ([], set())
    )


def test_without_time_only_the_beginning_and_the_end_are_reported():
    events = []
    counter = RowCounter(events.append, "rows read", rank=0, of=100, clock=lambda: 0.0)
    for _ in range(100):
        counter.add(1)
    assert [event["done"] for event in events] == [0, 100]


def test_every_few_seconds_a_worker_says_how_far_it_is():
    events, now = [], [0.0]
    counter = RowCounter(events.append, "rows read", rank=0, of=9, clock=lambda: now[0])
    for seconds in (0.5, 1.9, 2.0, 3.0, 4.5):
        now[0] = seconds
        counter.add(1)
    assert [event["done"] for event in events] == [0, 3, 5]


def test_workers_that_are_started_again_count_from_the_start():
    events = []
    report = summed(events.append)
    for rank in range(2):
        RowCounter(report, "rows read", rank=rank, of=10).add(10)
    report(WorkersRestarted(2, "killed"))
    RowCounter(report, "rows read", rank=0, of=20).add(20)
    assert events[-1] == WorkDone("rows read", 20, 20)
    assert max(event["step"] for event in events if event["event"] == "step") == 20


def test_half_a_line_of_a_dead_worker_does_not_end_the_reporting(tmp_path):
    path = tmp_path / "progress.jsonl"
    events = []
    with following(path, events.append):
        path.write_text('{"event": "st{"event": "restarted"}\n{"event": "step"}\n')
    assert events == [{"event": "step"}]
