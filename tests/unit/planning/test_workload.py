"""What a job needs is counted as its layers and its bank have it."""

import dataclasses

import pytest

from iak.jobs.clusters import load_cluster
from iak.pipeline.iak import bank
from iak.pipeline.iak.kernel import KernelShape
from iak.pipeline.model.given import identity_towers
from iak.pipeline.model.heads import Heads
from iak.pipeline.planning.assess import FrozenPrecisions, assess
from iak.pipeline.planning.module_cost import module_cost
from iak.pipeline.planning.workload import workload
from iak.pipeline.sharding.placement_search import Wanted
from iak.pipeline.tuning.cohorts import cohorts_of
from iak.pipeline.tuning.context import Stage
from iak.schemas.job import DomainStageSpec, KernelSpec, ModelSpec
from iak.schemas.plan import PlacementRuleSpec
from tests.dlrm_log import dlrm_catalog
from tests.given_log import UNITS, given_catalog, towers_catalog
from tests.unit.planning.plan_requests import MLP, a_request


def test_a_row_of_the_dense_part_costs_what_its_layers_cost():
    work = a_request().work
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


def test_dot_products_of_all_pairs_are_counted():
    model = ModelSpec(trunk="dlrm", width=64, mlp=(256,), expert_width=64, tower_width=32)
    work = a_request(model=model).work
    vectors, h = 1 + 12, 64 * work.tasks
    assert work.x_units == 64 * 12 + work.numbers
    pairs = vectors * (vectors - 1) // 2
    bottom, projections = 64 * 64, 12 * 64 * 64
    top = (pairs + 64) * 256 + 256 * h
    towers = work.tasks * (64 * 32 + 32)
    # The product makes both halves of the symmetric matrix of dot products.
    products = bottom + projections + vectors * vectors * 64 + top + towers
    assert work.dense.flops == 2 * products


