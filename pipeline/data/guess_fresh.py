"""Guess which fresh statistics a log supports: rates of items and users, and co-occurrences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data.guess_features import FeatureGuess
from iak.pipeline.data.guess_labels import Guess, words_of
from iak.schemas.fresh import CoOccurrenceSpec, CountsSpec, FreshSpec

_ITEM_WORDS = words_of(
    "item product goods sku spu asin ad adgroup creative video movie film song track article news "
    "dish book game post note poi hotel listing recipe restaurant"
)
_MIN_VALUES = 20
"""Fewest distinct values of an item's or a user's id."""
_MIN_USERS_A_DOMAIN = 20
"""Fewest users of a median domain whose rates of an item are counted. With fewer, a domain nearly
names a user, and a rate of an item there may give a label away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshGuess:
    """Statistics of earlier rows that a kernel reads, and the reason."""

    spec: FreshSpec
    why: str


def guess_fresh(
    rows: pa.Table,
    features: Sequence[FeatureGuess],
    *,
    user: Guess | None,
    domain_keys: Sequence[str],
) -> tuple[FreshGuess, ...]:
    """Return the statistics that a log supports.

    An item is never counted with a user: where negatives were drawn from what a user never had,
    such a pair has one label alone.

    Args:
        rows: sampled rows.
        features: features of the log.
        user: column of users; None where there is none.
        domain_keys: columns that name a domain.
    """
    ids = [f for f in features if f.kind == "categorical" and not f.is_optional]
    histories = [f for f in features if f.kind == "list" and f.table_of and not f.is_optional]
    named_user = user.column if user else None
    taken = {named_user, *domain_keys}
    items = [f.column for f in ids if f.column not in taken and _is_item(f, rows, histories)]
    crosses = _crosses_domain(rows, named_user, domain_keys)
    return (
        *_of_items(items, crosses=crosses),
        *_of_user(named_user if named_user in [f.column for f in ids] else None, rows),
        *_of_histories(histories, items),
    )


def _is_item(feature: FeatureGuess, rows: pa.Table, histories: Sequence[FeatureGuess]) -> bool:
    """Return whether a history holds the feature's ids, or its name says that it is an item."""
    if feature.column in {history.table_of for history in histories}:
        return True
    words = words_of(feature.column)
    return bool(words & _ITEM_WORDS) and _distinct(rows, feature.column) >= _MIN_VALUES


def _of_items(items: Sequence[str], *, crosses: bool) -> Iterator[FreshGuess]:
    why = "rates of an item tell what the base has not learned of it"
    alone = "" if crosses else "; not by domain, since a domain has few users"
    for item in items:
        yield FreshGuess(spec=CountsSpec(keys=(item,), cross_domain=crosses), why=why + alone)


def _of_user(user: str | None, rows: pa.Table) -> Iterator[FreshGuess]:
    if user is not None and _distinct(rows, user) >= _MIN_VALUES:
        yield FreshGuess(
            spec=CountsSpec(keys=(user,), cross_domain=False), why="rates of a user, alike"
        )


def _of_histories(histories: Sequence[FeatureGuess], items: Sequence[str]) -> Iterator[FreshGuess]:
    for history in histories:
        if history.table_of in items:
            pair = (history.table_of, history.column)
            yield FreshGuess(
                spec=CoOccurrenceSpec(kind="co_occurrence", pair=pair),
                why=f"{history.column} holds ids of {history.table_of}",
            )


def _crosses_domain(rows: pa.Table, user: str | None, domain_keys: Sequence[str]) -> bool:
    """Return whether domains have users enough to count an item by domain."""
    if user is None or user in domain_keys:
        return user is None
    groups = rows.select([user, *domain_keys]).group_by(list(domain_keys))
    users = groups.aggregate([(user, "count_distinct")]).column(f"{user}_count_distinct")
    return bool(np.median(users.to_numpy()) >= _MIN_USERS_A_DOMAIN)


def _distinct(rows: pa.Table, name: str) -> int:
    distinct: int = pc.count_distinct(rows.column(name)).as_py()
    return distinct
