"""The cache: what is kept is what was computed, and nothing else is ever read."""

import os
import shutil
import time
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from iak.pipeline.activations import buffer
from iak.pipeline.activations import rows as tuning
from iak.pipeline.activations.cache import Store, key_of
from iak.pipeline.activations.rows import RowSource
from iak.pipeline.activations.standardizer import Read, Standardizer
from iak.pipeline.data.feature_keys import feature_keys
from tests.builders import (
    DAYS,
    REGIONS,
    encoding_of,
    raw_rows,
    small_catalog,
    small_reader,
    write_log,
)
from tests.unit.iak.small import ALONE

KEY = key_of(what="test")
SCOPE = KEY[:16]
LAYOUT = [(region, day, (7, 12)) for region in REGIONS for day in DAYS[:2]]
WIDTH = 5
on_a_log = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def keys_of(rows=9, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, (rows, 2), np.uint64)


def kept(folder, a_BA, seed=0, run="", scope=SCOPE):
    store = Store(folder, run=run)
    store.write(scope, keys_of(len(a_BA), seed), a_BA, computed=len(a_BA))
    store.close()
    return store


def entry(folder, seed=0, rows=9):
    return Store(folder)._path_of_block(SCOPE, keys_of(rows, seed))


def some(rows=9, seed=0, dtype=torch.bfloat16):
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_is_read_is_what_was_written(tmp_path, dtype):
    written = some(dtype=dtype)
    kept(tmp_path, written)
    result = torch.zeros_like(written)
    assert Store(tmp_path).read_into(SCOPE, keys_of(), result)
    assert torch.equal(result, written)
    assert not Store(tmp_path).read_into(SCOPE, keys_of(seed=1), result)
    assert not Store(tmp_path).read_into("another", keys_of(), result)


@pytest.mark.parametrize(
    "wanted", [torch.zeros(9, WIDTH), torch.zeros(9, WIDTH + 1).bfloat16()], ids=["type", "width"]
)
def test_an_entry_of_another_type_or_width_counts_as_absent(tmp_path, wanted):
    kept(tmp_path, some())
    assert not Store(tmp_path).read_into(SCOPE, keys_of(len(wanted)), wanted)


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
    result, store = torch.zeros_like(some()), Store(tmp_path)
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
    assert not Store(tmp_path).read_into(SCOPE, keys_of(), torch.zeros_like(some()))


def test_an_unfinished_entry_is_absent_and_swept_when_it_is_old(tmp_path):
    path = entry(tmp_path)
    path.parent.mkdir()
    part = path.with_name(f".{path.name}.1.part")
    part.write_bytes(b"half")
    store = Store(tmp_path)
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
    store = Store(tmp_path)
    assert store.read_into(SCOPE, keys_of(), torch.zeros_like(some()))
    store.evict(2 * paths[0].stat().st_size)
    assert [path.exists() for path in paths] == [True, False, False, True]
    assert store.usage.entries_evicted == 2


def test_a_standardisation_that_is_used_is_not_evicted_first(tmp_path):
    store = kept(tmp_path, some())
    standard = {"mean": torch.ones(3), "scale": torch.ones(3)}
    store = Store(tmp_path)
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
    first, second = Store(tmp_path), Store(tmp_path)
    for store in (first, second):
        store.write(SCOPE, keys_of(), some(), computed=9)
    first.close()
    second.close()
    result = torch.zeros_like(some())
    assert Store(tmp_path).read_into(SCOPE, keys_of(), result)
    assert torch.equal(result, some())
    assert [path.name for path in tmp_path.glob("*/*")] == [entry(tmp_path).name]


def test_rows_come_back_with_what_the_contract_found(tmp_path):
    table = pa.table({"row": [3, 4], "l.0": pa.array(["a", "b"]).dictionary_encode()})
    store = Store(tmp_path)
    store.write_rows(KEY, table, {"null label": 2})
    store.close()
    result, contract = Store(tmp_path).read_rows(KEY)
    assert result.equals(table)
    assert contract == {"null label": 2}
    path = Store(tmp_path)._path(KEY, "rows")
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    assert Store(tmp_path).read_rows(KEY) is None
    assert not path.exists()


# ---------------------------------------------------------------- damage, permissions, single rows


@given(data=st.data())
@on_a_log
def test_a_flipped_bit_of_rows_or_standardisation_is_never_read(tmp_path, data):
    shutil.rmtree(tmp_path)
    store, table = Store(tmp_path), pa.table({"row": [3, 4]})
    standard = {"mean": torch.arange(3.0), "scale": torch.ones(3)}
    store.write_rows(KEY, table, {})
    store.write_standard(KEY, standard)
    store.close()
    for path in tmp_path.glob("*/*"):
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
    rows, read = Store(tmp_path).read_rows(KEY), Store(tmp_path).read_standard(KEY)
    assert rows is None or rows[0].replace_schema_metadata(None).equals(table)
    assert read is None or all(torch.equal(read[n], t) for n, t in standard.items())


