"""Rows of a night: what is stored is found again, the rest is computed once, in the same blocks."""

import tempfile
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

from iak.pipeline.activations import buffer
from iak.pipeline.activations import rows as tuning
from iak.pipeline.activations.cache import ActivationCache
from iak.pipeline.activations.rows import RowSource
from iak.pipeline.activations.standardizer import KernelInputs, Standardizer
from iak.pipeline.data.feature_keys import feature_keys
from iak.pipeline.data.splits import Split
from iak.pipeline.errors import BadRequest
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

LAYOUT = [(region, day, (7, 12)) for region in REGIONS for day in DAYS[:2]]
WIDTH = 5


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
    store, through = ActivationCache(folder), PlainBase()
    source = RowSource(reader=reader, cache=store, contract=Counter())
    rows = source.read()
    opened = sum(piece.features is not None for piece in rows.pieces)
    activations = tuning.activations_of(
        rows, source, through, scope=base, dtype=torch.float32, spill=None, worker=ALONE
    )  # fmt: skip
    index = torch.arange(len(rows)) if order is None else torch.tensor(order(len(rows)))
    result = activations.of(index)
    activations.complete()
    store.close()
    keys = np.stack([rows.known.column(name).to_numpy() for name in tuning.KEYS], axis=1)
    assert isinstance(result, KernelInputs)
    assert torch.equal(result.a_BA[:, 0], number_of(keys)[index])
    return len(rows), len(through.looked_up), opened, store.usage


def test_splits_that_are_read_side_by_side_decode_each_row_group_once(log, monkeypatch):
    catalog = small_catalog()
    encoding = encoding_of(raw_rows(log, catalog)[0][0], catalog)
    splits = [
        Split(name=name, first=None, last=None, where={}, slice=part)
        for name, part in (("tune", (0.0, 0.6)), ("valid", (0.6, 0.8)), ("gate", (0.8, 1.0)))
    ]
    sources = [
        RowSource(
            reader=small_reader(log, catalog, encoding=encoding, split=split),
            cache=None,
            contract=Counter(),
        )
        for split in splits
    ]
    alone = [source.read() for source in sources]
    decoded, real = [], pq.ParquetFile.read_row_group

    def read_row_group(opened, group, **settings):
        decoded.append(group)
        return real(opened, group, **settings)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read_row_group)
    together = tuning.read_side_by_side(sources)
    assert decoded == [0, 1] * len(LAYOUT)
    for one, other in zip(alone, together, strict=True):
        assert len(one) > 0
        assert one.known.equals(other.known)
        for piece, same in zip(one.pieces, other.pieces, strict=True):
            assert (piece.piece, piece.first) == (same.piece, same.first)
            assert piece.features.equals(same.features)


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


@given(
    layout=st.lists(
        st.tuples(
            st.sampled_from(REGIONS), st.sampled_from(DAYS[:2]),
            st.lists(st.integers(0, 30), min_size=1, max_size=3),
        ), min_size=1, max_size=4, unique_by=lambda group: group[:2],
    ),
    world=st.integers(1, 4), chunk_rows=st.integers(1, 12),
)  # fmt: skip
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_all_workers_plan_and_count_every_row_once(log, layout, world, chunk_rows):
    encoding = encoding_of(raw_rows(log, small_catalog())[0][0], small_catalog())
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(tuning, "CHUNK_ROWS", chunk_rows)
        write_log(Path(folder), layout)
        planned, counted, read = [], [], 0
        for rank in range(world):
            reader = small_reader(
                Path(folder), small_catalog(), encoding=encoding, rank=rank, world=world, as_of=None
            )
            source = RowSource(reader=reader, cache=None, contract=Counter())
            planned.append(source.rows)
            read += len(source.read(counted.append))
    rows = sum(sum(groups) for _, _, groups in layout)
    assert sum(planned) == sum(counted) == read == rows


def test_a_buffer_counts_the_rows_that_it_computes_once(log):
    activations, through, rows = unread_buffer(log)
    counted = []
    activations.watch(counted.append)
    assert activations.missing_rows == rows
    other = activations.read_through(through)
    activations.of(torch.tensor([0]))
    assert sum(counted) + activations.missing_rows == rows
    other.complete()
    activations.complete()
    assert (sum(counted), activations.missing_rows) == (rows, 0)


def unread_buffer(log):
    catalog = small_catalog()
    encoding = encoding_of(raw_rows(log, catalog)[0][0], catalog)
    reader = small_reader(log, catalog, encoding=encoding, rank=0, world=1, as_of=None)
    source, through = RowSource(reader=reader, cache=None, contract=Counter()), PlainBase()
    rows = source.read()
    activations = tuning.activations_of(
        rows, source, through, scope="", dtype=torch.float32, spill=None, worker=ALONE
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


def test_a_changed_file_is_computed_again_and_the_others_are_not(log, tmp_path):
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


def test_other_domains_are_read_again_and_nothing_is_computed(log, tmp_path):
    night(log, tmp_path / "cache")
    catalog = small_catalog(domain__keys=["region", "scene"])
    _, looked_up, opened, _ = night(log, tmp_path / "cache", catalog=catalog)
    assert looked_up == 0 < opened


def test_ripening_labels_are_read_again_each_night_and_nothing_is_computed(log, tmp_path):
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


def times_under(root, of=tuning.days_of, **changes):
    """The days, or the seconds, of all rows as two workers find them."""
    catalog = small_catalog(**changes)
    encoding = encoding_of(raw_rows(root, small_catalog())[0][0], small_catalog())
    found = []
    for rank in range(2):
        reader = small_reader(root, catalog, encoding=encoding, rank=rank, world=2)
        rows = RowSource(reader=reader, cache=None, contract=Counter()).read()
        times = of(rows, reader)
        if times is None:
            return None
        assert len(times) == len(rows)
        found += times.tolist()
    return Counter(found)


def test_a_row_has_the_day_of_its_folder_or_of_its_event_time(tmp_path):
    written = write_log(tmp_path / "log", LAYOUT)
    epoch = date(1970, 1, 1).toordinal()
    folders = Counter(
        date.fromisoformat(day).toordinal() - epoch for day in written.column("dt").to_pylist()
    )
    assert times_under(tmp_path / "log") == folders
    # 86,400 seconds are a day, of which UTC never skips one.
    times = Counter(second // 86_400 for second in written.column("event_time").to_pylist())
    assert times_under(tmp_path / "log", log__date_key=None) == times
    assert times != folders


def test_a_log_that_knows_no_days_is_refused_by_name(tmp_path):
    write_log(tmp_path / "log", LAYOUT)
    with pytest.raises(BadRequest, match=r"this log has no date_key or event_time"):
        times_under(tmp_path / "log", log__date_key=None, log__event_time=None)


def test_a_row_has_the_second_of_its_event_whatever_its_folder_says(tmp_path):
    written = write_log(tmp_path / "log", LAYOUT)
    seconds = Counter(map(float, written.column("event_time").to_pylist()))
    assert times_under(tmp_path / "log", tuning.seconds_of_rows) == seconds
    assert times_under(tmp_path / "log", tuning.seconds_of_rows, log__event_time=None) is None
