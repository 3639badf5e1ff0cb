"""gc keeps what a pointer or a rollback needs, and verify reads all that is there."""

import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iak.pipeline.errors import BadRequest, PipelineError
from iak.pipeline.registry.commits import read_head, read_history
from iak.pipeline.registry.retention import remove_unneeded
from iak.pipeline.registry.rollback import roll_back
from iak.pipeline.registry.stored_bundles import stored_bundles, stored_key, verify_stored
from iak.pipeline.registry.verify import verify_registry
from iak.pipeline.storage.folder_store import FolderStore
from tests.unit.registry.nights import ROME, killed_at, night, promote, served, stored, writes_of

NIGHTS = 4


def registry(place):
    root = FolderStore(place / "registry")
    for seed in range(NIGHTS):
        promote(root, night(place / f"n{seed}", seed=seed, domains=(None, ROME)))
    return root


@pytest.mark.parametrize(("keep", "left"), [(0, 1), (1, 2), (2, 3), (NIGHTS, NIGHTS)])
def test_gc_keeps_pointers_and_as_many_rollbacks_as_it_is_told(tmp_path, keep, left):
    root = registry(tmp_path)
    before = served(read_head(root))
    done = remove_unneeded(root, keep=keep, dry_run=False)
    assert done.kept == 2 * left == len(stored_bundles(root))
    assert len(done.removed) == 2 * (NIGHTS - left)
    assert served(read_head(root)) == before
    assert verify_registry(root).problems == ()
    for _ in range(left - 1):
        roll_back(root, "champion", ["city=rome"])
    if left < NIGHTS:
        with pytest.raises(BadRequest, match=r"is no longer in .*: gc removed it"):
            roll_back(root, "champion", ["city=rome"])


def test_gc_keeps_what_a_candidate_points_at(tmp_path):
    root = registry(tmp_path)
    promote(root, night(tmp_path / "c", seed=9, domains=(ROME,)), "candidate")
    remove_unneeded(root, keep=0, dry_run=False)
    verify_stored(root, stored(read_head(root), "candidate")["city=rome"])


def test_the_history_stays_and_names_what_gc_gave_up(tmp_path):
    root = registry(tmp_path)
    history = list(read_history(root))
    done = remove_unneeded(root, keep=1, dry_run=False)
    after = list(read_history(root))
    assert after[:NIGHTS] == history
    assert (after[-1].action, tuple(after[-1].removed)) == ("gc", done.removed)
    assert remove_unneeded(root, keep=1, dry_run=False).removed == ()
    assert len(list(read_history(root))) == NIGHTS + 1


def test_a_dry_run_changes_nothing(tmp_path):
    root = registry(tmp_path)
    before = sorted(root.root.rglob("*"))
    done = remove_unneeded(root, keep=0, dry_run=True)
    assert len(done.removed) == 2 * (NIGHTS - 1)
    assert done.bytes > 0
    assert sorted(p for p in root.root.rglob("*") if p.name != ".lock") == [
        p for p in before if p.name != ".lock"
    ]


def test_a_bundle_that_gc_removed_may_be_promoted_again(tmp_path):
    root = registry(tmp_path)
    remove_unneeded(root, keep=0, dry_run=False)
    promote(root, night(tmp_path / "n0", seed=0, domains=(None, ROME)))
    assert verify_registry(root).problems == ()


def test_a_gc_that_is_killed_at_any_write_leaves_a_sound_registry_and_is_finished_by_the_next(
    tmp_path,
):
    root = registry(tmp_path / "kept")
    copy = FolderStore(tmp_path / "copy")
    shutil.copytree(root.root, copy.root)
    writes = writes_of(lambda: remove_unneeded(copy, keep=0, dry_run=False))
    assert writes.count("rmtree") == 2 * (NIGHTS - 1)
    for number in range(len(writes)):
        shutil.rmtree(copy.root)
        shutil.copytree(root.root, copy.root)
        before = served(read_head(copy))
        assert killed_at(lambda: remove_unneeded(copy, keep=0, dry_run=False), number)
        assert served(read_head(copy)) == before
        assert verify_registry(copy).problems == ()
        remove_unneeded(copy, keep=0, dry_run=False)
        assert stored_bundles(copy) == set(stored(read_head(copy)).values())
        assert not [p for p in copy.root.rglob("*") if p.name.endswith(".part")]
        assert verify_registry(copy).problems == ()


def test_a_missing_bundle_is_named(tmp_path):
    root = registry(tmp_path)
    folder = root.root / stored_key(stored(read_head(root))["city=rome"])
    shutil.rmtree(folder)
    (problem,) = verify_registry(root).problems
    assert problem == f"{folder} is missing, and no gc removed it"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return registry(tmp_path_factory.mktemp("sound"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 10**6), at=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_any_flipped_byte_of_any_file_is_named_by_its_file(sound, which, at, mask):
    files = sorted(p for p in sound.root.rglob("*") if p.is_file() and not p.name.startswith("."))
    path = files[which % len(files)]
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= mask
    kept = path.read_bytes()
    path.write_bytes(data)
    try:
        problems = verify_registry(sound).problems
    except PipelineError as error:  # of the document that makes it a registry
        problems = (str(error),)
    finally:
        path.write_bytes(kept)
    assert any(str(path) in problem for problem in problems)
    assert verify_registry(sound).problems == ()
