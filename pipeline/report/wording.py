"""Write numbers, times and money as a page shows them."""

from collections.abc import Iterable
from datetime import date, datetime

from iak.pipeline.first_few import first_few

NONE = "\N{EN DASH}"
"""Stands where there is no value."""
_MINUS = "\N{MINUS SIGN}"
_STEPS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k"))
"""Numbers from which on a unit is used; 9,999 is still written out."""
_UNITS = {"T": 1e12, "B": 1e9, "M": 1e6, "k": 1e3}


def decimal(value: float | None, digits: int = 4) -> str:
    """Return a number with so many decimals."""
    return NONE if value is None else f"{value:,.{digits}f}".replace("-", _MINUS)


def signed(value: float | None, digits: int = 4) -> str:
    """Return a difference with its sign; one that rounds to zero has none."""
    if value is None:
        return NONE
    text = f"{value:+,.{digits}f}"
    is_zero = not text.strip("+-0.,")
    return text[1:] if is_zero else text.replace("-", _MINUS)


def interval(low: float | None, high: float | None, digits: int = 4) -> str:
    """Return the ends of an interval in brackets; nothing where there is none."""
    if low is None or high is None:
        return ""
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def count(value: float | None) -> str:
    """Return a whole number in full."""
    return NONE if value is None else f"{value:,.0f}"


def short(value: float | None) -> str:
    """Return a number in at most five characters: 9,999, 12.3 k, 4.56 M."""
    if value is None:
        return NONE
    # 999,950 would be written as "1000 k".
    for floor, unit in _STEPS:
        if abs(value) >= floor * 0.9995 and abs(value) > 9999:
            return f"{value / _UNITS[unit]:.3g}\N{NO-BREAK SPACE}{unit}"
    return f"{value:,.0f}"


def size(number: int) -> str:
    """Return a number of bytes in at most three digits: 512 B, 12.3 kB, 4.56 MB."""
    value: float = number
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g}\N{NO-BREAK SPACE}{unit}"
        value /= 1000
    return f"{value:,.3g}\N{NO-BREAK SPACE}TB"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share as a percentage."""
    return NONE if share is None else f"{100 * share:,.{digits}f}\N{NO-BREAK SPACE}%"


def duration(seconds: float | None) -> str:
    """Return a time in its two largest units: 42 s, 3 min 20 s, 1 h 02 min."""
    if seconds is None:
        return NONE
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, left = divmod(whole, 60)
        return f"{minutes} min {left:02} s" if left else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02} min"


def money(amount: float | None, currency: str) -> str:
    """Return an amount with its currency; small ones have four decimals."""
    if amount is None:
        return NONE
    digits = 2 if abs(amount) >= 0.1 or not amount else 4
    return f"{amount:,.{digits}f}\N{NO-BREAK SPACE}{currency}"


def day(value: date) -> str:
    """Return a date as 28 Oct 2026."""
    return f"{value.day} {value:%b %Y}"


def weekday(value: date) -> str:
    """Return a date with its weekday: Wednesday, 28 October 2026."""
    return f"{value:%A}, {value.day} {value:%B %Y}"


def moment(value: datetime | None) -> str:
    """Return a time of day with its date and zone."""
    return NONE if value is None else f"{value.day} {value:%b %Y, %H:%M} {value:%Z}".strip()


def plural(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: 1 kernel, 2 kernels."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def said_once(sentences: Iterable[tuple[str, str]], *, most: int = 20) -> list[str]:
    """Return what is true of domains: each sentence once, with the domains of which it is true.

    Args:
        sentences: name of a domain, and a sentence about it; an empty one says nothing.
        most: sentences at most, those about most domains. One more counts what is left out.
    """
    domains_of: dict[str, list[str]] = {}
    for domain, sentence in sentences:
        if sentence:
            domains_of.setdefault(sentence, []).append(domain)
    often = sorted(domains_of, key=lambda sentence: -len(domains_of[sentence]))
    said = [f"{first_few(domains_of[sentence])}: {sentence}" for sentence in often[:most]]
    if left := sum(len(domains_of[sentence]) for sentence in often[most:]):
        said.append(f"{plural(left, 'more remark')} of this kind, on other domains")
    return said
