"""Explain why no column of a log can be a label, and what to do."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data.guess_labels import CLICK, CONVERSION, OTHER, words_of
from iak.pipeline.data.log_sample import MISSING, LogSample, kind_of
from iak.pipeline.data.nearest import listed
from iak.pipeline.first_few import first_few

_JOINED = ";|\t,"
"""Separators of text files. A column whose name has several was read with another separator."""
_IN_TEXT = ",|;"
"""What may stand between the values of several things in one text."""
_ANSWERS = CLICK | CONVERSION | OTHER | words_of("labels event events action behavior behaviour")
"""Words of a list that has an answer for each of its values."""
_MOST_TABLES = 4
"""Most tables that are listed."""
_MOST_COLUMNS = 6
"""Most columns that are listed of a table."""


def explain_no_label(sample: LogSample) -> str:
    """Return why no column can be a label, and what to do; what was seen in this log comes first.

    Args:
        sample: sampled rows.
    """
    tables = list(_of_tables(sample))
    hints = tables or [
        *_of_structs(sample.unread, sample.rows.schema.names),
        *_of_lists(sample.rows),
        *_of_separators(sample.rows.schema.names),
    ]
    general = (
        "No column holds 0 and 1 alone, so none can be a label; a task learns from a column of "
        "two answers (0 and 1, Y and N), from events with positive, or from a number with "
        "at_least. Of what people did alone (plays, purchases), add rows that they saw and left, "
        "with a label 0. Of a list of what was shown (N1-1 N2-0), write one row for each. "
        f"Columns seen: {', '.join(sample.rows.schema.names)}"
    )
    return " ".join([*hints, general])


def _of_tables(sample: LogSample) -> Iterator[str]:
    """Yield where the files below a folder are those of several tables."""
    if not any(why.endswith(MISSING) for why in sample.uneven.values()):
        return
    files: dict[tuple[str, ...], list[str]] = {}
    for file in sample.snapshot.files:
        files.setdefault(tuple(name for name, _ in file.columns), []).append(file.path)
    tables = sorted(files, key=lambda columns: -len(files[columns]))
    several = [f"{_place(files[own])} ({_shortened(own)})" for own in tables]
    yield (
        f"{len(tables)} tables of other columns lie below this folder: "
        f"{first_few(several, _MOST_TABLES, between='; ')}. Give the folder of one of them; where "
        "files of several lie in one folder, move those of each into a folder of its own."
    )


def _place(paths: Sequence[str]) -> str:
    """Return the folder of a table's files, or a file's name where it is the only one."""
    if len(paths) == 1:
        return paths[0]
    parents = [PurePosixPath(path).parent for path in paths]
    shared = [
        p for p in (parents[0], *parents[0].parents) if all(p in (q, *q.parents) for q in parents)
    ]
    names = f"{len(paths):,} files"
    return names if str(shared[0]) == "." else f"{shared[0]}, {names}"


def _shortened(columns: Sequence[str]) -> str:
    shown = ", ".join(columns[:_MOST_COLUMNS])
    return f"{shown}, ..." if len(columns) > _MOST_COLUMNS else shown


def _of_structs(unread: Mapping[str, pa.DataType], names: Sequence[str]) -> Iterator[str]:
    """Yield what to write for columns that have many things in a row."""
    for name, kind in unread.items():
        if not pa.types.is_nested(kind) or pa.types.is_struct(kind):
            continue
        inner = kind.value_type if kind_of(kind).startswith("list of ") else None
        if inner is None or not pa.types.is_struct(inner):
            yield f"{name} has many values in a row: write one row for each of them."
            continue
        fields = [field.name for field in inner]
        yield (
            f"{name} has many rows in one, a list of structs: write one row for each, with the "
            f"columns {listed([*names, *fields])} (polars: .explode({name!r}).unnest({name!r}))."
        )


def _of_lists(rows: pa.Table) -> Iterator[str]:
    """Yield what to write where several lists of a row have one length, so that they are rows."""
    counted = {name: _lengths(rows.column(name)) for name in rows.schema.names}
    lengths = {name: own for name, own in counted.items() if own is not None}
    groups: list[list[str]] = []
    for name, own in lengths.items():
        alike = next((g for g in groups if np.array_equal(lengths[g[0]], own)), None)
        if alike:
            alike.append(name)
        else:
            groups.append([name])
    several = [group for group in groups if len(group) > 1]
    answers = [g for g in several if any(words_of(n) & _ANSWERS for n in g)]
    for group in answers or several:
        is_text = any(kind_of(rows.schema.field(name).type) == "text" for name in group)
        yield (
            f"{listed(group)} are lists of one length in each row: where their values are single "
            f"rows, {'split the texts, and ' if is_text else ''}write one row for each "
            f"(polars: .explode({group})), and look for the label among them."
        )


def _lengths(column: pa.ChunkedArray) -> npt.NDArray[np.int64] | None:
    """Return the number of values of each row; None where all rows have as many."""
    kind = kind_of(column.type)
    if kind in ("list of whole", "list of text", "list of bool", "list of time"):
        counts = pc.list_value_length(column)
    elif kind == "text":
        texts = column.combine_chunks().cast(pa.string())
        separator = next((s for s in _IN_TEXT if _separates(texts, s)), None)
        if separator is None:
            return None
        counts = pc.add(pc.count_substring(texts, separator), 1)
    else:
        return None
    values: npt.NDArray[np.int64] = pc.fill_null(counts, 0).to_numpy()
    return values if len(values) and values.min() != values.max() else None


def _separates(texts: pa.Array, separator: str) -> bool:
    """Return whether a separator, without a blank after it, stands in most of the texts."""
    known = texts.drop_null()
    if not len(known):
        return False
    is_sentence = pc.match_substring(known, f"{separator} ")
    is_list = pc.and_not(pc.match_substring(known, separator), is_sentence)
    return bool(pc.mean(is_list.cast(pa.float64())).as_py() > 0.5)


def _of_separators(names: Sequence[str]) -> Iterator[str]:
    """Yield where a column's name has the separators of a text file."""
    for name in names:
        if separator := next((s for s in _JOINED if name.count(s) > 1), None):
            yield (
                f"One column is named {name!r}: was text with {separator!r} between its values "
                "read with another separator? Write them as columns."
            )