def test_the_bank_is_as_large_as_the_one_that_is_tuned():
    work = a_request(precision="int8").work
    heads = Heads(tasks=work.tasks, width=64, hidden=32)
    assert work.x_units > 256  # components of x are what a kernel reads by itself
    shape = KernelShape.on(heads, KernelSpec(), inputs=heads.units + 256)
    assert work.kernels.units == bank.units(shape)
    held = assess(a_request(precision="int8"), load_cluster("8xH100")).estimate.memory[0]
    stage = Stage(spec=DomainStageSpec(), step_rows=65_536, beta=1e-3, seed=0)
    at_once = max(part.stop - part.start for part in cohorts_of([10**7 // 1000] * 1000, stage))
    assert 1 < at_once < 1000
    assert held["bank"] == 2 * (1000 + at_once) * 4 * bank.units(shape)
    assert held["moments"] == 2 * at_once * 4 * bank.units(shape)


def test_a_base_that_runs_elsewhere_costs_nothing_and_its_kernels_fit():
    work = workload(
        given_catalog(), ModelSpec(), KernelSpec(narrow=0), rows={}, ids={}, domains=1000
    )
    assert (work.shapes, work.dense.parameters, work.dense.flops) == ((), 0, 0.0)
    inputs = 2 + 1 + UNITS  # two logits, a number, h
    shape = KernelShape.on(identity_towers(2), KernelSpec(), inputs=inputs)
    assert work.kernels.units == bank.units(shape)
    assert work.kernels.kept_units == inputs
    unchanged = workload(given_catalog(), ModelSpec(), KernelSpec(), rows={}, ids={}, domains=1000)
    assert unchanged.kernels == work.kernels  # an x narrower than its components stays
    found = on_cluster(work)
    assert found.fits
    assert found.estimate.document.tables == ()


def test_towers_of_columns_are_counted_with_the_h_that_they_read():
    work = workload(towers_catalog(), ModelSpec(), KernelSpec(), rows={}, ids={}, domains=1000)
    weights = 2 * (2 * UNITS + 2 + 2 + 1)
    assert (work.dense.parameters, work.dense.weight_bytes) == (weights, 4 * weights)
    assert work.x_units == 1 + 2  # a number, and two logits
    assert work.kernels.kept_units == 2 + UNITS + work.x_units  # h: two logits beside


def test_tables_of_an_adopted_module_are_placed_and_the_rest_lies_on_every_worker():
    work = workload(dlrm_catalog(), ModelSpec(), KernelSpec(), rows={}, ids={}, domains=1000)
    cost = module_cost("tests.plain_dlrm:build", dlrm_catalog(), ids={"user": 1, "item": 1})
    assert (work.shapes, work.x_units) == (cost.shapes, 1)
    assert (len(work.shapes), work.ids_per_row) == (2, 2.0)
    assert (work.dense.parameters, work.dense.flops) == (cost.weights, cost.flops)
    inputs = cost.tail.units + 1  # h, and a number
    shape = KernelShape.on(cost.tail, KernelSpec(), inputs=inputs)
    assert (work.kernels.units, work.kernels.kept_units) == (bank.units(shape), inputs)
    assert work.kernels.flops == 2.0 * bank.units(shape) + cost.tail_flops
    found = on_cluster(work)
    assert found.fits
    assert {t.table for t in found.estimate.document.tables} == {"users", "items"}
    assert [held["dense"] for held in found.estimate.memory] == 8 * [cost.weight_bytes]
    rows = sum(shape.rows for shape in work.shapes)
    assert sum(held["tables"] for held in found.estimate.memory) >= rows * (4 + 8)  # int8


def test_a_module_of_an_older_base_lies_whole_on_every_worker_and_places_no_table():
    asked = {"rows": {}, "ids": {}, "domains": 1000, "module_tables": ()}
    work = workload(dlrm_catalog(), ModelSpec(), KernelSpec(), **asked)
    found = on_cluster(work)
    assert found.fits
    assert (work.shapes, found.estimate.document.tables) == ((), ())
    assert [held["dense"] for held in found.estimate.memory] == 8 * [work.dense.weight_bytes]


def on_cluster(work):
    wanted = Wanted(
        shapes=work.shapes, ids=work.ids, placement=PlacementRuleSpec(), batch_rows=65_536
    )
    request = dataclasses.replace(
        a_request(precision="int8"),
        work=work,
        wanted=wanted,
        frozen=FrozenPrecisions(precision="int8", precisions={}),
    )
    return assess(request, load_cluster("8xH100"))


L, K = 20, 64
"""Positions of both histories of the planted log, and the width of their tables."""


def din_products():
    """Activation unit of 36: value and product with the target, the target, the weight."""
    return L * (2 * K * 36 + 36) + K * 36


def sasrec_products():
    """A block of all positions, and one of the last: its other positions are keys and values."""
    first = 3 * L * K * K + 2 * L * L * K + 2 * L * K * K
    return first + 2 * L * K * K + K * K + 2 * L * K + 2 * K * K


def caser_products():
    """Windows of 2, 3 and 4 values, four vertical filters, and the layer that joins them."""
    return L * (2 + 3 + 4) * K * 16 + 4 * L * K + (3 * 16 + 4 * K) * K


@pytest.mark.parametrize(
    ("kind", "of_history", "units"),
    [
        ("din", din_products, K),
        ("sasrec", sasrec_products, 2 * K),
        ("caser", caser_products, 2 * K),
    ],
)
def test_histories_that_are_read_one_by_one_are_counted(kind, of_history, units):
    model = ModelSpec(**MLP.model_dump() | {"history": kind})
    work, means = a_request(model=model).work, a_request().work
    assert work.x_units == means.x_units
    assert (work.history_units, means.history_units) == (2 * L * K, 0)
    # Newest values are read twice: in the mean, and by themselves. Lists have 7.5 and 20 values.
    assert work.ids_per_row == means.ids_per_row + 7.5 + 20
    assert work.dense.flops == means.dense.flops + 2 * (2 * of_history() + 2 * units * 256)
    assert work.dense.kept_bytes > means.dense.kept_bytes + 4 * 2 * L * K
    held, before = (
        assess(a_request(model=m, precision="int8"), load_cluster("8xH100")).estimate.memory[0]
        for m in (model, MLP)
    )
    assert held["activations"] > before["activations"]
    assert held["kept activations"] == before["kept activations"]


def test_weights_that_read_histories_are_counted():
    work = a_request(model=ModelSpec(**MLP.model_dump() | {"history": "din"})).work
    of_history = 2 * K * 36 + (K + 1) * 36 + 1 + 36 + 1
    added = work.dense.parameters - a_request().work.dense.parameters
    assert added == 2 * of_history + 2 * K * 256
