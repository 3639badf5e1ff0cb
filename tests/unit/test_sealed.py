"""A sealed document is read as it was written, or refused."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.sealed import check_seal, parsed, seal, spelled

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.text(max_size=5).filter(lambda name: name != "sha256"), VALUES)


def read(data):
    document = parsed(data, allow_nan=True)
    check_seal(document, data, allow_nan=True)
    return document


@given(document=DOCUMENTS)
def test_a_document_comes_back_and_has_one_spelling(document):
    data = spelled(seal(document), allow_nan=True)
    found = read(data)
    assert {name: found[name] for name in document} == document
    assert spelled(seal(found), allow_nan=True) == data


@settings(max_examples=100)
@given(document=DOCUMENTS, place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_any_flipped_byte_is_refused(document, place, mask):
    data = bytearray(spelled(seal(document), allow_nan=True))
    data[int(place * len(data))] ^= mask
    with pytest.raises(ValueError):  # noqa: PT011 - the sentence depends on the byte
        read(bytes(data))


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_no_json_are_refused_unless_they_are_allowed(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        spelled({"a": number})
    data = json.dumps({"a": number}).encode()
    with pytest.raises(ValueError, match="is not JSON"):
        parsed(data)
    assert "a" in parsed(data, allow_nan=True)
