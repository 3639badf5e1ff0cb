"""What a base reads histories with follows from the catalogue and the model's settings."""

import pytest

from iak.pipeline.base.dense_parts import build_dense
from iak.pipeline.base.histories import build_histories
from iak.pipeline.base.published_base import history_positions, shapes_with
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.histories.caser import Convolutions
from iak.pipeline.model.histories.din import TargetAttention
from iak.pipeline.model.histories.sasrec import SelfAttention
from iak.schemas.job import ModelSpec
from tests.builders import FEATURES, small_catalog

ROWS = dict.fromkeys(["user_id", "item", "slot", "region", "user_scene", "age"], 9)
READERS = {"din": TargetAttention, "sasrec": SelfAttention, "caser": Convolutions}


@pytest.mark.parametrize("kind", READERS)
def test_a_setting_chooses_the_reader(kind):
    model = ModelSpec(history=kind, width=4)
    histories = build_histories(small_catalog(), model, {"hist": 4})
    assert [(s.feature, s.target, s.positions, s.width) for s in histories.shapes] == [
        ("hist", "item", 3, 4)
    ]
    assert [type(reader) for reader in histories.readers] == [READERS[kind]]


def test_positions_are_bounded_by_the_list_and_by_the_setting():
    assert history_positions(small_catalog(), ModelSpec(history="din")) == {"hist": 3}
    assert history_positions(small_catalog(), ModelSpec(history="din", positions=2)) == {"hist": 2}
    assert history_positions(small_catalog(), ModelSpec()) == {}


def test_a_history_reads_its_own_table_at_each_position():
    model = ModelSpec(history="din", positions=2)
    of_table = {shape.name: shape for shape in shapes_with(small_catalog(), model, ROWS)}
    assert of_table["item"].features == ("item", "hist", "hist~0", "hist~1")
    assert of_table["item"].declared_features == ("item", "hist")
    assert of_table["user_id"].features == ("user_id",)


def test_means_alone_need_no_reader():
    assert build_dense(small_catalog(), ModelSpec()).histories is None


@pytest.mark.parametrize("kind", READERS)
def test_a_log_without_a_history_is_refused_with_what_to_do(kind):
    alone = [{**f, "table": "seen"} if f["name"] == "hist" else f for f in FEATURES]
    with pytest.raises(
        BadRequest, match=r"catalogue has none.*table = \"item_id\".*model\.history"
    ):
        build_dense(small_catalog(features=alone), ModelSpec(history=kind))
