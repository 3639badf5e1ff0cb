"""A server that follows a registry has the kernels of one that opens it anew, for less work."""

from contextlib import suppress
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.errors import BadRequest, PipelineError
from iak.pipeline.publish import bundle_set
from iak.pipeline.publish.bundle import read_bundle
from iak.pipeline.registry.commits import read_head
from iak.pipeline.registry.resolve import resolve
from iak.pipeline.registry.retention import remove_unneeded
from iak.pipeline.registry.rollback import roll_back
from iak.pipeline.serving.follow import Follower
from iak.pipeline.serving.service import Service
from iak.pipeline.storage.folder_store import FolderStore
from tests.unit.registry.nights import promote, stored
from tests.unit.serving.shop import BUNDLES, run_of, write_bundles

SERVED = [name for name, (_, is_published) in BUNDLES.items() if is_published]
NIGHTS = (0, 50, 90)
"""Seeds of nights. The last one has another standardizer."""


@pytest.fixture(scope="module")
def folders(place, nights, base):
    """The folder of each night; `nights` wrote all but the last."""
    assert nights
    write_bundles(place / "night-90" / "bundles", base, seed=90, mean=7)
    return {seed: place / f"night-{seed}" for seed in NIGHTS}


class Counted(FolderStore):
    """A registry that notes the keys that are read."""

    __slots__ = ("read_keys",)

    def read(self, key):
        self.read_keys.append(key)
        return super().read(key)


def counted(root):
    store = Counted(root)
    object.__setattr__(store, "read_keys", [])
    return store


def following(scorer, store, scratch):
    """A service that has the registry's kernels, and its follower."""
    scratch.mkdir()
    base = scorer.base.published.manifest.fingerprint
    resolved = resolve(store, "champion", scratch / "first", base_fingerprint=base)
    service = Service(scorer.with_kernels(scratch / "first"), batch_rows=64, wait_s=0.0)
    return service, Follower(service, store, "champion", scratch, resolved=resolved)


@pytest.fixture
def followed(nights, folders, tmp_path):
    """A registry of the first night, and what follows it."""
    store = counted(tmp_path / "registry")
    promote(store, run_of(folders[0]))
    service, follower = following(nights[0][0], store, tmp_path / "scratch")
    yield store, service, follower
    service.close()


def answer(service, rows):
    asked = rows.slice(0, 60).combine_chunks().to_batches()[0]
    return service.submit(asked).result().to_pylist()


def test_a_promotion_and_a_rollback_are_followed(followed, folders, rows):
    store, service, follower = followed
    first = answer(service, rows)
    assert not follower.look()
    promote(store, run_of(folders[50]))
    assert follower.look()
    assert (follower.generation, answer(service, rows) == first) == (2, False)
    roll_back(store, "champion", SERVED)
    assert follower.look()
    assert answer(service, rows) == first


def assert_same_kernels(ours, theirs):
    """Compare two sets of bundles to the last bit."""
    assert (ours.names, ours.versions, ours.manifests) == (
        theirs.names,
        theirs.versions,
        theirs.manifests,
    )
    assert (ours.shared is None) == (theirs.shared is None)
    for slot in range(len(theirs.names)):
        mine, other = ours.bundle_tensors(slot), theirs.bundle_tensors(slot)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in other)


some_domains = st.lists(st.sampled_from(SERVED), min_size=1, unique=True)
moves = st.one_of(
    st.tuples(st.just("promote"), st.sampled_from(NIGHTS), some_domains),
    st.tuples(st.just("roll back"), st.none(), some_domains),
    st.tuples(st.just("gc"), st.none(), st.none()),
)


def move(store, folders, action, seed, domains):
    if action == "promote":
        promote(store, run_of(folders[seed]), domains=domains)
    elif action == "roll back":
        roll_back(store, "champion", domains)
    else:
        remove_unneeded(store, keep=1, dry_run=False)


@given(history=st.lists(st.tuples(moves, st.booleans()), min_size=1, max_size=6))
@settings(max_examples=15)
def test_a_server_that_followed_has_the_kernels_of_one_that_opens_the_registry_anew(
    nights, folders, rows, place, history
):
    with TemporaryDirectory(dir=place) as name:
        root = place / name
        store = FolderStore(root / "registry")
        promote(store, run_of(folders[0]))
        service, follower = following(nights[0][0], store, root / "scratch")
        for number, (happened, is_looked_at) in enumerate(history):
            with suppress(BadRequest):  # nothing to roll back to
                move(store, folders, *happened)
            if is_looked_at or number == len(history) - 1:
                follower.look()
        if follower.problem:  # every pointer was rolled back
            with pytest.raises(PipelineError) as refused:
                following(nights[0][0], store, root / "anew")
            assert str(refused.value) == follower.problem
            service.close()
            return
        anew, other = following(nights[0][0], store, root / "anew")
        assert follower.resolved == other.resolved
        assert_same_kernels(service.scorer.routes.bundles, anew.scorer.routes.bundles)
        assert answer(service, rows) == answer(anew, rows)
        for one in (service, anew):
            one.close()


def test_a_look_reads_only_what_moved(followed, folders, monkeypatch):
    store, service, follower = followed
    verified = []
    monkeypatch.setattr(
        bundle_set,
        "read_bundle",
        lambda folder, **on: verified.append(folder.name) or read_bundle(folder, **on),
    )
    store.read_keys.clear()
    follower.look()
    assert store.read_keys == ["registry.json"] * 2  # there is one, and it is sound
    promote(store, run_of(folders[50]), domains=["region=hangzhou"])
    store.read_keys.clear()
    assert follower.look()
    read = {key for key in store.read_keys if key.startswith("bundles/")}
    moved = stored(read_head(store))["region=hangzhou"]
    assert read == {
        f"bundles/{moved}/entry.json",
        f"bundles/{moved}/region=hangzhou/manifest.json",
        f"bundles/{moved}/region=hangzhou/kernel.safetensors",
    }
    assert verified == ["region=hangzhou"]
    assert len(service.scorer.routes.versions) == len(SERVED)


def test_a_commit_that_moves_nothing_here_leaves_the_kernels(followed, folders):
    store, service, follower = followed
    before = service.scorer
    promote(store, run_of(folders[50]), "candidate")
    assert not follower.look()
    assert (follower.generation, service.scorer is before) == (2, True)


@pytest.mark.parametrize("name", ["kernel.safetensors", "manifest.json", "entry.json"])
def test_one_flipped_bit_of_a_moved_bundle_is_refused_and_the_kernels_stay(followed, folders, name):
    store, service, follower = followed
    before = service.scorer
    promote(store, run_of(folders[50]), domains=["region=hangzhou"])
    moved = stored(read_head(store))["region=hangzhou"]
    (path,) = (store.root / "bundles" / moved).rglob(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)
    assert not follower.look()
    assert str(path) in follower.problem
    assert (follower.generation, service.scorer is before) == (1, True)


def test_gc_that_removes_what_a_look_was_to_read_is_followed_as_well(
    followed, folders, monkeypatch
):
    store, service, follower = followed
    promote(store, run_of(folders[50]))
    stale = read_head(store)
    promote(store, run_of(folders[90]))
    remove_unneeded(store, keep=0, dry_run=False)
    real, answers = read_head, [stale]
    monkeypatch.setattr(
        "iak.pipeline.registry.resolve.read_head",
        lambda place: answers.pop() if answers else real(place),
    )
    assert follower.look()
    assert follower.generation == read_head(store).generation
    assert len(service.scorer.routes.versions) == len(SERVED)
