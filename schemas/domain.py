"""Define a domain: the values of the key columns that a kernel is tuned for."""

from collections.abc import Mapping
from dataclasses import dataclass

POOLED = "pooled"
"""Name of the domain without keys, which has all rows. Every other name has a `=` in it."""
ESCAPES = (("%", "%25"), ("/", "%2F"))
"""Characters of a value and how a name writes them, in the order of replacement."""


@dataclass(frozen=True, slots=True)
class Domain:
    """Pairs of key and value, outermost first; none for the pooled kernel.

    A domain is compared and stored as these pairs. Its name is for tables, messages and look-ups,
    and is never parsed.
    """

    pairs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, str]) -> "Domain":
        """Return the domain of a mapping from key to value, outermost first."""
        return cls(tuple(values.items()))

    @property
    def name(self) -> str:
        """Return `region=a/daypart=b`, or `pooled`. Different domains have different names."""
        return "/".join(f"{escaped(key)}={escaped(value)}" for key, value in self.pairs) or POOLED

    def as_dict(self) -> dict[str, str]:
        """Return key -> value, outermost first."""
        return dict(self.pairs)


def escaped(text: str) -> str:
    """Return a key or value with its slashes escaped: in a name, a slash ends a pair."""
    for character, code in ESCAPES:
        text = text.replace(character, code)
    return text
