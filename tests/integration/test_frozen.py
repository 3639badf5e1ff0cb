"""Frozen tables over gloo workers, against whole ones."""

import os
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from torch import distributed as dist
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.model.embedding_bags import build_tables
from iak.pipeline.model.tables import TableShape
from iak.pipeline.process import Worker, run_on_workers
from iak.pipeline.sharding.base_weights import read_frozen_base, write_base_weights
from iak.pipeline.sharding.frozen_tables import BUFFER_BYTES, FrozenTables
from iak.pipeline.sharding.mapped import MapFolder
from iak.pipeline.sharding.placement_rule import plan_tables
from iak.pipeline.sharding.row_format import PRECISIONS, row_bytes
from iak.pipeline.sharding.shard import dense_state, digest_model, unwrap
from iak.schemas.plan import PlacementRuleSpec
from tests.integration.workers import StayingWorkers
from tests.unit.model.small import FEATURES, SHAPES, small_batch, small_model
from tests.unit.sharding.test_frozen_tables import MIXED, all_in, batches, planned, reader

pytestmark = pytest.mark.slow

ALONE = Worker(rank=0, world=1, device=torch.device("cpu"))
PLANS = {
    "mixed": {"user": "row_wise"},
    "rows": {"user": "row_wise", "hour": "row_wise", "shop": "row_wise"},
    "tables": {"user": "table_wise"},
    "columns": {"user": "row_wise", "shop": "column_wise"},
}
HELD = {precision: all_in(precision) for precision in PRECISIONS} | {"one each": MIXED}
COLLECTIVES = (
    "all_to_all_single", "all_to_all", "all_gather", "all_gather_into_tensor", "all_gather_object",
    "all_reduce", "reduce_scatter", "reduce_scatter_tensor", "broadcast", "broadcast_object_list",
    "gather", "gather_object", "scatter", "reduce", "barrier", "send", "recv", "isend", "irecv",
    "batch_isend_irecv",
)  # fmt: skip
NAN_ROW = 77
BIG = TableShape(name="big", rows=800_000, width=64, features=("f",))
FILE_BYTES = 4 * 2**20


class Calls(list):
    """The names of torch.distributed's functions that are called while it is open."""

    def __enter__(self):
        self.kept = {name: getattr(dist, name) for name in COLLECTIVES}
        for name, call in self.kept.items():
            setattr(dist, name, self.counted(name, call))
        return self

    def counted(self, name, call):
        def then(*args, **settings):
            self.append(name)
            return call(*args, **settings)

        return then

    def __exit__(self, *_):
        for name, call in self.kept.items():
            setattr(dist, name, call)


def base_of(worker, plan, precisions, directory, entries, **settings):
    return read_frozen_base(
        small_model("meta"), planned(worker.world, **PLANS[plan]), precisions=precisions,
        directory=directory, entries=entries, worker=worker, **settings,
    )  # fmt: skip


