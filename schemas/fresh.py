"""Declare fresh statistics: counts of earlier rows that a kernel's encoder reads beside [h ; x].

Tables and trunk stay frozen, and a new item has no trained embedding. Counts know it from the next
day on. A row reads only what was known before its own day, or before its own fold was counted.
"""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from iak.schemas.base import Column, Spec, without_repeats
from iak.schemas.feature import Name
from iak.schemas.numbers import Count, Size, Whole
from iak.schemas.task import TaskSpec

Use = Literal["kernel", "base"]
Keys = tuple[str, ...]
"""Columns whose values together are counted; none for all rows together."""
DEFAULT_MAX_KEYS = 10_000_000
"""Keys of a table that a state has where no setting says otherwise."""
Window = Literal["all"] | Annotated[timedelta, Field(ge=timedelta(days=1), le=timedelta(3_660))]


class CountsSpec(Spec):
    """Rates and counts of a key: smoothed log-odds of each task, and the logarithm of its rows."""

    kind: Literal["counts"] = "counts"
    use: Use = "kernel"
    """Who reads it: `kernel`, beside what the base computes; or `base`, as numbers among its own
    inputs, for which the base must be trained again. A base keeps what was counted when it was
    trained.
    """
    keys: Annotated[tuple[Column, ...], Field(min_length=1), AfterValidator(without_repeats)]
    """Columns whose values together are the key. A rarer key borrows from its parent, which is the
    key without its last column."""
    cross_domain: bool = True
    """Count the key within each domain as well; that count borrows from the key's own."""
    windows: Annotated[tuple[Window, ...], Field(min_length=1), AfterValidator(without_repeats)] = (
        "all",
    )
    """How far back rows are counted: whole days (`P1D`, `P7D`), or `all`. A log without dates has
    only `all`."""
    tasks: Annotated[tuple[Name, ...], AfterValidator(without_repeats)] = ()
    """Names of metrics whose rates are counted (`ctr`, `ctcvr`, `cvr`). When empty, one of each
    task: of a conversion the one over all rows."""
    prior: Size = 20.0
    """Rows that the parent's rate counts for."""
    most_keys: Count = DEFAULT_MAX_KEYS
    """Keys that are kept, those with most rows; the others read their parent's rate. It bounds the
    file of statistics that is published with kernels."""

    @field_validator("windows")
    @classmethod
    def _are_whole_days(cls, windows: tuple[Window, ...]) -> tuple[Window, ...]:
        if broken := [w for w in windows if w != "all" and w % timedelta(days=1)]:
            raise ValueError(f"{broken[0]} is no whole number of days; write P1D, P7D or all")
        return windows

    def chains(self, domain: Keys) -> tuple[tuple[Keys, ...], ...]:
        """Return each key whose numbers are read, with its ancestors before it, outermost first.

        Args:
            domain: key columns of a domain.
        """
        above = tuple(self.keys[:depth] for depth in range(len(self.keys) + 1))
        crossed = (*self.keys, *(key for key in domain if key not in self.keys))
        is_crossed = self.cross_domain and crossed != self.keys
        return (above, (*above, crossed)) if is_crossed else (above,)


class CoOccurrenceSpec(Spec):
    """How often the row's item and the items of its history met in earlier positive rows."""

    kind: Literal["co_occurrence"]
    use: Use = "kernel"
    """Who reads it: `kernel`, or `base` (see counts)."""
    pair: tuple[Column, Column]
    """Column of the row's item, and list column of its history; features read both from one table,
    so that their ids mean the same."""
    last: Annotated[Whole, Field(gt=0, le=1_000)] = 20
    """Items of the history that count, from its end."""
    neighbours: Count = 500
    """Most items of histories that are kept for an item, of each file and day (or fold)."""
    prior: Size = 1.0
    """Pairs that are added to the observed and to the expected count."""
    task: Name | None = None
    """Task whose positive rows count; the first one when absent."""


FreshSpec = Annotated[CountsSpec | CoOccurrenceSpec, Field(discriminator="kind")]


def rate_names(tasks: tuple[TaskSpec, ...]) -> tuple[str, ...]:
    """Return the names of all rates that can be counted, as metrics are named."""
    return tuple(n for t in tasks for n in (t.title, t.entire_space_title) if n)


def rates_of(spec: CountsSpec, tasks: tuple[TaskSpec, ...]) -> tuple[str, ...]:
    """Return the names of the rates that a specification reads."""
    return spec.tasks or tuple(t.entire_space_title or t.title for t in tasks)


def counted_keys(specs: tuple[FreshSpec, ...], domain: Keys) -> tuple[Keys, ...]:
    """Return every key that is counted, parents first; the first one has all rows."""
    keys: list[Keys] = [()]
    for spec in specs:
        if isinstance(spec, CountsSpec):
            keys += [key for chain in spec.chains(domain) for key in chain]
        else:
            keys.append(spec.pair[:1])
    return tuple(dict.fromkeys(keys))


def fresh_names(
    specs: tuple[FreshSpec, ...], tasks: tuple[TaskSpec, ...], domain: Keys
) -> tuple[str, ...]:
    """Return the name of each number that an encoder reads, in order."""
    names: list[str] = []
    for spec in specs:
        if isinstance(spec, CoOccurrenceSpec):
            pair = " with ".join(spec.pair)
            names += [f"{what} of {pair}" for what in ("sum", "max", "mean", "hits")]
            continue
        for *_, key in spec.chains(domain):
            for window in spec.windows:
                days = window if window == "all" else f"P{window.days}D"
                for rate in rates_of(spec, tasks):
                    where = f"{'+'.join(key)} {days} {rate}"
                    names += [f"log-odds of {where}", f"log rows of {where}"]
    return tuple(names)
