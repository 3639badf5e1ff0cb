"""What is told of an attempt in a process of its own, however it ends."""

import signal

import pytest

from iak.pipeline.fork_server import fork_server
from infra.benchmarks.faults.child import Request, run
from tests.faults.attempts import end, spoil

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
CHANGES = 3 * 2  # a part is written, then renamed; the folder of the first is made below no name


@pytest.fixture(scope="module")
def server():
    return fork_server(["infra.benchmarks.faults.verbs", "infra.benchmarks.faults"])


def ask(server, workspace, **request):
    return run(server, end, workspace, Request(**{"settings": {}, "verb": "end"} | request))


def test_an_attempt_works_inside_its_place_and_tells_what_it_came_to(server, tmp_path):
    answer = ask(server, tmp_path, settings={"x": "y"})
    assert answer.ending == "ended"
    assert answer.ended.things == {"cwd": tmp_path.name, "x": "y"}
    assert answer.writes == {"record.json": CHANGES}
    assert answer.seconds > 0


@pytest.mark.parametrize(
    ("verb", "ending", "message", "number"),
    [
        ("refuse", "refused", "N9/record.json was changed", 0),
        ("crash", "crashed", "KeyError: 'standard'", 0),
        ("fall", "died", "SIGBUS", signal.SIGBUS),
        ("die", "died", "SIGKILL", signal.SIGKILL),
    ],
)
def test_every_end_is_an_answer(server, tmp_path, verb, ending, message, number):
    answer = ask(server, tmp_path, verb=verb)
    assert (answer.ending, answer.signal) == (ending, number)
    assert message in answer.message


@pytest.mark.parametrize("nth", range(1, CHANGES + 1))
def test_an_attempt_is_killed_ahead_of_any_change(server, tmp_path, nth):
    answer = ask(server, tmp_path, kill=("record.json", nth))
    assert answer.signal == signal.SIGKILL
    left = {path.name for path in (tmp_path / "N9").iterdir()}
    written, is_half = divmod(nth - 1, 2)
    assert ("record.json" in left) == (written > 0)
    assert (f".record.json.{written}" in left) == bool(is_half)


def test_an_attempt_is_killed_at_a_moment(server, tmp_path):
    assert ask(server, tmp_path, kill=("written", 2)).signal == signal.SIGKILL
    assert ask(server, tmp_path, kill=("written", 4)).signal == 0


def test_a_damage_at_a_moment_is_told_and_repeats_by_its_seed(server, tmp_path):
    seen = []
    for name, seed in (("one", "s"), ("same", "s"), ("other", "t")):
        workspace = tmp_path / name
        workspace.mkdir()
        answer = ask(server, workspace, damage=spoil, moment=("written", 2), seed=seed)
        assert answer.fault.what == "spoiled"
        seen.append((workspace / "spoiled").read_text())
    assert seen[0] == seen[1] != seen[2]
    assert ask(server, tmp_path, damage=spoil, moment=("written", 9)).fault is None
