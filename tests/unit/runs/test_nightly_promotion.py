"""What a night promotes when a bundle is damaged, or somebody moved a pointer meanwhile."""

import pytest

from iak.pipeline.publish.bundle import bundle_name
from iak.pipeline.registry.commits import read_head, read_history
from iak.pipeline.registry.promote import NO_CHAINS, ChainsOfNight
from iak.pipeline.registry.rollback import roll_back
from iak.pipeline.runs.nightly_promotion import promote_night
from iak.pipeline.storage.folder_store import FolderStore
from tests.unit.registry.nights import DOMAINS, NAMES, ROME, night, promote, served
from tests.unit.registry.test_chains import chain

FOLDER = bundle_name(ROME)
ROME_NAME = "city=rome"


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "registry")


def head(store):
    return read_head(store)


def test_what_the_gate_published_serves_in_one_commit(store, tmp_path):
    done = promote_night(store, night(tmp_path / "n1", held=[ROME]), None, NO_CHAINS)
    assert set(done.promoted) == set(NAMES) - {ROME_NAME}
    assert set(done.candidates) == set(NAMES)
    assert (done.generation, done.held, done.failed) == (1, {}, {})


def test_a_damaged_bundle_leaves_its_pointer_and_its_chain(store, tmp_path):
    promote(store, night(tmp_path / "n1"))
    before = head(store)
    run = night(tmp_path / "n2", seed=1)
    weights = run.bundles / FOLDER / "kernel.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    decided = ChainsOfNight(chains={FOLDER: chain(2), "pooled": chain(2, domain={})})
    done = promote_night(store, run, before, decided)
    assert "cannot be read" in done.failed[ROME_NAME]
    assert set(done.promoted) == set(NAMES) - {ROME_NAME}
    assert served(head(store))[ROME_NAME] == served(before)[ROME_NAME]
    assert set(head(store).chains) == {"pooled"}


def test_a_kernel_that_a_replay_held_leaves_its_pointer_and_its_chain(store, tmp_path):
    promote(store, night(tmp_path / "n1"))
    before = head(store)
    run = night(tmp_path / "n2", seed=1)
    decided = ChainsOfNight(chains={FOLDER: chain(2), "pooled": chain(2, domain={})})
    why = {ROME_NAME: "held by the replay"}
    for _ in range(2):  # an interrupted promotion is repeated
        done = promote_night(store, run, before, decided, held_by_replay=why)
        assert done.held == why
        assert set(done.promoted) == set(NAMES) - {ROME_NAME}
        assert served(head(store))[ROME_NAME] == served(before)[ROME_NAME]
        assert set(head(store).chains) == {"pooled"}


def test_a_pointer_that_moved_since_the_night_was_planned_stays(store, tmp_path):
    promote(store, night(tmp_path / "n1"))
    promote(store, night(tmp_path / "n2", seed=1))
    planned = head(store)
    roll_back(store, "champion", [ROME_NAME])
    rolled_back = served(head(store))[ROME_NAME]
    run, decided = night(tmp_path / "n3", seed=2), ChainsOfNight(chains={FOLDER: chain(2)})
    done = promote_night(store, run, planned, decided)
    assert "moved while the night ran, by commit 3" in done.held[ROME_NAME]
    assert served(head(store))[ROME_NAME] == rolled_back
    assert head(store).chains == {}


def test_a_night_that_was_interrupted_after_its_commit_makes_no_second_one(store, tmp_path):
    promote(store, night(tmp_path / "n1"))
    planned = head(store)
    run = night(tmp_path / "n2", seed=1, held=[ROME])
    decided = ChainsOfNight(chains={FOLDER: chain(2)}, withdrawn={FOLDER: "it harms its domain"})
    first = promote_night(store, run, planned, decided)
    again = promote_night(store, run, planned, decided)
    assert ROME_NAME not in served(head(store))
    assert (first.generation, again.generation) == (2, 2)
    assert (set(again.promoted), again.held) == (set(first.promoted), {})
    assert len(list(read_history(store))) == 2


def test_a_night_that_holds_every_kernel_moves_none_and_is_counted(store, tmp_path):
    run = night(tmp_path / "n1", held=DOMAINS)
    done = promote_night(store, run, None, ChainsOfNight(chains={FOLDER: chain(2)}))
    assert (done.promoted, done.generation) == ((), 1)
    assert set(head(store).chains) == {FOLDER}


def test_an_interrupted_night_finds_its_own_commit_before_a_later_one(store, tmp_path):
    promote(store, night(tmp_path / "n1"))
    planned = head(store)
    run = night(tmp_path / "n2", seed=1)
    assert promote_night(store, run, planned, NO_CHAINS).generation == 2
    promote(store, night(tmp_path / "n3", seed=2), "candidate")
    assert promote_night(store, run, planned, NO_CHAINS).generation == 2
