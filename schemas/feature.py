"""Declare how a column becomes ids or floats, and which embedding table the ids read.

Row 0 of every table is the row of a null. Row 1 is the row of ids that training never saw, or saw
fewer than `min_count` times. Known ids start at row 2.
"""

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from iak.schemas.base import Column, Spec, Value, printable, without_repeats
from iak.schemas.numbers import Count, Number, Size, TableRows, Whole, Width

NULL_ROW = 0
UNSEEN_ROW = 1
FIRST_ROW = 2

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=64)]


class TableSpec(Spec):
    """One embedding table, and how ids become its row numbers."""

    encoding: Literal["vocabulary", "hash", "identity"] = "vocabulary"
    """`vocabulary`: ids counted on the pre-training window get a row each; `hash`: ids are hashed
    into `rows`; `identity`: the column holds integers 0 <= id < rows - 2."""
    rows: Annotated[TableRows, Field(ge=FIRST_ROW + 1)] | None = None
    """Rows of the table. Required for hash and identity; for a vocabulary the most rows it may
    take (the most frequent ids win), unlimited when absent."""
    min_count: Count = 2
    """A vocabulary gives a row to ids counted at least this often; rarer ones are unseen."""
    width: Width | None = None
    """Embedding dimension; the job's `model.width` when absent."""

    @model_validator(mode="after")
    def _rows_are_known(self) -> Self:
        if self.encoding != "vocabulary" and self.rows is None:
            raise ValueError(f"a table with encoding '{self.encoding}' needs rows = N")
        return self


class CategoricalSpec(Spec):
    """A column with one id in each row."""

    kind: Literal["categorical"]
    name: Name
    column: Column | None = None
    """Column of the log; `name` when absent."""
    table: Name | None = None
    """Table the ids read; a table of the feature's own name when absent."""
    optional: bool = False
    """A file without the column reads as null there; otherwise such a file is skipped."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of the log that this feature reads."""
        return (self.column or self.name,)


def separator(text: str) -> str:
    """Return a separator unchanged: printable text, a tab, or the byte 1 that Hive writes.

    Raises:
        ValueError: it has another control character.
    """
    printable(text.replace("\t", "").replace("\x01", ""))
    return text


Separator = Annotated[str, Field(min_length=1, max_length=8), AfterValidator(separator)]


class ListSpec(Spec):
    """A column with many ids in each row: a multi-valued attribute or a history; their mean."""

    kind: Literal["list"]
    name: Name
    column: Column | None = None
    """List column of the log, oldest first for histories; `name` when absent."""
    table: Name | None = None
    """Table the ids read; share it by naming the table of another feature."""
    last: Annotated[Whole, Field(gt=0, le=1_000_000)] = 50
    """Only the last this many values are kept."""
    padding: Annotated[Whole, Field(ge=-(2**63), le=2**63 - 1)] | Value | None = None
    """Id that fills short lists up; it is dropped before the last values are taken."""
    separator: Annotated[Separator | None, Field(exclude_if=lambda value: value is None)] = None
    """What stands between the ids, where the column is text (`12|7|9`) and no list."""
    whole: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """The ids between separators are whole numbers, as those of a column of whole numbers whose
    table they share; otherwise they are text."""
    optional: bool = False
    """A file without the column reads as null there; otherwise such a file is skipped."""

    @model_validator(mode="after")
    def _whole_ids_are_separated(self) -> Self:
        if self.whole and self.separator is None:
            raise ValueError("whole tells how separated ids are read; give the separator too")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of the log that this feature reads."""
        return (self.column or self.name,)


class CrossSpec(Spec):
    """The combination of two or more columns as one id."""

    kind: Literal["cross"]
    name: Name
    columns: Annotated[tuple[Column, ...], Field(min_length=2), AfterValidator(without_repeats)]
    """Columns whose values together are the id."""
    table: Name | None = None
    optional: bool = False
    """A file without the column reads as null there; otherwise such a file is skipped."""


class NumericSpec(Spec):
    """A number: a dense input, or buckets that read a table."""

    kind: Literal["numeric"]
    name: Name
    column: Column | None = None
    log: bool = False
    """Take sign(x) * log(1 + |x|) first."""
    standardise: bool = True
    """Subtract the mean and divide by the deviation of the pre-training window; a null or NaN
    becomes 0, which is the mean."""
    clip: Size = 10.0
    """Standardised values are cut at plus and minus this many deviations."""
    buckets: Annotated[Whole, Field(ge=2, le=10_000)] | None = None
    """Cut at this many quantiles of the pre-training window and read an embedding instead of a
    dense input; nulls and NaN read the null row."""
    boundaries: tuple[Number, ...] = ()
    """Declared cuts, rising, instead of quantiles; after the logarithm where one is taken."""
    in_text: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """The column may have its numbers as text (`12.5`). A text that is no number is read as a
    null is, and counted."""
    optional: bool = False
    """A file without the column reads as null there; otherwise such a file is skipped."""

    @model_validator(mode="after")
    def _cuts_rise(self) -> Self:
        if self.buckets and self.boundaries:
            raise ValueError("give buckets or boundaries, not both")
        if any(a >= b for a, b in pairwise(self.boundaries)):
            raise ValueError(f"boundaries {self.boundaries} must rise; sort them, without repeats")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of the log that this feature reads."""
        return (self.column or self.name,)

    @property
    def is_bucketed(self) -> bool:
        """Return whether the number reads a table."""
        return self.buckets is not None or bool(self.boundaries)


FeatureSpec = Annotated[
    CategoricalSpec | ListSpec | CrossSpec | NumericSpec, Field(discriminator="kind")
]


_WRITTEN = ("separator", "whole", "in_text")
"""Settings that say how a column is written."""


def meaning_of(feature: FeatureSpec) -> dict[str, Any]:
    """Return the settings that give a feature's ids and numbers their meaning, as JSON.

    `optional` is left out: it says which files may be read, and not what a value means. How a
    column is written is left out as well. A padding that is not declared is left out too, so that
    features of older bases have the same meaning.
    """
    document = feature.model_dump(mode="json", exclude={"optional", *_WRITTEN})
    return {k: v for k, v in document.items() if k != "padding" or v is not None}


def table_of(feature: FeatureSpec) -> str | None:
    """Return the name of the table that a feature reads; None for a dense number."""
    if isinstance(feature, NumericSpec):
        return feature.name if feature.is_bucketed else None
    return feature.table or feature.name
