"""Guess which columns of a log are labels, of what kind, and which columns leak them."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import rankdata

from iak.pipeline.data.guess_answers import Answers, answers_of
from iak.pipeline.data.log_sample import Floats, kind_of, numbers
from iak.pipeline.data.task_labels import read_label
from iak.schemas.task import TaskSpec


def words_of(name: str) -> frozenset[str]:
    """Split a column's name into its lower-case words, at underscores, dots and capitals.

    Words with letters beyond a to z are left out: no list of words has them.
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return frozenset(w for w in re.split(r"[\W_]+", spaced.lower()) if w and w.isascii())


CLICK = words_of("click clicked clicks clk ctr tap tapped")
CONVERSION = words_of(
    "conversion converted convert conv cvr ctcvr order ordered orders cart addtocart purchase "
    "purchased buy bought pay paid payment install installed checkout booking booked lead "
    "signup register registered subscribe subscribed deal transaction"
)
OTHER = words_of(
    "label target y like liked share shared follow followed favorite favourite outcome "
    "response finish finished complete completed engaged comment commented comments forward "
    "forwarded repost reposted retweeted replied hate hated dislike disliked collect collected "
    "bookmark bookmarked download downloaded skip skipped visit visited"
)
_DONE = words_of("read watched played listened")
"""Words of an answer, where they and words such as `is` are the whole name."""
_AUXILIARY = words_of("is was has label y")
_ELSEWHERE = words_of("author profile avatar comment comments creator publisher")
"""Words of a click that is on something beside what was shown."""
_AGAINST = words_of("skip skipped hate hated dislike disliked hide hidden")
"""Words of an answer that turns something down, and is no click."""
_NEGATED = words_of("not no non un never")
"""Words of the opposite of an answer."""
_FEEDBACK = words_of(
    "watch watched watching dwell play played listen listened stay read reading active spent"
)
"""Words of a column that says how much of something a user took."""
_AMOUNTS = words_of("time ratio rate percent pct progress duration seconds secs ms dwell")
"""Words of an amount."""
_OF_MANY = words_of("avg average mean total sum count cnt num max min median std")
"""Words of a number that sums up many rows."""
NOT_A_LABEL = words_of(
    "before prev previous hist history past last ever first prior count verified"
)
_OF_IDS = words_of("user item product movie video book")
"""Words of a column of whole numbers that may be ids, besides those that end with `id`."""
_SAID = words_of("reply retweet")
_TIMES = words_of("time ts timestamp at date datetime")
"""Words of a column that says when something happened."""
OTHER_TIMES = words_of("birth born birthday dob register registered registration signup expire")
"""Words of a date of a person or a thing, and not of what happened in a row."""
_KNOWN = words_of(
    "verified organic premium member vip test train fold session adult weekend holiday shuffle"
)
"""Words of a column that says what is known of a row, which nobody answered."""
_EXPOSED = words_of("exposed exposure viewable")
"""Words of a column that says whether what was chosen was seen in the end."""
_PURE = 0.995
"""Least share of positives among the rows of a value that only positives have."""
_PURE_ROWS = 30
"""Least rows of such a value."""
_PURE_SHARE = 0.3
"""Least share of the positives that such values must have before their column looks like a leak."""
_ASIDE_ROWS = 100
"""Least rows beside a column's commonest value that, all positive, make it look like a leak."""
_ABSENT = 0.995
"""Share of the positives without a value, from which on a column that others have looks like a
leak."""
_MOST_POSITIVE = 0.7
"""Share of positives from which on values that only positives have say little."""
_PERFECT_AUC = 0.99
"""AUC of a column alone from which on it looks like a leak."""
PROPERTY_AUC = 0.97
"""AUC of an id from which on a binary column is a property of what has the id."""
_ROWS_OF_A_VALUE = 10
"""Fewest mean rows of a value, where a column of more values is compared value by value."""
_MAX_COMPARED_VALUES = 100
"""Distinct values up to which a column is compared value by value, however few rows they have."""
_EXCEPTIONS = 0.01
"""Share of rows that may contradict an implication."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """A column, and the reason of a guess about it."""

    column: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelGuess:
    """A label, its kind, and the reason."""

    column: str
    kind: Literal["click", "conversion", "binary"]
    positives: int
    rows: int
    why: str
    at_least: float | None = None
    """Bound from which on the column's number is a 1."""
    positive: tuple[str | int, ...] = ()
    """The column's values that are a 1."""
    has_value: bool = False
    """Whether any value of the column is a 1, and a null a 0."""
    reading: str = ""
    """Why the column is read so; empty where it is a label as it is."""
    missing: tuple[str | int, ...] = ()
    """The column's values that stand for no value."""
    is_unsure: bool = False
    """Whether a person must say which values are a 1, because nothing in the log does."""
    is_named: bool = True
    """Whether the column's name says that it is a label."""
    name: str | None = None
    """Name of the task; None takes the one that its kind or its column gives."""

    @property
    def shown(self) -> str:
        """Return the label for a message: the task's name where the column has several."""
        return self.name or self.column

    @property
    def task(self) -> TaskSpec:
        """Return the task that reads the label, without its kind."""
        return TaskSpec.model_validate(
            {
                "label": self.column,
                "at_least": self.at_least,
                "positive": self.positive,
                "has_value": self.has_value,
                "missing": self.missing,
            }
        )

    def of(self, rows: pa.Table) -> Floats:
        """Return the label of each row: 1, 0, or NaN where there is none."""
        values = _whole_column(rows, self.column)
        return numbers(pa.chunked_array([read_label(values, self.task)]))


