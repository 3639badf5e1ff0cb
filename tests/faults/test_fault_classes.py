"""A small sample of every class of faults: nothing comes out wrong, nothing published is lost."""

import tempfile
from pathlib import Path

import pytest
import torch

from iak.pipeline.process import fork_server
from infra.benchmarks.faults import CLASSES, ClassResult, line_of, notes_of, play
from infra.benchmarks.faults.verbs import run_verb
from infra.benchmarks.faults.workspace import prepare

pytestmark = [pytest.mark.faults, pytest.mark.timeout(560)]
LAST_BITS = ("log file features changed",)
"""Faults whose right result is that of a run without the cache, bit for bit."""
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


@pytest.mark.parametrize("known", CLASSES, ids=lambda known: f"{known.name}: {known.where}")
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
    if (line["wrong"], line["lost"]) == (1, 0) and known.name in LAST_BITS and rounds_by_address():
        pytest.xfail(f"on this processor a product's last bits depend on addresses: {said}")
    assert (line["wrong"], line["lost"]) == (0, 0), said


def rounds_by_address():
    """Whether a small product of float32 rounds by where its rows lie in memory.

    Seen on an AMD EPYC with AVX-512 and torch 2.13: rows that do not begin at a multiple of 16
    bytes come to other last bits. There a night from the cache and a fresh one have the same
    verdicts, and weights that differ by 1e-11 to 1e-8. Whether for this reason is not known.
    """
    draw = torch.Generator().manual_seed(0)
    rows, weights = (torch.randn(n, 8, generator=draw) for n in (50, 8))
    moved = torch.empty(rows.numel() + 1)[1:].view_as(rows).copy_(rows)
    return not torch.equal(rows @ weights.T, moved @ weights.T)


def test_an_undamaged_attempt_meets_every_row_once(setup):
    for name, answer in setup.undamaged.items():
        assert answer.ended.repeated == 0, name
        if "night" in name and answer.ended.rows:
            assert answer.ended.rows == setup.undamaged["night"].ended.rows
