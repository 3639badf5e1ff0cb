"""Map each row of a grown table to the row of the old table that its ids used.

    identity     row r starts as old row r; a row without an old one, as the row of unseen ids
    vocabulary   the row of an old id starts as its old row; that of a new id, as the unseen row
    hash         row r starts as old row 2 + (r - 2) mod (old rows - 2): a key that falls into r now
                 fell into that row before, if the number of rows for ids is a multiple of the old

So a grown table gives each id the vector of the old table, until training continues.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from iak.pipeline.data import hashing
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.ids import Ids
from iak.schemas.feature import FIRST_ROW, UNSEEN_ROW
from iak.schemas.log import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOrigin:
    """The old row from which each row of a grown table starts."""

    rows_before: int
    """Rows of the old table."""
    of: Callable[[Ids], Ids]
    """Rows of the grown table -> rows of the old table."""


def origins(
    before: tuple[Catalog, Encoding], now: tuple[Catalog, Encoding]
) -> dict[str, RowOrigin | str]:
    """Return the origin of each table that has more rows than before, or the reason for none.

    Args:
        before: catalogue and encoding of the old base.
        now: catalogue and encoding of the new one.
    """
    rows_before, rows_now = (encoding.table_rows(catalog) for catalog, encoding in (before, now))
    origin_of: dict[str, RowOrigin | str] = {}
    for name, rows in rows_now.items():
        old = rows_before.get(name, rows)
        if rows <= old:
            continue
        kind = now[0].table_specs[name].encoding
        if kind == "hash" and (rows - FIRST_ROW) % (old - FIRST_ROW):
            origin_of[name] = _no_multiple(name, old, rows)
        elif kind == "hash":
            origin_of[name] = RowOrigin(rows_before=old, of=_folded(old))
        elif kind == "identity":
            origin_of[name] = RowOrigin(rows_before=old, of=_same_row(old))
        else:
            same = _same_id(now[1].vocabularies[name], before[1].vocabularies[name])
            origin_of[name] = RowOrigin(rows_before=old, of=same)
    return origin_of


def _no_multiple(name: str, old: int, rows: int) -> str:
    """Say that hashed ids would lose their rows, with the nearest size that keeps them."""
    ids = old - FIRST_ROW
    fitting = max(round((rows - FIRST_ROW) / ids), 2) * ids + FIRST_ROW
    return (
        f"hashed ids find their rows again only where rows - {FIRST_ROW} is a multiple of {ids}, "
        f"as in tables.{name}.rows = {fitting}; as it is the table would start fresh"
    )


def _same_row(rows_before: int) -> Callable[[Ids], Ids]:
    """Return the mapping for a table whose ids are their rows."""
    return lambda rows_R: np.where(rows_R < rows_before, rows_R, UNSEEN_ROW)


def _folded(rows_before: int) -> Callable[[Ids], Ids]:
    """Return the mapping for a table of hashed ids."""
    ids = rows_before - FIRST_ROW
    return lambda rows_R: np.where(
        rows_R < FIRST_ROW, rows_R, (rows_R - FIRST_ROW) % ids + FIRST_ROW
    )


def _same_id(now: hashing.Keys, before: hashing.Keys) -> Callable[[Ids], Ids]:
    """Return the mapping for a table with a vocabulary.

    Args:
        now: sorted keys of the grown table's ids.
        before: sorted keys of the old table's ids.
    """

    def of(rows_R: Ids) -> Ids:
        is_id = rows_R >= FIRST_ROW
        keys_R = now[np.maximum(rows_R - FIRST_ROW, 0)]
        positions_R = np.minimum(np.searchsorted(before, keys_R), max(len(before) - 1, 0))
        is_old = before[positions_R] == keys_R if len(before) else np.zeros(len(rows_R), np.bool_)
        origin_R = np.where(is_old, positions_R + FIRST_ROW, UNSEEN_ROW)
        return np.where(is_id, origin_R, rows_R).astype(np.int64)

    return of