def test_rows_in_another_order_are_damage(tmp_path):
    kept(tmp_path, some())
    path = entry(tmp_path)
    with safe_open(path, framework="pt") as file:
        events, tensors = file.metadata(), {n: file.get_tensor(n) for n in ("a", "keys")}
    save_file({"a": tensors["a"].flip(0), "keys": tensors["keys"]}, path, metadata=events)
    store = Store(tmp_path)
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
    store = Store(tmp_path)
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
    store = Store(tmp_path)
    assert not store.read_into(SCOPE, keys_of(), torch.zeros_like(some()))
    assert "Permission denied" in store.usage.stopped
    assert store.usage.entries_damaged == 0
    assert entry(tmp_path).exists()


def test_a_cache_that_cannot_be_written_is_said_once_and_the_run_goes_on(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("iak.pipeline.activations.cache.putting_file", refuse)
    store = Store(tmp_path)
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
    store = Store(tmp_path)
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
    store = Store(tmp_path)
    result = looked_up(store, wanted.reshape(-1, 2))
    assert sorted(result) == [at for at, p in enumerate(picked) if p >= 0]
    assert all(torch.equal(result[at], values[picked[at]]) for at in result)
    assert store.usage.rows_read == store.usage.rows_moved == len(result)


def test_rows_with_half_a_key_in_common_are_different_rows(tmp_path):
    kept(tmp_path, some())
    for lane in range(2):
        other = keys_of()
        other[:, lane] ^= np.uint64(1)
        assert not looked_up(Store(tmp_path), other)


def test_a_run_does_not_look_for_single_rows_in_its_own_entries(tmp_path):
    kept(tmp_path, some(), run="mine")
    assert not looked_up(Store(tmp_path, run="mine"), keys_of())
    assert Store(tmp_path, run="mine").read_into(SCOPE, keys_of(), torch.zeros_like(some()))
    assert len(looked_up(Store(tmp_path, run="another"), keys_of())) == 9


def test_a_damaged_entry_gives_no_single_row(tmp_path):
    kept(tmp_path, some())
    content = bytearray(entry(tmp_path).read_bytes())
    content[-3] ^= 1
    entry(tmp_path).write_bytes(content)
    assert not looked_up(Store(tmp_path), keys_of())
    assert not entry(tmp_path).exists()


# ---------------------------------------------------------------- nights


def number_of(keys):
    return torch.from_numpy((keys[:, 0] % 1000).astype(np.float32))


class PlainBase:
    """A base whose activations are a number of the row's features, five times."""

    width, units, device, dtype = WIDTH, 2, torch.device("cpu"), torch.float32

    def __init__(self):
        self.looked_up = []
        self.blocks = set()

    def look_up(self, rows):
        keys = rows.column("row").to_numpy()
        self.looked_up += keys.tolist()
        self.blocks.add(tuple(keys.tolist()))
        (batch,) = rows.combine_chunks().to_batches()
        return number_of(feature_keys(batch))[:, None].repeat(1, WIDTH)

    def read(self, a_BA):
        standard = Standardizer(mean_A=torch.zeros(WIDTH), scale_A=torch.ones(WIDTH), reads_x=True)
        return standard.read(a_BA.float(), self.units)


@pytest.fixture
def log(tmp_path):
    write_log(tmp_path / "log", LAYOUT)
    return tmp_path / "log"


def night(
    log, folder, *, catalog=None, base="b", rank=0, world=1, as_of=None, order=None, encoding=None
):
    """One worker's part of a night: read, use every row, keep."""
    catalog = catalog or small_catalog()
    encoding = encoding or encoding_of(raw_rows(log, small_catalog())[0][0], small_catalog())
    reader = small_reader(
        log, catalog, encoding=encoding, rank=rank, world=world, as_of=as_of
    )  # fmt: skip
    store, through = Store(folder), PlainBase()
    source = RowSource(reader=reader, store=store, contract=Counter())
    rows = source.read()
    opened = sum(piece.features is not None for piece in rows.pieces)
    activations = tuning.activations_of(
        rows, source, through, key={"base": base}, dtype=torch.float32, spill=None, worker=ALONE
    )  # fmt: skip
    index = torch.arange(len(rows)) if order is None else torch.tensor(order(len(rows)))
    result = activations.of(index)
    activations.complete()
    store.close()
    keys = np.stack([rows.known.column(name).to_numpy() for name in tuning.KEYS], axis=1)
    assert isinstance(result, Read)
    assert torch.equal(result.a_BA[:, 0], number_of(keys)[index])
    return len(rows), len(through.looked_up), opened, store.usage


def backwards(rows):
    return list(range(rows))[::-1]


@pytest.mark.parametrize("chunk_rows", [4, 10, 1000])
def test_a_second_night_computes_nothing_and_opens_no_file(log, tmp_path, monkeypatch, chunk_rows):
    monkeypatch.setattr(tuning, "CHUNK_ROWS", chunk_rows)
    rows, looked_up, opened, _ = night(
        log, tmp_path / "cache", order=lambda n: list(range(n))[::-1]
    )
    assert rows == looked_up == sum(sum(groups) for _, _, groups in LAYOUT)
    assert opened == 2 * len(LAYOUT)
    assert night(log, tmp_path / "cache")[:3] == (rows, 0, 0)


@given(st.data())
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_computed_by_the_same_blocks_whatever_steps_ask_for(log, monkeypatch, data):
    monkeypatch.setattr(tuning, "CHUNK_ROWS", data.draw(st.integers(1, 12), label="chunk"))
    monkeypatch.setattr(buffer, "LOOK_UP_ROWS", data.draw(st.integers(1, 9), label="piece"))
    computed = []
    for _ in range(2):
        activations, through, rows = unread_buffer(log)
        for _ in range(data.draw(st.integers(0, 4))):
            index = data.draw(st.lists(st.integers(0, rows - 1), max_size=6))
            activations.of(torch.tensor(index, dtype=torch.int64))
        activations.complete()
        activations.complete()
        assert activations.is_whole
        assert len(through.looked_up) == rows
        computed.append((through.blocks, activations.a_nA))
    assert computed[0][0] == computed[1][0]
    assert torch.equal(computed[0][1], computed[1][1])


def unread_buffer(log):
    catalog = small_catalog()
    encoding = encoding_of(raw_rows(log, catalog)[0][0], catalog)
    reader = small_reader(log, catalog, encoding=encoding, rank=0, world=1, as_of=None)
    source, through = RowSource(reader=reader, store=None, contract=Counter()), PlainBase()
    rows = source.read()
    activations = tuning.activations_of(
        rows, source, through, key={}, dtype=torch.float32, spill=None, worker=ALONE
    )
    return activations, through, len(rows)


def test_rows_that_no_step_used_are_computed_at_the_end(log, tmp_path):
    rows, looked_up, *_ = night(log, tmp_path / "cache", order=lambda n: [0, n - 1])
    assert looked_up == rows
    assert night(log, tmp_path / "cache")[1] == 0


@pytest.mark.parametrize("chunk_rows", [4, 20])
def test_another_number_of_workers_computes_nothing(log, tmp_path, monkeypatch, chunk_rows):
    monkeypatch.setattr(tuning, "CHUNK_ROWS", chunk_rows)
    rows, *_ = night(log, tmp_path / "cache")
    parts = [night(log, tmp_path / "cache", rank=rank, world=3) for rank in range(3)]
    assert sum(part[0] for part in parts) == rows
    assert sum(part[1] for part in parts) == 0


def all_rows(log):
    return pa.concat_tables(
        pq.read_table(path, partitioning=None).append_column(
            "place", pa.repeat(str(path.parent.relative_to(log)), pq.read_metadata(path).num_rows)
        )
        for path in sorted(log.rglob("*.parquet"))
    )


def write_again(log, rows, name, group_rows):
    """Write rows into other files and row groups, each into its partition's folder."""
    for place in rows.column("place").unique().to_pylist():
        part = rows.filter(pc.equal(rows.column("place"), place)).drop_columns("place")
        (log / place).mkdir(parents=True, exist_ok=True)
        pq.write_table(part, log / place / name, row_group_size=group_rows)


def restated(rows, column="click"):
    labels = pc.subtract(pa.scalar(1, rows.schema.field(column).type), rows.column(column))
    return rows.set_column(rows.schema.get_field_index(column), column, labels)


def test_a_restated_label_is_read_and_nothing_is_computed(log, tmp_path):
    rows, *_ = night(log, tmp_path / "cache")
    changed = restated(all_rows(log))
    for path in log.rglob("*.parquet"):
        path.unlink()
    write_again(log, changed, "part-00000.parquet", 7)
    again, looked_up, opened, usage = night(log, tmp_path / "cache")
    assert (again, looked_up) == (rows, 0)
    assert opened > 0, "labels are read"
    assert usage.rows_read == rows


@given(st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_that_come_in_other_files_groups_and_order_are_not_computed_again(
    tmp_path_factory, monkeypatch, data
):
    root = tmp_path_factory.mktemp("moved")
    log, cache = root / "log", root / "cache"
    write_log(log, LAYOUT)
    monkeypatch.setattr(tuning, "CHUNK_ROWS", data.draw(st.integers(2, 12), label="chunk"))
    encoding = encoding_of(raw_rows(log, small_catalog())[0][0], small_catalog())
    rows, *_ = night(log, cache, encoding=encoding)
    whole = all_rows(log)
    order = data.draw(st.permutations(range(len(whole))), label="order")
    kept_rows = order[: data.draw(st.integers(1, len(whole)), label="rows that come")]
    come = restated(whole.take(pa.array(kept_rows)))
    for path in log.rglob("*.parquet"):
        path.unlink()
    write_again(log, come, "labelled.parquet", data.draw(st.integers(1, 9), label="group"))
    again, looked_up, _, usage = night(log, cache, encoding=encoding)
    assert (again, looked_up) == (len(come), 0)
    assert usage.rows_read == len(come) <= rows
    moved = night(log, cache, encoding=encoding)[3].rows_moved
    assert moved == 0, "they are found as blocks of their own from now on"


def test_of_a_block_that_is_partly_known_only_the_rest_is_computed(log, tmp_path):
    encoding = encoding_of(raw_rows(log, small_catalog())[0][0], small_catalog())
    night(log, tmp_path / "cache", encoding=encoding)
    path = min(log.rglob("*.parquet"))
    known = pq.read_table(path, partitioning=None)
    prices = pa.array([1234.5 + row for row in range(5)])
    price = known.schema.get_field_index("price")
    new = known.slice(0, 5).set_column(price, "price", prices)
    pq.write_table(pa.concat_tables([known.slice(0, 9), new, known.slice(9)]), path)
    rows, looked_up, _, usage = night(log, tmp_path / "cache", encoding=encoding)
    assert looked_up == 5
    assert usage.rows_computed == 5
    assert usage.rows_read == rows - 5
    assert night(log, tmp_path / "cache", encoding=encoding)[1:3] == (0, 0)


def test_a_new_day_is_the_only_one_that_is_computed(log, tmp_path):
    rows, *_ = night(log, tmp_path / "cache")
    write_log(log, [*LAYOUT, ("ningbo", DAYS[2], (5,))])
    again, looked_up, opened, usage = night(log, tmp_path / "cache")
    assert (again, looked_up, opened) == (rows + 5, 5, 1)
    assert usage.rows_read == rows


def test_a_changed_file_is_computed_anew_and_the_others_are_not(log, tmp_path):
    rows, *_ = night(log, tmp_path / "cache")
    write_log(log, [(*LAYOUT[0][:2], (7, 13)), *LAYOUT[1:]], seed=1)
    again, looked_up, _, _ = night(log, tmp_path / "cache")
    assert again == rows + 1
    assert looked_up == again  # all files differ: another seed
    write_log(log, [(*LAYOUT[0][:2], (7, 13)), *LAYOUT[1:]], seed=1)
    assert night(log, tmp_path / "cache")[1] == 0


def test_another_base_computes_everything_but_knows_the_rows(log, tmp_path):
    rows, *_ = night(log, tmp_path / "cache")
    again, looked_up, opened, _ = night(log, tmp_path / "cache", base="another")
    assert (again, looked_up, opened) == (rows, rows, 0)


def test_other_domains_are_read_anew_and_nothing_is_computed(log, tmp_path):
    night(log, tmp_path / "cache")
    catalog = small_catalog(domain__keys=["region", "scene"])
    _, looked_up, opened, _ = night(log, tmp_path / "cache", catalog=catalog)
    assert looked_up == 0 < opened


def test_ripening_labels_are_read_anew_each_night_and_nothing_is_computed(log, tmp_path):
    tasks = [
        {"label": "click", "kind": "click"},
        {"label": "order", "kind": "conversion", "matures_after": "P1D"},
    ]
    ripening = small_catalog(tasks=tasks)
    days = [date.fromisoformat(day) for day in DAYS]
    night(log, tmp_path / "cache", catalog=ripening, as_of=days[1])
    _, looked_up, opened, _ = night(log, tmp_path / "cache", catalog=ripening, as_of=days[2])
    assert looked_up == 0 < opened
    plain = [night(log, tmp_path / "plain", as_of=day) for day in days[1:]]
    assert plain[1][1:3] == (0, 0)
