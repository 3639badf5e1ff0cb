"""Say what a person should look at in a guessed catalogue."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data.event_dates import dates_without_key
from iak.pipeline.data.guess_events import has_no_name
from iak.pipeline.data.guess_features import FeatureGuess
from iak.pipeline.data.guess_folders import SPLIT_WORDS
from iak.pipeline.data.guess_labels import Guess, LabelGuess
from iak.pipeline.data.guess_time import is_month_and_day
from iak.pipeline.data.log_sample import MISSING, LogSample, is_index, kind_of
from iak.pipeline.data.nearest import listed
from iak.pipeline.data.snapshot import Snapshot
from iak.pipeline.data.splits import short_days

_MANY_DOMAINS = 50
"""Domains beyond which most may have few rows."""
_NOBODY = ("-1", "0", "", "null", "none", "nan", "unknown", "undefined", "anonymous", "guest")
"""Ids, in lower case, that may stand for no user."""
_NOBODY_SHARE = 0.03
"""Share of the rows from which on such an id is noted."""
_NOBODY_RATIO = 3
"""How many times as many rows it has at least as any other user."""
_NUMBERED = re.compile(
    r"(?:.*[^a-z])?(?P<period>day|week|date|dt|month|hour)[_-]?(?P<named>\d+)"
    r"|(?P<bare>\d{3,8})"
)
"""Name of a file with a period and its number, or with a number alone."""
_FEWEST_NUMBERED = 3
"""Fewest numbers of such files."""
_FEW_POSITIVES = 300
"""Positives of the log below which a label has few."""


def notes_on(
    sample: LogSample,
    labels: Sequence[LabelGuess],
    leaks: Sequence[Guess],
    user: Guess | None,
    split_columns: Collection[str],
    domain_keys: Sequence[str],
    features: Sequence[FeatureGuess],
    *,
    is_dated: bool,
) -> list[str]:
    """Return notes on what a person should check, the most important first.

    Args:
        sample: sampled rows.
        labels: guessed labels.
        leaks: columns that may leak a label.
        user: column of users; None where there is none.
        split_columns: columns that say train and test.
        domain_keys: columns that name a domain.
        features: guessed features.
        is_dated: whether dates, or a column that counts periods, cut the splits.
    """
    rows = sample.rows
    ids = {f.column for f in features if f.kind != "numeric"} | ({user.column} if user else set())
    notes = _of_labels(labels)
    notes += [f"{name} is left out or optional: {why}" for name, why in sample.uneven.items()]
    notes += _spellings(sample.uneven)
    notes += [
        f"{name} is {difference}: files with floats are skipped, so write ids as int64 (pandas: "
        "Int64)"
        for name, difference in sample.floats.items()
        if name in ids
    ]
    notes += [f"{g.column} may leak a label: {g.why}" for g in leaks]
    scale = sample.snapshot.rows / len(rows)
    few = [g for g in labels if g.positives * scale < _FEW_POSITIVES]
    notes += [f"{g.shown} has few positives: {g.positives:,} in the sample" for g in few]
    notes += _of_user(rows, user)
    if len(split_columns) > 1:
        notes.append(f"several columns say train and test: {', '.join(split_columns)}")
    notes += _of_names(rows)
    notes += [
        f"{name} is a month and a day without a year: write dates with a year, so that rows are "
        "cut by days"
        for name in rows.schema.names
        if is_month_and_day(name, rows.column(name))
    ]
    notes += _of_domains(rows, domain_keys)
    notes += _of_folders(sample)
    notes += [] if split_columns else _of_parts(sample.snapshot)
    notes += [] if is_dated else _of_numbered_files(sample.snapshot)
    skipped = sample.snapshot.unreadable
    notes += [f"{len(skipped):,} files were not read, {skipped[0].path} first"] if skipped else []
    return notes


def _of_labels(labels: Sequence[LabelGuess]) -> list[str]:
    """Return notes on what a person should say of the labels."""
    notes = []
    if len({label.column for label in labels}) > 1 and labels[0].kind != "click":
        notes.append("no label is implied by the others: no task is the click")
    if any(label.name for label in labels):
        notes.append(
            f"each row is one event of {labels[0].column}: a task is how likely a row is this event"
        )
    notes += [f"1 is {g.task.label_text}: {g.reading}" for g in labels if g.is_unsure]
    notes += [
        f"{g.column} is taken for a label by its two values alone: write another label where it is "
        "no answer of a user"
        for g in labels
        if not g.is_named
    ]
    return notes


def _of_user(rows: pa.Table, user: Guess | None) -> list[str]:
    """Return a note where no column has users, or one of its values stands for nobody."""
    if user is None:
        return ["no user column was recognised: no GAUC, and rows count as independent"]
    counts = pc.value_counts(rows.column(user.column).drop_null())
    numbers = counts.field("counts").to_numpy()
    value = counts.field("values")[int(np.argmax(numbers))].as_py()
    share, others = float(numbers.max() / len(rows)), np.delete(numbers, np.argmax(numbers))
    if str(value).lower() not in _NOBODY or share < _NOBODY_SHARE:
        return []
    if len(others) and numbers.max() < _NOBODY_RATIO * others.max():
        return []
    return [
        f"{user.column} is {value!r} in {share:.0%} of the rows: where that stands for nobody, "
        "write an id of their own there, such as the session's; all are one user now"
    ]


def _of_folders(sample: LogSample) -> list[str]:
    """Return notes on folders that are dates, and are not read as such."""
    notes = [] if sample.folder_names == "value" else _of_folders_without_key(sample.snapshot)
    return notes + [
        f"folders {key}: {problem}"
        for key, values in sample.partitions.items()
        if (problem := short_days(values))
    ]


def _of_folders_without_key(snapshot: Snapshot) -> list[str]:
    """Return a note where folders are dates, or have names that no column has, as of campaigns."""
    if dated := dates_without_key(snapshot):
        return [f"{dated.what}: {dated.remedy}"]
    paths = [PurePosixPath(file.path).parts[:-1] for file in snapshot.files]
    bare = {folder for path in paths for folder in path if "=" not in folder}
    if len({tuple(p for p in path if "=" not in p) for path in paths}) < 2 or _of_parts(snapshot):
        return []
    return [
        f"folders {listed(bare)} name no column, and all are read as one log: where they "
        'tell rows apart, write partition_keys = ["scene"] and folder_names = "value"'
    ]


def _spellings(uneven: Mapping[str, str]) -> list[str]:
    """Return a note on columns that some files lack and others have in another case."""
    by_name: dict[str, list[str]] = {}
    for name, why in uneven.items():
        if why.endswith(MISSING):
            by_name.setdefault(name.casefold(), []).append(name)
    return [
        f"{' and '.join(sorted(names))} differ in upper and lower case alone: are they one column? "
        "Then write it in one way"
        for names in by_name.values()
        if len(names) > 1
    ]


def _of_names(rows: pa.Table) -> list[str]:
    """Return a note where columns have no names, or their first row for names."""
    names = [name for name in rows.schema.names if not is_index(name)]
    if not all(has_no_name(name) or _is_value(rows, name) for name in names):
        return []
    what = (
        "columns have no names"
        if all(name.startswith(("_", "c", "f", "v", "x")) or len(name) < 3 for name in names)
        else "columns have values for names: was text without a header read, and a row lost?"
    )
    return [
        f"{what} ({listed(names)}): name them (user_id, item_id, ...), since names tell users and "
        "items apart"
    ]


def _is_value(rows: pa.Table, name: str) -> bool:
    """Return whether a column's name is one of its own values."""
    column = rows.column(name)
    if kind_of(column.type) not in ("text", "whole", "float"):
        return False
    return bool(pc.any(pc.equal(column.cast(pa.string()), name)).as_py())


