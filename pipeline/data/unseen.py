"""Count the ids of a split that training never saw, table by table.

Such ids read one shared row, so a split with many of them is predicted from the other columns. A
share that is much higher than on the base's own validation rows says that ids changed: another
kind, another prefix, a new catalogue of items.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from iak.pipeline.data import features, parquet, pieces
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.splits import Selection
from iak.schemas.feature import FIRST_ROW, NumericSpec, table_of
from iak.schemas.log import Catalog

JUMP = 0.2
"""Rise of a share, above the one it is compared with, that is warned of."""
UNSEEN_ROWS = 100_000
"""Rows in which unseen ids are counted."""
HARDLY_ANY = 0.0005
"""Share of unseen ids below which a table is only counted: it would read 0.0%."""


@dataclass(slots=True)
class UnseenIds:
    """Counts of ids in some rows, and of those that have no row of their own."""

    ids: dict[str, int] = field(default_factory=dict)
    """Table -> ids that are not null."""
    unseen: dict[str, int] = field(default_factory=dict)
    """Table -> ids that read the row of unseen ids."""

    def add(self, rows: pa.RecordBatch | pa.Table, catalog: Catalog) -> None:
        """Count encoded rows. Hashed tables and buckets have no unseen ids and are left out."""
        for table, rows_V in _ids_by_table(rows, catalog):
            # One comparison over all ids. Few have no row of their own, so nulls (row 0) are
            # counted only where there are such ids.
            odd = int(np.count_nonzero(rows_V < FIRST_ROW))
            nulls = len(rows_V) - int(np.count_nonzero(rows_V)) if odd else 0
            self.ids[table] = self.ids.get(table, 0) + len(rows_V) - nulls
            self.unseen[table] = self.unseen.get(table, 0) + odd - nulls

    def counts(self) -> dict[str, int]:
        """Return both counts in one mapping, as workers gather them."""
        counts = {f"ids {table}": count for table, count in self.ids.items()}
        return counts | {f"unseen {table}": count for table, count in self.unseen.items()}

    @classmethod
    def of_counts(cls, counts: Mapping[str, int]) -> "UnseenIds":
        """Return the counts that `counts` wrote, summed over workers."""
        whole = cls()
        for name, count in counts.items():
            what, _, table = name.partition(" ")
            (whole.unseen if what == "unseen" else whole.ids)[table] = count
        return whole

    def shares(self) -> dict[str, float]:
        """Return the share of unseen ids of each table that has any ids."""
        return {t: self.unseen.get(t, 0) / ids for t, ids in sorted(self.ids.items()) if ids}


def _ids_by_table(
    rows: pa.RecordBatch | pa.Table, catalog: Catalog
) -> Iterator[tuple[str, np.ndarray[tuple[int], np.dtype[np.int64]]]]:
    tables = catalog.table_specs
    for feature in catalog.keyed:
        table = table_of(feature) or feature.name
        if isinstance(feature, NumericSpec) or tables[table].encoding == "hash":
            continue
        column = rows.column(f"f.{feature.name}")
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            flat = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
            yield table, flat.to_numpy()


def count_unseen(
    selection: Selection, catalog: Catalog, encoding: Encoding, *, rows: int = UNSEEN_ROWS
) -> UnseenIds:
    """Count the unseen ids in sampled rows of a selection.

    Args:
        selection: the rows to sample from, spread over its row groups.
        catalog: the log's catalogue.
        encoding: encoding of a base. An id that is not in its vocabularies is unseen.
        rows: approximate number of rows to read.

    Raises:
        BadLog: a row group cannot be read.
    """
    counted = UnseenIds()
    chosen = pieces.spread_pieces(selection, rows=rows)
    for raw in parquet.read_ahead(selection, chosen, catalog):
        counted.add(
            features.encode(raw.rows, identity=raw.identity, catalog=catalog, encoding=encoding),
            catalog,
        )
    return counted


def jumps(
    shares: Mapping[str, float], usual: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Return the tables whose share lies more than `JUMP` above the usual one, with both."""
    return {
        table: (share, usual[table])
        for table, share in shares.items()
        if table in usual and share > usual[table] + JUMP
    }


def describe(shares: Mapping[str, float], usual: Mapping[str, float] | None = None) -> str:
    """Return the shares as text for the console, those that jumped first.

    Args:
        shares: table -> share of its ids that are unseen.
        usual: table -> share to compare with; None compares with nothing.
    """
    jumped = jumps(shares, usual or {})
    order = sorted(shares, key=lambda table: (table not in jumped, -shares[table]))
    words = [
        f"{table} {shares[table]:.1%}"
        + (f" (was {jumped[table][1]:.1%}: its ids changed?)" if table in jumped else "")
        for table in order
        if shares[table] >= HARDLY_ANY
    ]
    if rest := len(order) - len(words):
        words.append(f"hardly any in the other {rest}" if words else "hardly any in any table")
    return ", ".join(words) or "no table with a vocabulary"
