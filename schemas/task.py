"""Define the tasks (a label, its kind, weight and ripeness) and the keys of domains."""

from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from iak.schemas.base import Column, Spec, Value, not_empty, without_repeats
from iak.schemas.domain import Domain
from iak.schemas.feature import Name
from iak.schemas.numbers import Count, Number, Weight

MAX_RIPENING = timedelta(days=3_660)
"""Longest time that a label may take to ripen."""


def _as_text(value: object) -> object:
    """Return a whole number or a boolean as text: `4`, `true`; other values as they are."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else value


ColumnValue = Annotated[Value, AfterValidator(not_empty), BeforeValidator(_as_text)]
"""A value that a column of text, whole numbers or booleans has; kept as text."""


class TaskSpec(Spec):
    """One binary task. A null label masks the row for this task, but with `has_value`."""

    name: Name | None = None
    """Name in metrics; `ctr` for a click, `cvr` for a conversion, else the label's name."""
    label: Column
    """Column with 0, 1 or null. With `at_least` it has numbers, also as text; with `positive` it
    has words, whole numbers or booleans; with `has_value`, anything. Several tasks may read one
    column in different ways."""
    at_least: Annotated[
        Annotated[Number, Field(ge=-(10**15), le=10**15)] | None,
        Field(exclude_if=lambda value: value is None),
    ] = None
    """The label is 1 where the column's number is at least this, and 0 where it is less: of a
    rating, a price or a time watched."""
    positive: Annotated[tuple[ColumnValue, ...], Field(exclude_if=lambda values: not values)] = ()
    """The label is 1 where the column has one of these values, and 0 where it has another one: of
    events, words, whole numbers (`[4, 5]`) or booleans. A null or an empty text is no label. Upper
    and lower case differ."""
    has_value: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """The label is 1 where the column has a value, and 0 where it is null, NaN or an empty text: of
    the time of a click, or of an order's number."""
    missing: Annotated[tuple[ColumnValue, ...], Field(exclude_if=lambda values: not values)] = ()
    """Values of the column that stand for no value, as a null does: `[-1]`, or 0 of grades that
    begin at 1."""
    kind: Literal["click", "conversion", "binary"] = "binary"
    """`click`: rows are impressions. `conversion`: happens only after a click, learned over the
    entire space as p(click) * p(conversion | click) (ESMM); in a log without a click task it is
    a plain label over all rows. `binary`: any other label."""
    weight: Weight = 1.0
    """Weight of this task's loss."""
    matures_after: Annotated[timedelta, Field(ge=timedelta(0), le=MAX_RIPENING)] | None = None
    """A label younger than this at the job's `as_of` is not ripe, and masked."""

    @field_validator("matures_after", mode="before")
    @classmethod
    def _has_a_unit(cls, value: object) -> object:
        """Refuse a bare number, which would be read as seconds."""
        if isinstance(value, int | float):
            raise ValueError(  # noqa: TRY004 - pydantic reports no TypeError
                f'a number has no unit; write "P{value}D" for {value} days'
            )
        return value

    @field_validator("positive", "missing")
    @classmethod
    def _values_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return without_repeats(value)

    @model_validator(mode="after")
    def _is_read_in_one_way(self) -> Self:
        ways = {
            "positive": bool(self.positive),
            "at_least": self.at_least is not None,
            "has_value": self.has_value,
        }
        given = [name for name, is_given in ways.items() if is_given]
        if len(given) > 1:
            remedy = "leave one of them out" if len(given) == 2 else "keep one of them"
            raise ValueError(f"'{self.label}' is read with {' and with '.join(given)}; {remedy}")
        return self

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if both := sorted(set(self.positive) & set(self.missing)):
            raise ValueError(f"{both} of '{self.label}' are in positive and in missing; keep one")
        return self

    @property
    def reading(self) -> tuple[str, float | None, frozenset[str], bool, frozenset[str]]:
        """Return what decides the label of a row. Tasks with equal readings have equal labels."""
        positive, missing = frozenset(self.positive), frozenset(self.missing)
        return self.label, self.at_least, positive, self.has_value, missing

    @property
    def label_text(self) -> str:
        """Return in words what is 1: `click`, `rating >= 4`, `event = cart or buy`."""
        if self.has_value:
            return f"{self.label} has a value"
        if self.positive:
            return f"{self.label} = {' or '.join(self.positive)}"
        return self.label if self.at_least is None else f"{self.label} >= {self.at_least:g}"

    @property
    def title(self) -> str:
        """Return the task's name in metrics."""
        return self.name or {"click": "ctr", "conversion": "cvr"}.get(self.kind, self.label)

    @property
    def entire_space_title(self) -> str | None:
        """Return the name of a conversion's metric over all rows; None for other kinds."""
        if self.kind != "conversion":
            return None
        return "ctcvr" if self.title == "cvr" else f"ct_{self.title}"


class DomainSpec(Spec):
    """What a kernel is tuned for: the values of one column, or of a cross of several."""

    keys: Annotated[tuple[Column, ...], Field(min_length=1)]
    """Columns (partition keys or others) whose values name the domain."""
    parent: tuple[Column, ...] = ()
    """Columns naming the parent (district -> city), used where a domain is below its floor or has
    no published kernel; after the parent comes the pooled kernel, then the base."""
    min_rows: Count = 500
    """Row floor: a domain with fewer tuning rows gets no kernel of its own."""
    values: tuple[tuple[Value, ...], ...] = ()
    """The declared domains, one tuple of key values each; rows of an undeclared domain are
    quarantined. When empty, every domain in the log is accepted."""
    inherits: Annotated[
        tuple[tuple[tuple[Value, ...], tuple[Value, ...]], ...],
        Field(exclude_if=lambda value: not value),
    ] = ()
    """Pairs of a new domain and the one that its rows belonged to before, as where one is split in
    two. A new domain without a kernel starts from the other's, where that serves and validates
    better than its parent's."""

    @field_validator("keys", "parent", "values")
    @classmethod
    def _names_differ(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return without_repeats(value)

    @model_validator(mode="after")
    def _values_match_keys(self) -> Self:
        for value in (*self.values, *(domain for pair in self.inherits for domain in pair)):
            if len(value) != len(self.keys):
                raise ValueError(
                    f"domain {value} has {len(value)} values for the {len(self.keys)} keys "
                    f"{self.keys}"
                )
        return self

    @model_validator(mode="after")
    def _inherits_once(self) -> Self:
        without_repeats(tuple("/".join(new) for new, _ in self.inherits))
        for new, old in self.inherits:
            if new == old:
                raise ValueError(
                    f"domain {new} inherits from itself; name the domain that its rows belonged to"
                )
        return self

    @property
    def origins(self) -> dict[str, str]:
        """Return the name of each domain that inherits -> that of the one it inherits from."""
        return {
            Domain(tuple(zip(self.keys, new, strict=True))).name: Domain(
                tuple(zip(self.keys, old, strict=True))
            ).name
            for new, old in self.inherits
        }

    @property
    def all_keys(self) -> tuple[str, ...]:
        """Return the key columns of all levels, without repeats."""
        return tuple(dict.fromkeys((*self.parent, *self.keys)))

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Return the key columns of each level, from the pooled kernel (none) to the domain."""
        return ((), self.parent, self.keys) if self.parent else ((), self.keys)
