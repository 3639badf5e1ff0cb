"""Find the names most like one that does not exist, for messages.

The command line imports this module, so it imports nothing heavy.
"""

import difflib
from collections.abc import Collection, Sequence

from iak.pipeline.errors import BadRequest
from iak.pipeline.first_few import first_few

_SHOWN = 40
"""Most names that a message lists."""


def nearest(name: str, names: Collection[str]) -> str:
    """Return a sentence with up to three names most like `name`; empty where none is."""
    folded = {word.casefold(): word for word in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)
    words = [f"'{folded[word]}'" for word in near]
    return f" Did you mean {' or '.join(words)}?" if words else ""


def listed(names: Collection[str]) -> str:
    """Return the first names in alphabetical order as text, and how many more there are."""
    return first_few(sorted(names), _SHOWN)


def refuse_unknown_settings(names: Sequence[str], known: Collection[str], asked: str) -> None:
    """Refuse settings that do not exist.

    Args:
        names: dotted names of the settings that were given.
        known: dotted names that exist; one that ends with `.` admits any name below it.
        asked: the document or table that names them, for the message.

    Raises:
        BadRequest: the message names each setting and the nearest that exist.
    """
    free = tuple(name for name in known if name.endswith("."))
    unknown = [n for n in names if n not in known and not (free and n.startswith(free))]
    if unknown:
        lines = [
            f"  {asked} names '{n}', which is not a setting.{nearest(n, known)}" for n in unknown
        ]
        raise BadRequest("\n".join(["unknown settings:", *lines]))