def _whole_column(rows: pa.Table, name: str) -> pa.Array:
    column = rows.column(name).combine_chunks()
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def guess_labels(
    rows: pa.Table,
    *,
    skipped: Collection[str] = (),
    is_named: bool | None = None,
    properties: bool = True,
) -> tuple[LabelGuess, ...]:
    """Return the columns of two answers that are labels, the click first.

    Args:
        rows: sampled rows.
        skipped: columns that are known to be something else.
        is_named: True takes the columns whose names say label, False those that their order and
            what they imply show; None takes the first kind where there is one.
        properties: take the last column of two answers even where each is a property of an id.
    """
    answers = _answers(rows, skipped)
    named = [name for name in answers if _is_named_a_label(name)]
    if is_named or (named and is_named is None):
        return _kinds(_without_opposites({n: answers[n] for n in named}), is_named=True)
    others = {n: a for n, a in answers.items() if not words_of(n) & _KNOWN}
    # A number of 0 and 1 is a label more often than a word: a member is Y or N too.
    plain = {n: a.values for n, a in others.items() if not (a.positive or a.at_least)}
    values = plain or {n: a.values for n, a in others.items()}
    chosen = _by_structure(rows, values) or (list(values)[-1:] if properties else [])
    return _kinds({name: answers[name] for name in chosen}, is_named=False)


def guess_times_of_answers(
    rows: pa.Table, *, skipped: Collection[str] = ()
) -> tuple[LabelGuess, ...]:
    """Return columns with the time of an answer, null where there was none, as labels.

    Args:
        rows: sampled rows.
        skipped: columns that are known to be something else.
    """
    answers: dict[str, Answers] = {}
    for name in rows.schema.names:
        words, column = words_of(name), rows.column(name)
        is_named = words & (CLICK | CONVERSION | OTHER | _SAID) and words & _TIMES
        share = column.null_count / max(len(column), 1)
        if name in skipped or not is_named or not 0 < share < 1:
            continue
        if words & (NOT_A_LABEL | OTHER_TIMES):
            continue
        if kind_of(column.type) in ("time", "whole", "float", "text"):
            answers[name] = Answers(
                values=_has_value(column).astype(float),
                has_value=True,
                why="it is a time, and null where nothing happened",
            )
    return _kinds(answers, is_named=True)


