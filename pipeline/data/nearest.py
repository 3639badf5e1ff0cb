"""The names most like one that does not exist, for messages. Light: the command line reads it."""

import difflib
from collections.abc import Collection, Sequence

from iak.pipeline.errors import BadRequest

_SHOWN = 40
"""Names that a message lists at most."""


def nearest(name: str, there: Collection[str]) -> str:
    """Return a sentence with the names most like `name`; empty where none is."""
    folded = {word.casefold(): word for word in there}
    near = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)
    words = [f"'{folded[word]}'" for word in near]
    return f" Did you mean {' or '.join(words)}?" if words else ""


def listed(there: Collection[str]) -> str:
    """Return the names, in order and not too many of them."""
    names = sorted(there)
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def refuse_unknown_settings(names: Sequence[str], there: Collection[str], asked: str) -> None:
    """Refuse settings that do not exist.

    Args:
        names: dotted names as they were given.
        there: dotted names that exist; one that ends with `.` admits any name below it.
        asked: which document or table asks for them.

    Raises:
        BadRequest: naming each setting and the nearest that exist.
    """
    free = tuple(name for name in there if name.endswith("."))
    unknown = [n for n in names if n not in there and not (free and n.startswith(free))]
    if unknown:
        lines = [f"  {asked} names '{n}', which is no setting.{nearest(n, there)}" for n in unknown]
        raise BadRequest("\n".join(["unknown settings:", *lines]))
