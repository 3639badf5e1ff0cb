"""Laws of reading: each selected row once, by one worker; a resumed epoch goes on unchanged."""

import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.data import hashing, parquet, reader, splits
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.reader import Cursor, Reader
from iak.pipeline.data.splits import Split
from iak.pipeline.errors import BadLog
from iak.schemas.log import Catalog
from tests.builders import (
    DAYS,
    EVERYTHING,
    REGIONS,
    batch_of,
    draw_rows,
    encoding_of,
    keys_to_ids,
    rows_in_order,
    small_catalog,
    small_reader,
    snapshot_of,
    write_file,
    write_log,
)

CATALOG = small_catalog()
LAYOUTS = st.lists(
    st.tuples(
        st.sampled_from(REGIONS),
        st.sampled_from(DAYS),
        st.lists(st.integers(0, 9), max_size=4),
    ),
    min_size=1,
    max_size=6,
)
SPLITS = st.builds(
    Split,
    name=st.just("any"),
    first=st.sampled_from([None, *map(date.fromisoformat, DAYS)]),
    last=st.just(date(2026, 10, 3)),
    where=st.sampled_from(
        [{}, {"region": ("ningbo",)}, {"scene": ("feed", "配送")}, {"item_id": ("3", "-2", "x")}]
    ),
    slice=st.sampled_from([(0.0, 1.0), (0.0, 0.5), (0.3, 0.9)]),
)


def encoding_for(catalog: Catalog = CATALOG) -> Encoding:
    rows = draw_rows(60, first=10_000)
    rows = rows.append_column("region", pa.array(["ningbo"] * 60))
    return encoding_of(batch_of(rows), catalog)


ENCODING = encoding_for()


def expected_ids(rows: pa.Table, split: Split) -> list[int]:
    """Ids of the rows a split selects, by a plain reading of its conditions."""
    kept = []
    for row in rows.to_pylist():
        position = hashing.unit_interval(
            hashing.keys_of(pa.array([row["event_id"]])), salt=splits.SLICE_SALT
        )[0]
        in_window = (
            split.first is None or split.first <= date.fromisoformat(row["dt"]) <= split.last
        )
        is_admitted = all(str(row[c]) in values for c, values in split.where.items())
        if in_window and is_admitted and split.slice[0] <= position < split.slice[1]:
            kept.append(row["event_id"])
    return kept


def ids_of(tables: list[Any]) -> list[int]:
    known = keys_to_ids(2_000)
    return [known[key] for table in tables for key in table.column("row").to_pylist()]


def shuffle(worker: Reader, **changes: Any) -> Iterator[tuple[pa.Table, Cursor]]:
    return worker.shuffled(**{"seed": 3, "epoch": 0, "batch_rows": 5, "block_rows": 11, **changes})