def is_feedback(name: str) -> bool:
    """Return whether a column's name says how much a user watched, read or heard in this row."""
    words = frozenset(
        part
        for word in words_of(name)
        for part in re.sub(r"(?<=[a-z])(time|ratio|duration|spent)$", r" \1", word).split()
    )
    is_amount = bool(words & _FEEDBACK and words & _AMOUNTS)
    return is_amount and not words & (NOT_A_LABEL | _OF_MANY)


def _is_named_a_label(name: str) -> bool:
    words = words_of(name)
    is_done = bool(words & _DONE) and words <= _DONE | _AUXILIARY
    return is_done or (bool(words & (CLICK | CONVERSION | OTHER)) and not words & NOT_A_LABEL)


def _without_opposites(answers: Mapping[str, Answers]) -> dict[str, Answers]:
    """Return the answers without those that say no where another one says yes."""
    return {
        name: own
        for name, own in answers.items()
        if not words_of(name) & _NEGATED
        or not any(
            _are_complements(own.values, other.values) for o, other in answers.items() if o != name
        )
    }


def _answers(rows: pa.Table, skipped: Collection[str]) -> dict[str, Answers]:
    """Return the columns of two answers, or of one where the name says label."""
    by_column = {
        name: answers_of(rows.column(name), is_label=_is_named_a_label(name))
        for name in rows.schema.names
        if name not in skipped
    }
    return {name: answers for name, answers in by_column.items() if answers}


def _by_structure(rows: pa.Table, values: Mapping[str, Floats]) -> list[str]:
    """Choose labels where no name says so: the last binary columns, without properties of an id.

    Most binary features are a property of something that has an id (an item is free, a user has
    children), or the complement of another feature. A label is neither. Writers put labels last.
    """
    ids = [n for n in rows.schema.names if n not in values and may_be_id(rows, n)]
    free = [
        name
        for name in values
        if not any(_are_complements(values[name], values[o]) for o in values if o != name)
        and not any(separates(rows.column(own), values[name], PROPERTY_AUC) for own in ids)
    ]
    if not free:
        return []
    order = rows.schema.names
    run = [free[-1]]
    for name in reversed(free[:-1]):
        if order.index(run[0]) - order.index(name) != 1:
            break
        run.insert(0, name)
    return _tied_to_the_last(run, values)


def may_be_id(rows: pa.Table, name: str) -> bool:
    """Return whether a column has text, or whole numbers and a name of an id."""
    kind = kind_of(rows.schema.field(name).type)
    words = words_of(name)
    is_id = bool(words & _OF_IDS) or any(word.endswith("id") for word in words)
    return kind == "text" or (kind == "whole" and is_id)


def _tied_to_the_last(run: Sequence[str], values: Mapping[str, Floats]) -> list[str]:
    """Keep columns that imply the last one or follow from it, directly or through others."""
    tied = {run[-1]}
    for _ in run:
        tied |= {
            name
            for name in run
            if any(
                _implies(values[name], values[o]) or _implies(values[o], values[name]) for o in tied
            )
        }
    return [name for name in run if name in tied]


def _are_complements(a: Floats, b: Floats) -> bool:
    known = ~np.isnan(a) & ~np.isnan(b)
    return bool(known.any() and (a[known] + b[known] == 1).mean() > 1 - _EXCEPTIONS / 10)


def _implies(a: Floats, b: Floats) -> bool:
    """Return whether positives of `a` are positives of `b`, with few exceptions."""
    positive = (a == 1) & ~np.isnan(b)
    return bool(positive.any() and (b[positive] == 1).mean() >= 1 - _EXCEPTIONS)


