"""Read lists, numbers and times that a log writes in a way of its own.

    12|7|9                            ids in one text
    [12, 7, 9], ['a' 'b']             the same, as Python, JSON and NumPy print lists
    12.5                              a number in text
    20261005, 2026-10-05 09:30:00     a time in digits or text

The catalogue says how a column is written. A column that already has an Arrow type for its values,
a list or a timestamp, is left as it is, so a log may have files of both kinds.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iak.schemas.feature import ListSpec, NumericSpec
from iak.schemas.log import ISO, UNIX, Catalog

_ISO = (
    r"^\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
    r"(?:[ T](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?"
    r"(?P<zone>Z| UTC|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)?)?$"
)
"""A time as ISO 8601 writes it, or with ` UTC` at its end, as BigQuery does."""
_DATE_CODES = {
    "Y": r"\s*(?P<Y>\d{1,4})",
    "y": r"\s*(?P<y>\d{1,2})",
    "m": r"\s*(?P<m>\d{1,2})",
    "b": r"(?P<b>\pL+)",
    "B": r"(?P<B>\pL+)",
    "d": r"\s*(?P<d>\d{1,2})",
}
"""Code of strptime -> pattern of a part of a date, in a group that is named by the code."""
_OTHER_CODES = dict.fromkeys("HIMS", r"\s*\d{1,2}") | {
    "a": r"\pL+",
    "p": r"\pL+",
    "z": r"\S+",
    "%": "%",
}

_BLANKS = r"[ \t\n\f\r]*"
_PRINTED = rf"^{_BLANKS}\[({_BLANKS}|{_BLANKS}['\"0-9-][^\[\]]*)\]{_BLANKS}$"
"""A list as Python, JSON and NumPy print it: of numbers or of quoted texts, or empty."""
_QUOTED = r"^(?:'(.*)'|\"(.*)\")$"
"""An id between quotes."""
_NUMBER = r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$"
"""A number in text, as decimals or with an exponent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenList:
    """Ids in one text, with a separator between them."""

    separator: str
    whole: bool
    """Whether the ids are whole numbers."""

    def read(self, values: pa.Array) -> pa.Array:
        """Return text as lists. Blanks around an id are dropped, and so are empty ids.

        A null stays null, and an empty text becomes an empty list. Brackets around a list of
        numbers or of quoted texts are dropped, and so are the quotes.

        Raises:
            ArrowInvalid: an id is no whole number, where they are whole.
        """
        if not is_text(values.type):
            return values
        text = decoded_text(values)
        are_printed = is_printed(text)
        printed = bool(pc.any(are_printed).as_py())
        if printed:
            text = pc.replace_substring_regex(text, _PRINTED, r"\1")
        split = pc.split_pattern(text, self.separator)
        ids = pc.utf8_trim_whitespace(split.values)
        if printed:
            # An id keeps its quotes in a text without brackets.
            is_own = are_printed.take(pc.list_parent_indices(split))
            ids = pc.if_else(is_own, pc.replace_substring_regex(ids, _QUOTED, r"\1\2"), ids)
        has_id = pc.not_equal(ids, "")
        # Each list ends after its ids that are kept.
        kept_before = pc.cumulative_sum(pa.concat_arrays([pa.array([0]), has_id.cast(pa.int64())]))
        offsets = kept_before.take(split.offsets).cast(pa.int32())
        ids = ids.filter(has_id)
        if self.whole:
            ids = _whole(ids)
        mask = split.is_null() if split.null_count else None
        return pa.ListArray.from_arrays(offsets, ids, mask=mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenTime:
    """A time in text or digits."""

    format: str
    """Codes of strptime, or `iso`."""

    def read(self, values: pa.Array) -> pa.Array:
        """Return text or whole numbers as timestamps; what is written otherwise becomes null.

        Raises:
            ArrowInvalid: no value can be read, or only some of them name a zone.
        """
        if not (is_text(values.type) or pa.types.is_integer(values.type)):
            return values
        text = decoded_text(values)
        times = _iso_times(text) if self.format == ISO else self._parsed(text)
        if len(text) and times.null_count == len(times) and text.null_count < len(text):
            seen = text.drop_null()[0].as_py()
            raise pa.ArrowInvalid(f"event_time_format {self.format!r} does not read {seen!r:.60}")
        return times

    def _parsed(self, text: pa.Array) -> pa.Array:
        times = pc.strptime(text, format=self.format, unit="us", error_is_null=True)
        # 31 February was read as 3 March, so look again where a month begins. In a zone that may be
        # any day.
        looked_at = times.is_valid() if "%z" in self.format else pc.less_equal(pc.day(times), 3)
        impossible = _impossible_days(text, self.format, pc.fill_null(looked_at, False))
        return pc.if_else(impossible, None, times)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenNumber:
    """A number in text."""

    word: float | None = np.nan
    """What a text becomes that is no number: NaN, which the contract counts, or null."""

    def read(self, values: pa.Array) -> pa.Array:
        """Return text as numbers. Blanks around one are dropped, and an empty text is null."""
        if not is_text(values.type):
            return values
        text = pc.utf8_trim_whitespace(decoded_text(values))
        is_number = pc.match_substring_regex(text, _NUMBER)
        # Arrow reads no number with a plus.
        numbers = pc.utf8_ltrim(pc.if_else(is_number, text, None), characters="+")
        is_word = pc.and_not(pc.not_equal(text, ""), is_number)
        return pc.if_else(is_word, pa.scalar(self.word, pa.float64()), numbers.cast(pa.float64()))


def is_printed(text: pa.Array) -> pa.Array:
    """Return which texts are lists as Python, JSON or NumPy print them; null stays null."""
    return pc.match_substring_regex(text, _PRINTED)


Written = WrittenList | WrittenNumber | WrittenTime


def written_columns(catalog: Catalog) -> Mapping[str, Written]:
    """Return how the catalogue says that columns are written, by column."""
    lists = [f for f in catalog.features if isinstance(f, ListSpec) and f.separator is not None]
    written: dict[str, Written] = {
        f.columns[0]: WrittenList(separator=str(f.separator), whole=f.whole) for f in lists
    }
    written |= {
        f.columns[0]: WrittenNumber()
        for f in catalog.features
        if isinstance(f, NumericSpec) and f.in_text
    }
    log = catalog.log
    if log.event_time and log.event_time_format:
        is_unix = log.event_time_format == UNIX
        written[log.event_time] = (
            WrittenNumber(word=None) if is_unix else WrittenTime(format=log.event_time_format)
        )
    return written


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column of this type has text, plain or as a dictionary."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_ = pa.types
    return bool(is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind))


