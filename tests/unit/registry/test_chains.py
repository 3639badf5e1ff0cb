"""Chains in the registry: written with the pointers in one commit, and never over another's."""

import json
from datetime import date

import pytest

from iak.pipeline.errors import Overtaken
from iak.pipeline.publish.bundle import bundle_name
from iak.pipeline.registry import promote as promote_module
from iak.pipeline.registry.commits import COMMITS, pointer_of, read_commit, read_head, read_history
from iak.pipeline.registry.promote import ChainsOfNight, promote_run
from iak.pipeline.registry.retention import remove_unneeded
from iak.pipeline.registry.rollback import roll_back
from iak.pipeline.sealed import seal, spelled
from iak.pipeline.stats.evidence import BETS
from iak.pipeline.storage.folder_store import FolderStore
from iak.schemas.chain import ChainState
from iak.schemas.registry import COMMIT_FORMAT
from tests.unit.registry.nights import DOMAINS, POOLED, ROME, night, promote, served, stored

ROME_FOLDER = bundle_name(ROME)


@pytest.fixture
def root(tmp_path):
    return FolderStore(tmp_path / "registry")


def chain(day, *, domain=ROME, wealth=0.0):
    return ChainState(
        domain=list(domain.items()), base_fingerprint="b" * 64, began=date(2026, 10, 1),
        scale=0.5, floor=0.05, log_wealth=(wealth,) * len(BETS), nights=day - 1,
        last_night=date(2026, 10, day), counted_to={"ctr": date(2026, 10, day)},
    )  # fmt: skip


def promoted(root, run, *, chains=None, withdrawn=None):
    asked = ChainsOfNight(chains=chains or {}, withdrawn=withdrawn or {})
    return promote_run(root, run, "champion", domains=None, force=False, night=asked)


def test_chains_and_pointers_are_one_commit_and_outlive_promotions(root, tmp_path):
    done = promoted(root, night(tmp_path / "n1"), chains={ROME_FOLDER: chain(1, wealth=0.5)})
    assert (done.commit.generation, len(done.moved)) == (1, 3)
    assert read_head(root).chains == {ROME_FOLDER: chain(1, wealth=0.5)}
    promote(root, night(tmp_path / "n2", seed=1))
    roll_back(root, "champion", ["pooled"])
    remove_unneeded(root, keep=0, dry_run=False)
    assert read_head(root).chains == {ROME_FOLDER: chain(1, wealth=0.5)}


def test_a_night_that_holds_every_kernel_is_counted_all_the_same(root, tmp_path):
    run = night(tmp_path / "n1", held=DOMAINS)
    done = promoted(root, run, chains={ROME_FOLDER: chain(2)})
    assert done.moved == ()
    assert done.commit.moves == []
    assert read_head(root).chains[ROME_FOLDER].nights == 1


def test_chains_of_other_domains_stay(root, tmp_path):
    run = night(tmp_path / "n1")
    promoted(root, run, chains={ROME_FOLDER: chain(1)})
    promoted(root, run, chains={"pooled": chain(2, domain={})})
    assert set(read_head(root).chains) == {ROME_FOLDER, "pooled"}


def test_a_chain_that_another_writer_moved_is_not_overwritten(root, tmp_path, monkeypatch):
    run = night(tmp_path / "n1")
    promoted(root, run, chains={ROME_FOLDER: chain(1)})
    stale = read_head(root)
    promoted(root, run, chains={ROME_FOLDER: chain(2)})
    heads = iter([stale])
    monkeypatch.setattr(
        promote_module, "read_head", lambda root: next(heads, None) or read_head(root)
    )
    with pytest.raises(Overtaken, match="counted the nights of city=rome up to 2026-10-02"):
        promoted(root, run, chains={ROME_FOLDER: chain(3)})
    assert read_head(root).chains[ROME_FOLDER] == chain(2)


def test_a_withdrawn_kernel_loses_its_pointer_and_says_why(root, tmp_path):
    promote(root, night(tmp_path / "n1"))
    run = night(tmp_path / "n2", seed=1, held=(ROME,))
    done = promoted(root, run, withdrawn={ROME_FOLDER: "worse than pooled", "city=none": "-"})
    assert done.withdrawn == (ROME_FOLDER,)
    assert "city=rome" not in done.moved
    head = read_head(root)
    assert pointer_of(head, "champion", ROME_FOLDER) is None
    assert len(served(head)) == 2
    (move,) = [move for move in head.moves if move.after is None]
    assert (move.folder, move.reason) == (ROME_FOLDER, "worse than pooled")


def test_a_domain_that_is_promoted_is_not_withdrawn(root, tmp_path):
    promote(root, night(tmp_path / "n1"))
    done = promoted(root, night(tmp_path / "n2", seed=1), withdrawn={"pooled": "-"})
    assert done.withdrawn == ()
    assert bundle_name(POOLED) in read_head(root).pointers["champion"]


def test_commits_from_before_chains_are_read_as_having_none(root, tmp_path):
    promote(root, night(tmp_path / "n1"))
    path = root.root / COMMITS / "0000000001.json"
    document = json.loads(path.read_bytes())
    del document["chains"], document["token"]
    for pointer in document["pointers"]["champion"].values():
        del pointer["stored"], pointer["reach"]
    path.unlink()
    path.write_bytes(spelled(seal(document | {"format": 1})))
    commit = read_commit(root, 1)
    assert (commit.format, commit.chains, len(commit.moves)) == (COMMIT_FORMAT, {}, 3)
    assert set(stored(commit).values()) == set(served(commit).values())
    promoted(root, night(tmp_path / "n2", seed=1), chains={ROME_FOLDER: chain(1)})
    assert [len(commit.chains) for commit in read_history(root)] == [0, 1]


def test_a_night_that_is_promoted_again_writes_no_second_commit(root, tmp_path):
    run = night(tmp_path / "n1")
    promoted(root, run, chains={ROME_FOLDER: chain(1)})
    assert promoted(root, run, chains={ROME_FOLDER: chain(1)}).commit is None
    assert read_head(root).generation == 1


@pytest.mark.parametrize("stale", [chain(2), chain(3, wealth=0.7)], ids=["earlier", "other"])
def test_a_chain_never_goes_back_and_a_night_has_one_evidence(root, tmp_path, stale):
    run = night(tmp_path / "n1")
    promoted(root, run, chains={ROME_FOLDER: chain(3)})
    with pytest.raises(Overtaken, match="counted the nights of city=rome up to 2026-10-03"):
        promoted(root, run, chains={ROME_FOLDER: stale})
    other_base = stale.model_copy(update={"base_fingerprint": "c" * 64})
    promoted(root, run, chains={ROME_FOLDER: other_base})
    assert read_head(root).chains[ROME_FOLDER] == other_base
