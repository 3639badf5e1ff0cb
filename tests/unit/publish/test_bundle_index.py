"""A night's bundles are one thing: all that its index names, and nothing else."""

import hashlib
import shutil
import signal
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iak.pipeline.errors import BadRequest, Corrupt, NotPermitted, OtherFormat, WrongBase
from iak.pipeline.publish.bundle import MANIFEST, WEIGHTS
from iak.pipeline.publish.bundle_index import (
    INDEX,
    check_index,
    find_bundles,
    publishing_bundles,
    read_index,
    write_index,
)
from iak.pipeline.publish.bundle_set import live_kernels, read_bundle_set
from iak.pipeline.sealed import parsed, seal, spelled
from tests.unit.publish.test_bundle import BASE, SCHEMA, VERDICT, write

DOMAINS = (None, {"region": "a"}, {"region": "a", "daypart": "b"})
NAMES = ["pooled", "region=a", "region=a,daypart=b"]
ON = {"base_fingerprint": BASE, "schema_hash": SCHEMA}


def publish(root, *, seed=0, domains=DOMAINS):
    with publishing_bundles(root) as built:
        for domain in domains:
            write(built, seed=seed, domain=domain)
    return root


@pytest.fixture
def night(tmp_path):
    return publish(tmp_path / "bundles")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def refused_by_all(root, kind, match):
    """Every reader of a night refuses it in the same words."""
    readers = (
        lambda: read_index(root),
        lambda: check_index(root, **ON),
        lambda: read_bundle_set(root, **ON),
        lambda: live_kernels(root, **ON, reads="hx"),
        lambda: live_kernels(root.parent, **ON, reads="hx"),
    )
    for reader in readers:
        with pytest.raises(kind, match=match):
            reader()


def test_the_index_names_every_bundle_with_its_digests_and_its_verdict(night):
    held = VERDICT.model_copy(update={"publish": False})
    write(night, domain={"region": "a"}, verdict=held)
    write_index(night)
    index = check_index(night, **ON)
    assert [entry.folder for entry in index.bundles] == NAMES
    assert [entry.published for entry in index.bundles] == [True, False, True]
    assert index.bundles[2].domain == [("region", "a"), ("daypart", "b")]
    for entry in index.bundles:
        sums = (entry.manifest_sha256, entry.weights_sha256)
        files = [night / entry.folder / name for name in (MANIFEST, WEIGHTS)]
        assert tuple(hashlib.sha256(f.read_bytes()).hexdigest() for f in files) == sums


def test_a_folder_with_bundles_and_no_index_is_a_night_that_was_killed(night):
    (night / INDEX).unlink()
    events = r"killed before it was published. Run its `iak finetune` again .*: it resumes"
    refused_by_all(night, BadRequest, events)


@pytest.mark.parametrize("has_index", [True, False])
def test_an_emptied_folder_is_refused(night, has_index):
    for name in NAMES:
        shutil.rmtree(night / name)
    if has_index:
        refused_by_all(night, Corrupt, "lacks bundles that its index.json names: pooled, region=a")
    else:
        (night / INDEX).unlink()
        with pytest.raises(BadRequest, match="no bundle below"):
            read_bundle_set(night, **ON)


def test_a_bundle_that_is_missing_is_refused_by_name(night):
    shutil.rmtree(night / "region=a")
    refused_by_all(night, Corrupt, "lacks bundles that its index.json names: region=a. Restore")


def test_a_foreign_bundle_is_refused_by_name(night):
    write(night, domain={"region": "z"})
    refused_by_all(night, Corrupt, "holds bundles that its index.json does not name: region=z")


def test_a_bundle_of_another_night_is_refused_by_name(night):
    write(night, seed=1, domain={"region": "a"})
    refused_by_all(night, Corrupt, rf"region=a/{MANIFEST} is not the one that index.json names")


