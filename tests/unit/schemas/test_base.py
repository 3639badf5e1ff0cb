"""A document is frozen and knows its keys; its texts hold nothing that no file could."""

import json
import pickle
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from iak.schemas.base import (
    MAX_SHOWN_CHARACTERS,
    Column,
    FolderText,
    SparseSpec,
    Spec,
    Value,
    not_empty,
    redacted,
    shortened,
    with_names,
    without_repeats,
    without_userinfo,
)

ANY_TEXT = st.text(st.characters(), max_size=12)


class Small(Spec):
    size: float = 1.0
    """How large it is."""


class Sparse(SparseSpec):
    size: float = 1.0
    from_: str = Field(default="", alias="from")
    inner: tuple["Sparse", ...] = ()


_SPARSE_FIELDS = {"size": st.floats(0, 9), "from": st.text("ab"), "inner": st.just([{"size": 2.0}])}


@given(st.fixed_dictionaries({}, optional=_SPARSE_FIELDS))
def test_a_sparse_document_is_written_as_it_was_read(document):
    read = Sparse.model_validate(document)
    assert read.model_dump(mode="json", by_alias=True) == document
    assert json.loads(read.model_dump_json(by_alias=True)) == document
    assert pickle.loads(pickle.dumps(read)).model_dump(by_alias=True) == read.model_dump(
        by_alias=True
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_of_a_document_is_finite(value):
    with pytest.raises(ValidationError, match="finite number"):
        Small(size=value)


def test_a_document_is_frozen_and_refuses_a_key_that_it_does_not_know():
    with pytest.raises(ValidationError, match="frozen"):
        Small().size = 2.0
    with pytest.raises(ValidationError, match="siez"):
        Small.model_validate({"siez": 2.0})


def test_the_text_under_a_field_is_its_help():
    assert Small.model_fields["size"].description == "How large it is."


def is_printable(text):
    categories = {unicodedata.category(character) for character in text}
    return not categories & {"Cc", "Cs"}


def accepts(kind, text):
    try:
        assert TypeAdapter(kind).validate_python(text) == text
    except ValidationError:
        return False
    return True


@given(text=ANY_TEXT | st.text("a\x00\n\x7f\x85 \ud800", max_size=4))
def test_a_text_is_taken_as_it_is_unless_it_holds_what_no_path_or_document_can(text):
    is_text = is_printable(text)
    assert accepts(Value, text) == accepts(FolderText, text) == is_text
    assert accepts(Column, text) == (is_text and text.strip() != "")


@pytest.mark.parametrize(
    ("text", "why"), [("a\nb", "control character"), ("a\udcffb", "not UTF-8")]
)
def test_a_refused_text_says_what_it_holds(text, why):
    with pytest.raises(ValidationError, match=why):
        TypeAdapter(Value).validate_python(text)


@given(names=st.lists(st.sampled_from("abcd"), max_size=6).map(tuple))
def test_names_are_each_named_once_and_every_repeated_one_is_told(names):
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not repeated:
        assert without_repeats(names) == names
        return
    with pytest.raises(ValueError, match=f"^{', '.join(repeated)}: named twice"):
        without_repeats(names)


@pytest.mark.parametrize("name", ["", "  ", "a\tb"])
def test_a_name_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match=r"it is empty|control character"):
        with_names({"sound": 1, name: 2})
    assert with_names({"sound": 1}) == {"sound": 1}


def test_blanks_are_empty():
    with pytest.raises(ValueError, match="it is empty"):
        not_empty(" \u3000")


NO_MARK = st.text("abc.-_%", min_size=1, max_size=8)


@given(user=NO_MARK, password=NO_MARK, host=NO_MARK, around=NO_MARK)
def test_a_password_never_shows_and_all_else_does(user, password, host, around):
    uri = f"s3://{user}:{password}@{host}/logs"
    assert redacted(f"{around} {uri} {around}") == f"{around} s3://***@{host}/logs {around}"
    with pytest.raises(ValueError, match="must not hold a user or a password") as refused:
        without_userinfo(uri)
    assert f"{user}:{password}" not in str(refused.value)


@pytest.mark.parametrize("uri", ["s3://bucket/logs", "/data/a@b", "gs://b/x@y", "a b@c"])
def test_a_uri_without_a_password_is_as_it_is(uri):
    assert without_userinfo(uri) == redacted(uri) == uri


@given(letter=st.characters(), length=st.integers(0, 2 * MAX_SHOWN_CHARACTERS))
def test_a_long_text_is_shown_by_its_beginning_and_length(letter, length):
    text = letter * length
    shown = shortened(text)
    if len(text) <= MAX_SHOWN_CHARACTERS:
        assert shown == text
    else:
        assert shown == f"{text[:MAX_SHOWN_CHARACTERS]}... ({len(text):,} characters)"
