import dataclasses
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.model.embedding_bags import build_tables
from iak.pipeline.model.tables import TableShape
from iak.pipeline.process import Worker
from iak.pipeline.sharding.base_weights import read_base_weights, write_base_weights
from iak.pipeline.sharding.shard import digest_model, local_shards
from tests.unit.model.small import small_model

ALONE = Worker(rank=0, world=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    directory = tmp_path_factory.mktemp("base")
    return directory, write_base_weights(small_model(), directory, ALONE, max_file_bytes=1000)


@pytest.mark.parametrize("max_file_bytes", [1, 1000, 2**28])
def test_what_is_written_is_what_is_read(tmp_path, max_file_bytes):
    entries = write_base_weights(small_model(), tmp_path, ALONE, max_file_bytes=max_file_bytes)
    other = small_model(seed=1)
    read_base_weights(other, tmp_path, entries, ALONE)
    assert digest_model(other, ALONE) == digest_model(small_model(), ALONE)
    assert {e.path for e in entries} == {
        str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.safetensors")
    }


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_byte_is_refused(published, data):
    directory, entries = published
    entry = data.draw(st.sampled_from(entries))
    path = directory / entry.path
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bad)
    try:
        with pytest.raises(Corrupt, match=re.escape(str(path))):
            read_base_weights(small_model(), directory, entries, ALONE)
    finally:
        path.write_bytes(good)


def test_a_missing_file_is_named(tmp_path):
    entries = write_base_weights(small_model(), tmp_path, ALONE)
    (tmp_path / "tables/shop/r0-c0.safetensors").unlink()
    with pytest.raises(Corrupt, match="safetensors is missing"):
        read_base_weights(small_model(), tmp_path, entries, ALONE)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(lambda es: es[1:], "0 dense parts", id="no dense part"),
        pytest.param(
            lambda es: [e for e in es if e.table != "hour"],
            "table:hour:missing: published nothing, model 7 x 8 float32",
            id="gone",
        ),
        pytest.param(
            lambda es: es[:-1],
            "table:user:changed: published 93 x 8 float32, model 101 x 8",
            id="the last rows gone",
        ),
        pytest.param(lambda es: [*es, es[-1]], "do not make up 101 rows", id="rows twice"),
        pytest.param(
            lambda es: [*es, dataclasses.replace(es[-1], table="extra")],
            "table:extra:unexpected: published .*, model nothing",
            id="unexpected",
        ),
        pytest.param(
            lambda es: [dataclasses.replace(e, cols=4) if e.table == "user" else e for e in es],
            "table:user:changed: published 101 x 4 float32, model 101 x 8",
            id="narrower",
        ),
        pytest.param(
            lambda es: [dataclasses.replace(e, dtype="float16") for e in es],
            "table:user:dtype: published 101 x 8 float16",
            id="another type",
        ),
        pytest.param(
            lambda es: [dataclasses.replace(e, path="../x") if e.table else e for e in es],
            "should be tables/",
            id="a path elsewhere",
        ),
    ],
)
def test_entries_that_do_not_cover_the_model_are_refused(published, change, says):
    directory, entries = published
    model = small_model(seed=1)
    before = digest_model(model, ALONE)
    with pytest.raises(BadRequest, match=says):
        read_base_weights(model, directory, change(entries), ALONE)
    assert digest_model(model, ALONE) == before


def test_another_trunk_is_refused(published):
    directory, entries = published
    model = small_model()
    model.trunk.gate = torch.nn.Linear(7, 9)
    with pytest.raises(
        BadRequest, match=r"dense:trunk\.gate\.weight:changed: published 9 x 59 float32"
    ):
        read_base_weights(model, directory, entries, ALONE)


def test_a_table_whose_name_is_no_directory_is_refused(tmp_path):
    model = small_model()
    shape = TableShape(name="a/b", rows=2, width=4, features=("f",))
    model.tables = build_tables([shape], init_scale=1.0, device=torch.device("cpu"))
    with pytest.raises(BadRequest, match="'a/b' cannot be a directory"):
        write_base_weights(model, tmp_path, ALONE)


def test_shards_of_an_unsharded_model_are_its_tables():
    model = small_model()
    for shard in local_shards(model):
        weight = model.tables.embedding_bags[shard.table].weight
        assert shard.tensor_RW.data_ptr() == weight.data_ptr()
        assert dataclasses.replace(shard, tensor_RW=weight).row_offset == 0
