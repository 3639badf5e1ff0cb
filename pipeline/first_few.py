"""Name the first few of many things in a message."""

from collections.abc import Collection
from itertools import islice


def first_few(items: Collection[object], most: int = 5, *, between: str = ", ") -> str:
    """Return the first items as text, and how many more there are.

    Args:
        items: what is named, in the order in which it is named.
        most: items at most.
        between: stands between two of them.

    Returns:
        `a, b, and 3 more`; empty where there is no item.
    """
    shown = [str(item) for item in islice(items, most)]
    left = len(items) - len(shown)
    return between.join([*shown, f"and {left:,} more"] if left else shown)
