"""An assessment has the best plan, the reasons why the job does not fit, and what would fit."""

from dataclasses import replace

import pytest

from iak.jobs.clusters import load_cluster, with_devices
from iak.pipeline.errors import DoesNotFit
from iak.pipeline.planning import assess as assessing
from iak.pipeline.planning.assess import FrozenPrecisions, assess, rule_plan, smallest_change
from iak.schemas.plan import PlacementRuleSpec
from tests.unit.planning.plan_requests import a_request

H100 = load_cluster("8xH100")


@pytest.fixture(autouse=True)
def _no_search(monkeypatch):
    """The rule places tables here: the search takes seconds, and is tested in its own room."""

    def refuse(*_, **__):
        raise DoesNotFit("TorchRec's planner finds no plan for a test")

    monkeypatch.setattr(assessing, "search", refuse)


def more(cluster, nodes):
    return with_devices(cluster, nodes * cluster.devices_per_node)


def test_where_the_planner_finds_no_plan_the_rule_is_estimated_and_the_reason_kept():
    found = assess(a_request(), H100)
    assert found.estimate.planner_ms == 0
    assert found.estimate.document == rule_plan(a_request(), H100)
    assert found.problems == ("TorchRec's planner finds no plan for a test",)
    assert not found.fits


def test_frozen_tables_are_placed_in_the_precision_of_each():
    request = replace(
        a_request(precision="int8"),
        frozen=FrozenPrecisions(precision="int8", precisions={"user_id": "int4"}),
    )
    document = rule_plan(request, H100)
    assert document.job == "finetune"
    assert {t.table: t.precision for t in document.tables}["user_id"] == "int4"
    assert {t.precision for t in document.tables if t.table != "user_id"} == {"int8"}


def test_trained_tables_are_of_fp32_and_their_job_is_pretrain():
    document = rule_plan(a_request(), H100)
    assert document.job == "pretrain"
    assert {t.precision for t in document.tables} == {"fp32"}


@pytest.mark.parametrize(
    ("precision", "lower"),
    [("fp32", ["int8", "int4"]), ("fp16", ["int8", "int4"]), ("int8", ["int4"]), ("int4", [])],
)
def test_lower_precisions_are_tried_one_after_the_other(precision, lower):
    request = a_request(precision=precision)
    assert [q.frozen.precision for q in assessing.lower_precisions(request)] == lower
    assert list(assessing.lower_precisions(a_request())) == [], "trained tables have no lower one"


def test_a_precision_that_a_table_cannot_have_is_not_advised():
    request = a_request(precision="int8")
    odd = replace(request.work.shapes[0], width=63)
    work = replace(request.work, shapes=(odd, *request.work.shapes[1:]))
    assert list(assessing.lower_precisions(replace(request, work=work))) == []


class Fitting:
    """Answers as request: which questions fit on which clusters."""

    def __init__(self, monkeypatch, fits, price):
        self.request = []
        monkeypatch.setattr(assessing, "assess", self.assess)
        monkeypatch.setattr(assessing, "rule_price", lambda _, kind: (price(kind), kind.world))
        self.fits = fits

    def assess(self, request, cluster):
        precision = request.frozen and request.frozen.precision
        self.request.append((cluster.name, precision))
        estimate = type("Estimated", (), {"hours": 1.5, "cost": 12.0})
        return type("Answered", (), {"fits": self.fits(cluster, precision), "estimate": estimate})


def test_a_lower_precision_is_advised_before_another_cluster(monkeypatch):
    told = Fitting(monkeypatch, lambda _, precision: precision == "int4", lambda kind: kind.world)
    change = smallest_change(a_request(precision="fp32"), H100, [], more)
    assert change == "tables.precision=int4 would fit"
    assert told.request == [("8xH100", "int8"), ("8xH100", "int4")]


def test_the_cheapest_cluster_that_fits_is_advised_and_none_beyond_it_is_asked(monkeypatch):
    told = Fitting(monkeypatch, lambda kind, _: kind.world >= 32, lambda kind: kind.world)
    change = smallest_change(a_request(), H100, [load_cluster("8xL40S")], more)
    assert change == "cluster=4x8xH100 would fit: 1.50 hours, 12.00 USD"
    assert all("16x" not in name for name, _ in told.request)


def test_another_kind_of_machine_is_advised_where_it_is_cheaper(monkeypatch):
    cheap = load_cluster("8xL40S")
    Fitting(monkeypatch, lambda *_: True, lambda kind: kind.price_per_hour * kind.nodes)
    assert cheap.price_per_hour < H100.price_per_hour
    assert smallest_change(a_request(), H100, [cheap], more).startswith("cluster=8xL40S would fit")


def test_where_nothing_would_do_the_limit_is_named(monkeypatch):
    told = Fitting(monkeypatch, lambda *_: True, lambda _: float("inf"))
    change = smallest_change(a_request(), H100, [], more)
    assert change.startswith("no shipped cluster of up to 128 machines is enough")
    assert told.request == []


def test_a_job_that_the_rule_cannot_place_has_no_price():
    request = a_request()
    rule = PlacementRuleSpec(sharding={"user_id": "row_wise"})
    odd = [replace(s, rows=3) if s.name == "user_id" else s for s in request.wanted.shapes]
    wanted = replace(request.wanted, placement=rule, shapes=tuple(odd))
    impossible = replace(request, wanted=wanted)
    assert assessing.rule_price(request, H100)[0] < float("inf")
    assert assessing.rule_price(impossible, H100) == (float("inf"), 8)