def _kinds(answers: Mapping[str, Answers], *, is_named: bool) -> tuple[LabelGuess, ...]:
    """Choose the click (by name, else the label that others imply), and what happens after it."""
    values = {name: own.values for name, own in answers.items()}
    positives = {name: int((v == 1).sum()) for name, v in values.items()}
    by_name = [
        n for n in values if words_of(n) & CLICK and not words_of(n) & (CONVERSION | _ELSEWHERE)
    ]
    implied = [
        n
        for n in values
        if any(
            _implies(values[o], values[n]) and positives[o] < positives[n] for o in values if o != n
        )
    ]
    candidates = by_name or [name for name in implied if not words_of(name) & _AGAINST]
    click = max(candidates, key=lambda n: positives[n], default=None)
    no_click = CONVERSION | _AGAINST
    if click is None and len(values) == 1 and not words_of(next(iter(values))) & no_click:
        click = next(iter(values))
    reason = "its name and its two values" if is_named else "the last column of two values alone"
    labels: list[LabelGuess] = []
    for name, column in values.items():
        kind: Literal["click", "conversion", "binary"] = "binary"
        why = "its name and its nulls" if answers[name].has_value else reason
        if name == click:
            kind = "click"
            after = [o for o in values if o != name and _implies(values[o], column)]
            why += f"; only where it is 1 happens {', '.join(after)}" if after else ""
        elif click is not None and _implies(column, values[click]):
            kind, why = "conversion", f"{why}; it is 1 only where {click} is 1"
        known = int((~np.isnan(column)).sum())
        labels.append(
            LabelGuess(
                column=name,
                kind=kind,
                positives=positives[name],
                rows=known,
                why=why,
                at_least=answers[name].at_least,
                positive=answers[name].positive,
                has_value=answers[name].has_value,
                missing=answers[name].missing,
                reading=answers[name].why,
                is_named=is_named,
            )
        )
    return tuple(sorted(labels, key=lambda label: label.kind != "click"))


def without_one_class(
    labels: Sequence[LabelGuess],
) -> tuple[tuple[LabelGuess, ...], tuple[Guess, ...]]:
    """Return the labels that a task can learn from, and columns with one answer alone.

    These are no features either, since an answer is known after the event. Where all are so, all
    are kept.

    Args:
        labels: labels of columns of their own.
    """
    whys = {
        g.column: f"an answer that {'every' if g.positives else 'no'} sampled row has"
        for g in labels
        if g.positives in (0, g.rows)
    }
    if len(whys) == len(labels):
        return tuple(labels), ()
    return tuple(g for g in labels if g.column not in whys), tuple(
        Guess(column=column, why=why) for column, why in whys.items()
    )


def guess_leaks(
    rows: pa.Table, labels: Sequence[LabelGuess], *, skipped: Collection[str] = ()
) -> tuple[Guess, ...]:
    """Return columns that leak a label.

    Such a column predicts it almost perfectly alone, or has values that only positives have. Ids
    with many values are left out: that an item has a rate of its own is not a leak.

    Args:
        rows: sampled rows.
        labels: labels that a column may leak.
        skipped: columns that no feature will read.
    """
    leaks: list[Guess] = []
    own = {label.column for label in labels} | set(skipped)
    by_label = [(label.shown, label.of(rows)) for label in labels]
    for name in rows.schema.names:
        if name in own:
            continue
        why = next(
            filter(None, (_leaks(rows.column(name), y, label) for label, y in by_label)), None
        )
        if why is None and is_feedback(name):
            why = "its name: how much was watched, read or heard is known after the event"
        if why is None and words_of(name) & {"propensity", "ips"}:
            why = "its name: a probability that the serving policy logged"
        if (
            why is None
            and words_of(name) & _EXPOSED
            and answers_of(rows.column(name), is_label=False)
        ):
            why = "its name: whether it was seen is known after it was chosen"
        if why:
            leaks.append(Guess(column=name, why=why))
    return tuple(leaks)


