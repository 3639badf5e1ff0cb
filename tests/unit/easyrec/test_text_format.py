"""Protobuf's text format is read as a tree, or refused with its line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.easyrec.text_format import parse_text

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
SCALARS = (
    st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
)
MESSAGES = st.recursive(
    st.dictionaries(NAMES, st.lists(SCALARS, min_size=1, max_size=3), max_size=3),
    lambda inner: st.dictionaries(NAMES, st.lists(inner, min_size=1, max_size=2), max_size=3),
    max_leaves=8,
)


def quoted(text: str) -> str:
    """A text with every byte that needs it escaped."""
    return '"' + "".join(f"\\{byte:03o}" for byte in text.encode()) + '"'


def written(message: dict) -> str:
    """A message in the text format."""
    words = []
    for name, values in message.items():
        for value in values:
            if isinstance(value, dict):
                words.append(f"{name} {{ {written(value)} }}")
            else:
                text = quoted(value) if isinstance(value, str) else repr(value)
                words.append(f"{name}: {text}")
    return "\n".join(words)


@given(MESSAGES)
def test_what_is_written_is_read(message):
    assert parse_text(written(message)) == message


def test_all_that_protobuf_allows_is_read():
    text = """
        # a comment
        name: "a" 'b'  # texts beside each other are one
        units: [1, 0x1f, 017] units: 5
        rate: 1.5f, small: -1e-3; on: true mode: FG_NONE
        inner: < deep { x: 1 } >
        list [ { x: 1 }, { x: 2 } ]
    """
    assert parse_text(text) == {
        "name": ["ab"],
        "units": [1, 31, 15, 5],
        "rate": [1.5],
        "small": [-1e-3],
        "on": ["true"],
        "mode": ["FG_NONE"],
        "inner": [{"deep": [{"x": [1]}]}],
        "list": [{"x": [1]}, {"x": [2]}],
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a { b: 1", "Expected '}'"),
        ("a: 1 }", "Expected identifier"),
        ("a 1", 'Expected ":"'),
        ("x: 1\na: ?", "2:"),
        ('a: "open', "1:"),
        ("a: [1 2]", 'Expected ","'),
        ("a: 1x", "Expected a value, and found '1x'"),
    ],
)
def test_another_text_is_refused_with_its_line(text, says):
    with pytest.raises(ValueError, match="it is not protobuf's text format") as caught:
        parse_text(text)
    assert says in str(caught.value)
