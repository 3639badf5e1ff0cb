"""Guess labels from a column of events, in which every row is one thing that a user did.

pv fav cart buy         a task for each of fav, cart and buy; pv is a view, which is no answer;
                        such words also tell a column that has no name
1 2 3 4                 codes, whose meaning is not known: one task of all but the commonest
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data.guess_labels import NOT_A_LABEL, LabelGuess, words_of
from iak.pipeline.data.log_sample import kind_of

_NAMES = words_of("event events action actions behavior behaviour activity interaction operation")
"""Words of a column of events."""
_MAYBE = words_of("type kind label target feedback response outcome result status")
"""Words of a column that has events where every value of it is one."""
_UNDONE = words_of(
    "remove removed delete deleted cancel cancelled canceled unfav uncollect unlike unfollow "
    "dislike skip skipped refund refunded return returned hide ignore ignored none no not failed "
    "abandoned"
)
"""Words of an event that takes another one back, or of none."""
_ORDERING = words_of("sort sorting")
"""Words of an event that puts what is shown in an order, which is no purchase."""
_SHOWN = words_of(
    "impression impressions imp impr expose exposed exposure show shown display displayed skip "
    "skipped ignore ignored none no not"
)
"""Words of an event of which nothing is known but that it was shown."""
_BEGUN = words_of("checkout begin begun start started info initiate initiated shipping")
"""Words of a step towards a purchase."""
_CLASSES: Mapping[str, frozenset[str]] = {
    "purchase": words_of(
        "buy buys bought purchase purchased purchases order ordered orders transaction pay paid "
        "payment conversion convert converted sale sold"
    ),
    "favourite": words_of(
        "fav favs favor favour favorite favourite collect collected wish wishlist bookmark save "
        "saved"
    ),
    "cart": words_of("cart carts addtocart basket addtobasket added"),
    "share": words_of("share shared forward repost"),
    "like": words_of("like liked likes"),
    "follow": words_of("follow followed subscribe subscribed"),
    "finish": words_of("finish finished complete completed"),
    "comment": words_of("comment commented reply review"),
    "download": words_of("download downloaded install installed"),
    "signup": words_of("signup register registered registration"),
    "checkout": words_of("checkout"),
    "click": words_of("click clicked clicks clk clickout tap"),
}
"""Name of a task -> words of its events. An event has the first class that names one of its
words."""
_SEEN = words_of(
    "view views viewed viewing pv pageview page impression impressions imp impr expose exposed "
    "exposure show shown display displayed browse visit seen detail open search scroll sent "
    "delivered"
)
"""Words of an event that only says that something was seen."""
_NO_NAME = re.compile(r"_?(c|col|column|field|f|v|var|x)?_?\d+")
"""A name that a reader gives to a column of a file without names."""
_MAX_EVENTS = 20
"""Most distinct events."""
_MIN_ROWS = 100
"""Fewest rows of the log that an event needs for a task of its own."""


def guess_events(
    rows: pa.Table, *, skipped: Collection[str] = (), scale: float = 1.0
) -> tuple[LabelGuess, ...]:
    """Return a task for each thing that users did, the commonest first; none without such a column.

    Rows are single events, so no task is a conversion: a purchase is a row of its own, and not the
    row of its click. Where every event is an answer, the commonest one is what the others are
    compared with.

    Args:
        rows: sampled rows.
        skipped: columns that are known to be something else.
        scale: rows of the log for each sampled one.
    """
    for name in rows.schema.names:
        counts = _events(rows.column(name), "text") if name not in skipped else None
        if counts is None or words_of(name) & NOT_A_LABEL:
            continue
        classes = {event: _class_of(event) for event in counts}
        is_known = all(own is not None for own in classes.values())
        is_event = words_of(name) & _MAYBE or has_no_name(name) or name in counts
        if words_of(name) & _NAMES or (is_event and is_known):
            by_class = _by_class(counts, classes, scale)
            if by_class:
                return _tasks(name, counts, by_class)
    return ()


def has_no_name(name: str) -> bool:
    """Return whether a column's name is only its number, as `_c3` and `3` are."""
    return bool(_NO_NAME.fullmatch(name.lower()))


