"""Tables of an adopted module over gloo workers: the module answers as in one process."""

import pytest
import torch

from iak.pipeline.base.adopted_module import build_module, open_module
from iak.pipeline.base.module_tables import TablesOnWorker, write_module
from iak.pipeline.errors import Corrupt
from iak.pipeline.model.adopted import AdoptedModel
from iak.pipeline.model.digest import digest
from iak.pipeline.sharding.row_format import PRECISIONS
from iak.pipeline.sharding.shard import dense_state
from iak.schemas.plan import ResolvedPlacement
from tests.integration.workers import StayingWorkers
from tests.mixed_tables import ITEMS, POOLED, SHARDED, USERS, rows_of, trained
from tests.unit.base.test_module_tables import ALONE, HISTORIES, USERS_OF

pytestmark = pytest.mark.slow

FACTORY = "tests.mixed_tables:build"
PLACEMENTS = {
    "rows": {"row_wise_from_rows": 1},
    "tables": {"row_wise_from_rows": 10**9},
    "columns": {"sharding": {"users": "column_wise", POOLED: "row_wise"}},
}
SPLITS = (0, 3, 8)
"""Of eight rows, those that the first of two workers has: none, some, all."""


@pytest.fixture(scope="module")
def workers():
    with StayingWorkers(2) as workers:
        yield workers


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    _, source = build_module(FACTORY)
    module = AdoptedModel(trained(), tasks=2).module
    return write_module(module, SHARDED, tmp_path_factory.mktemp("base"), source=source)


def opened(worker, files, placement, precision):
    at = TablesOnWorker(
        worker=worker,
        precisions=dict.fromkeys(SHARDED, precision),
        placement=ResolvedPlacement.model_validate(placement),
    )
    return open_module(FACTORY, files, tasks=2, at=at)


def part_of(rank, split):
    """A worker's rows: the first has so many of them, the second the others."""
    part = slice(None, split) if rank == 0 else slice(split, None)
    return rows_of(USERS_OF[part], HISTORIES[part])


@torch.no_grad()
def ask_logits(worker, files):
    """Logits and digests under every placement and precision."""
    answers = {}
    for name, placement in PLACEMENTS.items():
        for precision in PRECISIONS:
            model = opened(worker, files, placement, precision)
            logits = [model(*part_of(worker.rank, split)) for split in SPLITS]
            own = digest(model.tables.local_shards(), dense_state(model), worker=worker)
            answers[name, precision] = logits, own.combined, model.tables.num_bytes
    return answers


def test_shared_tables_answer_as_whole_ones_bit_for_bit(workers, files):
    by_rank = workers.run(ask_logits, files)
    for name, precision in by_rank[0]:
        alone = opened(ALONE, files, {}, precision)
        whole = digest(alone.tables.local_shards(), dense_state(alone)).combined
        sizes = []
        for rank, answers in enumerate(by_rank):
            logits, own, size = answers[name, precision]
            with torch.no_grad():
                expected = [alone(*part_of(rank, split)) for split in SPLITS]
            for ours, theirs in zip(logits, expected, strict=True):
                assert torch.equal(ours, theirs), (name, precision, rank)
            assert own == whole, (name, precision)
            sizes.append(size)
        assert max(sizes) < 0.75 * alone.tables.num_bytes <= sum(sizes)


def test_in_fp32_they_answer_as_the_module_that_was_adopted(files):
    rows = rows_of(USERS_OF, HISTORIES)
    with torch.no_grad():
        own = AdoptedModel(trained(), tasks=2)(*rows)
        assert torch.equal(opened(ALONE, files, {}, "fp32")(*rows), own)


def ask_beyond(worker, files):
    """What each worker says where the second one brings an id outside a table."""
    model = opened(worker, files, PLACEMENTS["rows"], "int8")
    users = [1, 2] if worker.rank == 0 else [USERS, 2]
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words differ by worker
        model(*rows_of(users, [[], []]))
    (own,) = model(*rows_of([worker.rank], [[]])).tolist()
    return str(error.value), own


def test_an_id_outside_a_table_ends_no_worker_in_a_wait(workers, files):
    (told, _), (own, _) = workers.run(ask_beyond, files)
    assert f"table users has rows 0 to {USERS - 1}" in own
    assert told == "worker 1 cannot take part in the lookup; see its own error"


def ask_damaged(worker, files):
    with pytest.raises(Corrupt) as error:
        opened(worker, files, {"row_wise_from_rows": 10**9}, "int8")
    return str(error.value)


def test_a_file_that_one_worker_reads_and_finds_changed_is_refused_by_both(workers, files):
    path = files.folder / f"tables/{POOLED}/r0-c0.safetensors"
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        one, other = workers.run(ask_damaged, files)
    finally:
        path.write_bytes(kept)
    assert one == other
    assert "is not the file that was published" in one
    assert len(kept) > ITEMS * 8 * 4
