"""Group the files of a snapshot that are not read by the reason why."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from iak.pipeline.data import partitions
from iak.pipeline.data.normal import ColumnKind
from iak.pipeline.data.snapshot import Ignored, Snapshot, Unreadable

F = TypeVar("F", bound=Unreadable | Ignored)
_EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FileProblem:
    """One reason for which files are not read."""

    reason: str
    expected: tuple[ColumnKind, ...]
    """Kinds of column that the catalogue expects and the files' columns are not."""
    missing: tuple[str, ...]
    """Columns that the files lack, where that is all that is wrong with them."""
    files: int
    of: int
    """Data files of the log in all."""
    rows: int
    """Rows lost, as far as footers count them."""
    examples: tuple[str, ...]
    """Paths of up to three of the files."""
    is_ignored: bool
    """True: the files are not part of the log. False: they are, and cannot be read."""

    @property
    def message(self) -> str:
        """Return the problem in one line: `25 of 50 files lack price (1,000 rows)`."""
        if self.is_ignored:
            return f"{self.files} ignored: {self.reason}"
        lost = f" ({self.rows:,} rows)" if self.rows else ""
        if self.missing:
            return f"{self.files} of {self.of} files lack {', '.join(self.missing)}{lost}"
        return f"{self.files} of {self.of} files: {self.reason}{lost}"


def file_problems(snapshot: Snapshot) -> tuple[FileProblem, ...]:
    """Return the reasons why files are not read, unreadable files first, then ignored ones.

    Reasons with most files come first in each part.
    """
    problems: list[FileProblem] = []
    lost: Sequence[Unreadable | Ignored] = snapshot.unreadable
    others: Sequence[Unreadable | Ignored] = snapshot.ignored
    for is_ignored, files in ((False, lost), (True, others)):
        problems += [
            FileProblem(
                reason=same[0].reason,
                expected=first.expected if isinstance(first := same[0], Unreadable) else (),
                missing=_missing(first),
                files=len(same),
                of=len(snapshot.files) + len(snapshot.unreadable),
                rows=sum(f.rows or 0 for f in same if isinstance(f, Unreadable)),
                examples=tuple(f.path for f in same[:_EXAMPLES]),
                is_ignored=is_ignored,
            )
            for same in by_reason(files)
        ]
    return tuple(problems)


def by_reason(files: Sequence[F]) -> list[list[F]]:
    """Return the files in groups of one reason, the largest group first.

    Numbers in a reason (sizes, offsets) belong to one file alone and do not make another reason.
    Numbers in the name of a missing column do.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[F]] = defaultdict(list)
    for file in files:
        groups[re.sub(r"\d[\d,.]*", "#", file.reason), _missing(file)].append(file)
    return sorted(groups.values(), key=len, reverse=True)


def _missing(file: Unreadable | Ignored) -> tuple[str, ...]:
    """Return the columns that a file lacks, where that is all that is wrong with it."""
    return file.missing if isinstance(file, Unreadable) else ()


def null_words(snapshot: Snapshot) -> dict[str, int]:
    """Return the partition keys that have a folder named `null`, with the rows in it.

    Iceberg gives the null value's folder this name. Where the column is not inside the files,
    nothing shows whether the null value or the word is meant. It is read as the word.
    """
    rows: dict[str, int] = defaultdict(int)
    for file in snapshot.files if snapshot.table is None else ():
        for key, value in file.exact_partition.items():
            if value == partitions.NULL_WORD:
                rows[key] += file.rows
    return dict(rows)
