"""A domain is its pairs; its name is made once, and no two domains share one."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data.domain_columns import domain_names
from iak.schemas.domain import POOLED, Domain

texts = st.text(alphabet="ab=/%2F,", max_size=6)
keys = st.lists(st.sampled_from(["a", "b", "a=b", "c/d", "%2F"]), unique=True, max_size=3)


@st.composite
def domains(draw):
    return Domain(tuple((key, draw(texts)) for key in draw(keys)))


@given(one=domains(), other=domains())
def test_different_domains_have_different_names(one, other):
    assert (one.name == other.name) == (one == other)


def test_a_value_that_looks_like_a_second_key_is_not_one():
    crossed = Domain((("region", "a"), ("daypart", "b"), ("scene", "c")))
    looks_alike = Domain((("region", "a/daypart=b"), ("scene", "c")))
    assert crossed.name == "region=a/daypart=b/scene=c"
    assert looks_alike.name == "region=a%2Fdaypart=b/scene=c"


def test_ordinary_values_stand_in_the_name_as_they_are():
    assert Domain((("region", "São Paulo, 2"),)).name == "region=São Paulo, 2"
    assert Domain().name == POOLED


@given(rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=8))
def test_the_names_of_rows_are_the_names_of_their_domains(rows):
    columns = {"k=1": [a for a, _ in rows], "k/2": [b for _, b in rows]}
    batch = pa.RecordBatch.from_pydict(columns)
    result = domain_names(batch, ("k=1", "k/2")).to_pylist()
    assert result == [Domain((("k=1", a), ("k/2", b))).name for a, b in rows]