@given(layout=LAYOUTS, split=SPLITS, world=st.integers(1, 5), batch_rows=st.integers(1, 17))
@settings(max_examples=60)
def test_every_selected_row_is_read_exactly_once_by_exactly_one_worker(
    layout, split, world, batch_rows
):
    with tempfile.TemporaryDirectory() as folder:
        rows = write_log(Path(folder), layout)
        expected = expected_ids(rows, split)
        loads, in_order, shuffled, in_step, batches = [], [], [], [], []
        for rank in range(world):
            worker = small_reader(
                Path(folder), CATALOG, encoding=ENCODING, rank=rank, world=world, split=split
            )
            loads.append(worker.rows)
            in_order += ids_of(list(rows_in_order(worker)))
            tables = [table for table, _ in shuffle(worker, batch_rows=batch_rows)]
            shuffled += ids_of(tables)
            assert len(tables) == -(-worker.rows // batch_rows)
            assert all(len(table) == batch_rows for table in tables[:-1])
            steps = list(worker.in_step(batch_rows))
            in_step += ids_of(steps)
            batches.append(len(steps))
        assert in_order == expected
        assert in_step == expected
        assert sorted(shuffled) == sorted(expected)
        assert sum(loads) == len(expected)
        assert max(loads) - min(loads) <= 1
        assert set(batches) == {-(-max(loads) // batch_rows)}


@given(
    layout=LAYOUTS,
    batch_rows=st.integers(1, 12),
    block_rows=st.integers(1, 30),
    rank=st.integers(0, 1),
    stop=st.integers(0, 1_000),
)
@settings(max_examples=60)
def test_an_interrupted_epoch_goes_on_as_if_it_had_never_stopped(
    layout, batch_rows, block_rows, rank, stop
):
    with tempfile.TemporaryDirectory() as folder:
        write_log(Path(folder), layout)
        worker = small_reader(Path(folder), CATALOG, encoding=ENCODING, rank=rank, world=2)
        shape = {"batch_rows": batch_rows, "block_rows": block_rows}
        whole = list(shuffle(worker, **shape))
        if not whole:
            return
        stop %= len(whole)
        cursor = whole[stop][1]
        if cursor.epoch == 1:
            assert stop == len(whole) - 1
            return
        rest = list(shuffle(worker, start=cursor, **shape))
        assert [c for _, c in rest] == [c for _, c in whole[stop + 1 :]]
        for (again, _), (first, _) in zip(rest, whole[stop + 1 :], strict=True):
            assert again.to_pylist() == first.to_pylist()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_log(tmp_path, [("ningbo", DAYS[0], [20, 30]), ("hangzhou", DAYS[1], [25, 0, 7])])
    return tmp_path


def test_a_seed_fixes_the_shuffle_and_another_seed_or_epoch_is_another_one(log):
    worker = small_reader(log, CATALOG, encoding=ENCODING)
    orders = [
        ids_of([t for t, _ in shuffle(worker, seed=seed, epoch=epoch, block_rows=40)])
        for seed, epoch in ((3, 0), (3, 0), (4, 0), (3, 1))
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]
    assert all(sorted(order) == list(range(82)) for order in orders)


def test_a_cursor_is_refused_when_a_file_was_rewritten(log):
    worker = small_reader(log, CATALOG, encoding=ENCODING)
    _, cursor = next(shuffle(worker))
    path = next(log.rglob("part-00000.parquet"))
    write_file(path, draw_rows(50, first=500), [20, 30])
    changed = small_reader(log, CATALOG, encoding=ENCODING)
    with pytest.raises(BadLog, match="changed since the checkpoint"):
        next(shuffle(changed, start=cursor))


def test_a_cursor_is_refused_when_the_file_it_stands_in_is_gone(log):
    worker = small_reader(log, CATALOG, encoding=ENCODING)
    _, cursor = next(shuffle(worker))
    (log / cursor.file).unlink()
    with pytest.raises(BadLog, match="Start a new run"):
        next(shuffle(small_reader(log, CATALOG, encoding=ENCODING), start=cursor))


def test_a_cursor_is_refused_by_a_split_of_as_many_other_rows(tmp_path):
    """The halves of a slice: files, row groups and counts are the same, and no row is."""
    write_log(tmp_path, [("ningbo", DAYS[0], [20])])
    halves = [
        small_reader(tmp_path, CATALOG, encoding=ENCODING, split=replace(EVERYTHING, slice=part))
        for part in halved(list(range(20)))
    ]
    first, second = (worker.selection for worker in halves)
    assert first.fingerprint == second.fingerprint
    _, cursor = next(shuffle(halves[0]))
    with pytest.raises(BadLog, match="the split or the number of workers changed"):
        next(shuffle(halves[1], start=cursor))


def halved(ids):
    """Two slices with the same number of these rows each."""
    positions = np.sort(
        hashing.unit_interval(hashing.keys_of(pa.array(ids)), salt=splits.SLICE_SALT)
    )
    middle = float(positions[len(ids) // 2])
    return (0.0, middle), (middle, 1.0)


@pytest.mark.parametrize("changes", [{"log__slice_by": "user_id"}, {"log__row_id": None}])
def test_a_cursor_is_refused_when_another_column_decides_which_rows_are_read(log, changes):
    _, cursor = next(shuffle(small_reader(log, CATALOG, encoding=ENCODING)))
    other = small_reader(log, small_catalog(**changes), encoding=ENCODING)
    with pytest.raises(BadLog, match="changed since the checkpoint"):
        next(shuffle(other, start=cursor))


def test_a_cursor_is_one_worker_s_of_so_many(log):
    worker = small_reader(log, CATALOG, encoding=ENCODING, rank=0, world=2)
    _, cursor = next(shuffle(worker))
    for rank, world in ((1, 2), (0, 1), (0, 3)):
        other = small_reader(log, CATALOG, encoding=ENCODING, rank=rank, world=world)
        with pytest.raises(BadLog, match=f"worker 0 of 2.*worker {rank} of {world}"):
            next(shuffle(other, start=cursor))


def test_a_cursor_at_the_start_of_an_epoch_belongs_to_its_selection_too(log):
    worker = small_reader(log, CATALOG, encoding=ENCODING)
    *_, (_, last) = shuffle(worker)
    assert last == worker.start_of(1)
    write_file(next(log.rglob("part-00000.parquet")), draw_rows(50, first=500), [20, 30])
    changed = small_reader(log, CATALOG, encoding=ENCODING)
    with pytest.raises(BadLog, match="changed since the checkpoint"):
        next(shuffle(changed, epoch=1, start=last))
    assert next(shuffle(changed, epoch=1, start=Cursor(epoch=1))), "before anything was read"


def test_a_cursor_still_holds_when_only_unselected_files_are_added(log):
    ningbo = Split(name="n", first=None, last=None, where={"region": ("ningbo",)}, slice=(0.0, 1.0))
    batches = list(shuffle(small_reader(log, CATALOG, encoding=ENCODING, split=ningbo)))
    write_file(log / "region=hangzhou/dt=2026-10-03/part-9.parquet", draw_rows(5, first=900))
    grown = small_reader(log, CATALOG, encoding=ENCODING, split=ningbo)
    rest = list(shuffle(grown, start=batches[3][1]))
    assert ids_of([t for t, _ in rest]) == ids_of([t for t, _ in batches[4:]])


def test_a_cursor_after_an_epoch_starts_the_next_one(log):
    worker = small_reader(log, CATALOG, encoding=ENCODING)
    *_, (_, last) = shuffle(worker)
    assert last.epoch == 1
    assert ids_of([t for t, _ in shuffle(worker, epoch=1, start=last)]) == ids_of(
        [t for t, _ in shuffle(worker, epoch=1)]
    )


def test_workers_without_rows_make_as_many_steps_as_the_others(tmp_path):
    write_log(tmp_path, [("ningbo", DAYS[0], [2])])
    batches = [
        list(small_reader(tmp_path, CATALOG, encoding=ENCODING, rank=r, world=5).in_step(4))
        for r in range(5)
    ]
    assert [len(b) for b in batches] == [1] * 5
    assert sum(len(b[0]) for b in batches) == 2
    assert len({str(b[0].schema) for b in batches}) == 1


@given(sizes=st.lists(st.integers(0, 9), max_size=8), batch_rows=st.integers(1, 12))
def test_rebatching_keeps_rows_and_order(sizes, batch_rows):
    ends = np.cumsum([0, *sizes])
    words = pa.array([f"w{i % 4}" for i in range(ends[-1])]).cast(pa.string())
    parts = [
        pa.RecordBatch.from_pydict(
            {"n": pa.array(np.arange(a, b)), "w": words.slice(a, b - a).dictionary_encode()}
        )
        for a, b in itertools.pairwise(ends)
    ]
    tables = list(reader.rebatch(iter(parts), batch_rows))
    assert [n for t in tables for n in t.column("n").to_pylist()] == list(range(ends[-1]))
    assert [w for t in tables for w in t.column("w").to_pylist()] == words.to_pylist()
    assert all(len(t) == batch_rows for t in tables[:-1])
    assert len(tables) == -(-int(ends[-1]) // batch_rows)


def test_a_row_without_declared_id_is_known_by_its_place(tmp_path):
    catalog = small_catalog(log__row_id=None)
    write_log(tmp_path, [("ningbo", DAYS[0], [3, 4]), ("ningbo", DAYS[0], [5])])
    encoding = encoding_for(catalog)
    whole = [
        k
        for t in rows_in_order(small_reader(tmp_path, catalog, encoding=encoding))
        for k in t.column("row").to_pylist()
    ]
    split = [
        k
        for rank in range(3)
        for t in rows_in_order(
            small_reader(tmp_path, catalog, encoding=encoding, rank=rank, world=3)
        )
        for k in t.column("row").to_pylist()
    ]
    assert len(set(whole)) == 12
    assert whole == split


def test_declared_ids_come_along_as_text_where_they_are_asked_for(log):
    asked = small_reader(log, CATALOG, encoding=ENCODING, with_ids=True)
    tables = [t for t in asked.in_step(7) if len(t)]
    keys, ids = ([x for t in tables for x in t.column(n).to_pylist()] for n in ("row", "id"))
    assert ids
    assert all(str(keys_to_ids(10_000)[key]) == word for key, word in zip(keys, ids, strict=True))
    plain = small_reader(log, CATALOG, encoding=ENCODING)
    assert "id" not in next(plain.in_step(7)).schema.names


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([7, None, -1], pa.int32()), ["7", None, "-1"]),
        (pa.array([2**63], pa.uint64()), [str(2**63)]),
        (pa.array(["a", None, ""]).dictionary_encode(), ["a", None, ""]),
        (pa.array(["a"], pa.large_string()), ["a"]),
        (pa.array(["a"], pa.string_view()), ["a"]),
        (pa.array([True, None]), ["true", None]),
    ],
)
def test_ids_of_every_type_become_one_type_of_text(column, words):
    result = reader.as_text(column)
    assert (result.type, result.to_pylist()) == (pa.string(), words)


def test_damaged_pages_are_named_with_their_file_and_row_group(log):
    snapshot = snapshot_of(log, CATALOG)
    path = log / snapshot.files[0].path
    content = bytearray(path.read_bytes())
    content[4:204] = b"\xff" * 200
    path.write_bytes(content)
    selection = parquet.select(snapshot_of(log, CATALOG), EVERYTHING, CATALOG)
    worker = Reader(selection=selection, catalog=CATALOG, encoding=ENCODING, rank=0, world=1)
    with pytest.raises(BadLog, match=r"part-00001\.parquet, row group 0 cannot be decoded"):
        list(rows_in_order(worker))


@pytest.mark.parametrize("change", ["gone", "rewritten", "cut"])
def test_a_file_that_changes_under_a_run_is_named(log, change):
    worker = small_reader(log, CATALOG, encoding=ENCODING)
    path = next(log.rglob("part-00000.parquet"))
    if change == "gone":
        path.unlink()
    elif change == "rewritten":
        write_file(path, draw_rows(49), [19, 30])
    else:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadLog, match=r"part-00000\.parquet .*start the run again"):
        list(rows_in_order(worker))


def test_labels_ripen_by_the_end_of_their_day_where_only_dates_are_known(tmp_path):
    catalog = small_catalog(
        log__event_time=None,
        tasks=[{"label": "click", "kind": "click", "matures_after": "P2D"}],
    )
    write_log(tmp_path, [("ningbo", day, [4]) for day in DAYS])
    write_file(tmp_path / "region=ningbo/dt=someday/part-9.parquet", draw_rows(4, first=50))
    encoding = encoding_for(catalog)
    masked = small_reader(tmp_path, catalog, encoding=encoding, as_of=date(2026, 10, 3))
    free = small_reader(tmp_path, catalog, encoding=encoding)
    for table, unmasked, is_ripe in zip(
        rows_in_order(masked), rows_in_order(free), [True, False, False, False], strict=True
    ):
        ripe = unmasked.column("y.ctr").to_pylist()
        assert table.column("y.ctr").to_pylist() == (ripe if is_ripe else [None] * 4)


def test_labels_that_are_not_ripe_are_counted_where_they_are_masked(tmp_path):
    catalog = small_catalog(
        log__event_time=None,
        tasks=[{"label": "click", "kind": "click", "matures_after": "P1D"}, {"label": "order"}],
    )
    write_log(tmp_path, [("ningbo", day, [4, 3]) for day in DAYS])
    worker = small_reader(
        tmp_path, catalog, encoding=encoding_for(catalog), as_of=date(2026, 10, 2)
    )
    counts: Counter[str] = Counter()
    masked = sum(t.column("y.ctr").null_count for t in rows_in_order(worker, counts))
    assert counts["warn: not ripe by 2026-10-02 in click"] == 14
    assert masked >= 14
    assert not [what for what in counts if what.endswith("in order")]


def test_rows_without_an_id_are_counted(tmp_path):
    ids = pa.array([None, 1, None, 3], pa.int64())
    rows = draw_rows(4).set_column(0, "event_id", ids)
    write_file(tmp_path / "region=ningbo/dt=2026-10-01/a.parquet", rows)
    counts: Counter[str] = Counter()
    (table,) = rows_in_order(small_reader(tmp_path, CATALOG, encoding=ENCODING), counts)
    assert counts["warn: null id in event_id"] == 2
    assert len(set(table.column("row").to_pylist())) == 4


def test_quarantined_rows_keep_their_place_and_lose_their_labels(tmp_path):
    rows = draw_rows(6).set_column(9, "click", pa.array([0, 1, 2, 0, 1, None], pa.int8()))
    rows = rows.set_column(10, "order", pa.array([0, 0, 0, 1, 1, 0], pa.int8()))
    write_file(tmp_path / "region=ningbo/dt=2026-10-01/a.parquet", rows)
    counts: Counter[str] = Counter()
    (table,) = rows_in_order(small_reader(tmp_path, CATALOG, encoding=ENCODING), counts)
    assert table.column("y.ctr").to_pylist() == [0, 1, None, None, 1, None]
    assert table.column("y.cvr").to_pylist() == [0, 0, 0, None, 1, 0]
    assert counts["quarantine: label outside {0, 1}: 2 in click"] == 1
    assert counts["quarantine: order without click"] == 1


RIPENING = small_catalog(
    log__event_time=None,
    tasks=[{"label": "click", "kind": "click", "matures_after": "P1D"}, {"label": "order"}],
)
RIPENING_ENCODING = encoding_for(RIPENING)


@given(layout=LAYOUTS, part_rows=st.integers(1, 9), batch_rows=st.integers(1, 9))
@settings(max_examples=30)
def test_rows_that_are_encoded_in_parts_are_those_that_are_encoded_piece_by_piece(
    layout, part_rows, batch_rows
):
    """Declared ids, masked labels and findings too: a part takes its own rows of each column."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        write_log(Path(folder), layout)
        patch.setattr(reader, "_PART_ROWS", part_rows)
        worker = small_reader(
            Path(folder), RIPENING, encoding=RIPENING_ENCODING, with_ids=True,
            as_of=date(2026, 10, 2),
        )  # fmt: skip
        of_pieces, of_parts = Counter[str](), Counter[str]()
        expected = [row for table in rows_in_order(worker, of_pieces) for row in table.to_pylist()]
        in_parts = [row for t in worker.in_step(batch_rows, of_parts) for row in t.to_pylist()]
        assert in_parts == expected
        assert of_parts == of_pieces


def test_a_batch_that_lies_in_one_part_is_a_slice_of_it(tmp_path, monkeypatch):
    """A batch of several chunks is copied when its ids become a tensor."""
    monkeypatch.setattr(reader, "_PART_ROWS", 12)
    write_log(tmp_path, [("ningbo", DAYS[0], [24, 24])])
    tables = list(small_reader(tmp_path, CATALOG, encoding=ENCODING).in_step(4))
    assert [table.column("row").num_chunks for table in tables] == [1] * 12


def blocks_of_an_epoch(worker, epoch):
    """The blocks of twelve rows in the order of an epoch: the first id of each, and its shuffle."""
    blocks = []
    for table, _ in shuffle(worker, epoch=epoch, batch_rows=12, block_rows=12):
        ids = ids_of([table])
        blocks.append((min(ids), tuple(row - min(ids) for row in ids)))
    return blocks


def test_each_block_has_an_order_of_its_own_and_each_epoch_another_order_of_blocks(tmp_path):
    write_log(tmp_path, [("ningbo", DAYS[0], [12, 12, 12, 12])])
    worker = small_reader(tmp_path, CATALOG, encoding=ENCODING)
    epochs = [blocks_of_an_epoch(worker, epoch) for epoch in range(5)]
    assert all(len({order for _, order in blocks}) == 4 for blocks in epochs)
    assert len({tuple(first for first, _ in blocks) for blocks in epochs}) > 1
