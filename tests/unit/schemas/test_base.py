"""Texts in documents: what is refused, what is shown, and what is never written."""

import pytest
from pydantic import ValidationError

from iak.schemas.base import (
    MOST_SHOWN,
    Spec,
    not_empty,
    printable,
    redacted,
    shortened,
    with_names,
    without_repeats,
    without_userinfo,
)


class Document(Spec):
    """A document with one field."""

    rows: int = 0


def test_a_document_is_frozen_and_refuses_unknown_keys():
    with pytest.raises(ValidationError, match="frozen"):
        Document().rows = 1
    with pytest.raises(ValidationError, match="Extra inputs"):
        Document.model_validate({"row": 1})


@pytest.mark.parametrize("text", ["a\x00b", "a\nb", "\ud800"])
def test_text_that_no_path_or_document_can_have_is_refused(text):
    with pytest.raises(ValueError, match="it holds"):
        printable(text)
    with pytest.raises(ValueError, match="it holds"):
        with_names({text: 1})


@pytest.mark.parametrize("text", ["", "  "])
def test_empty_text_is_refused(text):
    with pytest.raises(ValueError, match="it is empty"):
        not_empty(text)


def test_repeated_names_are_refused_by_name():
    assert without_repeats(("a", "b")) == ("a", "b")
    with pytest.raises(ValueError, match="a, c: named twice"):
        without_repeats(("c", "a", "a", "b", "c"))


def test_no_user_and_no_password_reaches_a_record():
    assert redacted("read s3://user:secret@bucket/log twice") == "read s3://***@bucket/log twice"
    assert without_userinfo("s3://bucket/log") == "s3://bucket/log"
    with pytest.raises(ValueError, match="must not hold a user or a password") as refusal:
        without_userinfo("s3://user:secret@bucket/log")
    assert "secret" not in str(refusal.value)


def test_a_long_text_is_shown_by_its_beginning_and_its_length():
    assert shortened("x" * MOST_SHOWN) == "x" * MOST_SHOWN
    assert shortened("x" * 1_234) == "x" * MOST_SHOWN + "... (1,234 characters)"
