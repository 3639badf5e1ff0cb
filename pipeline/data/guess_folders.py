"""Guess the partition keys of a log from the names of its folders and files.

Most logs name a folder `region=cn`. Others have the value alone: `2026-10-01/part-0.parquet`,
`train/part-0.parquet`, or a file for each value, `test.parquet`. Of such names only dates, parts
(train, valid, test) and numbered periods (`day_0`) say what they are; a folder above them may be
anything that differs.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs

from iak.pipeline.data import partitions, splits
from iak.pipeline.data.snapshot import open_folder
from iak.schemas.log import FolderNames

SPLIT_WORDS = {
    "train": ("train", "training", "tr"),
    "valid": ("valid", "val", "validation", "dev", "vali"),
    "test": ("test", "testing", "eval", "holdout", "te"),
}
"""Part of a log -> its names, in lower case."""
_OF_DATE = (("year", "yyyy", "y"), ("month", "mm", "m"), ("day", "dd", "d"))
"""Names of folders that make a date together."""
_OF_DATE_ALONE = {1: "dt", 2: "year/month", 3: "year/month/day"}
"""Folders that make a date together, without keys -> their key."""
_PART = "split"
_OTHER = "folder"
"""Keys that are given to folders of parts, and to a folder above those that tell what they are."""
_PERIODS = {
    **{word: f"{word}_number" for word in ("day", "week", "month", "hour")},
    "d": "day_number",
    "w": "week_number",
}
"""Last word before the number of a period -> its key, which no column of the files should have."""
_NUMBERED = re.compile(r"(?P<before>(?:.*[^a-z])?(?P<word>[a-z]+)[_-]?)\d{1,4}")
"""A name, in lower case, that ends in the number of a period: `day_0`, `part_day_12`, `d1`."""
_BEFORE_DATE = re.compile(r"[^\W\d_].*?[_-](?=\d)")
"""The name before a date, as `events_`."""
_FEWEST_PERIODS = 3
"""Fewest numbers of periods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderGuess:
    """Partition keys of a log, and how its folders are named."""

    keys: tuple[str, ...]
    """Outermost first."""
    names: FolderNames = "key=value"


def guess_folders(uri: str) -> FolderGuess:
    """Return the keys that most files' folders name, and those that the values below them tell.

    Folders of year, month and day are one key, and so are those of year and month alone.
    """
    paths = _paths(uri)
    counts = Counter(_leading_keys(path[:-1]) for path in paths)
    keys: tuple[str, ...] = max(counts, key=lambda keys: (counts[keys], len(keys)), default=())
    below = _told_by_values([path[len(keys) :] for path in paths if len(path) > len(keys)])
    keys = _with_dates(keys)
    if below and not {*below} & {*keys}:
        return FolderGuess(keys=(*keys, *below), names="value")
    return FolderGuess(keys=keys)


def part_of(name: str) -> str | None:
    """Return the part that a name says, such as `test` of `shop_test`; None where it says none."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    parts = [part for part, names in SPLIT_WORDS.items() if words & {*names}]
    return parts[0] if len(parts) == 1 else None


def _paths(uri: str) -> list[tuple[str, ...]]:
    """Return the folders and the name of each file below, Parquet alone where any is named so."""
    filesystem, root = open_folder(uri)
    below = filesystem.get_file_info(pa.fs.FileSelector(root, recursive=True))
    paths = [
        tuple(info.path[len(root) :].strip("/").split("/"))
        for info in below
        if info.type == pa.fs.FileType.File
    ]
    shown = [path for path in paths if not any(name.startswith((".", "_")) for name in path)]
    named = [path for path in shown if path[-1].endswith((".parquet", ".parq", ".pq"))]
    return named or shown


def _leading_keys(folders: Sequence[str]) -> tuple[str, ...]:
    keys: list[str] = []
    for folder in folders:
        key, is_partition, _ = folder.partition("=")
        if not is_partition or not key or key in keys:
            break
        keys.append(key)
    return tuple(keys)


def _with_dates(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Join the keys of a year, a month and a day that lie in each other, or of the first two."""
    for count in (3, 2):
        for first in range(len(keys) - count + 1):
            parts = keys[first : first + count]
            if all(key.lower() in names for key, names in zip(parts, _OF_DATE, strict=False)):
                return (*keys[:first], "/".join(parts), *keys[first + count :])
    return keys


def _told_by_values(paths: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return keys down to the last level of dates, parts or numbered periods; none without one."""
    levels = [(*path[:-1], partitions.value_of_file(path[-1])) for path in paths]
    depth = min(map(len, levels), default=0)
    keys: list[str] = []
    told = level = 0
    while level < depth:
        count = _folders_of_date([names[level:depth] for names in levels])
        if count:
            keys.append(_OF_DATE_ALONE[count])
        elif _are_parts({names[level] for names in levels}):
            keys.append(_PART)
        else:
            keys.append(_numbered_period({names[level] for names in levels}) or _OTHER)
        told = told if keys[-1] == _OTHER else len(keys)
        level += count or 1
    told_keys = tuple(keys[:told])
    return told_keys if len(set(told_keys)) == told else ()  # two levels would have one key


def _folders_of_date(names: Sequence[tuple[str, ...]]) -> int:
    """Return how many levels from here on make a date of each file; 0 where none do."""
    for count in (1, 3, 2):
        values = {path[:count] for path in names}
        # Days of two tables have two names before them.
        before = {_name_before(value[0]) for value in values}
        is_one = len(values) > 1 == len(before)
        if is_one and all(len(value) == count and _is_date(value) for value in values):
            return count
    return 0


def _name_before(date: str) -> str:
    found = _BEFORE_DATE.match(date)
    return found[0] if found else ""


def _is_date(parts: tuple[str, ...]) -> bool:
    is_long = len(parts[0]) == 4 if len(parts) > 1 else len(parts[0]) >= 8
    return is_long and splits.parse_date(partitions.joined_value(parts)) is not None


def _are_parts(names: Iterable[str]) -> bool:
    """Return whether every name says a part, training and test rows among them."""
    parts = {part_of(name) for name in names}
    return {"train", "test"} <= parts and None not in parts


def _numbered_period(names: Iterable[str]) -> str | None:
    """Return the key of names that differ in the number of a period alone; None where they do not.

    The number of a file may be that of a part of a table, so the word before it must be a period.
    """
    lower = {name.lower() for name in names}
    found = [match for name in lower if (match := _NUMBERED.fullmatch(name))]
    if len(found) < max(len(lower), _FEWEST_PERIODS) or len({m["before"] for m in found}) > 1:
        return None
    return _PERIODS.get(found[0]["word"])
