"""The cache: what is kept is what was computed, and nothing else is ever read."""

import os
import shutil
import time
from collections import Counter
from datetime import date

import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.training import activations
from pipeline.training import rows as tuning
from pipeline.training.activations import Read, Standard
from pipeline.training.cache import Store, key_of
from pipeline.training.rows import RowSource
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
LAYOUT = [(region, day, (7, 12)) for region in REGIONS for day in DAYS[:2]]
WIDTH = 5
on_a_log = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def kept(folder, a_BA, key=KEY):
    store = Store(folder)
    store.write(key, a_BA)
    store.close()
    return store


def some(rows=9, seed=0, dtype=torch.bfloat16):
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_is_read_is_what_was_written(tmp_path, dtype):
    written = some(dtype=dtype)
    kept(tmp_path, written)
    found = torch.zeros_like(written)
    assert Store(tmp_path).read_into(KEY, found)
    assert torch.equal(found, written)
    assert not Store(tmp_path).read_into(key_of(what="another"), found)


@pytest.mark.parametrize(
    "wanted", [torch.zeros(9, WIDTH), torch.zeros(8, WIDTH).bfloat16()], ids=["type", "shape"]
)
def test_an_entry_of_another_type_or_shape_counts_as_absent(tmp_path, wanted):
    kept(tmp_path, some())
    assert not Store(tmp_path).read_into(KEY, wanted)


@given(data=st.data())
@on_a_log
def test_a_flipped_bit_anywhere_is_never_read(tmp_path, data):
    shutil.rmtree(tmp_path)
    kept(tmp_path, some())
    (path,) = tmp_path.glob("??/*.activations")
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    found, store = torch.zeros_like(some()), Store(tmp_path)
    if store.read_into(KEY, found):
        assert torch.equal(found, some())  # a bit of the header that says nothing
    else:
        assert not path.exists()
        assert store.usage.entries_damaged == 1


@given(cut=st.floats(0, 0.999))
@on_a_log
def test_a_shortened_entry_is_never_read(tmp_path, cut):
    shutil.rmtree(tmp_path)
    kept(tmp_path, some())
    (path,) = tmp_path.glob("??/*.activations")
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    assert not Store(tmp_path).read_into(KEY, torch.zeros_like(some()))


def test_an_unfinished_entry_is_absent_and_swept_when_it_is_old(tmp_path):
    folder = tmp_path / KEY[:2]
    folder.mkdir()
    part = folder / f".{KEY}.activations.1.part"
    part.write_bytes(b"half")
    store = Store(tmp_path)
    assert not store.has(KEY)
    store.evict(10**9)
    assert part.exists()
    os.utime(part, (time.time() - 10**6,) * 2)
    store.evict(10**9)
    assert not part.exists()


def test_the_entries_not_used_for_longest_go_first(tmp_path):
    keys = [key_of(what=n) for n in range(4)]
    for age, key in enumerate(keys):
        kept(tmp_path, some(), key)
        path = Store(tmp_path)._path(key, "activations")
        os.utime(path, (time.time() - 1000 + age,) * 2)
    store = Store(tmp_path)
    assert store.read_into(keys[0], torch.zeros_like(some()))
    size = path.stat().st_size
    store.evict(2 * size)
    assert [store.has(key) for key in keys] == [True, False, False, True]
    assert store.usage.entries_evicted == 2


