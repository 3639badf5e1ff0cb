"""Explain why splits select no row: windows, conditions and files, compared with the log's."""

from collections.abc import Collection, Sequence
from contextlib import suppress

import pyarrow as pa

from iak.pipeline.data import logs, parquet
from iak.pipeline.data.dates import LogDates
from iak.pipeline.data.file_problems import FileProblem, file_problems
from iak.pipeline.data.nearest import nearest
from iak.pipeline.data.snapshot import Snapshot
from iak.pipeline.data.splits import Split
from iak.pipeline.errors import PipelineError
from iak.schemas.log import Catalog

_SHOWN_VALUES = 6
"""Most values of a column that a message names."""
_SAMPLED_FILES = 32
"""Most files whose values of a column are read."""
_SHOWN_PROBLEMS = 4
"""Most reasons, for which files are not read, that a message names."""


def windows_message(chosen: Sequence[Split], days: LogDates) -> str:
    """Return a message with the windows of some splits and the days that the log has."""
    by_window: dict[str, list[str]] = {}
    for split in chosen:
        window = f"{split.first} to {split.last}" if split.first else "all days"
        by_window.setdefault(window, []).append(f"'{split.name}'")
    windows = [
        f"the window of split{'s' if names[1:] else ''} {', '.join(names)} is {window}"
        for window, names in by_window.items()
    ]
    return "; ".join([*windows, days.span] if days.counted else windows)


def conditions_message(chosen: Sequence[Split], snapshot: Snapshot, catalog: Catalog) -> str:
    """Return a message with the splits' conditions on columns, and the values that the log has.

    Args:
        chosen: splits without a row.
        snapshot: the files of the log.
        catalog: the log's catalogue.

    Returns:
        Sentences that each begin with a full stop; empty where the log has all wanted values.
    """
    message = ""
    for column in dict.fromkeys(column for split in chosen for column in split.where):
        wanted = dict.fromkeys(word for split in chosen for word in split.where.get(column, ()))
        present = _some_values(snapshot, column, catalog)
        if wanted.keys() <= present.keys():
            continue
        message += f". They ask for {column} = {', '.join(map(repr, wanted))}"
        if present:
            shown = ", ".join(repr(word) for word in [*present][:_SHOWN_VALUES])
            message += f", and values of {column} are {shown}{_nearest_of(wanted, present)}"
    return message


def _nearest_of(wanted: Collection[str], present: Collection[str]) -> str:
    """Return a question with the present value that is most like the first unknown one."""
    unknown = next(word for word in wanted if word not in present)
    near = nearest(unknown, present).strip()
    return f" (d{near[1:]})" if near else ""  # `Did you mean` inside a sentence


def _some_values(snapshot: Snapshot, column: str, catalog: Catalog) -> dict[str, None]:
    """Return all values of a partition key, or those of a column in some files, as text."""
    log = catalog.log
    if column in log.partition_keys:
        version = snapshot.table.version if snapshot.table else None
        values = logs.partition_values(
            snapshot.uri, log.partition_keys, column,
            folder_names=log.folder_names, version=version,
        )  # fmt: skip
        return dict.fromkeys(sorted(word for word in values if word is not None))
    step = -(-len(snapshot.files) // _SAMPLED_FILES) or 1
    words: dict[str, None] = {}
    for file in snapshot.files[::step]:
        with suppress(PipelineError, pa.ArrowException):
            distinct = next(parquet.read_column(snapshot, file, column)).unique()
            words |= dict.fromkeys(filter(None, distinct.cast(pa.string()).to_pylist()))
    return dict.fromkeys(sorted(words))


def shown_problems(snapshot: Snapshot) -> tuple[FileProblem, ...]:
    """Return the commonest reasons why files are not read."""
    return file_problems(snapshot)[:_SHOWN_PROBLEMS]


def problems_message(snapshot: Snapshot) -> str:
    """Return a sentence with the commonest reasons why files are not read; empty without any."""
    message = "; ".join(problem.message for problem in shown_problems(snapshot))
    return f"{message}. " if message else ""
