"""`Spec`, the ancestor of every document: frozen, and a key it does not know is refused."""

import re
import unicodedata
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict

T = TypeVar("T")

_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
"""The `user:password` of a URI."""


def printable(text: str) -> str:
    """Return a text as it is.

    Raises:
        ValueError: it holds a control character, or bytes that are no UTF-8: the first cannot stand
            in a path or a column's name, the second in no document.
    """
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("it holds a control character (NUL, a line's end, ...); remove it")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it holds bytes that are no UTF-8; write it in UTF-8")
    return text


def not_empty(text: str) -> str:
    """Return a text as it is.

    Raises:
        ValueError: it is empty, or blanks alone.
    """
    if not text.strip():
        raise ValueError("it is empty; name something, or leave the setting out")
    return text


def without_repeats(names: tuple[T, ...]) -> tuple[T, ...]:
    """Return names as they are.

    Raises:
        ValueError: one is there twice.
    """
    seen = list(names)
    if repeated := sorted({str(name) for name in seen if seen.count(name) > 1}):
        raise ValueError(f"{', '.join(repeated)}: named twice; name each once")
    return names


def with_names(by_name: dict[str, T]) -> dict[str, T]:
    """Return what stands under names, as it is.

    Raises:
        ValueError: a name is empty, or holds what no text may.
    """
    for name in by_name:
        not_empty(printable(name))
    return by_name


Value = Annotated[str, AfterValidator(printable)]
"""A value of a column, as text."""
Column = Annotated[str, AfterValidator(printable), AfterValidator(not_empty)]
"""Name of a column."""
FolderText = Annotated[str, AfterValidator(printable)]
"""A folder below another one, or its URI; empty for that one itself."""


class Spec(BaseModel):
    """A frozen document; the string under a field is that field's help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


MOST_SHOWN = 200


def redacted(text: str) -> str:
    """Return the text without the user and password of any URI in it."""
    return _USERINFO.sub("***", text)


def shortened(text: str) -> str:
    """Return a text as a message shows it: of a very long one the beginning and the length."""
    if len(text) <= MOST_SHOWN:
        return text
    return f"{text[:MOST_SHOWN]}... ({len(text):,} characters)"


def without_userinfo(uri: str) -> str:
    """Return a URI as it is.

    Raises:
        ValueError: it is empty, or holds a user or a password, which would be written wherever the
            URI is.
    """
    not_empty(printable(uri))
    if _USERINFO.search(uri):
        raise ValueError(
            "a URI must not hold a user or a password, which would stand in every record. Leave "
            "them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (S3), "
            "GOOGLE_APPLICATION_CREDENTIALS (GCS) or AZURE_STORAGE_KEY (Azure) in the environment"
        )
    return uri