def test_a_full_disk_ends_the_writing_and_nothing_else(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.training.cache.save_file", full)
    store = kept(tmp_path, some())
    assert "No space left" in store.usage.stopped
    assert not list(tmp_path.glob("*/*"))


def test_a_nearly_full_disk_is_left_alone(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1)
    monkeypatch.setattr("pipeline.training.cache.shutil.disk_usage", lambda _: usage)
    store = kept(tmp_path, some())
    assert "free" in store.usage.stopped
    assert not store.has(KEY)


def test_two_runs_may_write_the_same_entry(tmp_path):
    first, second = Store(tmp_path), Store(tmp_path)
    for store in (first, second):
        store.write(KEY, some())
    first.close()
    second.close()
    found = torch.zeros_like(some())
    assert Store(tmp_path).read_into(KEY, found)
    assert torch.equal(found, some())
    assert [path.name for path in tmp_path.glob("*/*")] == [f"{KEY}.activations"]


def test_rows_come_back_with_what_the_contract_found(tmp_path):
    table = pa.table({"row": [3, 4], "l.0": pa.array(["a", "b"]).dictionary_encode()})
    store = Store(tmp_path)
    store.write_rows(KEY, table, {"null label": 2})
    store.close()
    found, contract = Store(tmp_path).read_rows(KEY)
    assert found.equals(table)
    assert contract == {"null label": 2}
    path = Store(tmp_path)._path(KEY, "rows")
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    assert Store(tmp_path).read_rows(KEY) is None
    assert not path.exists()


class PlainBase:
    """A base whose activations are the row's own key, five times."""

    width, units, device, dtype = WIDTH, 2, torch.device("cpu"), torch.float32

    def __init__(self):
        self.looked_up = []
        self.blocks = set()

    def look_up(self, rows):
        keys = rows.column("row").to_numpy()
        self.looked_up += keys.tolist()
        self.blocks.add(tuple(keys.tolist()))
        return torch.from_numpy((keys % 1000).copy()).float()[:, None].repeat(1, WIDTH)

    def read(self, a_BA):
        standard = Standard(mean_A=torch.zeros(WIDTH), scale_A=torch.ones(WIDTH), reads_x=True)
        return standard.read(a_BA.float(), self.units)


@pytest.fixture
def log(tmp_path):
    write_log(tmp_path / "log", LAYOUT)
    return tmp_path / "log"


def night(log, folder, *, catalog=None, base="b", rank=0, world=1, as_of=None, order=None):
    """One worker's part of a night: read, use every row, keep."""
    catalog = catalog or small_catalog()
    encoding = encoding_of(raw_rows(log, small_catalog())[0][0], small_catalog())
    reader = small_reader(
        log, catalog, encoding=encoding, rank=rank, world=world, as_of=as_of
    )  # fmt: skip
    store, through = Store(folder), PlainBase()
    source = RowSource(reader=reader, store=store, seen=Counter())
    rows = source.read()
    opened = sum(piece.features is not None for piece in rows.pieces)
    arena = tuning.activations_of(
        rows, source, through, key={"base": base}, dtype=torch.float32, spill=None, worker=ALONE
    )  # fmt: skip
    places = torch.arange(len(rows)) if order is None else torch.tensor(order(len(rows)))
    found = arena.of(places)
    arena.complete()
    store.close()
    keys = torch.from_numpy(rows.known.column("row").to_numpy().copy())
    assert isinstance(found, Read)
    assert torch.equal(found.a_BA[:, 0], (keys[places] % 1000).float())
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
    monkeypatch.setattr(activations, "_LOOK_UP_ROWS", data.draw(st.integers(1, 9), label="piece"))
    seen = []
    for _ in range(2):
        arena, through, rows = unread_arena(log)
        for _ in range(data.draw(st.integers(0, 4))):
            places = data.draw(st.lists(st.integers(0, rows - 1), max_size=6))
            arena.of(torch.tensor(places, dtype=torch.int64))
        arena.complete()
        arena.complete()
        assert arena.is_whole
        assert len(through.looked_up) == rows
        seen.append((through.blocks, arena.a_nA))
    assert seen[0][0] == seen[1][0]
    assert torch.equal(seen[0][1], seen[1][1])


def unread_arena(log):
    catalog = small_catalog()
    encoding = encoding_of(raw_rows(log, catalog)[0][0], catalog)
    reader = small_reader(log, catalog, encoding=encoding, rank=0, world=1, as_of=None)
    source, through = RowSource(reader=reader, store=None, seen=Counter()), PlainBase()
    rows = source.read()
    arena = tuning.activations_of(
        rows, source, through, key={}, dtype=torch.float32, spill=None, worker=ALONE
    )
    return arena, through, len(rows)


def test_rows_that_no_step_used_are_computed_at_the_end(log, tmp_path):
    rows, looked_up, *_ = night(log, tmp_path / "cache", order=lambda n: [0, n - 1])
    assert looked_up == rows
    assert night(log, tmp_path / "cache")[1] == 0


@pytest.mark.parametrize(
    ("chunk_rows", "anew"),
    [
        pytest.param(4, range(1), id="small ones are shared out whole"),
        pytest.param(
            20, range(1, 41), id="large ones are cut, which the shares' evenness is worth"
        ),
    ],
)
def test_another_number_of_workers_finds_the_chunks_that_no_cut_goes_through(
    log, tmp_path, monkeypatch, chunk_rows, anew
):
    monkeypatch.setattr(tuning, "CHUNK_ROWS", chunk_rows)
    rows, *_ = night(log, tmp_path / "cache")
    parts = [night(log, tmp_path / "cache", rank=rank, world=3) for rank in range(3)]
    assert sum(part[0] for part in parts) == rows
    assert sum(part[1] for part in parts) in anew


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
