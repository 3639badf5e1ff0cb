"""A promotion that is killed at any of its writes: readers see the old pointers or the new ones.

A forked process promotes and is killed before its n-th write, for every n. Where the write is one
of bytes, it is also killed after half of them. Then the registry is read as anyone would read it,
and the same promotion is made again.
"""

import os
import shutil
import threading

import pytest

from iak.pipeline.errors import Overtaken
from iak.pipeline.registry import promote as promoting
from iak.pipeline.registry.commits import is_registry, read_head, read_history
from iak.pipeline.registry.promote import promote_run
from iak.pipeline.registry.resolve import resolve
from iak.pipeline.registry.retention import remove_unneeded
from iak.pipeline.registry.rollback import roll_back
from iak.pipeline.registry.stored_bundles import stored_bundles
from iak.pipeline.registry.verify import verify_registry
from iak.pipeline.storage.folder_store import FolderStore
from tests.unit.publish.test_bundle import BASE
from tests.unit.registry.nights import DOMAINS, killed_at, night, promote, served, writes_of

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    place = tmp_path_factory.mktemp("nights")
    return [night(place / f"n{seed}", seed=seed, domains=DOMAINS[:2]) for seed in range(3)]


def pointers(root):
    return served(read_head(root)) if is_registry(root) else {}


def resolved(root, to):
    """Return the domains of the folder that a reader is given, each with all its bytes."""
    resolve(root, "champion", to, base_fingerprint=BASE)
    return {p.relative_to(to): p.read_bytes() for p in to.rglob("*") if p.is_file()}


def after_kills(tmp_path, before, action):
    """Yield the registry after a kill at each write, whole and torn.

    Args:
        tmp_path: where registries are made.
        before: a registry, copied for each kill; None: there is none yet.
        action: what is killed; it is given the registry.
    """
    root = FolderStore(tmp_path / "killed")

    def restore():
        shutil.rmtree(root.root, ignore_errors=True)
        if before is not None:
            shutil.copytree(before.root, root.root)

    restore()
    writes = writes_of(lambda: action(root))
    assert writes.count("link") >= 1
    for number, name in enumerate(writes):
        for torn in (False, True) if name == "write_bytes" else (False,):
            restore()
            assert killed_at(lambda: action(root), number, torn=torn), f"write {number} never came"
            yield root
    restore()
    assert not killed_at(lambda: action(root), len(writes)), "a write was left out"


def test_a_promotion_killed_at_any_write_shows_the_old_or_the_new(tmp_path, nights):
    before = FolderStore(tmp_path / "before")
    promote(before, nights[0])
    old = resolved(before, tmp_path / "old")
    after = FolderStore(tmp_path / "after")
    shutil.copytree(before.root, after.root)
    promote(after, nights[1])
    new = resolved(after, tmp_path / "new")
    assert all(old[name] != new[name] for name in old if name.name == "kernel.safetensors")
    seen = set()
    for root in after_kills(tmp_path, before, lambda root: promote(root, nights[1])):
        found = resolved(root, tmp_path / "found")
        assert found in (old, new)
        seen.add(found == new)
        assert verify_registry(root).problems == ()
        promote(root, nights[1])
        assert pointers(root) == pointers(after)
        assert verify_registry(root).problems == ()
        remove_unneeded(root, keep=9, dry_run=False)
        assert not list(root.root.rglob("*.part"))
        assert len(stored_bundles(root)) == 2 * len(DOMAINS[:2])
    assert seen == {False, True}


def test_the_first_promotion_killed_at_any_write_leaves_none_or_all(tmp_path, nights):
    seen = set()
    for root in after_kills(tmp_path, None, lambda root: promote(root, nights[0])):
        seen.add(len(pointers(root)))
        promote(root, nights[0])
        assert len(pointers(root)) == len(DOMAINS[:2])
        assert verify_registry(root).problems == ()
    assert seen == {0, len(DOMAINS[:2])}


def test_a_rollback_killed_at_any_write_shows_the_old_or_the_new(tmp_path, nights):
    before = FolderStore(tmp_path / "before")
    for run in nights[:2]:
        promote(before, run)
    old = pointers(before)
    new = old | {"city=rome": read_first(before)["city=rome"]}
    seen = set()
    for root in after_kills(tmp_path, before, lambda r: roll_back(r, "champion", ["city=rome"])):
        found = pointers(root)
        assert found in (old, new)
        seen.add(found == new)
        assert verify_registry(root).problems == ()
    assert seen == {False, True}


def read_first(root):
    return served(next(read_history(root)))


def test_of_promoters_at_once_one_wins_and_the_others_are_told(tmp_path, nights, monkeypatch):
    """All read the pointers before any of them moves one."""
    root = FolderStore(tmp_path / "registry")
    promote(root, nights[0])
    started, told = threading.Barrier(2), []
    monkeypatch.setattr(
        promoting, "choose_bundles", waits_for_all(started, promoting.choose_bundles)
    )

    def one(run):
        try:
            promote_run(root, run, "champion", domains=None, force=False)
        except Overtaken as error:
            told.append(str(error))

    threads = [threading.Thread(target=one, args=(run,)) for run in nights[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 1
    assert "moved the champion of" in told[0]
    assert [commit.action for commit in read_history(root)] == ["promote", "promote"]
    assert verify_registry(root).problems == ()


def waits_for_all(barrier, function):
    """Call a function once everybody has come to it: the head is read before."""

    def call(*given, **named):
        barrier.wait()
        return function(*given, **named)

    return call


def test_readers_during_many_promotions_see_whole_nights_alone(tmp_path, nights):
    root = FolderStore(tmp_path / "registry")
    promote(root, nights[0])
    sets = []
    for number, run in enumerate(nights):
        alone = FolderStore(tmp_path / f"alone{number}")
        promote(alone, run)
        sets.append(pointers(alone))
    child = os.fork()
    if child == 0:
        try:
            for number in range(1, 40):
                promote(root, nights[number % 3])
        finally:
            os._exit(0)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        assert pointers(root) in sets
    assert len(list(read_history(root))) == 40
