"""Rows to be predicted: columns are checked, and a breach of the contract is named, not dropped."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.errors import BadRequest
from iak.pipeline.serving.encode import (
    BREACH,
    ID,
    check_columns,
    encode_to_score,
    identity_of,
    raw_batch,
)
from iak.schemas.log import SplitSpec
from tests.builders import batch_of, draw_rows, encoding_of, small_catalog

CATALOG = small_catalog().to_score(SplitSpec())


def batch(count=20, *, first=0):
    """Rows with the partition keys inside, as a pipe has them."""
    rows = draw_rows(count, first=first)
    rows = rows.append_column("region", pa.array(["ningbo"] * count))
    return batch_of(rows.append_column("dt", pa.array(["2026-10-01"] * count)))


def test_rows_with_every_column_pass():
    check_columns(batch().schema, CATALOG)


def test_labels_are_not_needed():
    check_columns(batch().drop_columns(["click", "order"]).schema, CATALOG)


@pytest.mark.parametrize("column", ["user_id", "region"])
def test_a_column_that_is_not_there_is_named(column):
    with pytest.raises(BadRequest, match=column):
        check_columns(batch().drop_columns([column]).schema, CATALOG)


def test_a_column_of_another_kind_is_named_with_its_type():
    rows = batch()
    index = rows.schema.get_field_index("price")
    other = rows.set_column(index, "price", pa.array([[1.0]] * len(rows)))
    with pytest.raises(BadRequest, match="price"):
        check_columns(other.schema, CATALOG)


def test_a_declared_id_is_the_row_s_key_wherever_it_stands():
    whole, part = raw_batch(batch(20), CATALOG), raw_batch(batch(20).slice(5), CATALOG)
    keys = identity_of(whole, CATALOG, first=0)
    assert len(set(keys.tolist())) == 20
    assert np.array_equal(identity_of(part, CATALOG, first=900), keys[5:])


def test_without_an_id_the_number_among_all_rows_is_the_key():
    bare = small_catalog(log__row_id=None).to_score(SplitSpec())
    rows = raw_batch(batch(20), bare)
    whole = identity_of(rows, bare, first=0)
    parts = [identity_of(rows.slice(a, 10), bare, first=a) for a in (0, 10)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert len(set(whole.tolist())) == 20


def test_encoded_rows_keep_their_number_their_ids_and_their_breaches():
    rows = raw_batch(batch(20), CATALOG)
    counts = Counter()
    encoding = encoding_of(batch(200, first=100), small_catalog())
    encoded = encode_to_score(
        rows, identity_of(rows, CATALOG, first=0), catalog=CATALOG, encoding=encoding, counts=counts
    )
    assert len(encoded) == 20
    assert encoded.column(ID).to_pylist() == [str(n) for n in range(20)]
    breaches = encoded.column(BREACH).to_pylist()
    named = Counter(name for name in breaches if name)
    assert all(counts[name] >= number for name, number in named.items())