def _leaks(column: pa.ChunkedArray, y: Floats, label: str) -> str | None:
    """Return why a column looks like a leak of a label; None where it does not."""
    kind = kind_of(column.type)
    if kind not in ("bool", "whole", "float", "text"):
        return None
    known = ~np.isnan(y)
    rate = float(y[known].mean()) if known.any() else 0.0
    if min(y[known].sum(), (1 - y[known]).sum()) < _PURE_ROWS:
        return None
    has_value = _has_value(column)[known]
    if not has_value.all() and auc_of_scores(y[known], has_value.astype(float)) >= _PERFECT_AUC:
        return f"whether it has a value says {label}"
    if y[known & ~_has_value(column)].sum() >= _ABSENT * y[known].sum() and has_value.mean() > 0.5:
        return f"it has no value where {label} is 1"
    codes, count = codes_of(column)
    usual = np.bincount(codes[known], minlength=count).argmax()
    beside = y[known & (codes != usual)]
    if len(beside) >= _ASIDE_ROWS and beside.mean() >= _PURE and rate < _MOST_POSITIVE:
        value = column[int(np.flatnonzero(codes == usual)[0])].as_py()
        return f"{label} is 1 wherever it is not {'null' if value is None else repr(value)}"
    if kind != "text" and count > _MAX_COMPARED_VALUES:
        score = auc_of_scores(y[known], np.nan_to_num(numbers(column), nan=-np.inf)[known])
        if max(score, 1 - score) >= _PERFECT_AUC:
            return f"alone it ranks {label} with an AUC of {max(score, 1 - score):.3f}"
    # Values of few rows may name rows that the log has more than once.
    is_common = count <= max(_MAX_COMPARED_VALUES, len(y) / _ROWS_OF_A_VALUE)
    if is_common and separates(column, y, _PERFECT_AUC):
        return f"its value alone says {label} (AUC at least {_PERFECT_AUC})"
    if kind == "text" and count > _MAX_COMPARED_VALUES:
        return None
    counts = np.bincount(codes[known], minlength=count)
    hits = np.bincount(codes[known], weights=y[known], minlength=count)
    pure = (counts >= _PURE_ROWS) & (hits >= _PURE * counts)
    share = float(hits[pure].sum() / hits.sum())
    if share >= _PURE_SHARE and rate < _MOST_POSITIVE:
        return f"{share:.0%} of the positives of {label} have values that no negative has"
    return None


def _has_value(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Return whether each row has a value; an empty text is none."""
    is_there = column.is_valid()
    if kind_of(column.type) == "text":
        is_there = pc.and_(is_there, pc.fill_null(pc.not_equal(column, ""), False))
    mask: npt.NDArray[np.bool_] = is_there.to_numpy(zero_copy_only=False)
    return mask


def separates(column: pa.ChunkedArray, y: Floats, least: float) -> bool:
    """Return whether the rate of each value ranks `y` with at least this AUC, on other rows.

    Args:
        column: any column.
        y: labels, NaN where unknown.
        least: the AUC.
    """
    codes, count = codes_of(column)
    known = ~np.isnan(y)
    codes, y = codes[known], y[known]
    # Rates are fitted on every other run of 64 rows, not on every other row, because rows of one
    # request are not independent.
    is_fit = np.arange(len(y)) // 64 % 2 == 0
    if len(y) < 2 * _PURE_ROWS or is_fit.all():
        return False
    counts = np.bincount(codes[is_fit], minlength=count)
    hits = np.bincount(codes[is_fit], weights=y[is_fit], minlength=count)
    rate = float(y[is_fit].mean())
    scores = (hits + rate) / (counts + 1)
    return auc_of_scores(y[~is_fit], scores[codes[~is_fit]]) >= least


def auc_of_scores(y: Floats, scores: Floats) -> float:
    """Return the AUC, where ties count one half; 0.5 where one class is missing.

    `pipeline/stats` has another one, which this package may not import.
    """
    positives = float(y.sum())
    negatives = len(y) - positives
    if not (positives and negatives):
        return 0.5
    ranks = float(rankdata(scores)[y == 1].sum())
    return (ranks - positives * (positives + 1) / 2) / (positives * negatives)


def codes_of(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], int]:
    """Return the code of each value, from 0 on with null last, and the number of codes."""
    coded = column.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks() if coded.num_chunks != 1 else coded.chunk(0)
    words = len(coded.dictionary)
    codes = coded.indices.cast(pa.int64()).fill_null(words).to_numpy(zero_copy_only=False)
    return codes, words + 1