def test_a_folder_and_a_manifest_of_different_domains_are_refused_by_name(night, tmp_path):
    shutil.rmtree(night / "region=a")
    write(tmp_path, domain={"region": "z"}).rename(night / "region=a")
    refused_by_all(night, Corrupt, "manifest of domain region=z, in a folder named region=a")


def test_another_base_is_refused(night):
    with pytest.raises(WrongBase, match="was tuned on base"):
        check_index(night, base_fingerprint="d" * 64, schema_hash=SCHEMA)
    with pytest.raises(WrongBase, match="reads inputs of schema"):
        check_index(night, base_fingerprint=BASE, schema_hash="other")


def test_bundles_of_two_bases_get_no_index(tmp_path):
    write(tmp_path)
    write(tmp_path, domain={"region": "a"}, base_fingerprint="d" * 64)
    with pytest.raises(WrongBase):
        write_index(tmp_path)
    assert not (tmp_path / INDEX).exists()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_any_flipped_byte_of_the_index_is_refused(night, at, mask):
    sound = (night / INDEX).read_bytes()
    data = bytearray(sound)
    data[int(at * len(data))] ^= mask
    (night / INDEX).write_bytes(data)
    try:
        with pytest.raises(Corrupt, match=r"index.json is not what was published"):
            read_index(night)
    finally:
        (night / INDEX).write_bytes(sound)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda _: b"", lambda data: data * 2])
def test_an_index_of_another_length_is_refused(night, change):
    (night / INDEX).write_bytes(change((night / INDEX).read_bytes()))
    refused_by_all(night, Corrupt, "is not what was published")


def test_an_index_of_a_newer_version_is_refused_by_its_format(night):
    document = parsed((night / INDEX).read_bytes()) | {"format": 99}
    (night / INDEX).write_bytes(spelled(seal(document)))
    refused_by_all(night, OtherFormat, "newer version")


def test_a_permission_error_is_no_damage(night, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(night), "read_bytes", denied)
    refused_by_all(night, NotPermitted, r"index.json: Permission denied")


# ---------------------------------------------------------------- put in place at once


def test_until_the_last_bundle_is_written_the_bundles_of_before_stand(night):
    with publishing_bundles(night) as built:
        write(built, seed=1)
        assert names_in(night) == [INDEX, *NAMES]
        check_index(night, **ON)
    assert names_in(night) == [INDEX, "pooled"]
    assert names_in(night.parent) == ["bundles"]


def test_a_night_that_fails_changes_nothing(night):
    before = (night / INDEX).read_bytes()

    def fails():
        with publishing_bundles(night) as built:
            write(built, seed=1)
            raise RuntimeError("no second bundle")

    with pytest.raises(RuntimeError):
        fails()
    assert (night / INDEX).read_bytes() == before
    check_index(night, **ON)
    assert names_in(night.parent) == ["bundles"]


KILLED = """
import os, signal, sys
from pathlib import Path
from iak.pipeline.publish.bundle_index import publishing_bundles
from tests.unit.publish.test_bundle import write
with publishing_bundles(Path(sys.argv[1])) as built:
    write(built, seed=1)
    write(built, seed=1, domain={"region": "a"})
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.faults
@pytest.mark.parametrize("has_before", [True, False])
def test_a_night_killed_between_two_bundles_is_no_night_and_the_next_attempt_is(
    tmp_path, has_before
):
    root = tmp_path / "run" / "bundles"
    if has_before:
        publish(root)
    done = subprocess.run([sys.executable, "-c", KILLED, str(root)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(names_in(root.parent)) == 1 + has_before  # the hidden part
    if has_before:
        check_index(root, **ON)
    else:
        assert find_bundles(root.parent) is None
    publish(root, seed=1)
    assert [entry.folder for entry in check_index(root, **ON).bundles] == NAMES
    assert names_in(root.parent) == ["bundles"]


def test_a_run_folder_stands_for_its_bundles(night):
    assert find_bundles(night) == find_bundles(night.parent) == night
    assert find_bundles(night / "pooled") is None
    write(night.parent)
    assert find_bundles(night.parent) == night, "the folder with an index comes first"