def decoded_text(values: pa.Array) -> pa.Array:
    """Return values as plain text; whole numbers become their digits."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values.cast(pa.string())


def _whole(ids: pa.Array) -> pa.Array:
    try:
        return ids.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise pa.ArrowInvalid(
            f"an id between separators is no whole number ({error}); its feature has whole = true"
        ) from error


def _iso_times(text: pa.Array) -> pa.Array:
    parts = pc.extract_regex(text, _ISO)
    day = pc.utf8_slice_codeunits(text, 8, 10)
    late = pc.and_(parts.is_valid(), pc.fill_null(pc.greater_equal(day, "29"), False))
    dates = pc.utf8_slice_codeunits(text, 0, 10)
    is_time = pc.and_not(parts.is_valid(), _impossible_days(dates, "%Y-%m-%d", late))
    # Arrow reads no zone by its name.
    known = pc.replace_substring_regex(pc.if_else(is_time, text, None), " UTC$", "Z")
    has_zone = pc.any(pc.not_equal(pc.struct_field(parts, "zone"), "")).as_py()
    return known.cast(pa.timestamp("us", "UTC" if has_zone else None))


def _impossible_days(text: pa.Array, format: str, looked_at: pa.Array) -> pa.Array:
    """Return which texts name a day that their month lacks, such as 31 February.

    Arrow's strptime goes on counting and reads it as 3 March (pyarrow 26.0.1, also with
    `error_is_null`). So its day is compared with the day that is written.

    Args:
        text: times.
        format: codes of strptime, by which they are written.
        looked_at: texts to look at; the others are taken for possible.
    """
    parts = pc.extract_regex(text.filter(looked_at), _pattern(format))
    codes = [field.name for field in parts.type]
    dates = pc.binary_join_element_wise(*parts.flatten(), "-")
    written = "-".join(f"%{code}" for code in codes)
    days = pc.day(pc.strptime(dates, format=written, unit="s", error_is_null=True))
    is_written = pc.equal(days, pc.struct_field(parts, "d").cast(pa.int64()))
    impossible = pc.invert(pc.fill_null(is_written, False))
    return pc.replace_with_mask(pa.repeat(False, len(text)), looked_at, impossible)


def _pattern(format: str) -> str:
    """Return a pattern of times in a format, with a group for each part of the date."""
    named: set[str] = set()

    def part(code: re.Match[str]) -> str:
        """Return the pattern of a code; a group has a name, so that it occurs once."""
        letter = code[1]
        pattern = _DATE_CODES.get(letter) or _OTHER_CODES[letter]
        if letter in named:
            return pattern.replace(f"?P<{letter}>", "?:")
        named.add(letter)
        return pattern

    return r"^\s*" + re.sub("%(.)", part, re.escape(format).replace(r"\ ", r"\s*")) + r"\s*$"
