"""Every id of a grown table starts from the row it read before."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from iak.pipeline.data import vocabulary
from iak.pipeline.data.features import Encoding, encode
from iak.pipeline.data.growth import RowOrigin, origins
from iak.schemas.feature import NULL_ROW, UNSEEN_ROW
from tests.builders import batch_of, encoding_after, small_catalog

LABELS = {
    "click": pa.array([0], pa.int8()), "order": pa.array([0], pa.int8()),
    "region": pa.array(["a"]), "user_id": pa.array(["u"]),
}  # fmt: skip


def catalog_of(**table):
    return small_catalog(features=[{"kind": "categorical", "name": "c"}], tables={"c": table})


def rows_of(ids, catalog, encoding):
    """The row of each id, null included, as encoding gives it."""
    rows = batch_of(
        {"c": pa.array(ids, pa.int64())}
        | {name: pa.concat_arrays([column] * len(ids)) for name, column in LABELS.items()}
    )
    keys = np.arange(len(ids), dtype=np.uint64)
    encoded = encode(rows, identity=keys, catalog=catalog, encoding=encoding)
    return encoded.column("f.c").to_numpy()


def taught(ids, catalog, before=None, grown=()):
    rows = pa.record_batch({"c": pa.array(ids, pa.int64())})
    return encoding_after(before, rows, catalog, grown)


def assert_starts_as_it_read(before, now, ids):
    origin = origins(before, now)["c"]
    assert isinstance(origin, RowOrigin)
    asked = [*ids, None]
    assert origin.of(rows_of(asked, *now)).tolist() == rows_of(asked, *before).tolist()


IDS = st.lists(st.integers(-5, 60), min_size=1, max_size=40)


@given(rows=st.integers(3, 20), more=st.integers(1, 20), ids=IDS)
def test_an_identity_table_keeps_its_rows(rows, more, ids):
    before, now = (catalog_of(encoding="identity", rows=n) for n in (rows, rows + more))
    assert_starts_as_it_read((before, taught([], before)), (now, taught([], now)), ids)


@given(rows=st.integers(3, 20), times=st.integers(2, 5), ids=IDS)
def test_a_hash_table_folds_onto_the_one_before(rows, times, ids):
    before, now = (catalog_of(encoding="hash", rows=n) for n in (rows, times * (rows - 2) + 2))
    assert_starts_as_it_read((before, taught([], before)), (now, taught([], now)), ids)


@given(first=IDS, then=IDS, asked=IDS)
def test_a_vocabulary_keeps_every_id_and_takes_in_new_ones(first, then, asked):
    catalog = catalog_of(min_count=1)
    before = taught(first, catalog)
    now = taught(then, catalog, before=before, grown=["c"])
    assert {*now.vocabularies["c"]} == {*before.vocabularies["c"]} | {
        *taught(then, catalog).vocabularies["c"]
    }
    assume(len(now.vocabularies["c"]) > len(before.vocabularies["c"]))
    assert_starts_as_it_read((catalog, before), (catalog, now), asked)


def test_a_full_vocabulary_keeps_its_ids_and_the_most_frequent_new_ones():
    before = taught([1, 2], catalog_of(min_count=1))
    now = taught([3, 4, 4, 5, 5, 5], catalog_of(min_count=1, rows=6), before=before, grown=["c"])
    known = taught([1, 2, 4, 5], catalog_of(min_count=1))
    assert now.vocabularies["c"].tolist() == known.vocabularies["c"].tolist()


@given(first=IDS, then=IDS)
def test_a_vocabulary_that_may_not_grow_stays(first, then):
    catalog = catalog_of(min_count=1)
    before = taught(first, catalog)
    now = taught(then, catalog, before=before)
    assert now.vocabularies["c"].tolist() == before.vocabularies["c"].tolist()
    assert origins((catalog, before), (catalog, now)) == {}
    assert vocabulary.schema_hash(catalog, now) == vocabulary.schema_hash(catalog, before)


@given(rows=st.integers(4, 20), more=st.integers(1, 60))
def test_a_hash_table_that_is_no_multiple_says_which_would_be(rows, more):
    assume(more % (rows - 2))
    before, now = (catalog_of(encoding="hash", rows=n) for n in (rows, rows + more))
    nothing = taught([], before)
    message = origins((before, nothing), (now, nothing))["c"]
    assert isinstance(message, str)
    advised = int(message.partition("tables.c.rows = ")[2].partition(";")[0])
    fitting = origins((before, nothing), (catalog_of(encoding="hash", rows=advised), nothing))
    assert isinstance(fitting["c"], RowOrigin)


def test_the_first_two_rows_are_themselves():
    catalog = catalog_of(min_count=1)
    before = taught([], catalog)
    now = taught([7], catalog, before=before, grown=["c"])
    origin = origins((catalog, before), (catalog, now))["c"]
    assert origin.of(np.arange(3)).tolist() == [NULL_ROW, UNSEEN_ROW, UNSEEN_ROW]


def test_statistics_and_cuts_of_before_stand():
    catalog = small_catalog(
        features=[
            {"kind": "numeric", "name": "c"},
            {"kind": "numeric", "name": "d", "column": "c", "buckets": 3},
            {"kind": "numeric", "name": "e", "column": "c"},
        ],
        tables={},
    )
    before = taught([1, 2, 3, 4], small_catalog(features=[
        {"kind": "numeric", "name": "c"},
        {"kind": "numeric", "name": "d", "column": "c", "buckets": 3},
    ], tables={}))  # fmt: skip
    now = taught([10, 20, 30, 50], catalog, before=before)
    assert {k: now.statistics[k] for k in "cd"} == dict(before.statistics)
    assert now.statistics["e"][0] == pytest.approx(27.5)
    assert now.boundaries["d"].tolist() == before.boundaries["d"].tolist()
    assert isinstance(now, Encoding)
