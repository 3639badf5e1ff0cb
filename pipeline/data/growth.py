"""Which row of the table before each row of a grown table starts from: the one its ids read so far.

    identity     row r starts as row r; rows of ids that had none, as the row of unseen ids
    vocabulary   an id's new row starts as its old one; new ids' rows, as the row of unseen ids
    hash         row r starts as row 2 + (r - 2) mod (rows before - 2): a key that falls into r now
                 fell into that row before, if the ids' rows are a multiple of what they were

So a grown table answers every id as the old one did, until it learns on.
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
    """Where the rows of one grown table come from."""

    rows_before: int
    """Rows of the table before."""
    of: Callable[[Ids], Ids]
    """Rows of the grown table -> rows of the table before."""


def origins(
    before: tuple[Catalog, Encoding], now: tuple[Catalog, Encoding]
) -> dict[str, RowOrigin | str]:
    """The origin of each table that has more rows than before, or why it has none."""
    rows_before, rows_now = (encoding.table_rows(catalog) for catalog, encoding in (before, now))
    found: dict[str, RowOrigin | str] = {}
    for name, rows in rows_now.items():
        old = rows_before.get(name, rows)
        if rows <= old:
            continue
        kind = now[0].table_specs[name].encoding
        if kind == "hash" and (rows - FIRST_ROW) % (old - FIRST_ROW):
            found[name] = _no_multiple(name, old, rows)
        elif kind == "hash":
            found[name] = RowOrigin(rows_before=old, of=_folded(old))
        elif kind == "identity":
            found[name] = RowOrigin(rows_before=old, of=_same_row(old))
        else:
            same = _same_id(now[1].vocabularies[name], before[1].vocabularies[name])
            found[name] = RowOrigin(rows_before=old, of=same)
    return found


def _no_multiple(name: str, old: int, rows: int) -> str:
    """Why hashed ids would not all find their rows again, and which rows would do."""
    ids = old - FIRST_ROW
    fitting = max(round((rows - FIRST_ROW) / ids), 2) * ids + FIRST_ROW
    return (
        f"hashed ids find their rows again only where rows - {FIRST_ROW} is a multiple of {ids}, "
        f"as in tables.{name}.rows = {fitting}; as it is the table would start fresh"
    )


def _same_row(rows_before: int) -> Callable[[Ids], Ids]:
    """Of a table whose ids are their rows."""
    return lambda rows_R: np.where(rows_R < rows_before, rows_R, UNSEEN_ROW)


def _folded(rows_before: int) -> Callable[[Ids], Ids]:
    """Of a table of hashed ids."""
    ids = rows_before - FIRST_ROW
    return lambda rows_R: np.where(
        rows_R < FIRST_ROW, rows_R, (rows_R - FIRST_ROW) % ids + FIRST_ROW
    )


def _same_id(now: hashing.Keys, before: hashing.Keys) -> Callable[[Ids], Ids]:
    """Of a table with a vocabulary; both are sorted."""

    def of(rows_R: Ids) -> Ids:
        is_id = rows_R >= FIRST_ROW
        keys_R = now[np.maximum(rows_R - FIRST_ROW, 0)]
        places_R = np.minimum(np.searchsorted(before, keys_R), max(len(before) - 1, 0))
        is_old = before[places_R] == keys_R if len(before) else np.zeros(len(rows_R), np.bool_)
        origin_R = np.where(is_old, places_R + FIRST_ROW, UNSEEN_ROW)
        return np.where(is_id, origin_R, rows_R).astype(np.int64)

    return of