def _of_domains(rows: pa.Table, keys: Sequence[str]) -> list[str]:
    """Return a note where the domains are so many that most have few rows."""
    count = len(rows.group_by(list(keys)).aggregate([]))
    if count <= _MANY_DOMAINS:
        return []
    return [
        f"{' x '.join(keys)} makes {count:,} domains, so many have few rows: name a coarser column "
        "under [domain] where the log has one, or a parent"
    ]


def _of_numbered_files(snapshot: Snapshot) -> list[str]:
    """Return a note where files of a log without dates are numbered by day or week."""
    stems = [PurePosixPath(file.path).name.split(".")[0].lower() for file in snapshot.files]
    found = [match for stem in stems if (match := _NUMBERED.fullmatch(stem))]
    numbers = sorted({m["named"] or m["bare"] for m in found}, key=int)
    if len(found) < len(stems) or len(numbers) < _FEWEST_NUMBERED:
        return []
    if found[0]["bare"] and int(numbers[0]) < _FEWEST_NUMBERED:
        return []  # the parts of a table
    key = found[0]["period"] or "day"
    return [
        f"files are numbered from {numbers[0]} to {numbers[-1]}, and the log has no dates: lay "
        f"each into a folder {key}={numbers[0]}, so that splits follow their order"
    ]


def _of_parts(snapshot: Snapshot) -> list[str]:
    """Return a note where files or folders are named train and test, which no split reads."""
    found: dict[str, str] = {}
    for file in snapshot.files:
        path = PurePosixPath(file.path)
        for word in (*path.parts[:-1], path.name.split(".")[0]):
            for part, words in SPLIT_WORDS.items():
                if word.lower() in words:
                    found.setdefault(part, word)
    if not {"train", "test"} <= found.keys():
        return []
    parts = [found[part] for part in SPLIT_WORDS if part in found]
    return [
        f"files or folders are named {' and '.join(parts)}, and all are read as one log: where "
        '[splits] should follow them, write partition_keys = ["split"] and folder_names = "value"'
    ]
