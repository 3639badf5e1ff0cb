"""What `iak plan` counts is what jobs hold; what does not fit says what to change."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.jobs import cli
from iak.jobs._clusters import load_cluster, shipped_clusters, with_constants, with_devices
from iak.jobs._spec import load_catalog
from iak.jobs.plan import _resolved
from iak.pipeline.errors import BadRequest
from iak.pipeline.iak import bank
from iak.pipeline.iak.kernel import KernelShape
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.tables import TableShape
from iak.pipeline.planning.answer import Frozen, Question, answer
from iak.pipeline.planning.estimate import Asked, Level
from iak.pipeline.planning.workload import workload
from iak.pipeline.sharding.placement_rule import (
    TABLES_PATH,
    as_document,
    describe,
    plan_tables,
    planned,
)
from iak.pipeline.sharding.placement_search import Wanted, search
from iak.pipeline.sharding.quantised import stride_bytes
from iak.pipeline.sharding.stacks import planned_pieces, stacks_of
from iak.pipeline.tuning.cohorts import cohorts_of
from iak.pipeline.tuning.schedule import blocks_of, steps_per_epoch
from iak.pipeline.tuning.tune import Stage
from iak.schemas.job import DomainStageSpec, KernelSpec, ModelSpec, PlanSpec, StageSpec
from iak.schemas.plan import PlanDocument

CPU = torch.device("cpu")
SMALL = {"category": 1000, "region": 100, "daypart": 10, "scene": 10, "weekday": 9}
SMALL |= {"age_group": 12, "user_segment": 100, "shop_id": 100_000}
MLP = ModelSpec(trunk="mlp", width=64, mlp=(256, 128), expert_width=64, tower_width=32)


STAGES = (
    Level(name="pooled", kernels=1, stage=StageSpec()),
    Level(name="domains", kernels=1000, stage=DomainStageSpec()),
)


def question(users=10_000_000, items=1_000_000, precision=None, model=MLP, **limits):
    catalog = load_catalog(Path("planted"))
    rows = SMALL | {"user_id": users, "item_id": items}
    work = workload(catalog, model, KernelSpec(), rows=rows, ids={"history": 7.5}, domains=1000)
    return Question(
        work=work,
        asked=Asked(
            batch_rows=65_536, rows=10**7, passes=1.0, levels=STAGES, bf16=False, kept_bytes=2,
            cache_gib=6.0,
        ),
        wanted=Wanted(shapes=work.shapes, ids=work.ids, sharding={}, batch_rows=65_536),
        frozen=Frozen(precision=precision, precisions={}) if precision else None,
        row_wise_from_rows=10_000,
        **limits,
    )  # fmt: skip


def run(*words):
    settings = [f"table_rows.{name}={rows}" for name, rows in SMALL.items()]
    return cli.run(["plan", "catalog=planted", *settings, *words])


@pytest.mark.parametrize("precision", [None, "int8", "int4"])
@pytest.mark.parametrize("cluster", ["8xH100", "2x8xL40S"])
def test_every_element_is_held_once_and_every_byte_counted(precision, cluster):
    asked = question(precision=precision)
    found = answer(asked, load_cluster(cluster))
    assert found.fits
    held = {"tables": 0, "table optimiser": 0}
    for memory in found.estimate.memory:
        for kind in held:
            held[kind] += memory[kind]
    shapes = asked.work.shapes
    assert {t.table for t in found.estimate.document.tables} == {s.name for s in shapes}
    for table, shape in zip(found.estimate.document.tables, shapes, strict=True):
        assert sum(s.rows * s.cols for s in table.shards) == shape.rows * shape.width
    cuda, document = torch.device("cuda"), found.estimate.document
    if precision:  # a frozen row begins at a multiple of 16 bytes on CUDA
        assert held["tables"] == sum(
            s.rows * stride_bytes(precision, s.width, cuda) for s in shapes
        )
        assert held["table optimiser"] == 0
        assert {t.precision for t in document.tables} == {precision}
        assert {t.type for t in document.tables} <= {"row_wise", "table_wise"}
        assert found.estimate.planner_ms > 0
        return
    assert held["tables"] == sum(4 * s.rows * s.width for s in shapes)
    cuts = {t.table: len(t.shards) if t.type == "column_wise" else 1 for t in document.tables}
    assert held["table optimiser"] == sum(4 * s.rows * cuts[s.name] for s in shapes)
    assert found.estimate.planner_ms > 0


def test_a_row_of_the_dense_part_costs_what_its_layers_cost():
    work = question().work
    x = work.x_units
    layers = [(x, 256), (256, 128)]
    towers = work.tasks * (64 * 32 + 32)
    products = sum(a * b for a, b in layers) + towers
    weights = sum(a * b + b for a, b in layers) + towers + work.tasks * (32 + 1)
    assert x == 64 * 12 + work.numbers
    assert work.dense.flops == 2 * products
    assert work.dense.parameters == weights
    # Linear keeps its input, ReLU its output (the next one's input), the towers theirs.
    assert 4 * (x + 256 + 128) <= work.dense.kept_bytes <= 4 * (x + 256 + 2 * 128 + 4 * 32) * 1.5


def test_the_bank_is_as_large_as_the_one_that_is_tuned():
    work = question(precision="int8").work
    heads = Heads(tasks=work.tasks, width=64, hidden=32)
    assert work.x_units > 256  # components of x are what a kernel reads by itself
    shape = KernelShape.on(heads, KernelSpec(), inputs=work.h_units + 256)
    assert work.kernels.units == bank.units(shape)
    held = answer(question(precision="int8"), load_cluster("8xH100")).estimate.memory[0]
    stage = Stage(spec=DomainStageSpec(), step_rows=65_536, beta=1e-3, seed=0)
    at_once = max(part.stop - part.start for part in cohorts_of([10**7 // 1000] * 1000, stage))
    assert 1 < at_once < 1000
    assert held["bank"] == 2 * (1000 + at_once) * 4 * bank.units(shape)
    assert held["moments"] == 2 * at_once * 4 * bank.units(shape)


def test_more_bandwidth_is_never_slower_and_names_what_binds():
    h100 = load_cluster("8xH100")
    slow = h100.model_copy(update={"intra_gb_per_s": 0.5})
    times = {}
    for cluster in (slow, h100):
        told = answer(question(), cluster).estimate
        times[cluster.intra_gb_per_s] = told
    assert times[0.5].hours > times[450.0].hours
    assert times[0.5].phases["steps"][0].binds == "links"


def test_one_rank_sends_nothing():
    alone = with_devices(load_cluster("8xH100"), 1)
    for precision in (None, "int8"):
        told = answer(question(precision=precision), alone).estimate
        for step, _, _ in told.phases.values():
            assert sum(step.sent.values()) == 0
            assert step.seconds["links"] == 0


@given(
    rows=st.lists(st.integers(8, 500), min_size=1, max_size=5),
    world=st.integers(1, 8),
    kinds=st.lists(st.sampled_from(["table_wise", "row_wise", "column_wise"]), min_size=5),
)
def test_a_saved_plan_is_the_plan(rows, world, kinds):
    shapes = [
        TableShape(name=f"t{i}", rows=n, width=8, features=(f"t{i}",)) for i, n in enumerate(rows)
    ]
    overrides = {s.name: kind for s, kind in zip(shapes, kinds, strict=False)}
    made = plan_tables(shapes, world=world, device=CPU, overrides=overrides, row_wise_from_rows=50)
    text = as_document(made, job="pretrain", world=world).model_dump_json()
    again = planned(PlanDocument.model_validate_json(text), shapes, world=world, device=CPU)
    assert describe(again) == describe(made)
    for name in overrides:
        one, other = (p.plan[TABLES_PATH][name] for p in (made, again))
        assert one.sharding_spec == other.sharding_spec
        assert one.compute_kernel == other.compute_kernel


@settings(max_examples=25, deadline=None)
@given(
    tables=st.lists(
        st.tuples(st.integers(8, 10**7), st.sampled_from([2, 8, 20, 64, 128]),
                  st.sampled_from(["fp32", "fp16", "int8", "int4"]),
                  st.sampled_from([None, "table_wise", "row_wise", "column_wise"])),
        min_size=1, max_size=4,
    ),
    cluster=st.sampled_from(["2xH100", "8xL40S", "2x8xA100-40"]),
)  # fmt: skip
def test_the_planner_places_frozen_tables_as_they_can_be_held(tables, cluster):
    cluster = load_cluster(cluster)
    sized = [
        (max(rows, cluster.world), width, precision, kind)
        for rows, width, precision, kind in tables
        if kind != "column_wise" or width >= 4 * cluster.world
    ] or [(100, 8, "int8", None)]
    shapes = tuple(
        TableShape(name=f"t{i}", rows=rows, width=width, features=(f"f{i}", f"g{i}"))
        for i, (rows, width, _, _) in enumerate(sized)
    )
    precisions = {f"t{i}": precision for i, (_, _, precision, _) in enumerate(sized)}
    asked = {f"t{i}": kind for i, (_, _, _, kind) in enumerate(sized) if kind}
    ids = {feature: 2.5 for shape in shapes for feature in shape.features}
    wanted = Wanted(shapes=shapes, ids=ids, sharding=asked, batch_rows=1000, precisions=precisions)
    document = search(wanted, cluster, reserved_bytes=0).document
    assert document.job == "finetune"
    assert {t.table: t.type for t in document.tables}.items() >= asked.items()
    made = planned(document, shapes, world=cluster.world, device=CPU, precisions=precisions)
    stacks = stacks_of(shapes, list(planned_pieces(made)), precisions)
    held = sum(piece.rows * piece.cols for stack in stacks for piece in stack.pieces)
    assert held == sum(shape.rows * shape.width for shape in shapes)


def saved(world=2):
    shapes = [TableShape(name=n, rows=100, width=8, features=(n,)) for n in ("a", "b")]
    made = plan_tables(shapes, world=world, device=CPU, row_wise_from_rows=50)
    return shapes, as_document(made, job="pretrain", world=world)


def test_a_plan_for_other_tables_or_workers_names_every_difference():
    shapes, document = saved()
    others = [shapes[0], TableShape(name="c", rows=7, width=8, features=("c",))]
    with pytest.raises(BadRequest) as error:
        planned(document, others, world=3, device=CPU)
    told = str(error.value)
    for part in ("workers: plan 2, job 3", "table b (rows, width): plan (100, 8), model -"):
        assert part in told
    assert "table c (rows, width): plan -, model (7, 8)" in told


def test_a_plan_for_other_precisions_is_refused():
    shapes, document = saved()
    with pytest.raises(BadRequest, match=r"table b \(held in\): plan fp32, job int8") as error:
        planned(document, shapes, world=2, device=CPU, precisions={"b": "int8"})
    assert "table a" not in str(error.value)


def test_a_plan_that_cuts_a_table_wrongly_is_refused():
    shapes, document = saved()
    held = json.loads(document.model_dump_json())
    held["tables"][0]["shards"][1]["row"] += 1
    with pytest.raises(BadRequest, match="table a: these shards are no row_wise cut"):
        planned(PlanDocument.model_validate(held), shapes, world=2, device=CPU)


def test_a_table_that_fits_nowhere_near_is_told_with_what_would_do(capsys):
    assert (
        run("table_rows.user_id=10000000000", "table_rows.item_id=1000000", "model.width=64") == 3
    )
    told = " ".join(capsys.readouterr().out.split())
    assert "does not fit: rank" in told
    assert "smallest change: cluster=" in told
    change = told.partition("smallest change: cluster=")[2].split()[0]
    again = run(
        "table_rows.user_id=10000000000", "table_rows.item_id=1000000", "model.width=64",
        f"cluster={change}",
    )  # fmt: skip
    assert again == 0


def test_a_table_that_fits_nowhere_says_so(capsys):
    assert (
        run("table_rows.user_id=100000000000", "table_rows.item_id=1000000", "model.width=512") == 3
    )
    told = " ".join(capsys.readouterr().out.split())
    assert "TorchRec's planner finds no plan" in told
    assert "no shipped cluster of up to 128 machines would do; make tables smaller" in told


def test_a_cluster_of_ones_own_is_advised_more_of_its_machines(tmp_path, capsys):
    shipped = shipped_clusters()["8xL40S"].read_text()
    path = tmp_path / "mine.toml"
    path.write_text(shipped.replace('"8xL40S"', '"mine"').replace("30.13", "0.01"))
    words = ("table_rows.user_id=2000000000", "table_rows.item_id=1000000", "model.width=64")
    assert run(*words, f"cluster={path}") == 3
    assert "cluster=mine with nodes=2 would fit" in " ".join(capsys.readouterr().out.split())


def test_frozen_tables_are_advised_a_lower_precision_first(capsys):
    words = ("table_rows.user_id=10000000000", "table_rows.item_id=1000000", "model.width=64")
    assert run(*words, "job=finetune", "cluster=8xH100") == 3
    assert "tables.precision=int4 would fit" in " ".join(capsys.readouterr().out.split())
    assert run(*words, "job=finetune", "cluster=8xH100", "tables.precision=int4") == 0


def test_a_sweep_finds_the_smallest_and_a_comparison_the_cheapest(capsys):
    words = ("table_rows.user_id=1000000000", "table_rows.item_id=1000000", "model.width=64")
    assert run(*words, "sweep=gpus=1,2,4,8,16") == 0
    told = capsys.readouterr().out
    smallest = told.partition("smallest that fits: ")[2].partition(";")[0]
    assert run(*words, f"cluster={smallest}") == 0
    devices = load_cluster(smallest).world
    assert devices > 1
    assert run(*words, f"sweep=gpus={devices // 2}", "compare=") == 3
    assert run(*words, "compare=8xA100-40,8xA100-80,8xH200") == 0
    assert "cheapest:" in capsys.readouterr().out
    assert run(*words[:2], "compare=8xA100-40,8xL40S", "model.width=512") == 3


def test_words_win_over_settings_and_settings_over_presets(tmp_path):
    catalog, file = load_catalog(Path("planted")), tmp_path / "job.toml"
    file.write_text('[tables]\nprecision = "fp16"\n[kernel]\nhidden = 7\n')
    asked = PlanSpec(catalog="planted", job="finetune", settings=file, tables={"precision": "int8"})
    done = _resolved(asked, catalog, None)
    assert (done.tables.precision, done.kernel.hidden) == ("int8", 7)
    assert done.batch_rows == 8192
    preset = dict(catalog.presets["pretrain"])
    assert _resolved(PlanSpec(catalog="planted"), catalog, None).batch_rows == preset["batch_rows"]
    file.write_text("[kernel]\nhidden = -7\n")
    with pytest.raises(BadRequest, match=r"kernel\.hidden"):
        _resolved(asked, catalog, None)


def test_a_level_is_paced_as_the_schedule_paces_it():
    asked = question(precision="int8").asked
    for level in STAGES:
        stage, own = level.stage, asked.rows // level.kernels
        (steps,) = steps_per_epoch(
            torch.tensor([own]), wanted_steps=stage.steps_per_epoch,
            min_batch=stage.min_batch, max_batch=stage.max_batch,
        ).tolist()  # fmt: skip
        told = answer(question(precision="int8"), load_cluster("8xH100")).estimate
        step, rows, in_all = told.phases[f"kernels: {level.name}"]
        present = round(rows / (own / steps))
        blocks = blocks_of(
            torch.full((level.kernels,), steps),
            torch.full((1, level.kernels), own),
            asked.batch_rows,
        )
        assert present == len(blocks[0])
        epochs = stage.compression_epochs + stage.max_epochs
        used = min(steps, stage.max_steps_per_epoch) * own / steps
        assert in_all == pytest.approx(level.kernels * used * epochs)
        assert step.sent["gradients of kernels"] > 0


def test_time_and_money_have_a_say(capsys):
    words = ("table_rows.user_id=1000000", "table_rows.item_id=10000", "rows=100000000000")
    assert run(*words, "max_hours=0.001") == 3
    assert "max_hours is 0.001" in capsys.readouterr().out
    assert run(*words, "max_cost=0.01") == 3
    assert run(*words, "max_hours=1e9", "max_cost=1e12") == 0


def test_everything_is_written(tmp_path):
    files = {name: tmp_path / f"plan.{name}" for name in ("json", "png", "saved.json")}
    words = ("table_rows.user_id=1000000", "table_rows.item_id=10000")
    assert (
        run(
            *words,
            f"json={files['json']}",
            f"picture={files['png']}",
            f"save={files['saved.json']}",
        )
        == 0
    )
    held = json.loads(files["json"].read_text())["answers"][0]
    assert held["fits"]
    assert len(held["memory"]) == 8
    assert PlanDocument.model_validate_json(files["saved.json"].read_text()).world == 8
    assert files["png"].stat().st_size > 1000


BOTH = ("table_rows.user_id=9", "table_rows.item_id=9")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "rows of tables ['item_id', 'user_id'] follow from a log"),
        (("table_rows.nobody=5",), "unknown tables ['nobody']"),
        ((*BOTH, "ids.nobody=5"), "unknown features"),
        ((*BOTH, "cluster=9xB1000"), "no cluster"),
        ((*BOTH, "sweep=8,16"), "expected gpus="),
        ((*BOTH, "sweep=gpus=12"), "take 8 or 16"),
        ((*BOTH, "constants.speed=2"), "speed"),
        ((*BOTH, "sharding.x=row_wise"), "unknown tables"),
        (("base=/nowhere",), "base=/nowhere does not exist"),
        (("settings=/nowhere.toml",), "settings=/nowhere.toml does not exist"),
        ((*BOTH, "job=finetune", "tables.precisions.nobody=int4"), "unknown tables ['nobody']"),
        ((*BOTH, "job=finetune", "tables.mapped=true"), "tables.mapped is not planned for"),
        ((*BOTH, "job=finetune", "tables.precision=int4", "model.width=7"), "two by two"),
    ],
)  # fmt: skip
def test_nonsense_is_answered_with_what_to_write(words, says, capsys):
    assert run(*words) == 2
    assert says in capsys.readouterr().err


def test_a_cluster_file_with_nonsense_names_each_field(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "../x"\ndevices_per_node = 0\nspeed = "fast"\n')
    with pytest.raises(BadRequest) as error:
        load_cluster(str(path))
    for field in ("name", "devices_per_node", "speed", "device_memory_gib"):
        assert field in str(error.value)
    path.write_text("name = ")
    with pytest.raises(BadRequest, match="not TOML"):
        load_cluster(str(path))
    with pytest.raises(BadRequest, match="No such file"):
        load_cluster(str(tmp_path / "none.toml"))


def test_shipped_clusters_are_whole_and_named_as_their_files():
    for name, path in shipped_clusters().items():
        cluster = load_cluster(name)
        assert cluster.name == path.stem
        assert load_cluster(f"16x{name}").world == 128
        assert load_cluster(f"4{name[1:]}").price_per_hour == cluster.price_per_hour / 2
        assert with_constants(cluster, {"step_ms": 7.0}).constants.step_ms == 7.0


def test_a_table_the_planner_drops_is_not_overlooked(monkeypatch):
    asked, cluster = question(), load_cluster("8xH100")
    from iak.pipeline.sharding import placement_search as searching

    real = searching.EmbeddingShardingPlanner.plan

    def dropping(self, module, sharders):
        plan = real(self, module, sharders)
        del plan.plan[TABLES_PATH]["item_id"]
        return plan

    monkeypatch.setattr(searching.EmbeddingShardingPlanner, "plan", dropping)
    with pytest.raises(searching.DoesNotFit, match=r"left table item_id out.*3652"):
        search(asked.wanted, cluster, reserved_bytes=0)
