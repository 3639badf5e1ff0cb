"""What an alias means becomes a folder of bundles that later promotions do not change."""

import shutil

import pytest

from iak.pipeline.errors import BadRequest, Corrupt, WrongBase
from iak.pipeline.publish.bundle import MANIFEST, WEIGHTS
from iak.pipeline.publish.bundle_index import INDEX, check_index, read_index
from iak.pipeline.registry import resolve as resolving
from iak.pipeline.registry.commits import read_head
from iak.pipeline.registry.resolve import manifests_of, resolve, resolve_moved
from iak.pipeline.registry.retention import remove_unneeded
from iak.pipeline.registry.stored_bundles import stored_key
from iak.pipeline.storage.folder_store import FolderStore
from tests.unit.publish.test_bundle import BASE, SCHEMA, read
from tests.unit.registry.nights import ROME, night, promote, stored

OTHER = "d" * 64


def of_base(root, to, alias="champion"):
    return resolve(root, alias, to, base_fingerprint=BASE)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_alias_becomes_the_very_bundles_of_the_night(tmp_path):
    root, run = FolderStore(tmp_path / "registry"), night(tmp_path / "n1")
    promote(root, run)
    done = of_base(root, tmp_path / "pinned")
    assert (done.generation, done.of_other_bases) == (1, ())
    assert contents(tmp_path / "pinned") == contents(run.bundles)
    check_index(tmp_path / "pinned", base_fingerprint=BASE, schema_hash=SCHEMA)
    found = manifests_of(root, "champion", base_fingerprint=BASE)
    entries = read_index(tmp_path / "pinned").bundles
    assert found == {entry.folder: entry.manifest_sha256 for entry in entries}


def test_later_promotions_and_gc_change_nothing_of_it(tmp_path):
    root = FolderStore(tmp_path / "registry")
    promote(root, night(tmp_path / "n1"))
    of_base(root, tmp_path / "pinned")
    before = contents(tmp_path / "pinned")
    promote(root, night(tmp_path / "n2", seed=1))
    remove_unneeded(root, keep=0, dry_run=False)
    assert contents(tmp_path / "pinned") == before
    read(tmp_path / "pinned" / "city=rome")


def test_stored_files_are_linked_not_copied(tmp_path):
    root = FolderStore(tmp_path / "registry")
    promote(root, night(tmp_path / "n1"))
    of_base(root, tmp_path / "pinned")
    for name in (MANIFEST, WEIGHTS):
        key = stored_key(stored(read_head(root))["city=rome"], "city=rome", name)
        assert (tmp_path / "pinned" / "city=rome" / name).samefile(root.root / key)


def test_bundles_of_another_base_are_left_out_and_named(tmp_path):
    root = FolderStore(tmp_path / "registry")
    promote(root, night(tmp_path / "n1"))
    promote(root, night(tmp_path / "n2", seed=1, domains=(ROME,), base_fingerprint=OTHER))
    done = of_base(root, tmp_path / "pinned")
    assert done.of_other_bases == ("city=rome",)
    assert not (tmp_path / "pinned" / "city=rome").exists()
    with pytest.raises(WrongBase, match=r"every champion of .* was tuned on another base"):
        resolve(root, "champion", tmp_path / "x", base_fingerprint="f" * 64)


def test_an_alias_without_pointers_is_refused(tmp_path):
    root = FolderStore(tmp_path / "registry")
    promote(root, night(tmp_path / "n1"))
    with pytest.raises(BadRequest, match="has no candidate: nothing was promoted to it"):
        of_base(root, tmp_path / "pinned", "candidate")
    assert not (tmp_path / "pinned").exists()


def test_a_damaged_bundle_is_refused_and_the_folder_stays_as_it_was(tmp_path):
    root = FolderStore(tmp_path / "registry")
    promote(root, night(tmp_path / "n1"))
    of_base(root, tmp_path / "pinned")
    before = contents(tmp_path / "pinned")
    path = root.root / stored_key(stored(read_head(root))["city=rome"], "city=rome", WEIGHTS)
    damaged = path.read_bytes()[:-1]
    path.unlink()
    path.write_bytes(damaged)
    with pytest.raises(Corrupt, match=f"{WEIGHTS} is not what was stored"):
        of_base(root, tmp_path / "pinned")
    assert contents(tmp_path / "pinned") == before


def test_a_reader_that_gc_overtakes_reads_the_newer_pointers(tmp_path, monkeypatch):
    root = FolderStore(tmp_path / "registry")
    promote(root, night(tmp_path / "n1"))
    stale = read_head(root)
    newer = night(tmp_path / "n2", seed=1)
    promote(root, newer)
    remove_unneeded(root, keep=0, dry_run=False)
    real, answers = read_head, [stale]
    monkeypatch.setattr(
        resolving, "read_head", lambda place: answers.pop() if answers else real(place)
    )
    of_base(root, tmp_path / "pinned")
    assert contents(tmp_path / "pinned") == contents(newer.bundles)


def test_a_copy_serves_where_there_are_no_links(tmp_path, monkeypatch):
    root, run = FolderStore(tmp_path / "registry"), night(tmp_path / "n1")
    promote(root, run)

    def no_links(_, target):
        raise OSError(18, "Invalid cross-device link", str(target))

    monkeypatch.setattr("os.link", no_links)
    of_base(root, tmp_path / "pinned")
    assert contents(tmp_path / "pinned") == contents(run.bundles)
    shutil.rmtree(root.root)
    read(tmp_path / "pinned" / "city=rome")


def test_only_bundles_that_moved_are_put_into_the_folder(tmp_path):
    root = FolderStore(tmp_path / "registry")
    promote(root, night(tmp_path / "n1"))
    before = of_base(root, tmp_path / "pinned")
    newer = night(tmp_path / "n2", seed=1, domains=(ROME,))
    promote(root, newer)
    moved = resolve_moved(root, "champion", tmp_path / "moved", base_fingerprint=BASE, since=before)
    expected = {n: c for n, c in contents(newer.bundles).items() if n != INDEX}
    assert contents(tmp_path / "moved") == expected
    assert moved == of_base(root, tmp_path / "all")
    again = resolve_moved(root, "champion", tmp_path / "none", base_fingerprint=BASE, since=moved)
    assert (again, contents(tmp_path / "none")) == (moved, {})
