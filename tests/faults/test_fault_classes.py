"""A small sample of every class of faults: nothing comes out wrong, nothing published is lost."""

import tempfile
from pathlib import Path

import pytest

from iak.pipeline.fork_server import fork_server
from infra.benchmarks.faults import CLASSES, ClassResult, line_of, notes_of, play, ray_nights
from infra.benchmarks.faults.verbs import run_verb
from infra.benchmarks.faults.workspace import prepare

pytestmark = [pytest.mark.faults, pytest.mark.timeout(2400)]
TURNS = 2
SEED = 20


@pytest.fixture(scope="module")
def setup():
    """A place outside pytest's own folders, which pytest keeps from other users."""
    server = fork_server(["infra.benchmarks.faults.verbs", "infra.benchmarks.faults"])
    with tempfile.TemporaryDirectory(prefix="iak-faults-") as folder:
        scratch = Path(folder).resolve()
        scratch.chmod(0o755)
        yield prepare(server, run_verb, scratch, repeats=2, threads=2, report=lambda _: None)


def marked(known):
    """A class as a parameter, marked where its attempts start a Ray."""
    marks = [pytest.mark.ray] if known.where == ray_nights.NIGHT else []
    return pytest.param(known, id=f"{known.name}: {known.where}", marks=marks)


@pytest.mark.parametrize("known", [marked(known) for known in CLASSES])
def test_nothing_comes_out_wrong_and_nothing_is_lost(setup, known):
    result = ClassResult(fault=known.name, where=known.where)
    for number in range(min(TURNS, len(known.plays))):
        found = play(setup, known, number, f"{SEED}-{known.name}-{number}")
        if isinstance(found, str):
            result.skipped = found
        else:
            result.judged.append(found)
    if not result.judged:
        pytest.skip(result.skipped)
    line = line_of(result)
    said = "\n".join(notes_of([result], []))
    assert (line.wrong, line.lost) == (0, 0), said


def test_an_undamaged_attempt_meets_every_row_once(setup):
    for name, answer in setup.undamaged.items():
        assert answer.ended.repeated == 0, name
        if "night" in name and answer.ended.rows:
            assert answer.ended.rows == setup.undamaged["night"].ended.rows
