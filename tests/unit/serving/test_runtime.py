"""The runtime of an export reads raw values as the package does, whatever the catalogue."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import features, hashing
from iak.pipeline.model.batch_invariant import MIN_OUTPUTS, batch_invariant
from iak.pipeline.model.trunks.dcnv2_mmoe import DcnMmoe
from iak.pipeline.serving import runtime
from iak.pipeline.serving.encode import raw_batch
from iak.schemas.feature import FIRST_ROW
from iak.schemas.log import SplitSpec
from tests.builders import encoding_of, small_catalog

TEXTS = ["", "a", "配送", "a/b", "100%"]
JOINED = ["", "a", "a|配送", " a |b||", "|", "b|a", "['a'|'b']", "[a|b]", "['']", "'a'", "['a'|[]]"]
JOINED_WHOLES = ["", "3", "1,-1", " 2 ,,0", ",", "9223372036854775807,1", "[]", "[3, -1]", " [1]\n"]
WHOLES = [0, 1, -1, 7, 2**31, 2**63 - 1, -(2**63)]
NUMBERS = [0.0, -0.0, 1.5, -3.25, 1e-300, 3.5e38, math.nan, math.inf, -math.inf]
COLUMNS = {
    "text": (pa.string(), st.sampled_from(TEXTS)),
    "whole": (pa.int64(), st.sampled_from(WHOLES) | st.integers(0, 9)),
    "flag": (pa.bool_(), st.booleans()),
    "whole_float": (pa.float64(), st.sampled_from([0.0, -0.0, 3.0, -1.0, 2.0**40, math.nan])),
    "number": (pa.float64(), st.sampled_from(NUMBERS) | st.floats(-1e6, 1e6)),
    "count": (pa.int64(), st.integers(-5, 2**53)),
    "texts": (pa.list_(pa.string()), st.lists(st.none() | st.sampled_from(TEXTS), max_size=4)),
    "wholes": (pa.list_(pa.int64()), st.lists(st.none() | st.integers(-1, 4), max_size=4)),
}
COLUMNS |= {
    "joined": (pa.string(), st.sampled_from(JOINED)),
    "joined_wholes": (pa.string(), st.sampled_from(JOINED_WHOLES)),
    "digits": (pa.string(), st.sampled_from(["12.5", "-3", " 7 ", "+1e3", "", "n/a", ".5", "nan"])),
}
WRITTEN = {
    "joined": {"separator": "|"},
    "joined_wholes": {"separator": ",", "whole": True},
    "digits": {"in_text": True},
}
IDS, DENSE = ("text", "whole", "flag", "whole_float"), ("number", "count", "digits")
LISTS = ("texts", "wholes", "joined", "joined_wholes")
KEYS = st.sampled_from(["rome", "a/b", "100%", None])


def tables(column):
    """A table of any kind that may hold the ids of a column."""
    kinds = [{"min_count": 1}, {"encoding": "hash", "rows": 5}]
    if column in ("whole", "flag", "wholes", "joined_wholes", "whole_float"):
        kinds.append({"encoding": "identity", "rows": 6})
    return st.sampled_from(kinds)


@st.composite
def one_feature(draw, name):
    """A feature of any kind, and its table where it has one."""
    kind = draw(st.sampled_from(["categorical", "list", "cross", "numeric"]))
    feature = {"kind": kind, "name": name}
    if kind == "numeric":
        feature |= {"column": draw(st.sampled_from(DENSE)), "log": draw(st.booleans())}
        feature |= WRITTEN.get(feature["column"], {})
        feature |= draw(
            st.sampled_from([{}, {"buckets": 3}, {"boundaries": [-1.0, 2.0]}, {"clip": 0.5},
                             {"standardise": False}])
        )  # fmt: skip
        return feature, {}
    if kind == "cross":
        feature["columns"] = draw(st.permutations(IDS).map(lambda names: names[:2]))
        return feature, {name: draw(tables("text"))}
    feature["column"] = draw(st.sampled_from(LISTS if kind == "list" else IDS))
    if kind == "list":
        padding = {"texts": "a", "joined": "a"}.get(feature["column"], 0)
        feature |= WRITTEN.get(feature["column"], {}) | {
            "last": draw(st.integers(1, 4)),
            "padding": draw(st.sampled_from([None, padding])),
        }
    return feature, {name: draw(tables(feature["column"]))}


@st.composite
def catalogs(draw):
    parts = [draw(one_feature(f"f{index}")) for index in range(draw(st.integers(1, 4)))]
    changes = {
        "features": [feature for feature, _ in parts],
        "tables": {name: table for _, own in parts for name, table in own.items()},
        "log__user": None, "log__row_id": None, "log__event_time": None,
    }  # fmt: skip
    return small_catalog(**changes).to_score(SplitSpec())


@st.composite
def raw_rows(draw):
    count = draw(st.integers(1, 6))
    columns = {}
    for name, (kind, values) in COLUMNS.items():
        drawn = draw(st.lists(st.none() | values, min_size=count, max_size=count))
        columns[name] = pa.array(drawn, kind)
    columns["region"] = pa.array(draw(st.lists(KEYS, min_size=count, max_size=count)), pa.string())
    return pa.RecordBatch.from_pydict(columns)


def encoder_of(catalog, encoding):
    """What the runtime makes of a catalogue, as an export writes it down."""
    described = {
        name: {"encoding": spec.encoding, "ids": (spec.rows or 0) - FIRST_ROW}
        for name, spec in catalog.table_specs.items()
    }
    document = {
        "features": [feature.model_dump(mode="json") for feature in catalog.features],
        "tables": described, "statistics": encoding.statistics,
        "partition_keys": catalog.log.partition_keys,
    }  # fmt: skip
    arrays = {f"vocabulary.{n}": k.view(np.int64) for n, k in encoding.vocabularies.items()}
    arrays |= {f"boundaries.{n}": cuts for n, cuts in encoding.boundaries.items()}
    return runtime.Encoder(document, {n: torch.tensor(array) for n, array in arrays.items()})


@given(catalog=catalogs(), taught=raw_rows(), rows=raw_rows())
def test_ids_and_numbers_are_those_of_the_package(catalog, taught, rows):
    encoding = encoding_of(raw_batch(taught, catalog), catalog)
    encoder = encoder_of(catalog, encoding)
    columns = encoder.with_lists(rows.to_pydict())
    encoded = features.encode(
        raw_batch(rows, catalog), identity=np.zeros(len(rows), np.uint64), catalog=catalog,
        encoding=encoding,
    )  # fmt: skip
    for feature in encoder.keyed:
        ids, lengths = encoder.ids(feature, columns)
        expected = encoded.column(f"f.{feature['name']}").to_pylist()
        parts = [part if isinstance(part, list) else [part] for part in expected]
        assert lengths.tolist() == [len(part) for part in parts]
        assert ids.tolist() == [row for part in parts for row in part]
    numbers = encoder.numbers(columns, len(rows))
    for index, feature in enumerate(encoder.dense):
        expected = encoded.column(f"n.{feature['name']}").to_numpy()
        np.testing.assert_array_equal(
            numbers[:, index].copy().view(np.int32), expected.view(np.int32)
        )


@given(st.lists(st.text(max_size=9).filter(lambda text: text.isprintable()), min_size=1))
def test_keys_of_text_are_those_of_the_package(texts):
    keys = runtime.keys_of(texts, "c")
    assert keys.tolist() == hashing.keys_of(pa.array(texts, pa.string())).tolist()


def test_whole_numbers_beyond_int64_have_the_keys_of_the_package():
    wholes = [2**64 - 1, 2**63, 0]
    expected = hashing.keys_of(pa.array(wholes, pa.uint64()))
    assert runtime.keys_of(wholes, "c").tolist() == expected.tolist()


@pytest.mark.parametrize("value", [1.5, 2.0**53, b"a", ["a"], {"a": 1}])
def test_what_is_no_id_is_refused_with_its_column(value):
    with pytest.raises(runtime.BadRows, match=r"column c holds .* expected a whole number, text"):
        runtime.word_of(value, "c")


def test_constants_of_rounding_are_those_of_the_package():
    assert runtime.MIN_OUTPUTS == MIN_OUTPUTS


@pytest.mark.parametrize("cross_rank", [None, 3])
@pytest.mark.parametrize("width", [5, 13, 200, 1_796])
def test_crosses_of_any_width_are_those_of_the_package_to_the_last_bit(width, cross_rank):
    """A product for each row would round as one of all rows does with 200 inputs alone."""
    shape = {"cross_layers": 2, "cross_rank": cross_rank, "experts": 2, "expert_width": 3}
    trunk = DcnMmoe(width=width, mlp=[8], tasks=1, **shape).requires_grad_(False)
    weights = {f"trunk.{name}": weight for name, weight in trunk.state_dict().items()}
    exported = runtime.Trunk(weights, {"trunk": "dcnv2_mmoe", **shape}, tasks=1, embeddings=[width])
    x_BX = torch.randn(runtime.FULL_ROWS, width)
    with torch.inference_mode(), batch_invariant():
        expected = trunk(x_BX)
    with torch.inference_mode():
        assert torch.equal(exported(x_BX), expected)
