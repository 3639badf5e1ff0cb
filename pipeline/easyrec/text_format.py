"""Read protobuf's text format as a tree, without the definitions of its messages.

The words are those of protobuf's own tokenizer. Which fields there are, and of which type, is the
business of whoever reads the tree: protobuf's own parser needs the definition of every message of a
file, and skips a field that it does not know or stops at the first one.
"""

from google.protobuf.text_format import ParseError, Tokenizer

Value = str | int | float | dict[str, "list[Value]"]
"""A quoted text or the name of a constant; a number; or a message."""
Message = dict[str, list[Value]]
"""Field -> its values, in the order of the text."""

_CLOSED_BY = {"{": "}", "<": ">"}


def parse_text(text: str) -> Message:
    """Return the message that a text has.

    Args:
        text: a message in protobuf's text format.

    Raises:
        ValueError: it is none; the message names the line.
    """
    tokens = Tokenizer(text.splitlines())
    try:
        return _fields(tokens, closed_by="")
    except ParseError as error:
        raise ValueError(f"it is not protobuf's text format: {error}") from error


def _fields(tokens: Tokenizer, *, closed_by: str) -> Message:
    """Return the fields up to a closing bracket, or up to the end of the text."""
    message: Message = {}
    while not (tokens.TryConsume(closed_by) if closed_by else tokens.AtEnd()):
        if tokens.AtEnd():
            raise tokens.ParseError(f"Expected {closed_by!r}")
        name = tokens.ConsumeIdentifier()
        has_colon = tokens.TryConsume(":")
        values = message.setdefault(name, [])
        if tokens.TryConsume("["):
            values += _listed(tokens)
        elif not has_colon and tokens.token not in _CLOSED_BY:
            raise tokens.ParseError('Expected ":"')
        else:
            values.append(_value(tokens))
        if not tokens.TryConsume(","):
            tokens.TryConsume(";")
    return message


def _listed(tokens: Tokenizer) -> list[Value]:
    """Return the values of `[a, b]`, whose first bracket was read."""
    values: list[Value] = []
    while not tokens.TryConsume("]"):
        if values:
            tokens.Consume(",")
        values.append(_value(tokens))
    return values


def _value(tokens: Tokenizer) -> Value:
    word = tokens.token
    if word in _CLOSED_BY:
        tokens.Consume(word)
        return _fields(tokens, closed_by=_CLOSED_BY[word])
    if word[:1] in "\"'" and word:
        return str(tokens.ConsumeString())
    if word[:1].isalpha() or word[:1] == "_":
        return str(tokens.ConsumeIdentifier())
    return _number(tokens)


def _number(tokens: Tokenizer) -> int | float:
    """Return a number as protobuf writes them: `10`, `0x1f`, `017`, `1e-3`, `1.5f`."""
    word = tokens.token
    try:
        if word.lstrip("-").startswith("0") and word.lstrip("-").isdigit():
            number: int | float = int(word, 8)
        else:
            number = int(word, 0)
    except ValueError:
        try:
            number = float(word.rstrip("fF"))
        except ValueError as error:
            raise tokens.ParseError(f"Expected a value, and found {word!r}") from error
    tokens.NextToken()
    return number
