"""Guess a log's catalogue from a sample of its rows, each guess with its reason."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data import splits
from iak.pipeline.data.guess_apart import ids_apart
from iak.pipeline.data.guess_events import guess_codes, guess_events
from iak.pipeline.data.guess_features import NUMBER_WORDS, FeatureGuess, guess_features
from iak.pipeline.data.guess_fresh import FreshGuess, guess_fresh
from iak.pipeline.data.guess_labels import (
    Guess,
    LabelGuess,
    guess_labels,
    guess_leaks,
    guess_times_of_answers,
    without_one_class,
    words_of,
)
from iak.pipeline.data.guess_notes import notes_on
from iak.pipeline.data.guess_numbers import guess_counts, guess_feedback, guess_grade, shown_counts
from iak.pipeline.data.guess_order import OrderGuess, guess_order
from iak.pipeline.data.guess_splits import (
    Parts,
    SplitCut,
    cut_splits,
    days_of,
    split_column,
    split_columns,
    validated_on_others,
)
from iak.pipeline.data.guess_time import (
    TIME_WORDS,
    TimeGuess,
    day_columns,
    guess_time,
)
from iak.pipeline.data.guess_unlabelled import UnlabelledPart, has_no_label, without_part
from iak.pipeline.data.log_sample import LogSample, is_bytes, is_index, kind_of
from iak.pipeline.data.no_label import explain_no_label
from iak.pipeline.data.profile import MIN_POSITIVES
from iak.pipeline.errors import BadLog

_ROW_WORDS = words_of("event row impression record log show exposure uuid guid")
_REQUEST_WORDS = words_of("request session query search auction slate pageview impression display")
_OF_ITEM = words_of("url uri title text term keyword domain category")
"""Words of a thing that many requests have, as a shown page is not the request that showed it."""
_REQUESTS = (words_of("srch_id"), words_of("qid"), words_of("query_id"))
"""All words of a name of a request, where one of them alone says less."""
_ONE_USER = 0.95
"""Least share of rows whose request has one user alone."""
_MAX_OF_REQUEST = 1_000
"""Most mean rows of a request; a column whose values have more says what kind of request it was."""
_USER = re.compile(
    r"^(.*_)?(user|user_pseudo|anonymous|uid|member|visitor|customer|consumer|buyer|viewer|reviewer|rater|account|profile|cookie)"
    r"(_?(id|key|no|hash|uuid|pk|code))?$"
)
_PLAIN_USER = re.compile(r"^(user|uid)(_?(id|key|no|hash|uuid|pk|code))?$")
"""A name that is preferred to others of users."""
_OTHERS = words_of(
    "with author creator owner uploader publisher poster seller advertiser friend followee "
    "followed target receiver recipient to engaged referrer parent"
)
"""Words of a user who is not the one that a row was shown to."""
_PERSON = re.compile(
    r"^(.*_)?((device|client|browser|cookie|reader|listener|player|subscriber|person|guest|shopper)"
    r"_?(id|key|no|hash|uuid|pk|code)|uuid|guid|gaid|idfa|oaid|imei|open_?id|union_?id)$"
)
"""A name of what one person uses, where no column is named a user."""
_PERSONS = 20
"""Fewest persons of such a column."""
_PERSON_SHARE = 0.5
"""Largest share of the rows that one person has; a device without an id has more."""
_DATED = re.compile(r"\d{4}-\d{2}-\d{2}")
"""A value that begins with a date."""
_DATE_PARTS = words_of("year month day hour yyyy mm dd hh y m d h week minute")
_KIND_WORDS = words_of("category cate genre department vertical section group")
"""Words of a column that says what kind of item a row is of."""
_DOMAIN_WORDS = words_of(
    "region country market city province state segment scene channel site daypart platform "
    "tenant locale language store shop app domain tab"
)
_CLOCK_WORDS = _DATE_PARTS | words_of("hourmin hhmm time weekday dow")
"""Words of a column that says when a row was: a kernel is tuned for where or for whom."""
_MAX_DOMAIN_VALUES = 50
"""Most distinct values of a column that is preferred as the domain key."""
_NULLS = 0.01
"""Largest share of nulls of a column of users."""
_SKIPPED = 0.03
"""Largest share of nulls of a column that names domains, where another can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogGuess:
    """A guessed catalogue of a log, each guess with its reason."""

    partition_keys: tuple[str, ...]
    tasks: tuple[LabelGuess, ...]
    features: tuple[FeatureGuess, ...]
    domain: Guess
    domain_keys: tuple[str, ...]
    domain_parent: tuple[str, ...]
    min_rows: int
    splits: Mapping[str, SplitCut]
    splits_why: str
    date_key: Guess | None = None
    date_unit: str | None = None
    """What the date key counts; None where its values are dates."""
    time_keys: tuple[str, ...] = ()
    time: TimeGuess | None = None
    row_id: Guess | None = None
    slice_by: Guess | None = None
    user: Guess | None = None
    fresh: tuple[FreshGuess, ...] = ()
    leaks: tuple[Guess, ...] = ()
    left_out: tuple[Guess, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """Notes on what a person should check."""


def guess_catalog(sample: LogSample) -> CatalogGuess:
    """Guess every part of a catalogue from folder names, footers and sampled rows.

    Raises:
        BadLog: no column can be a label, or none a feature or a domain.
    """
    columns = split_columns(sample)
    unlabelled = _unlabelled(sample, columns)
    whole, sample = sample, unlabelled.others if unlabelled else sample
    rows = sample.rows
    date_key, time, period_key = _times(sample)
    labels, constant = _labels(sample, _no_label(sample, columns, time))
    if not labels:
        raise BadLog(explain_no_label(sample))
    taken = _no_label(sample, columns, time) - {*sample.uneven}
    taken |= {g.column for g in labels} | {g.column for g in constant}
    ids = _identities(whole, sample, columns, date_key, taken)
    taken |= {ids.row_id.column} if ids.row_id else set()
    leaks = (*constant, *guess_leaks(rows, labels, skipped=taken))
    taken |= {leak.column for leak in leaks} | ids.requests
    parts = unlabelled.parts(columns[unlabelled.column]) if unlabelled else columns
    order = None if date_key or time else guess_order(sample, skipped=taken)
    counted = {order.column: order.why} if order else {}
    taken |= counted.keys()
    keys = _domain_keys(sample, date_key or period_key, {*columns, *counted})
    names = set(rows.schema.names) - (taken - {*keys})
    dated = day_columns(rows, names, date_key, time, order.numbers if order else None)
    features, left_out = _features(sample, taken - {*keys}, dated | counted)
    cut, splits_why = _cut(sample, unlabelled, parts, date_key, time, order)
    cut = validated_on_others(cut) if ids.user and ids.user.column in ids.apart else cut
    judged = cut["gate"].share * _rarer_share(labels[0])
    domain, domain_keys = _domain(sample, keys, features, judged, ids.user)
    shared = [f for f in features if f.column not in ids.apart]
    date_key, date_unit, time = _counted_days(order) if order else (date_key, None, time)
    return CatalogGuess(
        partition_keys=sample.partition_keys,
        tasks=labels,
        features=features,
        domain=domain,
        domain_keys=domain_keys,
        domain_parent=domain_keys[:1] if len(domain_keys) > 1 else (),
        min_rows=_min_rows(sample, domain_keys, cut),
        splits=cut,
        splits_why=splits_why,
        date_key=date_key,
        date_unit=date_unit,
        time_keys=_time_keys(sample, date_key, period_key),
        time=time,
        row_id=ids.row_id,
        slice_by=ids.slice_by,
        user=ids.user,
        fresh=guess_fresh(rows, shared, user=ids.user, domain_keys=domain_keys),
        leaks=leaks,
        left_out=left_out,
        notes=(*([unlabelled.note] if unlabelled else []), *notes_on(
            sample, labels, leaks, ids.user, columns, domain_keys, features,
            is_dated=bool(date_key or time or parts or order),
        )),
    )  # fmt: skip


def _counted_days(order: OrderGuess) -> tuple[Guess | None, str | None, TimeGuess | None]:
    """Return the date key, its unit and the event's time of a log whose days are numbers.

    A key of folders is the date key, and a column the event's time. Where no number is a day, there
    is neither.
    """
    if order.days is None:
        return None, None, None
    if order.is_folder:
        return Guess(column=order.column, why=order.why), "d", None
    time = TimeGuess(
        column=order.column,
        unit="d",
        time_zone="UTC",
        why=order.why,
        zone_why="numbers of days have no zone",
        is_elapsed=True,
    )
    return None, None, time


def _unlabelled(sample: LogSample, columns: Mapping[str, Parts]) -> UnlabelledPart | None:
    """Return the test part of a log whose rows have no label; None where they have one."""
    if not columns:
        return None
    name = split_column(columns)
    part = without_part(sample, name, columns[name])
    _, time, _ = _times(part.others)
    # Of all rows, -1 beside 0 and 1 stands for no label; of the others it is not seen.
    for rows in (part.others, sample):
        labels, _ = _labels(rows, _no_label(rows, columns, time))
        if has_no_label(sample, part, labels):
            return part
    return None


def _cut(
    sample: LogSample,
    unlabelled: UnlabelledPart | None,
    parts: Mapping[str, Parts],
    date_key: Guess | None,
    time: TimeGuess | None,
    order: OrderGuess | None,
) -> tuple[dict[str, SplitCut], str]:
    """Return the splits of the labelled rows, and why they are cut so.

    Args:
        sample: sampled rows without those of a part that has no labels.
        unlabelled: that part; None where every part has labels.
        parts: columns that say of which part a labelled row is.
        date_key: the partition key whose values are dates.
        time: the column of the event's time.
        order: days or weeks that are numbered.
    """
    cut, why = cut_splits(sample, date_key, time, parts, order)
    if unlabelled is None:
        return cut, why
    narrowed = unlabelled.narrowed(cut, days_of(sample, date_key, time, order))
    return narrowed, f"{why}; rows with {unlabelled.condition} have no label"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identities:
    """Columns that name a row, its user and its request."""

    row_id: Guess | None
    user: Guess | None
    apart: frozenset[str]
    """Ids that other parts of the log do not have."""
    slice_by: Guess | None

    @property
    def requests(self) -> set[str]:
        """Return the column of requests, if it is not the user's."""
        users = {self.user.column} if self.user else set()
        return ({self.slice_by.column} if self.slice_by else set()) - users


def _identities(
    whole: LogSample,
    sample: LogSample,
    columns: Mapping[str, Parts],
    date_key: Guess | None,
    taken: set[str],
) -> _Identities:
    """Return the columns that name a row, its user and its request.

    Args:
        whole: sampled rows of the whole log.
        sample: those without a part that has no labels.
        columns: columns that say of which part a row is.
        date_key: the partition key whose values are dates.
        taken: columns of other uses.
    """
    uneven = {*sample.uneven}
    row_id = _row_id(sample.rows, taken | uneven)
    taken = taken | ({row_id.column} if row_id else set())
    user = _user(sample.rows, taken | uneven)
    only_in_whole = {*whole.rows.schema.names} - {*sample.rows.schema.names}
    apart = _apart(whole, columns, date_key, taken | only_in_whole)
    slice_by = _one_slice(sample.rows, taken | uneven, user, apart)
    return _Identities(row_id=row_id, user=user, apart=apart, slice_by=slice_by)


def _no_label(sample: LogSample, columns: Mapping[str, Parts], time: TimeGuess | None) -> set[str]:
    """Return the columns that are no labels: keys, parts, the time, and what some files lack."""
    return {
        *sample.partition_keys,
        *columns,
        *([time.column] if time else []),
        *sample.uneven,
    }


def _features(
    sample: LogSample, skipped: set[str], known: Mapping[str, str]
) -> tuple[tuple[FeatureGuess, ...], tuple[Guess, ...]]:
    """Return the features, and the columns that are none.

    Args:
        sample: sampled rows.
        skipped: columns of other uses.
        known: columns that are no features -> why.

    Raises:
        BadLog: no column can be a feature.
    """
    features, left_out = guess_features(
        sample.rows, skipped=skipped | known.keys(), uneven=sample.uneven
    )
    others = {name: _unread(name, kind) for name, kind in sample.unread.items()}
    others |= known
    left_out += tuple(Guess(column=name, why=why) for name, why in others.items())
    if not features:
        raise BadLog(
            f"no column below {sample.uri} can be a feature: "
            + "; ".join(f"{g.column}: {g.why}" for g in left_out)
        )
    return features, left_out


def _unread(name: str, kind: pa.DataType) -> str:
    """Return why a column that no feature reads is left out, by its name or type."""
    if is_index(name):
        return "an index that pandas wrote"
    if pa.types.is_null(kind):
        return "it is null in every row"
    if is_bytes(kind):
        return "its bytes are no UTF-8 text, or all are null; write ids as hexadecimal text"
    if pa.types.is_struct(kind):
        return "a struct, whose fields are columns of their own"
    if kind_of(kind) == "list of other" and pa.types.is_struct(kind.value_type):
        fields = ", ".join(f"{name}.{field.name}" for field in kind.value_type)
        return f"a list of structs; write each field as a list of its own ({fields})"
    what = f"no feature reads a column of type {kind}"[:80]
    return f"{what}; write the fields as columns of their own" if pa.types.is_nested(kind) else what


def _labels(
    sample: LogSample, skipped: set[str]
) -> tuple[tuple[LabelGuess, ...], tuple[Guess, ...]]:
    """Return the labels of the surest kind that the log has, and answers of one class alone."""
    rows = sample.rows
    scale = sample.snapshot.rows / len(rows)
    if named := guess_labels(rows, skipped=skipped, is_named=True):
        return without_one_class(named)
    if counts := guess_counts(rows, skipped=skipped):
        shown = shown_counts(rows, skipped=skipped)
        return (counts,), tuple(
            Guess(column=n, why="it counts what a row stands for") for n in shown
        )
    feedback = guess_feedback(rows, skipped=skipped)
    grade = guess_grade(rows, skipped=skipped)
    labels = (
        guess_events(rows, skipped=skipped, scale=scale)
        or guess_times_of_answers(rows, skipped=skipped)
        or ((feedback,) if feedback else ())
        or guess_labels(rows, skipped=skipped, is_named=False, properties=False)
        or ((grade,) if grade else ())
        or guess_codes(rows, skipped=skipped)
        or guess_labels(rows, skipped=skipped, is_named=False)
    )
    return labels, ()


# ---------------------------------------------------------------- keys and time


def _times(sample: LogSample) -> tuple[Guess | None, TimeGuess | None, Guess | None]:
    """Return the key of dates, the event's time, and the key of periods beside such a time.

    Where event times tell the day, folders of weeks or months do not.
    """
    date_key = _date_key(sample)
    if date_key is None or splits.period_of(sample.partitions[date_key.column]) == "day":
        return date_key, guess_time(sample, date_key), None
    time = guess_time(sample, None)
    return (None, time, date_key) if time else (date_key, None, None)


def _date_key(sample: LogSample) -> Guess | None:
    """Return the partition key whose values are dates."""
    for key in sample.partition_keys:
        values = [v for v in sample.partitions[key] if v is not None]
        dates = [d for d in map(splits.parse_date, values) if d]
        is_dated = len(dates) >= 0.9 * len(values) and not splits.short_days(values)
        if values and is_dated:
            period = splits.period_of(values)
            what = "dates" if period == "day" else f"{period}s, which stand for their last days"
            what += f" ({values[0]} is read as {dates[0]})" if period == "month" else ""
            why = f"{len(dates):,} of {len(values):,} folder names are {what}"
            return Guess(column=key, why=why)
    return None


def _time_keys(
    sample: LogSample, date_key: Guess | None, period_key: Guess | None
) -> tuple[str, ...]:
    """Return the partition keys besides the date that are named as parts of a time, or are periods.

    Args:
        sample: sampled rows.
        date_key: the partition key whose values are dates.
        period_key: the one whose values are weeks or months, where event times tell the days.
    """
    return tuple(
        key
        for key in sample.partition_keys
        if (words_of(key) & _DATE_PARTS or (period_key and key == period_key.column))
        and not (date_key and key == date_key.column)
    )


def _domain_keys(
    sample: LogSample, date_key: Guess | None, skipped: Collection[str]
) -> tuple[str, ...]:
    """Return the partition keys that may name domains.

    A kernel is tuned on rows of one part of the log (train) and tried on another (test), so a
    column of such parts, which is skipped, names none.
    """
    keys = (key for key in sample.partition_keys if key not in skipped)
    return tuple(key for key in keys if _is_domain_key(sample, key, date_key))


def _is_domain_key(sample: LogSample, key: str, date_key: Guess | None) -> bool:
    if (date_key and key == date_key.column) or words_of(key) & _DATE_PARTS:
        return False
    values = [value for value in sample.partitions[key] if value is not None]
    is_dated = sum(bool(_DATED.match(value)) for value in values) > len(values) / 2
    return bool(values) and not is_dated and not splits.short_days(values)


# ---------------------------------------------------------------- identities


def _ids(rows: pa.Table, taken: set[str]) -> list[str]:
    kinds = {n: kind_of(rows.schema.field(n).type) for n in rows.schema.names}
    return [n for n, kind in kinds.items() if kind in ("whole", "text") and n not in taken]


def _row_id(rows: pa.Table, taken: set[str]) -> Guess | None:
    """Return the id column that never repeats; of several, one whose name says so."""
    unique = []
    for name in _ids(rows, taken):
        known = rows.column(name).drop_null()
        # Few known values are unique by chance. A column that is named so may have more nulls.
        least = len(rows) / (10 if words_of(name) & _ROW_WORDS else 2)
        if len(known) >= least and pc.count_distinct(known).as_py() == len(known):
            unique.append(name)
    unique = [name for name in unique if not _is_time_or_words(rows, name)]
    if not unique or len(rows) < 100:
        return None
    named = [n for n in unique if words_of(n) & _ROW_WORDS]
    name = (named or unique)[0]
    nulls = rows.column(name).null_count
    why = f"no value repeats in {len(rows) - nulls:,} sampled rows"
    return Guess(column=name, why=f"{why}; {nulls:,} are null" if nulls else why)


def _is_time_or_words(rows: pa.Table, name: str) -> bool:
    """Return whether a column is a time, or text of words or lists: these repeat in more rows."""
    column = rows.column(name)
    if kind_of(column.type) != "text":
        return bool(words_of(name) & TIME_WORDS)
    return bool(
        pc.mean(pc.match_substring_regex(column, r"[\s,]").cast(pa.float64())).as_py() > 0.5
    )


def _apart(
    sample: LogSample,
    columns: Mapping[str, Mapping[str, tuple[str, ...]]],
    date_key: Guess | None,
    taken: set[str],
) -> frozenset[str]:
    """Return the ids whose values are new ones in the rows that a split column tests on."""
    if not columns or date_key:
        return frozenset()
    name = split_column(columns)
    return ids_apart(sample, name, columns[name], _ids(sample.rows, taken))


def _one_slice(
    rows: pa.Table, taken: set[str], user: Guess | None, apart: Collection[str]
) -> Guess | None:
    """Return the id whose rows belong in one slice: a user's where the log was cut by users."""
    if user and user.column in apart:
        return Guess(column=user.column, why="the log was cut by it: its test rows have others")
    return _request(rows, taken, user)


def _request(rows: pa.Table, taken: set[str], user: Guess | None) -> Guess | None:
    """Return the id of a request or session of one user, whose rows belong in one slice."""
    for name in _ids(rows, taken):
        column = rows.column(name)
        words = words_of(name)
        is_named = (words & _REQUEST_WORDS and not words & _OF_ITEM) or words in _REQUESTS
        if is_named and not column.null_count:
            each = len(rows) / max(pc.count_distinct(column).as_py(), 1)
            if 1 < each <= _MAX_OF_REQUEST and _has_one_user(rows, name, user):
                return Guess(column=name, why=f"its name; {each:.1f} sampled rows share a value")
    return None


def _has_one_user(rows: pa.Table, name: str, user: Guess | None) -> bool:
    """Return whether nearly all rows have a value that no other user's rows have."""
    if user is None or user.column == name:
        return True
    groups = rows.select([name, user.column]).group_by(name)
    counts = groups.aggregate([(user.column, "count_distinct"), ([], "count_all")])
    is_one = pc.less_equal(counts.column(f"{user.column}_count_distinct"), 1)
    alone = pc.sum(pc.if_else(is_one, counts.column("count_all"), 0)).as_py()
    return bool(alone >= _ONE_USER * len(rows))


def _user(rows: pa.Table, taken: set[str]) -> Guess | None:
    """Return the column of users; without one that is named so, the one of their devices."""
    names = {
        name: re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
        for name in _ids(rows, taken)
        if rows.column(name).null_count <= _NULLS * len(rows)
    }
    named = [n for n, plain in names.items() if _USER.match(plain) and not words_of(n) & _OTHERS]
    for name in sorted(named, key=lambda name: not _PLAIN_USER.match(names[name])):
        users = pc.count_distinct(rows.column(name)).as_py()
        if users > 1:
            return Guess(column=name, why=f"its name; {users:,} users in the sample")
    for name in (name for name, plain in names.items() if _PERSON.match(plain)):
        counts = pc.value_counts(rows.column(name).drop_null()).field("counts").to_numpy()
        if len(counts) >= _PERSONS and counts.max() <= _PERSON_SHARE * len(rows):
            why = f"no column is named a user; {len(counts):,} of these are in the sample"
            return Guess(column=name, why=why)
    return None


# ---------------------------------------------------------------- domains and splits


def _rarer_share(label: LabelGuess) -> float:
    """Return the share of rows with the rarer answer of a label."""
    share = label.positives / max(label.rows, 1)
    return min(share, 1 - share)


def _domain(
    sample: LogSample,
    keys: tuple[str, ...],
    features: Sequence[FeatureGuess],
    judged: float,
    user: Guess | None,
) -> tuple[Guess, tuple[str, ...]]:
    """Return partition keys of several values, else a column of few, else a key of one value.

    Args:
        sample: sampled rows.
        keys: partition keys that may name domains.
        features: features of the log; those that some files lack name no domain.
        judged: share of a domain's rows that lie in the gate and have the rarer answer.
        user: the column of users, which names domains only where no other column can.
    """
    if cut := tuple(key for key in keys if len(sample.partitions[key]) > 1):
        listing = ", ".join(f"{k} ({len(sample.partitions[k]):,} values)" for k in cut)
        return Guess(column=cut[0], why=f"the folders are cut by {listing}"), cut
    scale = sample.snapshot.rows / len(sample.rows)
    best: tuple[bool, bool, bool, bool, bool, bool, float, float, str] | None = None
    for feature in features:
        column = sample.rows.column(feature.column)
        if feature.kind != "categorical" or feature.is_optional:
            continue
        # A null names no domain.
        counts = pc.value_counts(column.drop_null()).field("counts").to_numpy()
        is_few = 2 <= len(counts) <= _MAX_DOMAIN_VALUES
        words = words_of(feature.column)
        # Tens, so that small differences do not outweigh how evenly rows are spread.
        decided = counts[counts * scale * judged >= MIN_POSITIVES].sum() / len(column)
        rank = (
            # Rows without a domain are skipped, and jobs refuse a log that has many of them.
            column.null_count <= _SKIPPED * len(column),
            is_few and not column.null_count,
            not (user and feature.column == user.column),
            not words & (_CLOCK_WORDS | NUMBER_WORDS),
            bool(words & _DOMAIN_WORDS),
            bool(words & _KIND_WORDS),
            round(float(decided), 1),
            -float(counts.max() / counts.sum()) if len(counts) else -1.0,
            feature.column,
        )
        best = max(best or rank, rank)
    if keys and not (best and best[1]):
        why = f"one folder names it, and no column has 2 to {_MAX_DOMAIN_VALUES} values"
        return Guess(column=keys[0], why=why), keys[:1]
    if best is None:
        raise BadLog(
            f"no column below {sample.uri} can name a domain; a kernel is tuned for each value of "
            "a column of text or whole numbers, such as a region"
        )
    name = best[-1]
    count = pc.count_distinct(sample.rows.column(name)).as_py()
    why = f"no folder names a domain; {name} has {count:,} values"
    return Guess(column=name, why=why), (name,)


def _min_rows(sample: LogSample, keys: Sequence[str], cut: Mapping[str, SplitCut]) -> int:
    """Return half the tuning rows of a median domain, in tens, between 50 and 500."""
    counts = sample.rows.group_by(list(keys)).aggregate([([], "count_all")]).column("count_all")
    scale = sample.snapshot.rows / len(sample.rows)
    typical = float(np.median(counts.to_numpy())) * scale * cut["tune"].share
    return int(np.clip(typical / 2, 50, 500) // 10 * 10)
