"""Define `Spec`, the base class of every document, and the checks of texts in documents."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    model_serializer,
)

T = TypeVar("T")
JsonObject = dict[str, Any]
"""A JSON object whose fields its reader does not know, or checks itself."""
Settings = Mapping[str, Any]
"""Settings by name, those of a group as a mapping, before a spec has checked them. Files and people
wrote them, so a name may be misspelt and a value of any type."""

_ALIAS = re.compile(r"(?<=.)@(champion|candidate)$")
"""What follows a registry in `registry:s3://bucket@champion`, which is no user of a host."""
_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
"""The `user:password` of a URI."""


def printable(text: str) -> str:
    """Return a text unchanged.

    Raises:
        ValueError: it has a control character, which no path or column name can have, or bytes that
            are not UTF-8, which no document can have.
    """
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("it holds a control character (NUL, a line's end, ...); remove it")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it holds bytes that are not UTF-8; write it in UTF-8")
    return text


def not_empty(text: str) -> str:
    """Return a text unchanged.

    Raises:
        ValueError: it is empty, or has blanks alone.
    """
    if not text.strip():
        raise ValueError("it is empty; name something, or leave the setting out")
    return text


def without_repeats(names: tuple[T, ...]) -> tuple[T, ...]:
    """Return names unchanged.

    Raises:
        ValueError: a name repeats.
    """
    if repeated := sorted({str(name) for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(repeated)}: named twice; name each once")
    return names


def with_names(by_name: dict[str, T]) -> dict[str, T]:
    """Return a mapping from names unchanged.

    Raises:
        ValueError: a name is empty, or has characters that no text may have.
    """
    for name in by_name:
        not_empty(printable(name))
    return by_name


Value = Annotated[str, AfterValidator(printable)]
"""A value of a column, as text."""
Column = Annotated[str, AfterValidator(printable), AfterValidator(not_empty)]
"""Name of a column."""
FolderText = Annotated[str, AfterValidator(printable)]
"""A folder relative to another one, or a URI. An empty text is that other folder itself."""


class Spec(BaseModel):
    """A frozen document that refuses unknown keys; the string under a field is the field's help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class SparseSpec(Spec):
    """A document that is written without the fields that were not set.

    So a field may be added, and an older document is still written as it was.
    """

    @model_serializer(mode="wrap")
    def _without_unset(self, handler: SerializerFunctionWrapHandler) -> JsonObject:
        fields = type(self).model_fields
        unset = fields.keys() - self.model_fields_set
        unset |= {alias for name in unset if (alias := fields[name].alias)}
        return {key: value for key, value in handler(self).items() if key not in unset}


class View(Spec):
    """Some fields of a document, for a reader that needs no others.

    It reads a document of any version, and is never written.
    """

    model_config = ConfigDict(extra="ignore")


class ResultSpec(Spec):
    """What a job measured, as its run's record has it under `result`."""

    def as_json(self) -> JsonObject:
        """Return the document as JSON values, under the keys of a run record."""
        return self.model_dump(mode="json")


MAX_SHOWN_CHARACTERS = 200


def redacted(text: str) -> str:
    """Return the text without the user and password of any URI in it."""
    return _USERINFO.sub("***", text)


def shortened(text: str) -> str:
    """Return a text for a message. A very long text is cut, and its length is added."""
    if len(text) <= MAX_SHOWN_CHARACTERS:
        return text
    return f"{text[:MAX_SHOWN_CHARACTERS]}... ({len(text):,} characters)"


def without_userinfo(uri: str) -> str:
    """Return a URI unchanged.

    Raises:
        ValueError: it is empty, or has a user or a password, which every record would then contain.
    """
    not_empty(printable(uri))
    if _USERINFO.search(_ALIAS.sub("", uri)):
        raise ValueError(
            "a URI must not hold a user or a password, which would stand in every record. Leave "
            "them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (S3), "
            "GOOGLE_APPLICATION_CREDENTIALS (GCS) or AZURE_STORAGE_KEY (Azure) in the environment"
        )
    return uri