def part_of(ids, rank, world):
    """The rows of a batch that fall to a rank: uneven, and of small batches often none."""
    ends = [ids.stride() * (r * r) // (world * world) for r in range(world + 1)]
    return rows_between(ids, ends[rank], ends[rank + 1])


def rows_between(ids, first, last):
    keys = ids.keys()
    lengths = [ids[key].lengths()[first:last] for key in keys]
    values = []
    for key in keys:
        ends = [0, *ids[key].lengths().cumsum(0).tolist()]
        values.append(ids[key].values()[ends[first] : ends[last]])
    return KeyedJaggedTensor(keys, torch.cat(values), lengths=torch.cat(lengths))


def my_part(worker, examples):
    return [part_of(ids, worker.rank, worker.world) for ids in examples]


def ask_lookups(worker, directory, entries, examples):
    """Sums, rows and digests under every plan and precision."""
    answers = {"sums": {}, "rows": {}, "digest": {}}
    for plan in PLANS:
        for held, precisions in HELD.items():
            model = base_of(worker, plan, precisions, directory, entries)
            answers["digest"][plan, held] = digest_model(model, worker)
            tables, parts = unwrap(model).tables, my_part(worker, examples)
            answers["sums"][plan, held] = [tables(ids) for ids in parts]
            answers["rows"][plan, held] = [tables.sequences(ids) for ids in parts]
    return answers


def ask_calls(worker, directory, entries):
    """What a forward and a backward pass call, the trunk being trained."""
    model = base_of(worker, "columns", MIXED, directory, entries)
    for parameter in model.trunk.parameters():
        parameter.requires_grad_()
    rows = small_batch(9, 1, 3 * worker.rank, 3 * worker.rank + 3)
    with Calls() as forward:
        loss = model(rows.ids, rows.numeric_BN).sum()
    with Calls() as backward:
        loss.backward()
    with Calls() as sequences:
        model.tables.sequences(rows.ids)
    trained = all(p.grad is not None for p in model.trunk.parameters())
    return {
        "forward": list(forward), "backward": list(backward), "sequences": list(sequences),
        "trained": trained,
    }  # fmt: skip


def ask_step(worker, directory, entries):
    """The digest before and after a step of the trunk on every precision."""
    found = {}
    for held, precisions in HELD.items():
        model = base_of(worker, "mixed", precisions, directory, entries)
        before = digest_model(model, worker)
        for parameter in dense_state(model).values():
            parameter.requires_grad_()
        rows = small_batch(9, worker.rank)
        model(rows.ids, rows.numeric_BN).square().sum().backward()
        torch.optim.SGD(dense_state(model).values(), lr=0.1).step()
        found[held] = before, digest_model(model, worker)
    return found


def ask_outside(worker, directory, entries):
    """Rank 1 asks for a row that is not there; all must hear, and go on afterwards."""
    tables = unwrap(base_of(worker, "columns", MIXED, directory, entries)).tables
    rows = small_batch(4, 3)
    good = tables(rows.ids)
    if worker.rank == 1:
        rows.ids.values()[0] = 101
    try:
        tables(rows.ids)
    except ValueError as error:
        heard = str(error)
    again = tables(small_batch(4, 3).ids)
    return heard, all(torch.equal(good[f], again[f]) for f in FEATURES)


def at(place):
    return MapFolder(path=place, base_fingerprint="b", is_verified=True)


def ask_mapped(worker, directory, entries, examples):
    """Tables mapped from disk: no call, the same sums, and pages that are shared."""
    found, parts = {}, my_part(worker, examples)
    for held, precisions in HELD.items():
        with Calls() as loading:
            model = base_of(
                worker, "mixed", precisions, directory, entries, mapped_at=at(directory / "mapped")
            )
        with Calls() as calls:
            sums = [unwrap(model).tables(ids) for ids in parts]
            rows = [unwrap(model).tables.sequences(ids) for ids in parts]
        found[held] = {
            "sums": sums, "rows": rows, "calls": list(calls), "loading": list(loading),
            "digest": digest_model(model, worker),
        }  # fmt: skip
    return found


def ask_refusals(worker, directory, entries):
    """A flipped byte, and a value that int8 cannot hold, each in a row that one rank reads."""
    path = directory / "tables/user/r51-c0.safetensors"
    good = path.read_bytes() if worker.rank == 0 else b""
    if worker.rank == 0:
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    dist.barrier()
    found = {"flipped": refusal(Corrupt, worker, directory, entries, "int8")}
    found["flipped, mapped"] = refusal(
        Corrupt, worker, directory, entries, "int8", mapped_at=at(directory / "refused")
    )
    dist.barrier()
    found["left"] = [p.name for p in (directory / "refused").iterdir() if p.suffix != ".lock"]
    dist.barrier()
    if worker.rank == 0:
        path.write_bytes(good)
        broken = small_model()
        broken.tables.embedding_bags["user"].weight.data[NAN_ROW, 2] = torch.nan
        written = write_base_weights(broken, directory / "broken", ALONE)
    held = [written if worker.rank == 0 else None]
    dist.broadcast_object_list(held)
    for precision in ("int8", "fp16"):
        found[f"nan in {precision}"] = refusal(
            BadRequest, worker, directory / "broken", held[0], precision
        )
    model = base_of(worker, "mixed", all_in("fp32"), directory / "broken", held[0])
    found["nan in fp32"] = digest_model(model, worker).combined
    return found


def refusal(kind, worker, directory, entries, precision, **settings):
    try:
        base_of(worker, "mixed", all_in(precision), directory, entries, **settings)
    except kind as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def entries(directory):
    return write_base_weights(small_model(), directory, ALONE, max_file_bytes=51 * 8 * 4)


@pytest.fixture(scope="module")
def examples():
    drawn = [small_batch(40, 5).ids]

    @settings(max_examples=25)
    @given(ids=batches())
    def draw(ids):
        drawn.append(ids)

    draw()
    return drawn


@pytest.fixture(scope="module", params=[2, 3])
def workers(request):
    with StayingWorkers(request.param) as staying:
        yield staying


@pytest.fixture(scope="module")
def lookups(workers, directory, entries, examples):
    return workers.run(ask_lookups, directory, entries, examples)


@pytest.fixture(scope="module")
def mapped(workers, directory, entries, examples):
    return workers.run(ask_mapped, directory, entries, examples)


@pytest.fixture(scope="module")
def stepped(workers, directory, entries):
    return workers.run(ask_step, directory, entries)


@pytest.fixture(scope="module")
def refused(workers, directory, entries):
    return workers.run(ask_refusals, directory, entries)


def whole(held):
    """The tables of one worker."""
    tables = FrozenTables(SHAPES, planned(1), worker=ALONE, precisions=HELD[held])
    tables.fill(reader(small_model()))
    return tables


def assert_same(found, expected, **tolerance):
    """Every feature of every batch, over workers one after the other."""
    for number, batch in enumerate(expected):
        for feature in FEATURES:
            parts = torch.cat([worker[number][feature] for worker in found])
            torch.testing.assert_close(parts, batch[feature], **tolerance)


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("plan", PLANS)
def test_sharded_is_whole(lookups, examples, plan, held):
    tables = whole(held)
    found = [answers["sums"][plan, held] for answers in lookups]
    assert_same(found, [tables(ids) for ids in examples], atol=2e-6, rtol=2e-6)
    in_order = [{f: rows_of(ids, tables, f, len(lookups)) for f in FEATURES} for ids in examples]
    assert_same([a["rows"][plan, held] for a in lookups], in_order, atol=0, rtol=0)


def rows_of(ids, tables, feature, world):
    parts = [tables.sequences(part_of(ids, rank, world))[feature] for rank in range(world)]
    return torch.cat(parts)


@pytest.mark.parametrize("held", HELD)
def test_mapped_is_whole_without_a_call(mapped, examples, held):
    tables = whole(held)
    expected = [tables(ids) for ids in examples]
    found = [answers[held] for answers in mapped]
    assert all(len(part["calls"]) == 0 for part in found)
    assert all(set(part["loading"]) <= {"all_gather_object"} for part in found)
    assert_same([part["sums"] for part in found], expected, atol=0, rtol=0)


@pytest.mark.parametrize("held", HELD)
def test_the_digest_hangs_on_no_plan(lookups, mapped, held):
    digests = {a["digest"][plan, held].combined for a in lookups for plan in PLANS}
    digests |= {answers[held]["digest"].combined for answers in mapped}
    assert len(digests) == 1
    if held == "fp32":
        assert digests == {digest_model(small_model(), ALONE).combined}


def test_a_lookup_is_three_calls_and_its_backward_pass_none(workers, directory, entries):
    for calls in workers.run(ask_calls, directory, entries):
        assert calls["forward"] == calls["sequences"] == 3 * ["all_to_all_single"]
        assert calls["backward"] == []
        assert calls["trained"]


@pytest.mark.parametrize("held", HELD)
def test_a_step_changes_the_trunk_and_no_table(stepped, held):
    tables = {shape.name for shape in SHAPES}
    for answers in stepped:
        before, after = answers[held]
        changed = {n for n in before.by_name if before.by_name[n] != after.by_name[n]}
        assert changed
        assert not changed & tables


def test_an_id_that_is_no_row_is_refused_on_every_worker(workers, directory, entries):
    for rank, (heard, goes_on) in enumerate(workers.run(ask_outside, directory, entries)):
        says = "asks for ids" if rank == 1 else "worker 1 cannot take part"
        assert says in heard
        assert goes_on


def test_a_broken_file_is_refused_on_every_worker(refused):
    for answers in refused:
        for way in ("flipped", "flipped, mapped"):
            assert "r51-c0.safetensors is not the file that was published" in answers[way]
        assert answers["left"] == []


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_value_that_has_no_place_is_refused_on_every_worker(refused, precision):
    for answers in refused:
        assert re.search(
            rf"user, row {NAN_ROW}, column 2 holds nan", answers[f"nan in {precision}"]
        )


def test_fp32_holds_the_same_value(refused):
    broken = small_model()
    broken.tables.embedding_bags["user"].weight.data[NAN_ROW, 2] = torch.nan
    for answers in refused:
        assert answers["nan in fp32"] == digest_model(broken, ALONE).combined


def big_model(device="meta"):
    model = small_model("meta")
    model.tables = build_tables([BIG], init_scale=0.1, device=torch.device(device))
    model.table_sizes = {"big": (BIG.rows, BIG.width)}
    return model


def ask_memory(worker, place, written):
    """Memory that loading takes, by precision; and what of the mapped pages is shared."""
    base_of(worker, "mixed", all_in("int8"), place / "small", written["small"])  # warms up
    found = {held: ask_loading(worker, place, written, held) for held in PRECISIONS}
    return found | {"mapped": ask_loading(worker, place, written, "int8", at(place / "mapped"))}


def ask_loading(worker, place, written, precision, mapped_at=None):
    rule = PlacementRuleSpec(row_wise_from_rows=1000)
    plan = plan_tables([BIG], world=worker.world, device=worker.device, rule=rule)
    model = big_model()
    before = forget_peak()
    read_frozen_base(
        model, plan, precisions={"big": precision}, directory=place / "big",
        entries=written["big"], worker=worker, mapped_at=mapped_at,
    )  # fmt: skip
    peak = memory("VmHWM") - before
    (local,) = unwrap(model).tables.local_rows
    local.bytes_RN.flatten()[::4096].sum()  # reads every page
    dist.barrier()
    pages = shared_pages(str(mapped_at.path)) if mapped_at else {}
    dist.barrier()
    return {"peak": peak, "held": 0 if mapped_at else local.bytes_RN.numel(), "pages": pages}


def forget_peak():
    """Reset VmHWM to the memory that is resident now, and return it."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def shared_pages(folder):
    """Bytes of the files below a folder that are mapped here: resident, and our share of them."""
    found = {"Rss": 0, "Pss": 0}
    is_ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_ours = folder in line
        elif is_ours and (name := line.split(":")[0]) in found:
            found[name] += 1024 * int(line.split()[1])
    return found


@pytest.fixture(scope="module")
def loading(tmp_path_factory):
    place = tmp_path_factory.mktemp("big")
    if not (os.access("/proc/self/clear_refs", os.W_OK) and os.access("/proc/self/smaps", os.R_OK)):
        pytest.skip("this system does not tell a process its peak memory and its shared pages")
    written = {
        "small": write_base_weights(small_model(), place / "small", ALONE),
        "big": write_base_weights(
            big_model("cpu"), place / "big", ALONE, max_file_bytes=FILE_BYTES
        ),
    }
    return run_on_workers(ask_memory, 2, place, written)


@pytest.mark.parametrize("held", [*PRECISIONS, "mapped"])
def test_loading_takes_a_buffer_besides_what_is_held(loading, held):
    """A worker's half of the table is 102 MB in fp32; the buffer holds 16 MiB of it."""
    half = BIG.rows // 2 * BIG.width * 4
    for answers in loading:
        found = answers[held]
        assert found["held"] == (0 if held == "mapped" else BIG.rows // 2 * row_bytes(held, 64))
        assert found["peak"] - found["held"] < BUFFER_BYTES + FILE_BYTES + 8 * 2**20
        assert half / 3 > BUFFER_BYTES + FILE_BYTES + 8 * 2**20


def test_workers_share_the_pages_they_map(loading):
    for answers in loading:
        pages = answers["mapped"]["pages"]
        assert pages["Rss"] >= BIG.rows * row_bytes("int8", 64)
        assert pages["Pss"] < 0.6 * pages["Rss"]
