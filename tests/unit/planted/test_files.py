"""A planted log's files: same seed same bytes, declared columns, truth beside the events."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iak.pipeline.data.fingerprints import files_without_checksums
from iak.pipeline.data.logs import take_snapshot
from iak.pipeline.errors import BadRequest
from iak.pipeline.planted import rows
from iak.pipeline.planted.files import (
    EVENT_SCHEMA,
    TRUTH_COLUMNS,
    generate,
    repeat_last_days,
)
from tests.unit.planted.planted_log import column, small, write


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, small())
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 2 * 3 * 7 + 1
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_another_seed_gives_another_log(tmp_path):
    assert write(tmp_path / "a", small()).digest != write(tmp_path / "b", small(seed=4)).digest


def test_a_finished_log_is_found_and_not_written_again(tmp_path):
    first = write(tmp_path / "log", small())
    stamp = (tmp_path / "log" / "manifest.json").stat().st_mtime_ns
    again = write(tmp_path / "log", small())
    assert again == replace(first, was_there=True)
    assert (tmp_path / "log" / "manifest.json").stat().st_mtime_ns == stamp


def spoil_nothing(out: Path) -> Path:
    return out


def lose_a_file(out: Path) -> Path:
    next(out.rglob("part-*.parquet")).unlink()
    return out


def only_a_stranger(out: Path) -> Path:
    (out.parent / "other").mkdir()
    (out.parent / "other" / "notes.txt").write_text("mine")
    return out.parent / "other"


@pytest.mark.parametrize(
    ("spoil", "changes"),
    [
        pytest.param(spoil_nothing, {"seed": 4}, id="another log"),
        pytest.param(lose_a_file, {}, id="a log with a lost file"),
        pytest.param(only_a_stranger, {}, id="somebody's files"),
    ],
)
def test_refuses_a_folder_that_holds_anything_else(tmp_path, spoil, changes):
    write(tmp_path / "log", small())
    folder = spoil(tmp_path / "log")
    before = sorted(folder.rglob("*"))
    with pytest.raises(BadRequest, match="is not empty"):
        write(folder, small(**changes))
    assert sorted(folder.rglob("*")) == before


def test_a_broken_run_leaves_nothing_behind(tmp_path):
    def give_up(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(small(), tmp_path / "log", give_up)
    assert list(tmp_path.iterdir()) == []


def test_columns_have_the_declared_names_and_types(log):
    assert log.events.schema.names == [*EVENT_SCHEMA.names, "region", "dt"]
    for field in EVENT_SCHEMA:
        assert log.events.schema.field(field.name).type == field.type
    assert log.events.schema.field("hist_categories").type == pa.list_(pa.string())


def test_row_and_label_counts_are_what_was_asked_and_reported(log):
    assert log.events.num_rows == log.knobs.rows == log.result.rows
    assert column(log.events, "label_click").sum() == log.result.clicks
    assert column(log.events, "label_order").sum() == log.result.orders
    assert len(np.unique(column(log.events, "event_id"))) == log.knobs.rows


def test_truth_lies_row_by_row_and_group_by_group_beside_the_events(log):
    assert log.truth.schema.names == [*TRUTH_COLUMNS, "region", "dt"]
    for path in (log.out / "events").rglob("*.parquet"):
        twin = log.out / "truth" / path.relative_to(log.out / "events")
        events, truth = pq.ParquetFile(path).metadata, pq.ParquetFile(twin).metadata
        groups = range(events.num_row_groups)
        assert events.num_row_groups == truth.num_row_groups
        assert [events.row_group(g).num_rows for g in groups] == [
            truth.row_group(g).num_rows for g in groups
        ]


def test_memory_holds_two_blocks_however_many_rows_a_day_has(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_ROWS", 256)
    drawn: list[int] = []
    draw = rows.draw_block

    def watch(*args: object, **kwargs: object) -> rows.Block:
        block = draw(*args, **kwargs)
        drawn.append(len(block.time))
        return block

    monkeypatch.setattr(rows, "draw_block", watch)
    groups: list[int] = []
    knobs = small(rows=30_000, days=2, regions=1)
    generate(knobs, tmp_path / "log", groups.append)
    assert max(drawn) <= 256
    assert sum(groups) == 30_000
    assert max(groups) < 512
    written = [
        pq.ParquetFile(path).metadata.row_group(g).num_rows
        for path in sorted((tmp_path / "log" / "events").rglob("*.parquet"))
        for g in range(pq.ParquetFile(path).num_row_groups)
    ]
    assert written == groups
    assert sum(count < 256 for count in written) <= 2


def test_the_last_days_are_drawn_again_from_the_same_truth(tmp_path):
    knobs = small(rows=60_000)
    write(tmp_path / "log", knobs)
    repeat_last_days(knobs, tmp_path / "again", lambda _: None, days=2, times=3)
    first = _days_of(tmp_path / "log", "dt=2026-10-0[67]")
    again = [_days_of(tmp_path / "again" / str(n), "*") for n in (1, 2, 3)]
    clicks = [rates.pop("label_click") for rates in (first, *again)]
    for other in again:
        # As many rows of each region and day, of other users and items at other times.
        assert {*other} == {*first}
        assert {k: len(v) for k, v in other.items()} == {k: len(v) for k, v in first.items()}
        assert not np.array_equal(other["event_time"], first["event_time"])
        means = [rows["p_click"].mean() for rows in (first, other)]
        assert abs(means[0] - means[1]) < 5 * first["p_click"].std() / len(first["p_click"]) ** 0.5
    ids = np.concatenate([rows["event_id"] for rows in (first, *again)])
    assert len(np.unique(ids)) == len(ids)
    assert len({bytes(labels) for labels in clicks}) == 4


def _days_of(out: Path, days: str) -> dict[str, np.ndarray]:
    """Read events and truth of some days, in the order of regions and days."""
    found: dict[str, np.ndarray] = {}
    for kind in ("events", "truth"):
        paths = sorted((out / kind).glob(f"region=*/{days}/*.parquet"))
        table = pa.concat_tables([pq.ParquetFile(path).read() for path in paths])
        wanted = ("event_id", "event_time", "user_id", "label_click", "p_click")
        found |= {name: column(table, name) for name in wanted if name in table.schema.names}
    return found


def test_row_groups_are_of_a_size_readers_like():
    assert 16_000 <= rows.BLOCK_ROWS <= 32_000


def test_every_page_of_a_planted_log_carries_a_checksum(tmp_path):
    write(tmp_path, small())
    for kind in ("events", "truth"):
        snapshot = take_snapshot(str(tmp_path / kind), partition_keys=("region", "dt"))
        assert snapshot.files
        assert not files_without_checksums(snapshot)
