"""The cache: what is kept is what was computed, and nothing else is ever read."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from iak.pipeline.activations.cache import ActivationCache, key_of
from iak.pipeline.lock import one_writer

KEY = key_of(what="test")
SCOPE = KEY[:16]
WIDTH = 5
on_a_log = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def keys_of(rows=9, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, (rows, 2), np.uint64)


def kept(folder, a_BA, seed=0, run="", scope=SCOPE):
    store = ActivationCache(folder, run=run)
    store.write(scope, keys_of(len(a_BA), seed), a_BA, computed=len(a_BA))
    store.close()
    return store


def entry(folder, seed=0, rows=9):
    return ActivationCache(folder).path_of_block(SCOPE, keys_of(rows, seed))


def some(rows=9, seed=0, dtype=torch.bfloat16):
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_is_read_is_what_was_written(tmp_path, dtype):
    written = some(dtype=dtype)
    kept(tmp_path, written)
    result = torch.zeros_like(written)
    assert ActivationCache(tmp_path).read_into(SCOPE, keys_of(), result)
    assert torch.equal(result, written)
    assert not ActivationCache(tmp_path).read_into(SCOPE, keys_of(seed=1), result)
    assert not ActivationCache(tmp_path).read_into("another", keys_of(), result)


@pytest.mark.parametrize(
    "wanted", [torch.zeros(9, WIDTH), torch.zeros(9, WIDTH + 1).bfloat16()], ids=["type", "width"]
)
def test_an_entry_of_another_type_or_width_counts_as_absent(tmp_path, wanted):
    kept(tmp_path, some())
    assert not ActivationCache(tmp_path).read_into(SCOPE, keys_of(len(wanted)), wanted)


@given(data=st.data())
@on_a_log
def test_a_flipped_bit_anywhere_is_never_read(tmp_path, data):
    shutil.rmtree(tmp_path)
    kept(tmp_path, some())
    (path,) = tmp_path.glob("*/*.activations")
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    result, store = torch.zeros_like(some()), ActivationCache(tmp_path)
    if store.read_into(SCOPE, keys_of(), result):
        assert torch.equal(result, some())  # a bit of the header that says nothing
    else:
        assert not path.exists()
        assert store.usage.entries_damaged == 1


@given(cut=st.floats(0, 0.999))
@on_a_log
def test_a_shortened_entry_is_never_read(tmp_path, cut):
    shutil.rmtree(tmp_path)
    kept(tmp_path, some())
    (path,) = tmp_path.glob("*/*.activations")
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    assert not ActivationCache(tmp_path).read_into(SCOPE, keys_of(), torch.zeros_like(some()))


def test_an_unfinished_entry_is_absent_and_swept_when_it_is_old(tmp_path):
    path = entry(tmp_path)
    path.parent.mkdir()
    part = path.with_name(f".{path.name}.1.part")
    part.write_bytes(b"half")
    store = ActivationCache(tmp_path)
    assert not store.read_into(SCOPE, keys_of(), torch.zeros_like(some()))
    store.evict(10**9)
    assert part.exists()
    os.utime(part, (time.time() - 10**6,) * 2)
    store.evict(10**9)
    assert not part.exists()


def test_the_entries_not_used_for_longest_go_first(tmp_path):
    paths = [entry(tmp_path, seed) for seed in range(4)]
    for age, path in enumerate(paths):
        kept(tmp_path, some(), age)
        os.utime(path, (time.time() - 1000 + age,) * 2)
    store = ActivationCache(tmp_path)
    assert store.read_into(SCOPE, keys_of(), torch.zeros_like(some()))
    store.evict(2 * paths[0].stat().st_size)
    assert [path.exists() for path in paths] == [True, False, False, True]
    assert store.usage.entries_evicted == 2


def test_a_cache_is_kept_to_its_budget_unless_another_run_does_so_now(tmp_path):
    kept(tmp_path, some())
    store = ActivationCache(tmp_path)
    with one_writer(tmp_path, waits=False):
        store.keep_to_budget(0)
    assert entry(tmp_path).exists()
    store.keep_to_budget(0)
    assert not entry(tmp_path).exists()


def test_a_standardisation_that_is_used_is_not_evicted_first(tmp_path):
    store = kept(tmp_path, some())
    standard = {"mean": torch.ones(3), "scale": torch.ones(3)}
    store = ActivationCache(tmp_path)
    store.write_standard(KEY, standard)
    store.close()
    (path,) = tmp_path.glob("*/*.standard")
    for age, used in enumerate((path, entry(tmp_path))):
        os.utime(used, (time.time() - 1000 + age,) * 2)
    assert store.read_standard(KEY) is not None
    store.evict(path.stat().st_size)
    assert path.exists()
    assert not entry(tmp_path).exists()


def test_a_full_disk_ends_the_writing_and_nothing_else(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("iak.pipeline.activations.cache.save_file", full)
    store = kept(tmp_path, some())
    assert "No space left" in store.usage.stopped
    assert not list(tmp_path.glob("*/*"))


def test_a_nearly_full_disk_is_left_alone(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1)
    monkeypatch.setattr("iak.pipeline.activations.cache.shutil.disk_usage", lambda _: usage)
    store = kept(tmp_path, some())
    assert "free" in store.usage.stopped
    assert not list(tmp_path.glob("*/*"))


def test_two_runs_may_write_the_same_entry(tmp_path):
    first, second = ActivationCache(tmp_path), ActivationCache(tmp_path)
    for store in (first, second):
        store.write(SCOPE, keys_of(), some(), computed=9)
    first.close()
    second.close()
    result = torch.zeros_like(some())
    assert ActivationCache(tmp_path).read_into(SCOPE, keys_of(), result)
    assert torch.equal(result, some())
    assert [path.name for path in tmp_path.glob("*/*")] == [entry(tmp_path).name]


def test_rows_come_back_with_what_the_contract_found(tmp_path):
    table = pa.table({"row": [3, 4], "l.0": pa.array(["a", "b"]).dictionary_encode()})
    store = ActivationCache(tmp_path)
    store.write_rows(KEY, table, {"null label": 2})
    store.close()
    result, contract = ActivationCache(tmp_path).read_rows(KEY)
    assert result.equals(table)
    assert contract == {"null label": 2}
    path = ActivationCache(tmp_path).path_of(KEY, "rows")
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    assert ActivationCache(tmp_path).read_rows(KEY) is None
    assert not path.exists()


# ---------------------------------------------------------------- damage, permissions, single rows


@given(data=st.data())
@on_a_log
def test_a_flipped_bit_of_rows_or_standardisation_is_never_read(tmp_path, data):
    shutil.rmtree(tmp_path)
    store, table = ActivationCache(tmp_path), pa.table({"row": [3, 4]})
    standard = {"mean": torch.arange(3.0), "scale": torch.ones(3)}
    store.write_rows(KEY, table, {})
    store.write_standard(KEY, standard)
    store.close()
    for path in tmp_path.glob("*/*"):
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
    rows, read = (
        ActivationCache(tmp_path).read_rows(KEY),
        ActivationCache(tmp_path).read_standard(KEY),
    )
    assert rows is None or rows[0].replace_schema_metadata(None).equals(table)
    assert read is None or all(torch.equal(read[n], t) for n, t in standard.items())


def test_rows_in_another_order_are_damage(tmp_path):
    kept(tmp_path, some())
    path = entry(tmp_path)
    with safe_open(path, framework="pt") as file:
        events, tensors = file.metadata(), {n: file.get_tensor(n) for n in ("a", "keys")}
    save_file({"a": tensors["a"].flip(0), "keys": tensors["keys"]}, path, metadata=events)
    store = ActivationCache(tmp_path)
    assert not store.read_into(SCOPE, keys_of(), torch.zeros_like(some()))
    assert store.usage.entries_damaged == 1


def test_entries_under_each_others_names_are_damage(tmp_path):
    for seed in (0, 1):
        kept(tmp_path, some(seed=seed), seed)
    one, other = entry(tmp_path, 0), entry(tmp_path, 1)
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    store = ActivationCache(tmp_path)
    for seed in (0, 1):
        assert not store.read_into(SCOPE, keys_of(seed=seed), torch.zeros_like(some()))
    assert store.usage.entries_damaged == 2
    elsewhere = entry(tmp_path).parent.with_name("another")
    kept(tmp_path, some())
    entry(tmp_path).parent.rename(elsewhere)
    assert not store.read_into("another", keys_of(), torch.zeros_like(some()))


def refuse(*_, **__):
    raise PermissionError(13, "Permission denied")


def test_an_entry_that_may_not_be_read_is_not_damage(tmp_path, monkeypatch):
    kept(tmp_path, some())
    monkeypatch.setattr("iak.pipeline.activations.cache.safe_open", refuse)
    store = ActivationCache(tmp_path)
    assert not store.read_into(SCOPE, keys_of(), torch.zeros_like(some()))
    assert "Permission denied" in store.usage.stopped
    assert store.usage.entries_damaged == 0
    assert entry(tmp_path).exists()


def test_a_cache_that_cannot_be_written_is_said_once_and_the_run_goes_on(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("iak.pipeline.activations.cache.putting_file", refuse)
    store = ActivationCache(tmp_path)
    for seed in range(3):
        store.write(SCOPE, keys_of(seed=seed), some(), computed=9)
    store.close()
    assert caplog.text.count("is not written any more") == 1
    assert "Permission denied" in store.usage.stopped


def test_a_folder_that_is_a_file_holds_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    store = kept(path, some())
    assert store.usage.stopped
    assert not store.read_into(SCOPE, keys_of(), torch.zeros_like(some()))
    assert not list(store.find_rows(SCOPE, keys_of()))
    store.evict(0)


def test_a_folder_that_may_not_be_entered_is_said_once_and_the_run_goes_on(
    tmp_path, monkeypatch, caplog
):
    kept(tmp_path, some())
    scope = entry(tmp_path).parent
    lstat = Path.lstat

    def refused(path):
        if path.parent == scope:
            raise PermissionError(13, "Permission denied", str(path))
        return lstat(path)

    listdir = os.listdir

    def not_listed(folder):
        return refuse() if Path(folder) == scope else listdir(folder)

    monkeypatch.setattr(Path, "lstat", refused)
    monkeypatch.setattr(os, "listdir", not_listed)
    monkeypatch.setattr("iak.pipeline.activations.cache.safe_open", refuse)
    store = ActivationCache(tmp_path)
    assert not store.read_into(SCOPE, keys_of(), torch.zeros_like(some()))
    assert not list(store.find_rows(SCOPE, keys_of()))
    store.write(SCOPE, keys_of(seed=1), some(), computed=9)
    store.close()
    store.evict(10**9)
    assert caplog.text.count("is not written any more") == 1


def looked_up(store, keys):
    result = {}
    for index, a_BA in store.find_rows(SCOPE, keys):
        assert not result.keys() & set(index.tolist()), "a row comes once"
        result |= dict(zip(index.tolist(), a_BA, strict=True))
    return result


@given(data=st.data())
@on_a_log
def test_single_rows_are_found_wherever_they_lie(tmp_path, data):
    shutil.rmtree(tmp_path)
    blocks = data.draw(st.integers(1, 4))
    for seed in range(blocks):
        kept(tmp_path, some(seed=seed), seed)
    known = np.concatenate([keys_of(seed=seed) for seed in range(blocks)])
    values = torch.cat([some(seed=seed) for seed in range(blocks)])
    picked = data.draw(st.lists(st.integers(-5, len(known) - 1), max_size=40))
    strange = keys_of(6, seed=99)
    wanted = np.array([known[p] if p >= 0 else strange[-p] for p in picked], np.uint64)
    store = ActivationCache(tmp_path)
    result = looked_up(store, wanted.reshape(-1, 2))
    assert sorted(result) == [at for at, p in enumerate(picked) if p >= 0]
    assert all(torch.equal(result[at], values[picked[at]]) for at in result)
    assert store.usage.rows_read == store.usage.rows_moved == len(result)


def test_rows_with_half_a_key_in_common_are_different_rows(tmp_path):
    kept(tmp_path, some())
    for lane in range(2):
        other = keys_of()
        other[:, lane] ^= np.uint64(1)
        assert not looked_up(ActivationCache(tmp_path), other)


def test_a_run_does_not_look_for_single_rows_in_its_own_entries(tmp_path):
    kept(tmp_path, some(), run="mine")
    assert not looked_up(ActivationCache(tmp_path, run="mine"), keys_of())
    assert ActivationCache(tmp_path, run="mine").read_into(
        SCOPE, keys_of(), torch.zeros_like(some())
    )
    assert len(looked_up(ActivationCache(tmp_path, run="another"), keys_of())) == 9


def test_a_damaged_entry_gives_no_single_row(tmp_path):
    kept(tmp_path, some())
    content = bytearray(entry(tmp_path).read_bytes())
    content[-3] ^= 1
    entry(tmp_path).write_bytes(content)
    assert not looked_up(ActivationCache(tmp_path), keys_of())
    assert not entry(tmp_path).exists()
