"""The progress file: every whole line is reported once, in its order."""

import json

from iak.pipeline.progress import following, line_writer, worker_report


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
