"""Draw settings of any verb: some of its fields, each with a value that its type admits."""

import string
import types
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, IPvAnyAddress, TypeAdapter, ValidationError

PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)
WORDS = st.text(string.ascii_letters + string.digits + "äß _-./=,'", min_size=1, max_size=12)
NAMES = st.text(string.ascii_lowercase + string.digits + "_", min_size=1, max_size=8).filter(
    lambda name: name[0].isalpha()
)
"""Keys of a table, as TOML takes them without quotes."""


def leaves(kind, below=""):
    """(dotted name, annotation with its bounds) of every setting of a spec."""
    for name, field in kind.model_fields.items():
        dotted = f"{below}{field.alias or name}"
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from leaves(inner, f"{dotted}.")
        else:
            yield dotted, Annotated[inner, *field.metadata] if field.metadata else inner


def values(annotation, bounds=()):
    """Values that a type admits, as TOML would have them."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        admitted = TypeAdapter(annotation)
        return values(inner[0], (*inner[1:], *bounds)).filter(lambda v: admits(admitted, v))
    if origin in (Union, types.UnionType):
        return st.one_of([values(one, bounds) for one in inner if one is not type(None)])
    if origin is Literal:
        return st.sampled_from(inner)
    if origin is tuple:
        size = {"min_size": bound(bounds, MinLen, "min_length", 0), "max_size": 3}
        return st.lists(values(inner[0]), **size)
    patterns = [b.pattern for b in flattened(bounds) if getattr(b, "pattern", None)]
    if patterns:
        return st.from_regex(patterns[0], fullmatch=True, alphabet=PRINTABLE)
    return PLAIN[annotation](flattened(bounds))


def flattened(bounds):
    """Bounds, also those that a `Field` carries."""
    return [b for bound in bounds for b in (bound, *getattr(bound, "metadata", ()))]


def bound(bounds, kind, attribute, absent):
    found = [getattr(b, attribute) for b in flattened(bounds) if isinstance(b, kind)]
    return found[0] if found else absent


def whole(bounds):
    low = bound(bounds, Ge, "ge", bound(bounds, Gt, "gt", -1) + 1)
    return st.integers(low, bound(bounds, Le, "le", 10**6))


def real(bounds):
    low = bound(bounds, Ge, "ge", bound(bounds, Gt, "gt", 0))
    high = bound(bounds, Le, "le", bound(bounds, Lt, "lt", 1e6))
    return st.floats(float(low), float(high), allow_subnormal=False)


def text(bounds):
    return WORDS.filter(lambda word: len(word) <= bound(bounds, MaxLen, "max_length", 99))


PLAIN = {
    bool: lambda _: st.booleans(),
    int: whole,
    float: real,
    str: text,
    Path: lambda _: WORDS.map(lambda word: f"{word}.svg"),  # a picture's ending fits any file
    date: lambda _: st.dates().map(str),
    AwareDatetime: lambda _: st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
    time: lambda _: st.times().map(str),
    datetime: lambda _: st.datetimes().map(datetime.isoformat),
    IPvAnyAddress: lambda _: st.ip_addresses().map(str),
    timedelta: lambda _: st.integers(0, 99).map(lambda hours: f"PT{hours}H"),
}


def admits(adapter, value):
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


def chosen(kind, fixed):
    """Settings by their dotted names: `fixed` ones, all that are needed, and a few others.

    Args:
        kind: the spec.
        fixed: name -> value, of what is not drawn.
    """
    drawn = {name: drawn_from(a) for name, a in leaves(kind) if name not in fixed}
    needed = {name: drawn[name] for name in required(kind) if name in drawn}
    others = sorted(drawn.keys() - needed.keys())
    picked = st.lists(st.sampled_from(others), unique=True, max_size=6) if others else st.just([])
    return picked.flatmap(
        lambda names: st.fixed_dictionaries(needed | {name: drawn[name] for name in names})
    ).map(lambda settings: fixed | dict(spread(settings)))


def required(kind):
    """Settings without a default, by name."""
    return [f.alias or name for name, f in kind.model_fields.items() if f.is_required()]


def drawn_from(annotation):
    """Values of a setting; of a table, a few entries."""
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if get_origin(bare) is dict:
        return st.dictionaries(NAMES, values(get_args(bare)[1]), min_size=1, max_size=2)
    return values(annotation)


def spread(settings):
    """Each entry of a table by its own dotted name."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", entry) for key, entry in value.items())
        else:
            yield name, value
