"""Guess which columns of a log are features, of what kind, and which tables they share."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data.guess_labels import Guess, words_of
from iak.pipeline.data.guess_time import is_month_and_day, times_of
from iak.pipeline.data.log_sample import MISSING, kind_of, numbers
from iak.pipeline.data.written import WrittenList, WrittenNumber, is_printed

ID_WORDS = words_of(
    "id ids key code hash uid sku spu asin brand category categories cat cate city shop store "
    "type zip zipcode os device hour weekday day month position slot user item product goods "
    "ad creative campaign channel region country page site app tag tags"
)
NUMBER_WORDS = words_of(
    "price amount amt count cnt num age score year qty quantity duration length len size rank "
    "distance dist rate ratio width height temperature temp avg mean sum total share value "
    "days hours minutes seconds budget bid ctr cvr affinity weight sales stock rating helpful "
    "useful funny vote votes views likes plays watching"
)
_MAX_CATEGORIES = 50
"""Distinct whole numbers up to which a column is categorical."""
_MIN_ROWS = 1_000
"""Fewest rows in which nearly unique values show that a column identifies rows."""
_NEARLY_UNIQUE = 0.8
"""Ratio of distinct values to rows above which a column identifies rows."""
_HASHED = 2**31
"""Size from which on whole numbers look like hashes."""
_LONG_TEXT = 60
"""Mean characters above which text is free text."""
_SKEWED = 10.0
"""Length of the upper tail, in spans of the middle half, above which the logarithm is taken."""
_OVERLAP = {"text": 0.2, "whole": 0.5, "small": 0.5}
"""Least share of a list's values that occur in an id column for both to share a table. It is larger
for whole numbers, because small ones coincide easily."""
_SMALL_IDS = 1_000
"""Size below which whole numbers count many things, and not the ids of one."""
_MIN_SHARED_IDS = 20
"""Least number of distinct ids that both have."""
_PADDED_SHARE = 0.05
"""Least share of lists that end, or begin, with the padding."""
_PADDINGS = (0, -1, "0", "-1", "", "pad", "PAD", "<pad>", "[PAD]", "null", "None")
_SEPARATORS = {"\x01": 0.05, "|": 0.2, ";": 0.2, "\t": 0.2, ",": 0.3, "^": 0.3, " ": 0.3, "#": 0.5}
"""What may stand between ids in one text -> least share of the texts that have it."""
_WORD_SEPARATORS = (" ", ",")
"""Separators that stand between the words of a sentence too."""
_PRINTED_SHARE = 0.95
"""Least share of texts that are printed lists, where a column has such."""
_DOTTED = words_of("version ver os build release ip id ids uid key code hash")
"""Words of a column whose texts may have dots and are no numbers."""
_NUMBERS_SHARE = 0.99
"""Least share of a column's texts that are numbers, where they are read so by its name."""
_FRACTIONS_SHARE = 0.9
"""The same where most texts have a dot: the others say in words that a number is missing."""
_MIN_NUMBERED = 3
"""Fewest columns of one name and a number that may be a list, as hist_1, hist_2 and hist_3 are."""
_NO_IDS = (0, -1)
"""Whole numbers that stand for no id where a column has ids."""
_MIN_REPEATS = 3
"""Least mean occurrences of an id."""
_LONG_ID = 24
"""Mean characters above which a text between separators is no id."""
HISTORY = 20
"""Values of a list that a feature keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureGuess:
    """A feature, and the reason of its kind."""

    column: str
    kind: Literal["categorical", "list", "numeric"]
    why: str
    table_of: str | None = None
    """Column whose table a list, or one of several numbered columns, reads as well."""
    log: bool = False
    padding: int | str | None = None
    """Id that fills the lists up."""
    separator: str | None = None
    """What stands between the ids of a list that is written as one text."""
    whole: bool = False
    """Whether these ids are whole numbers."""
    in_text: bool = False
    """Whether the column has its numbers as text."""
    is_optional: bool = False
    """Whether some files lack the column."""


def guess_features(
    rows: pa.Table, *, skipped: Collection[str], uneven: Mapping[str, str]
) -> tuple[tuple[FeatureGuess, ...], tuple[Guess, ...]]:
    """Return the features, and the columns that are left out with the reason.

    Args:
        rows: sampled rows.
        skipped: columns that are not features: labels, leaks, row ids, dates.
        uneven: column that some files lack, or have in another type -> a description. A
            column of several types is left out.
    """
    features: list[FeatureGuess] = []
    left_out: list[Guess] = []
    names = [name for name in rows.schema.names if name not in skipped]
    written = {n: w for n in names if (w := _written_list(rows.column(n)))}
    for name, how in written.items():
        lists = pa.chunked_array([how.read(rows.column(name).combine_chunks())])
        rows = rows.set_column(rows.schema.get_field_index(name), name, lists)
    in_text = [name for name in names if _has_numbers_in_text(name, rows.column(name))]
    for name in in_text:
        numbers_of = pa.chunked_array([WrittenNumber().read(rows.column(name).combine_chunks())])
        rows = rows.set_column(rows.schema.get_field_index(name), name, numbers_of)
    owners = _owners(rows, names)
    owning = {owner for owner, _ in owners.values()}
    for name in names:
        guess = _feature(name, rows.column(name), is_id=name in owning or name in owners)
        difference = uneven.get(name)
        if isinstance(guess, Guess) or (difference and not difference.endswith(MISSING)):
            why = guess.why if isinstance(guess, Guess) else f"{difference}"
            left_out.append(Guess(column=name, why=why))
            continue
        if difference:
            guess = replace(guess, why=f"{guess.why}; {difference}", is_optional=True)
        if name in written:
            how = written[name]
            why = f"{guess.why}, with {how.separator!r} between them"
            guess = replace(guess, why=why, separator=how.separator, whole=how.whole, padding=None)
        if name in in_text:
            guess = replace(guess, why=f"{guess.why}, written as text", in_text=True)
        if name in owners:
            owner, share = owners[name]
            why = f"{guess.why}; {share:.0%} of its values are values of {owner}"
            guess = replace(guess, why=why, table_of=owner)
        features.append(guess)
    categorical = {feature.column for feature in features if feature.kind == "categorical"}
    return tuple(
        replace(feature, table_of=None) if feature.table_of not in categorical else feature
        for feature in features
    ), tuple(left_out)


def _written_list(column: pa.ChunkedArray) -> WrittenList | None:
    """Return how a column of text writes lists of ids; None where it does not."""
    known = column.drop_null()
    if kind_of(column.type) != "text" or not len(known):
        return None
    text = known.combine_chunks().cast(pa.string())
    are_printed = pc.mean(is_printed(text).cast(pa.float64())).as_py() >= _PRINTED_SHARE
    for separator, least in _SEPARATORS.items():
        if pc.mean(pc.match_substring(text, separator)).as_py() < least:
            continue
        lists = WrittenList(separator=separator, whole=False).read(text)
        ids, lengths = lists.values, pc.min_max(pc.list_value_length(lists))
        is_whole = bool(pc.all(pc.match_substring_regex(ids, r"^-?\d{1,18}$")).as_py())
        # As many parts in every text are one id of several parts, such as a cross.
        varies = lengths["min"] != lengths["max"]
        are_ids = _recur(ids) if are_printed else _are_ids(ids, separator)
        if is_whole or (varies and are_ids):
            return WrittenList(separator=separator, whole=is_whole)
    return None


def _has_numbers_in_text(name: str, column: pa.ChunkedArray) -> bool:
    """Return whether a column of text has fractions, or is named a number and has numbers.

    Digits alone are ids, and a version has a dot too.
    """
    words = _words(name)
    if kind_of(column.type) != "text" or words & _DOTTED:
        return False
    known = column.drop_null()
    known = known.filter(pc.not_equal(known, ""))
    if not len(known):
        return False
    are_numbers = WrittenNumber(word=None).read(known.combine_chunks()).is_valid()
    is_named = bool(words & NUMBER_WORDS and not words & ID_WORDS)
    has_fractions = pc.mean(pc.match_substring(known, ".").cast(pa.float64())).as_py()
    share = pc.mean(are_numbers.cast(pa.float64())).as_py()
    is_sure = share >= _NUMBERS_SHARE and (has_fractions > 0 or is_named)
    return bool(is_sure or (share >= _FRACTIONS_SHARE and has_fractions > 0.5))


def _are_ids(ids: pa.Array, separator: str) -> bool:
    """Return whether texts between separators repeat and are short, as ids do and words do not."""
    is_numbered = pc.all(pc.match_substring_regex(ids, r"^[A-Za-z_]*\d+$")).as_py()
    if separator in _WORD_SEPARATORS and not is_numbered:
        return False
    return bool(_recur(ids) and pc.mean(pc.utf8_length(ids)).as_py() <= _LONG_ID)


def _recur(ids: pa.Array) -> bool:
    """Return whether texts occur several times each."""
    return bool(pc.count_distinct(ids).as_py() <= len(ids) / _MIN_REPEATS)


def _owners(rows: pa.Table, names: Sequence[str]) -> dict[str, tuple[str, float]]:
    """Map each column with values of an id column to that column, and the share of such values.

    Such columns are lists, and those that are a list together (`_numbered`).
    """
    kinds = {name: kind_of(rows.schema.field(name).type) for name in names}
    lists = [name for name, kind in kinds.items() if kind in ("list of whole", "list of text")]
    parts = _numbered(name for name, kind in kinds.items() if kind in ("whole", "text"))
    distinct = {
        name: pc.unique(rows.column(name).drop_null())
        for name, kind in kinds.items()
        if (lists or parts) and kind in ("whole", "text") and _may_own(name, parts)
    }
    values = {name: pc.list_flatten(rows.column(name).drop_null()) for name in lists}
    values |= {name: rows.column(name) for name in parts}
    owners = {name: _owner(own.drop_null(), distinct) for name, own in values.items()}
    # Small numbers of columns coincide easily: 0 to 3 say nothing.
    alone = {n for n in parts if pc.count_distinct(values[n]).as_py() < _MIN_SHARED_IDS}
    return {name: owner for name, owner in owners.items() if owner and name not in alone}


def _may_own(name: str, parts: Collection[str]) -> bool:
    """Return whether a column may have the ids of a list: it is no part of one, and no amount."""
    return name not in parts and not _is_named_number(name) and "time" not in words_of(name)


def _numbered(names: Iterable[str]) -> list[str]:
    """Return the columns of which several have one name and another number at its end."""
    by_stem: dict[str, list[str]] = {}
    for name in names:
        if match := re.fullmatch(r"(.*\D)\d+", name):
            by_stem.setdefault(match[1], []).append(name)
    return [name for own in by_stem.values() if len(own) >= _MIN_NUMBERED for name in own]


def _feature(name: str, column: pa.ChunkedArray, *, is_id: bool) -> FeatureGuess | Guess:
    kind = kind_of(column.type)
    known = column.drop_null()
    if not len(known):
        return Guess(column=name, why="it is null in every sampled row")
    if kind.startswith("list of "):
        return _list(name, known, kind.removeprefix("list of "))
    if kind not in ("bool", "whole", "float", "text"):
        return Guess(column=name, why=f"no feature reads a column of type {column.type}")
    distinct = pc.count_distinct(known).as_py()
    if distinct == 1 and not column.null_count:
        return Guess(column=name, why=f"it has one value alone, {known[0].as_py()!r}")
    if kind == "float":
        return _number(name, known, "a column of fractions")
    if is_month_and_day(name, column):
        return Guess(column=name, why="a month and a day without a year, which dates need")
    counts = f"{distinct:,} distinct values in {len(known):,} sampled rows"
    if is_id:
        why = f"ids that other columns hold too, {counts}"
        return FeatureGuess(column=name, kind="categorical", why=why)
    is_number = kind == "whole" and _is_named_number(name)
    if len(known) >= _MIN_ROWS and distinct > _NEARLY_UNIQUE * len(known) and not is_number:
        return Guess(column=name, why=f"nearly every row has its own value ({counts})")
    if kind == "text":
        return _text(name, known, counts)
    return _whole(name, known, distinct, counts)


def _list(name: str, known: pa.ChunkedArray, inner: str) -> FeatureGuess | Guess:
    if inner not in ("whole", "text"):
        return Guess(column=name, why=f"a list of {inner}s; a list feature reads ids")
    values = pc.list_flatten(known)
    if not len(values):
        return Guess(column=name, why="its lists are all empty")
    why = f"{len(values) / len(known):.1f} ids a list"
    padding = _padding(known)
    if padding is not None:
        why += f"; lists are filled up to one length with {padding!r}"
    return FeatureGuess(column=name, kind="list", why=why, padding=padding)


def _padding(lists: pa.ChunkedArray) -> int | str | None:
    """Return the id that fills lists up to one length; None where their lengths differ."""
    lengths = pc.list_value_length(lists)
    ends = pc.min_max(lengths)
    if ends["min"] != ends["max"] or ends["max"].as_py() < 2:
        return None
    for end in (-1, 0):
        edge = pc.list_element(lists, end % ends["max"].as_py())
        # Arrow has no mode of text.
        mode = pc.mode(edge)[0].as_py() if pa.types.is_integer(edge.type) else _mode(edge)
        value = mode["mode"] if mode else None
        if value in _PADDINGS and mode and mode["count"] >= len(lists) * _PADDED_SHARE:
            padding: int | str = value
            return padding
    return None


def _mode(values: pa.ChunkedArray) -> dict[str, Any] | None:
    counts = pc.value_counts(values.drop_null())
    if not len(counts):
        return None
    most = counts[int(np.argmax(counts.field("counts").to_numpy()))].as_py()
    return {"mode": most["values"], "count": most["counts"]}


def _text(name: str, known: pa.ChunkedArray, counts: str) -> FeatureGuess | Guess:
    length = pc.mean(pc.utf8_length(known)).as_py()
    # A hash of 64 digits is long too, and has no blank.
    has_blanks = pc.mean(pc.match_substring(known, " ").cast(pa.float64())).as_py()
    if length > _LONG_TEXT and has_blanks > 0:
        return Guess(column=name, why=f"free text, {length:.0f} characters a row")
    is_many = pc.count_distinct(known).as_py() > _MAX_CATEGORIES
    if is_many and (times := times_of(known)) and times.unit == "written":
        why = "times in text; write the days between it and the event as a number"
        return Guess(column=name, why=why)
    return FeatureGuess(column=name, kind="categorical", why=f"text, {counts}")


def _whole(name: str, known: pa.ChunkedArray, distinct: int, counts: str) -> FeatureGuess | Guess:
    """Tell ids from numbers: by name, then by how the values are spread."""
    if _is_named_number(name) and distinct > 2:
        return _number(name, known, f"its name; {counts}")
    if _words(name) & ID_WORDS or distinct <= _MAX_CATEGORIES:
        return FeatureGuess(column=name, kind="categorical", why=f"whole numbers, {counts}")
    ids = known.filter(pc.invert(pc.is_in(known, value_set=pa.array(_NO_IDS))))
    ends = pc.min_max(ids)
    low, high = ends["min"].as_py(), ends["max"].as_py()
    if high >= _HASHED or low < -_HASHED:
        why = f"numbers as large as hashes, {counts}"
        return FeatureGuess(column=name, kind="categorical", why=why)
    if distinct > (high - low + 1) / 2 and not _is_skewed(ids):
        why = f"nearly all numbers from {low} to {high} occur, as ids do; {counts}"
        return FeatureGuess(column=name, kind="categorical", why=why)
    return _number(name, known, f"whole numbers from {low} to {high} with gaps, {counts}")


def _is_named_number(name: str) -> bool:
    words = _words(name)
    return bool(words & NUMBER_WORDS and not words & {"id", "ids", "key", "code"})


def _words(name: str) -> frozenset[str]:
    """Return the words of a name, those that end with a number also without it: cat7 is a cat."""
    words = words_of(name)
    return words | {word.rstrip("0123456789") for word in words}


def _number(name: str, known: pa.ChunkedArray, why: str) -> FeatureGuess | Guess:
    values = numbers(known)
    values = values[~np.isnan(values)]
    if not len(values) or values.min() == values.max():
        return Guess(column=name, why="it never varies in the sample")
    is_skewed = _is_skewed(known)
    why = f"{why}; a few values are far larger than the rest" if is_skewed else why
    return FeatureGuess(column=name, kind="numeric", why=why, log=is_skewed)


def _is_skewed(known: pa.ChunkedArray) -> bool:
    """Return whether the upper tail is far longer than the middle half, as of counts and prices."""
    values = numbers(known)
    values = values[~np.isnan(values)]
    if not len(values) or values.min() < 0:
        return False
    low, middle, high, tail = np.quantile(values, [0.25, 0.5, 0.75, 0.99])
    # A middle half of nearly equal values would make every tail look long.
    spread = max(high - low, abs(middle) * 0.1, 1e-12)
    return bool((tail - middle) / spread > _SKEWED)


def _owner(values: pa.ChunkedArray, distinct: Mapping[str, pa.Array]) -> tuple[str, float] | None:
    """Return the id column most like some values, and the share of the values that it has.

    Args:
        values: ids, without nulls.
        distinct: id column -> its distinct values.
    """
    own = pc.unique(values)
    best: tuple[float, str, float] | None = None
    for name, others in distinct.items():
        if kind_of(others.type) != kind_of(own.type) or not len(own):
            continue
        share = pc.mean(pc.is_in(values, value_set=others).cast(pa.float64())).as_py()
        shared = pc.sum(pc.is_in(own, value_set=others)).as_py() or 0
        alike = shared / (len(own) + len(others) - shared)
        # Small numbers coincide with any others, so they must be nearly the same ones.
        is_small = kind_of(own.type) == "whole" and pc.max(pc.abs(own)).as_py() < _SMALL_IDS
        least = _OVERLAP["small" if is_small else kind_of(own.type)]
        enough = alike >= least if is_small else shared >= min(_MIN_SHARED_IDS, len(others))
        if share >= least and enough:
            best = max(best or (0.0, "", 0.0), (alike, name, float(share)))
    return best[1:] if best and best[1] else None
