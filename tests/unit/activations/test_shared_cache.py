"""Two machines share a cache at a place of their own choice: what one computed, the other reads."""

import logging

import pyarrow as pa
import pytest
import torch

from iak.pipeline.activations.cache import ActivationCache
from iak.pipeline.errors import Unreachable
from iak.pipeline.storage.folder_store import FolderStore
from tests.unit.activations.test_cache import KEY, SCOPE, keys_of, some


@pytest.fixture
def machine(tmp_path):
    """A machine's view of the cache. The shared place is a folder, which keeps the laws of S3."""

    def use(name, run=""):
        return ActivationCache(tmp_path / name, run=run, uri=str(tmp_path / "shared"))

    return use


def write(store, a_BA, seed=0):
    store.write(SCOPE, keys_of(len(a_BA), seed), a_BA, computed=len(a_BA))
    store.close()


def read(store, rows=9, seed=0):
    a_BA = torch.zeros_like(some(rows))
    return a_BA if store.read_into(SCOPE, keys_of(rows, seed), a_BA) else None


def test_a_block_that_one_machine_computed_is_read_by_another(machine):
    write(machine("one"), some())
    other = machine("other")
    assert torch.equal(read(other), some())
    assert other.usage.rows_read == 9
    assert read(other, seed=1) is None


def test_single_rows_are_found_in_blocks_of_another_machine(machine):
    write(machine("one", run="R1"), some())
    wanted = keys_of()[[7, 2]]
    ((index, found),) = machine("other", run="R2").find_rows(SCOPE, wanted)
    assert torch.equal(found[index.argsort()], some()[[7, 2]])


def test_a_run_that_goes_on_elsewhere_does_not_look_into_what_it_wrote_itself(machine):
    write(machine("one", run="R1"), some())
    assert list(machine("other", run="R1").find_rows(SCOPE, keys_of()[[7]])) == []


def test_rows_and_standardisations_are_shared_too(machine):
    one = machine("one")
    one.write_rows(KEY, pa.table({"user": ["a", "b"]}), {"odd": 1})
    one.write_standard(KEY, {"mean": torch.ones(3)})
    one.close()
    table, contract = machine("other").read_rows(KEY)
    assert (table.column("user").to_pylist(), contract) == (["a", "b"], {"odd": 1})
    assert torch.equal(machine("other").read_standard(KEY)["mean"], torch.ones(3))


def test_a_damaged_entry_is_computed_again_and_replaced_for_all(machine, tmp_path):
    write(machine("one"), some())
    (shared,) = (tmp_path / "shared").rglob("*.activations")
    content = bytearray(shared.read_bytes())
    content[-1] ^= 1
    shared.write_bytes(bytes(content))
    other = machine("other")
    assert read(other) is None
    assert other.usage.entries_damaged == 1
    write(other, some())
    assert torch.equal(read(machine("third")), some())


def test_without_the_shared_place_a_machine_goes_on_alone(machine, monkeypatch, caplog):
    def fail(*_):
        raise Unreachable("the store does not answer")

    for name in ("download", "upload", "names"):
        monkeypatch.setattr(FolderStore, name, fail)
    one = machine("one")
    with caplog.at_level(logging.WARNING):
        assert read(one) is None
        write(one, some())
        assert list(machine("two").find_rows(SCOPE, keys_of())) == []
    assert one.usage.stopped == ""
    said = [r.message for r in caplog.records if "not shared any more" in r.message]
    assert len(said) == 2  # once for each machine
    assert torch.equal(read(machine("one")), some())