def guess_codes(rows: pa.Table, *, skipped: Collection[str] = ()) -> tuple[LabelGuess, ...]:
    """Return one task of a column of events whose codes say nothing: all but the commonest.

    A column that is named `type` alone may have the type of something else than events, so only
    its numbers are taken, and it comes last.
    """
    names = [n for n in rows.schema.names if n not in skipped and not words_of(n) & NOT_A_LABEL]
    named = [name for name in names if words_of(name) & _NAMES]
    types = [
        n
        for n in names
        if words_of(n) == {"type"} and kind_of(rows.schema.field(n).type) == "whole"
    ]
    for name in (*named, *types):
        kind = kind_of(rows.schema.field(name).type)
        counts = _events(rows.column(name), kind) if kind in ("text", "whole") else None
        if counts is None:
            continue
        (commonest, _), *others = counts.most_common()
        positive = tuple(sorted(int(v) if kind == "whole" else v for v, _ in others))
        return (
            LabelGuess(
                column=name,
                kind="binary",
                positives=sum(number for _, number in others),
                rows=counts.total(),
                why=f"its name, and its {len(counts)} values",
                positive=positive,
                is_unsure=True,
                reading=f"all but {commonest}, the commonest; say here which mean an answer, and "
                "write a task for each",
            ),
        )
    return ()


def _events(column: pa.ChunkedArray, kind: str) -> Counter[str] | None:
    """Return the rows of each event; None where a column is of another kind, or has too many."""
    if kind_of(column.type) != kind:
        return None
    counts: Counter[str] = Counter()
    for entry in pc.value_counts(column.drop_null()).to_pylist():
        if entry["values"] != "":
            counts[str(entry["values"])] += entry["counts"]
    return counts if 2 <= len(counts) <= _MAX_EVENTS else None


def _class_of(event: str) -> str | None:
    """Return the task that an event belongs to, an empty text for none; None if it is unknown."""
    words = words_of(event)
    if words & (_UNDONE | _ORDERING):
        return ""
    found = next((name for name, own in _CLASSES.items() if words & own), None)
    if found == "purchase" and words & _BEGUN:
        found = "checkout"
    # A view of the cart is a view, and a click on a page is a click.
    return "" if words & _SEEN and found != "click" else found


def _by_class(
    counts: Counter[str], classes: Mapping[str, str | None], scale: float
) -> dict[str, list[str]]:
    """Return class -> its events, the commonest class first, where they have rows enough."""
    by_class: dict[str, list[str]] = {}
    for event, own in classes.items():
        if own:
            by_class.setdefault(own, []).append(event)
    rows = {own: sum(counts[event] for event in events) for own, events in by_class.items()}
    ordered = sorted(by_class, key=lambda own: -rows[own])
    if sum(rows.values()) == counts.total():
        ordered = ordered[1:]
    return {own: sorted(by_class[own]) for own in ordered if rows[own] * scale >= _MIN_ROWS}


def _tasks(
    column: str, counts: Counter[str], by_class: Mapping[str, list[str]]
) -> tuple[LabelGuess, ...]:
    why = f"a row is one event: {', '.join(event for event, _ in counts.most_common())}"
    if unknown := [event for event, _ in counts.most_common() if _class_of(event) is None]:
        why += f"; 0 too, since their meaning is not known: {', '.join(unknown)}"
    answers = {event for events in by_class.values() for event in events}
    # Only where rows are either shown or clicked are they impressions.
    is_click = list(by_class) == ["click"] and all(
        words_of(event) & _SHOWN for event in counts.keys() - answers
    )
    return tuple(
        LabelGuess(
            column=column,
            kind="click" if is_click else "binary",
            positives=sum(counts[event] for event in events),
            rows=counts.total(),
            why=why,
            positive=tuple(events),
            reading="rows of other events are 0, and an empty one has no label",
            name=None if is_click else (events[0] if len(events) == 1 else own),
        )
        for own, events in by_class.items()
    )
