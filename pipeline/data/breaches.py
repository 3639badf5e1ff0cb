"""Name the ways in which rows and files of a log break its contract.

For rows it also says what to do about each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from iak.pipeline.data.normal import ColumnKind

Level = Literal["refuse", "quarantine", "warn"]


class Kind(StrEnum):
    """A way in which rows break the contract; the value is the beginning of its text."""

    NULL_DOMAIN_KEY = "null domain key"
    NULL_USER = "null user"
    NULL_ID = "null id"
    ODD_LABEL = "label outside {0, 1}"
    NO_CLICK = "conversion without its click"
    NO_LOGIT = "no finite logit"
    NO_ACTIVATIONS = "no list of finite numbers"
    UNDECLARED_DOMAIN = "undeclared domain"
    NOT_FINITE = "NaN or infinite"
    NOT_A_NUMBER = "text that is no number, NaN or infinite"
    BEYOND_FLOAT32 = "beyond float32"
    OUT_OF_RANGE = "id out of range"
    NOT_RIPE = "not ripe"
    OTHER_PARTITION = "value inside the file differs from the folder's"


_WARNED = frozenset(
    {
        Kind.NULL_ID,
        Kind.NOT_FINITE,
        Kind.NOT_A_NUMBER,
        Kind.BEYOND_FLOAT32,
        Kind.OUT_OF_RANGE,
        Kind.NOT_RIPE,
        Kind.OTHER_PARTITION,
    }
)
"""Kinds that take no label from a row that is good otherwise."""

REMEDIES: Mapping[Kind, str] = {
    Kind.NULL_DOMAIN_KEY: "Fill the key, or drop the rows; they are skipped",
    Kind.NULL_USER: "Fill the user, or take log.user out of the catalogue; they are skipped",
    Kind.NULL_ID: "Such a row is identified by its position in its file; fill the id",
    Kind.ODD_LABEL: "A label is 0, 1 or null; correct the export. The rows lose this label alone",
    Kind.NO_CLICK: "A conversion needs its click; correct the join. They are skipped",
    Kind.UNDECLARED_DOMAIN: "Add it to domain.values, or leave it out; its rows are skipped",
    Kind.NOT_FINITE: "They are read as the mean; correct the export if that is not meant",
    Kind.NOT_A_NUMBER: "They are read as the mean, as an empty text is; correct the export, or "
    "read the column as categorical",
    Kind.BEYOND_FLOAT32: "They are read as the mean, as a missing number is; correct the export",
    Kind.OUT_OF_RANGE: "They read the unseen row; raise the table's rows",
    Kind.NOT_RIPE: "They are masked until they are ripe; collect labels later, or give as_of",
    Kind.OTHER_PARTITION: "The file's value wins; Iceberg writes a space as +, null as null",
}
"""Kind -> what to do about it. Columns of a base that was made elsewhere have none here, because
`iak adopt` says what to do about them."""


@dataclass(frozen=True, slots=True)
class Breach:
    """One kind of breach in one column."""

    kind: Kind
    what: str
    """The breach in words, its column among them: `null user in user_id`."""
    column: str = "-"
    """The column that is concerned, `-` for none."""
    value: str = ""
    """The impossible label, as text; empty for other kinds."""

    @classmethod
    def of(cls, kind: Kind, column: str) -> "Breach":
        """Return a breach whose text is that of its kind, and the column."""
        return cls(kind, f"{kind} in {column}", column)

    @property
    def level(self) -> Level:
        """Return what happens to the rows."""
        return "warn" if self.kind in _WARNED else "quarantine"

    @property
    def name(self) -> str:
        """Return the name under which records and workers count it."""
        return f"{self.level}: {self.what}"


@dataclass(frozen=True, slots=True)
class SchemaProblem:
    """Why a file's schema cannot be read."""

    what: str
    """The problem in words: `price: string, expected number`."""
    expected: tuple[ColumnKind, ...] = ()
    """Kinds of column that were expected where the schema has a column of another type."""
    missing: tuple[str, ...] = ()
    """Columns that the schema lacks, where that is all that is wrong with it."""


def named(counts: Mapping[Breach, int]) -> dict[str, int]:
    """Return the rows of each breach, by the names that records have."""
    return {breach.name: rows for breach, rows in counts.items()}
