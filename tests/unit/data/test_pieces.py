"""Plans of who reads what: each row once, equal shares, each worker its share of each day."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data.pieces import (
    Piece,
    blocks_of,
    pieces_by_day,
    pieces_of,
    rows_of_worker,
    spread_pieces,
)
from iak.pipeline.data.splits import Selection
from tests.builders import EVERYTHING

GROUPS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 50)),
    max_size=8,
    unique_by=lambda group: group[:2],
)


def selection_with(groups):
    """A selection of these row groups; planning reads nothing else of it."""
    return Selection(split=EVERYTHING, snapshot=SimpleNamespace(files=[]), groups=tuple(groups))


def rows_in(pieces):
    return [(p.file, p.group, row) for p in pieces for row in range(p.start, p.stop)]


@given(groups=GROUPS, world=st.integers(1, 7), seed=st.none() | st.integers(0, 9))
def test_each_row_is_read_once_and_in_the_order_of_the_epoch(groups, world, seed):
    selection = selection_with(groups)
    order = None if seed is None else np.random.default_rng(seed).permutation(len(groups))
    shares = [pieces_of(selection, rank=r, world=world, order=order) for r in range(world)]
    in_order = groups if order is None else [groups[index] for index in order]
    everything = [(file, group, row) for file, group, n in in_order for row in range(n)]
    assert [row for share in shares for row in rows_in(share)] == everything
    loads = [sum(piece.rows for piece in share) for share in shares]
    assert loads == [rows_of_worker(selection, rank=r, world=world) for r in range(world)]
    assert max(loads) - min(loads) <= 1
    assert all(piece.rows > 0 for share in shares for piece in share)


@given(sizes=st.lists(st.integers(1, 30), max_size=12), rows=st.integers(1, 60))
def test_blocks_keep_pieces_in_order_and_all_but_the_last_are_full(sizes, rows):
    pieces = [Piece(file=0, group=g, start=0, stop=size) for g, size in enumerate(sizes)]
    blocks = blocks_of(pieces, rows=rows)
    assert [piece for block in blocks for piece in block] == pieces
    for block in blocks[:-1]:
        assert sum(piece.rows for piece in block) >= rows
    for block in blocks:
        assert sum(piece.rows for piece in block[:-1]) < rows, "a block ends as soon as it is full"


@given(groups=GROUPS, rows=st.integers(1, 200))
def test_a_sample_takes_the_first_rows_of_each_row_group(groups, rows):
    pieces = list(spread_pieces(selection_with(groups), rows=rows))
    assert [(p.file, p.group) for p in pieces] == [group[:2] for group in groups]
    most = max(rows // max(len(groups), 1), 1)
    assert [(p.start, p.stop) for p in pieces] == [(0, min(n, most)) for *_, n in groups]


def test_a_sample_of_many_row_groups_is_spread_over_all_of_them():
    pieces = list(spread_pieces(selection_with([(0, g, 9) for g in range(1_000)]), rows=400))
    assert [p.group for p in pieces] == list(range(0, 1_000, 5))
    assert {p.rows for p in pieces} == {2}


def shares_of(days, *, world, chunk_rows, first=0):
    """What each worker reads of files with one row group each, by the days that they belong to."""
    selection = selection_of(days, first=first)
    return [
        pieces_by_day(selection, rank=rank, world=world, date_key="dt", chunk_rows=chunk_rows)
        for rank in range(world)
    ]


def selection_of(days, *, first=0):
    """Region by region, as hive partitions are sorted: days lie apart."""
    placed = sorted(
        (region, f"2026-01-{first + day:02}", rows)
        for day, files in enumerate(days, start=1)
        for region, rows in enumerate(files)
    )
    files = [SimpleNamespace(partition=(("region", r), ("dt", day))) for r, day, _ in placed]
    return Selection(
        split=EVERYTHING,
        snapshot=SimpleNamespace(files=files),
        groups=tuple((file, 0, rows) for file, (_, _, rows) in enumerate(placed)),
    )


@given(
    days=st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=4), min_size=1, max_size=5),
    world=st.integers(1, 7),
    chunk_rows=st.integers(1, 120),
)
def test_shares_by_day_are_every_row_once_and_a_part_of_every_day(days, world, chunk_rows):
    selection = selection_of(days)
    day_of = [dict(file.partition)["dt"] for file in selection.snapshot.files]
    rows_of_day = Counter()
    for file, _, rows in selection.groups:
        rows_of_day[day_of[file]] += rows
    shares = shares_of(days, world=world, chunk_rows=chunk_rows)
    rows = [(p.file, row) for share in shares for p in share for row in range(p.start, p.stop)]
    everything = [(file, row) for file, _, n in selection.groups for row in range(n)]
    assert sorted(rows) == everything
    for share in shares:
        assert [p.file for p in share] == sorted(p.file for p in share)
        own = Counter()
        for piece in share:
            own[day_of[piece.file]] += piece.rows
        for day, count in rows_of_day.items():
            assert abs(own[day] - count / world) <= 2 * count / (8 * world) + 1


@given(rows=st.integers(1, 300), world=st.integers(1, 7), chunk_rows=st.integers(1, 120))
def test_a_share_ends_where_a_chunk_does_unless_that_is_far(rows, world, chunk_rows):
    for share in shares_of([[rows]], world=world, chunk_rows=chunk_rows):
        for piece in share:
            if chunk_rows / 2 <= rows / (8 * world):
                assert piece.stop == rows or piece.stop % chunk_rows == 0


def test_a_day_later_only_the_new_days_chunks_are_new_and_everybody_has_some():
    """Seven days of 57 rows; the window moves by one; 2 workers; chunks of 16 rows."""

    def chunks(first):
        return [
            {
                (first + p.file, max(c, p.start), min(c + 16, p.stop))
                for p in share
                for c in range(p.start - p.start % 16, p.stop, 16)
            }
            for share in shares_of([[57]] * 7, world=2, chunk_rows=16, first=first)
        ]

    before, after = chunks(0), chunks(1)
    new = [here - set.union(*before) for here in after]
    assert set.union(*new) == {(7, 0, 16), (7, 16, 28), (7, 28, 32), (7, 32, 48), (7, 48, 57)}
    assert all(new)
