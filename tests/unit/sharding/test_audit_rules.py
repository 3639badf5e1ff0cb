"""What differs between two shapes has one name each, and passes by that name alone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data.growth import RowOrigin
from iak.pipeline.errors import BadRequest
from iak.pipeline.sharding.audit import FRESH, Entry, Finding, dense, refuse_unnamed, tables

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 2))
ENTRIES = st.builds(Entry, shape=SHAPES, dtype=st.sampled_from(["float32", "float16"]))
SIDES = st.dictionaries(st.sampled_from("abcd"), ENTRIES, max_size=4)


def grown_from(rows):
    return RowOrigin(rows_before=rows, of=lambda rows_R: rows_R % rows)


ORIGINS = st.dictionaries(
    st.sampled_from("abcd"),
    st.integers(1, 3).map(grown_from) | st.just("20 is no multiple"),
    max_size=3,
)


def kinds_of(findings):
    """The kinds found, by name."""
    by_name = {}
    for finding in findings:
        by_name.setdefault(finding.name, []).append(finding.kind)
    return by_name


def expected_kinds(before, now, is_grown):
    """The rule, a row of the module's table each."""
    if now is None:
        return ["unexpected"]
    if before is None:
        return ["missing"]
    other = ["changed"] if before.shape != now.shape else []
    kinds = ["grown"] if is_grown else other
    is_read = not FRESH & set(kinds)
    return [*kinds, *(["dtype"] if is_read and before.dtype != now.dtype else [])]


@given(published=SIDES, model=SIDES, origins=ORIGINS)
def test_every_difference_of_tables_is_found_and_nothing_else(published, model, origins):
    found = kinds_of(tables(published, model, origins=origins))
    expected = {}
    for name in published.keys() | model.keys():
        before, now, origin = published.get(name), model.get(name), origins.get(name)
        is_grown = (
            None not in (before, now)
            and isinstance(origin, RowOrigin)
            and before.shape == (origin.rows_before, now.shape[1])
        )
        if kinds := expected_kinds(before, now, is_grown):
            expected[name] = kinds
    assert found == expected


@given(published=SIDES, model=SIDES)
def test_every_difference_of_dense_tensors_is_found_and_nothing_else(published, model):
    found = kinds_of(dense(published, model, relaid={}))
    names = published.keys() | model.keys()
    expected = {n: expected_kinds(published.get(n), model.get(n), is_grown=False) for n in names}
    assert found == {name: kinds for name, kinds in expected.items() if kinds}


@pytest.mark.parametrize("kind", ["relaid", "grown"])
def test_a_tensor_of_other_inputs_is_called_what_became_of_them(kind):
    wide, narrow = (Entry(shape=(4, width), dtype="float32") for width in (9, 7))
    (finding,) = dense({"w": narrow}, {"w": wide}, relaid={"w": kind})
    assert (finding.allowance, finding.published, finding.model) == (
        f"dense:w:{kind}", narrow, wide,
    )  # fmt: skip


def test_why_a_table_cannot_grow_stands_in_its_line():
    before, now = (Entry(shape=(rows, 8), dtype="float32") for rows in (7, 20))
    (finding,) = tables({"t": before}, {"t": now}, origins={"t": "20 is no multiple"})
    assert str(finding) == (
        "table:t:changed: published 7 x 8 float32, model 20 x 8 float32 (20 is no multiple)"
    )


def test_a_number_without_a_shape_is_one_number():
    assert str(Entry(shape=(), dtype="float32")) == "one number float32"


def finding_of(part, name, kind):
    return Finding(part=part, name=name, kind=kind, published=None, model=None)


FINDINGS = st.lists(
    st.builds(
        finding_of, st.sampled_from(["table", "dense"]), st.sampled_from("abc"),
        st.sampled_from(["missing", "changed", "dtype"]),
    ),
    max_size=5, unique_by=lambda finding: finding.allowance,
)  # fmt: skip
KNOWN = {"table": "abc", "dense": "abc"}


def refused(findings, allow, **more):
    return refuse_unnamed(findings, allow, **{"names": KNOWN, "where": "R1", **more})


@given(findings=FINDINGS, data=st.data())
def test_differences_pass_where_each_is_named_and_else_all_unnamed_ones_are_told(findings, data):
    words = [finding.allowance for finding in findings]
    allow = data.draw(st.lists(st.sampled_from(words), unique=True)) if words else []
    left_out = [word for word in words if word not in allow]
    if not left_out:
        assert refused(findings, allow) == [str(finding) for finding in findings]
        return
    with pytest.raises(BadRequest) as told:
        refused(findings, allow)
    assert f"with {' '.join(f'allow={word}' for word in left_out)}" in str(told.value)
    lines = Counter(line.strip().partition(": ")[0] for line in str(told.value).splitlines())
    assert [word for word in words if lines[word]] == left_out


def test_an_allowance_that_is_met_by_nothing_is_told_and_passes():
    assert refused([], ["table:a:grown"]) == [
        "table:a:grown: allowed, but there is no such difference"
    ]


@pytest.mark.parametrize("word", ["table:z:missing", "dense:z:changed", "shape:a:missing", "a"])
def test_an_allowance_about_nothing_there_is_is_refused(word):
    with pytest.raises(BadRequest, match=f"allowance '{word}': neither the base nor the model"):
        refused([], [word])


def test_what_is_broken_passes_by_no_allowance():
    with pytest.raises(BadRequest, match=r"(?s)the base at R1 .*two files of a table overlap"):
        refused([], [], broken=["two files of a table overlap"])
