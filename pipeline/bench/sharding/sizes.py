"""Choose the tables to measure: given sizes, or a catalogue's."""

from dataclasses import dataclass

from iak.pipeline.errors import BadRequest
from iak.pipeline.model.tables import TableShape
from iak.pipeline.registry.bases import open_base
from iak.schemas.bench import BenchShardingSpec
from iak.schemas.feature import ListSpec, table_of
from iak.schemas.log import Catalog

FEATURE = "f"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A table, and how many of its ids a row of the log reads."""

    name: str
    rows: int
    width: int
    ids_per_row: int

    @property
    def title(self) -> str:
        """Return the table's name, rows and width for people."""
        return f"{self.name}: {self.rows:,} x {self.width}"

    @property
    def shape(self) -> TableShape:
        """Return the table's shape, read by one feature."""
        return TableShape(name="t", rows=self.rows, width=self.width, features=(FEATURE,))


def sizes_of(spec: BenchShardingSpec, catalog: Catalog | None) -> tuple[Size, ...]:
    """Return the tables that `spec` asks for.

    Args:
        spec: given sizes, or the base, which knows how many rows a vocabulary has.
        catalog: catalogue that `spec.catalog` names.

    Raises:
        BadRequest: the rows of a table of the catalogue are unknown.
    """
    if catalog is None and spec.base is None:
        return tuple(_given(size, spec.ids_per_row) for size in spec.tables)
    rows: dict[str, int] = {}
    if spec.base is not None:
        base = open_base(spec.base)
        catalog = catalog or base.catalog
        rows = {table.name: table.rows for table in base.manifest.tables}
    assert catalog is not None
    rows = {name: t.rows for name, t in catalog.table_specs.items() if t.rows} | rows
    if unknown := sorted(set(catalog.table_specs) - set(rows)):
        raise BadRequest(
            f"the catalogue does not say how many rows tables {unknown} have: they are counted "
            "when a base is trained. Name one with base=, or declare rows"
        )
    return tuple(
        Size(
            name=name,
            rows=rows[name],
            width=table.width or spec.width,
            ids_per_row=_ids_per_row(catalog, name),
        )
        for name, table in catalog.table_specs.items()
    )


def _given(size: str, ids_per_row: int) -> Size:
    rows, _, width = size.partition("x")
    return Size(name="given", rows=int(rows), width=int(width), ids_per_row=ids_per_row)


def _ids_per_row(catalog: Catalog, table: str) -> int:
    """Return how many ids of a row read the table, with lists of the greatest length."""
    readers = [feature for feature in catalog.keyed if table_of(feature) == table]
    return sum(f.last if isinstance(f, ListSpec) else 1 for f in readers)
