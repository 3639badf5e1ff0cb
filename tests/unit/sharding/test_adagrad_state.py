"""Adagrad's state moves between workers and cuts by rows bit for bit, else it starts at zero."""

import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iak.pipeline.data.growth import RowOrigin
from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.model.tables import LocalShard
from iak.pipeline.process import Worker
from iak.pipeline.sharding import adagrad_state
from iak.pipeline.sharding.adagrad_state import (
    local_accumulators,
    read_accumulators,
    write_accumulators,
)
from iak.pipeline.sharding.growth import Growth
from iak.schemas.feature import FIRST_ROW
from tests.unit.workers import CPU, on_threads, outcomes

ALONE = Worker(rank=0, world=1, device=CPU)
ROWS, WIDTH = 13, 8


@dataclass
class Sharded:
    """What this module asks of a sharded model: some parts of tables, and a memory beside each."""

    table_sizes: dict[str, tuple[int, int]]
    shards: list[LocalShard] = field(default_factory=list)
    memories: list[Tensor] = field(default_factory=list)

    def split_embedding_weights(self):
        return [shard.tensor_RW for shard in self.shards]

    def split_optimizer_states(self):
        return [(memory_R,) for memory_R in self.memories]


@pytest.fixture(autouse=True, scope="module")
def _models_at_hand():
    """Sharded models need a process group each; these are read in their place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adagrad_state, "unwrap", lambda model: model)
        patch.setattr(adagrad_state, "local_shards", lambda model: model.shards)
        patch.setattr(adagrad_state, "table_modules", lambda model: [model])
        yield


@dataclass(frozen=True)
class Cut:
    """A table cut into parts by rows and bands of columns, each part on some worker."""

    ends: tuple[int, ...]
    bands: int
    owners: tuple[int, ...]

    def model(self, rank, *, rows=ROWS, memory_RB=None):
        """What a worker owns; its memory is the matrix's, or numbers that are nobody's."""
        model = Sharded({"t": (rows, WIDTH)})
        cols = WIDTH // self.bands
        starts = sorted({0, *(end % rows for end in self.ends)})
        parts = [
            (start, stop, band)
            for start, stop in zip(starts, [*starts[1:], rows], strict=True)
            for band in range(self.bands)
        ]
        for number, (start, stop, band) in enumerate(parts):
            if self.owners[number % len(self.owners)] == rank:
                weight_RW = torch.zeros(stop - start, cols)
                model.shards.append(
                    LocalShard(
                        table="t", row_offset=start, col_offset=band * cols, tensor_RW=weight_RW
                    )
                )
                is_known = memory_RB is not None
                own_R = (
                    memory_RB[start:stop, band].clone() if is_known else -torch.ones(len(weight_RW))
                )
                model.memories.append(own_R)
        return model


def cuts(world):
    return st.builds(
        Cut,
        ends=st.lists(st.integers(0, 99), max_size=4).map(tuple),
        bands=st.sampled_from([1, 2, 4]),
        owners=st.lists(st.integers(0, world - 1), min_size=1, max_size=7).map(tuple),
    )


WORLDS = st.integers(1, 3).flatmap(lambda world: st.tuples(st.just(world), cuts(world)))


def matrix(rows=ROWS, bands=1):
    return torch.rand(rows, bands, generator=torch.Generator().manual_seed(rows + bands))


def written(folder, world, cut, *, rows=ROWS, max_file_bytes=20):
    """The entries of a memory written under a cut, and the memory."""
    memory_RB = matrix(rows, cut.bands)
    by_rank = on_threads(
        lambda w: write_accumulators(
            cut.model(w.rank, rows=rows, memory_RB=memory_RB), folder, w,
            max_file_bytes=max_file_bytes,
        ),
        world,
    )  # fmt: skip
    assert not any(by_rank[1:]), "the entries are worker 0's to keep"
    return by_rank[0], memory_RB


def read(folder, entries, world, cut, *, rows=ROWS, **how):
    """The matrix as it was read under a cut, and what each worker says of it."""
    models = [cut.model(rank, rows=rows) for rank in range(world)]
    told = on_threads(lambda w: read_accumulators(models[w.rank], folder, entries, w, **how), world)
    found_RB = torch.full((rows, cut.bands), -2.0)
    for part in (part for model in models for part in local_accumulators(model)):
        stop = part.row_offset + len(part.tensor_RW)
        found_RB[part.row_offset : stop, part.col_offset] = part.tensor_RW.flatten()
    return found_RB, told


@settings(max_examples=25)
@given(before=WORLDS, now=WORLDS)
def test_the_state_moves_to_any_cut_by_rows_and_starts_at_zero_in_other_bands(before, now):
    with tempfile.TemporaryDirectory() as place:
        entries, memory_RB = written(Path(place), *before)
        found_RB, told = read(Path(place), entries, *now)
    bands = [cut.bands for _, cut in (before, now)]
    if bands[0] == bands[1]:
        assert torch.equal(found_RB, memory_RB)
        assert told == [[]] * now[0]
    else:
        assert not found_RB.any()
        line = (
            "table t: weights only, its Adagrad state starts at zero; it was stored for "
            f"{bands[0]} band(s) of columns, this plan cuts the table into {bands[1]}"
        )
        assert told == [[line]] * now[0]


@settings(max_examples=15)
@given(before=WORLDS, now=WORLDS, more=st.integers(1, 20), shift=st.integers(0, 9))
def test_a_grown_tables_row_continues_the_row_of_its_id_and_new_ids_start_at_zero(
    before, now, more, shift
):
    rows = ROWS + more
    origin_R = (torch.arange(rows) + shift) % (ROWS + 3)  # some ids are new: they read a row < 2
    origin_R[origin_R >= ROWS] = 1
    origin_R[:FIRST_ROW] = torch.arange(FIRST_ROW)
    origin = RowOrigin(rows_before=ROWS, of=lambda rows_R: origin_R.numpy()[rows_R])
    (world, cut), (_, was) = now, before
    now_cut = Cut(cut.ends, was.bands, cut.owners)
    with tempfile.TemporaryDirectory() as place:
        entries, memory_RB = written(Path(place), *before)
        found_RB, told = read(
            Path(place), entries, world, now_cut, rows=rows,
            sizes_before={"t": (ROWS, WIDTH)}, growth=Growth(rows={"t": origin}),
        )  # fmt: skip
    expected_RB = memory_RB[origin_R]
    is_new_R = (torch.arange(rows) >= FIRST_ROW) & (origin_R < FIRST_ROW)
    expected_RB[is_new_R] = 0.0
    assert torch.equal(found_RB, expected_RB)
    line = "table t: the Adagrad state of its new rows starts at zero"
    assert told == [[line] if is_new_R.any() else []] * world


WHOLE = Cut((), 1, (0,))


@pytest.mark.parametrize(
    ("sizes_before", "rows", "reason"),
    [
        pytest.param({}, ROWS, "the base had no such table", id="a new table"),
        pytest.param(
            {"t": (ROWS, WIDTH)}, 20, f"t was {ROWS} rows of {WIDTH}, and is 20 of {WIDTH}",
            id="longer, and no rule",
        ),
        pytest.param(
            {"t": (ROWS, 2 * WIDTH)}, ROWS, f"t was {ROWS} rows of {2 * WIDTH}", id="narrower",
        ),
    ],
)  # fmt: skip
def test_a_table_that_is_another_one_starts_at_zero_and_worker_0_says_why(
    tmp_path, caplog, sizes_before, rows, reason
):
    entries, _ = written(tmp_path, 1, WHOLE)
    cut = Cut((5,), 1, (0, 1))
    with caplog.at_level(logging.WARNING):
        found_RB, told = read(tmp_path, entries, 2, cut, rows=rows, sizes_before=sizes_before)
    assert not found_RB.any()
    assert told[0] == told[1]
    assert reason in told[0][0]
    assert [record.getMessage() for record in caplog.records] == told[0], "once, not once a worker"


def test_a_memory_that_was_never_written_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="no Adagrad state of table t was written"):
        read(tmp_path, [], 1, WHOLE)


def test_a_memory_of_other_rows_than_its_table_had_is_refused(tmp_path):
    entries, _ = written(tmp_path, 1, WHOLE)
    with pytest.raises(BadRequest, match=r"Adagrad state of table t is .* the table has 20 rows"):
        read(tmp_path, entries, 1, WHOLE, rows=20, sizes_before={"t": (20, WIDTH)})


def test_a_damaged_file_is_refused_by_every_worker(tmp_path):
    """Worker 1 alone reads the damaged file."""
    cut = Cut((5,), 1, (0, 1))
    entries, _ = written(tmp_path, 2, cut, max_file_bytes=2**20)
    path = tmp_path / entries[-1].path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    told = outcomes(lambda w: read_accumulators(cut.model(w.rank), tmp_path, entries, w), 2)
    assert [type(error) for error in told] == [Corrupt, Corrupt]
    assert entries[-1].path in str(told[0])


def test_two_runs_may_keep_theirs_in_one_directory(tmp_path):
    model = WHOLE.model(0, memory_RB=matrix())
    for folder in ("one", "two"):
        (entry,) = write_accumulators(model, tmp_path, ALONE, folder=folder)
        assert Path(entry.path).parts[0] == folder
    other = WHOLE.model(0)
    assert read_accumulators(other, tmp_path, [entry], ALONE, folder="two") == []
    assert torch.equal(other.memories[0], matrix().flatten())
