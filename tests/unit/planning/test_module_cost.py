"""What an adopted module costs is counted as its layers have it, and as it stores them."""

import re

import pytest
from torch import nn

from iak.pipeline.errors import BadRequest
from iak.pipeline.planning.module_cost import module_cost
from tests import mixed_tables, plain_dlrm
from tests.dlrm_log import dlrm_catalog
from tests.plain_dlrm import HIDDEN, ITEMS, USERS, WIDTH

FACTORY = "tests.plain_dlrm:build"
ONE_ID = {"user": 1.0, "item": 1.0}


def test_a_row_costs_what_the_layers_cost():
    cost = module_cost(FACTORY, dlrm_catalog(), ids=ONE_ID)
    bottom, pairs, top = 1 * WIDTH, 3 * 3 * WIDTH, (WIDTH + 3) * HIDDEN
    # Layers of fewer than 12 outputs are computed with 12 (model/batch_invariant.py).
    assert cost.flops == 2 * (12 + pairs + top)
    assert cost.tail_flops == 2 * HIDDEN * 12
    assert cost.weights == bottom + WIDTH + top + HIDDEN + HIDDEN + 1
    assert cost.weight_bytes == 4 * cost.weights
    assert {t.name: (t.rows, t.width) for t in cost.shapes} == {
        "users": (USERS, WIDTH),
        "items": (ITEMS, WIDTH),
    }
    assert cost.lookups == {"users": 1.0, "items": 1.0}
    assert cost.tail.units == HIDDEN


def test_weights_of_half_precision_take_half_the_memory(monkeypatch):
    build = plain_dlrm.build

    def with_half_a_table():
        module = build()
        module.extra = nn.Embedding(10, 4).half()
        return module

    monkeypatch.setattr(plain_dlrm, "build", with_half_a_table)
    cost = module_cost(FACTORY, dlrm_catalog(), ids=ONE_ID)
    assert cost.weight_bytes == 4 * cost.weights - 2 * 40


def test_a_module_that_reads_other_features_is_refused_with_what_it_is_given():
    renamed = dlrm_catalog(
        features=[{"kind": "categorical", "name": "user"}],
        tables={"user": {"encoding": "identity", "rows": USERS + 2}},
    )
    says = re.escape("must read features ['user'] and numbers []")
    with pytest.raises(BadRequest, match=f"KeyError: 'item'.*{says}"):
        module_cost(FACTORY, renamed, ids={"user": 1.0})


def test_a_base_of_an_older_version_has_its_tables_among_its_weights():
    cost = module_cost(FACTORY, dlrm_catalog(), ids=ONE_ID, shapes=())
    shared = module_cost(FACTORY, dlrm_catalog(), ids=ONE_ID)
    assert cost.weights == shared.weights + (USERS + ITEMS) * WIDTH
    assert (cost.shapes, cost.lookups, cost.flops) == ((), {}, shared.flops)


def test_tables_that_are_not_only_looked_up_stay_whole_and_ids_of_a_list_are_all_looked_up():
    features = [{"kind": "categorical", "name": name} for name in ("user", "item")]
    features += [{"kind": "list", "name": "history", "table": "item", "last": 5}]
    features += [{"kind": "numeric", "name": "price", "standardise": False}]
    catalog = dlrm_catalog(features=features)
    ids = {"user": 1.0, "item": 1.0, "history": 5.0}
    cost = module_cost("tests.mixed_tables:build", catalog, ids=ids)
    names = {shape.name for shape in cost.shapes}
    assert names == {*mixed_tables.SHARDED, "some"}  # one that a trial with rows excludes
    assert cost.lookups[mixed_tables.POOLED] == cost.lookups["largest"] == 5
    assert cost.lookups["pooled.embedding_bags.t_item"] == 1 + 5
