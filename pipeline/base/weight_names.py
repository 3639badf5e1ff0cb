"""Find the weight of a module that each entry of a file is, by the catalogue's table of names."""

from collections import Counter
from collections.abc import Iterable

from iak.pipeline.errors import BadRequest
from iak.pipeline.first_few import first_few
from iak.schemas.given_base import ModuleBaseSpec

_SHOWN = 5


def weight_names(entries: Iterable[str], base: ModuleBaseSpec) -> dict[str, str]:
    """Return the name in the module of each entry that is read.

    Args:
        entries: names in the file or folder of the weights.
        base: its `names` rename entries, its `ignore` leaves entries out.

    Returns:
        Entry -> name in the module, without the entries that are left out.

    Raises:
        BadRequest: two entries have one name, or a name in `names` stands for no entry.
    """
    read = [entry for entry in entries if not _matching(entry, base.ignore)]
    matching = {entry: _matching(entry, base.names) for entry in read}
    if unused := sorted(set(base.names) - set(matching.values())):
        raise BadRequest(
            f"base.names has {unused}, which no entry of the weights has or begins with; there are "
            f"{first_few(read, _SHOWN)}"
        )
    named = {
        entry: entry if match is None else base.names[match] + entry.removeprefix(match)
        for entry, match in matching.items()
    }
    repeated = [name for name, count in Counter(named.values()).items() if count > 1]
    if repeated:
        twice = [entry for entry, name in named.items() if name == repeated[0]]
        raise BadRequest(
            f"entries {twice} of the weights both become {repeated[0]} by base.names. Leave one "
            "out by base.ignore, or name it otherwise"
        )
    return named


def _matching(entry: str, names: Iterable[str]) -> str | None:
    """Return the longest name that is an entry's, or ends in a dot and begins it."""
    fitting = [n for n in names if n == entry or (n.endswith(".") and entry.startswith(n))]
    return max(fitting, key=len, default=None)
