"""Read the fields of structs as columns: the field `id` of the column `user` is `user.id`.

A column that has such a name itself comes before the field. Fields in lists and maps are no
columns, since a row has many of them.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import pyarrow as pa

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


def with_fields(schema: pa.Schema) -> pa.Schema:
    """Return a schema with the fields of its structs as further columns."""
    fields = list(_fields(schema))
    return pa.schema([*schema, *fields], schema.metadata) if fields else schema


def _fields(schema: pa.Schema) -> Iterator[pa.Field]:
    """Yield the fields of structs, and of structs in these, under their names as columns."""
    structs = [column for column in schema if _is_struct(column.type)]
    inner = [pa.field(f"{c.name}.{f.name}", f.type) for c in structs for f in c.type]
    named = [field for field in inner if field.name not in schema.names]
    yield from named
    if any(_is_struct(field.type) for field in named):
        yield from _fields(pa.schema(named))


def with_field_columns(rows: Rows) -> Rows:
    """Return rows with the fields of their structs as further columns.

    A field is null where its struct is.
    """
    open_structs = [name for name in rows.schema.names if _is_struct(rows.schema.field(name).type)]
    for name in open_structs:
        column = rows.column(name)
        # `flatten` reads the nulls of the struct into its fields; `field` does not.
        for field, values in zip(column.type, column.flatten(), strict=True):
            own = f"{name}.{field.name}"
            if own not in rows.schema.names:
                rows = rows.append_column(own, values)
                open_structs += [own] if _is_struct(field.type) else []
    return rows


def parents(names: Iterable[str], columns: Iterable[tuple[str, pa.DataType]]) -> list[str]:
    """Return the columns of structs that may have fields of these names."""
    structs = [name for name, kind in columns if _is_struct(kind)]
    return [own for own in structs if any(name.startswith(f"{own}.") for name in names)]


def _is_struct(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind))
