"""Define the numbers that settings take: each kind has bounds that catch a typing mistake.

The bounds are far from what anybody runs. They stop `1e23`, a missing dot or a mistaken unit before
it reaches a library, which would fail without naming the setting.
"""

from typing import Annotated

from pydantic import BeforeValidator, Field


def _no_boolean(value: object) -> object:
    """Refuse true and false, which Python would take for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("it is true or false, expected a number")  # noqa: TRY004 - pydantic's kind
    return value


Whole = Annotated[int, BeforeValidator(_no_boolean)]
Number = Annotated[float, BeforeValidator(_no_boolean)]
Seed = Annotated[Whole, Field(ge=0, le=2**31 - 1)]
"""Seed of random numbers."""
Count = Annotated[Whole, Field(gt=0, le=1_000_000_000)]
"""A number of steps, epochs, files or machines."""
CountOrZero = Annotated[Whole, Field(ge=0, le=1_000_000_000)]
"""The same, where zero is allowed."""
Rows = Annotated[Whole, Field(gt=0, le=1_000_000_000_000_000)]
"""Rows of a log."""
BatchRows = Annotated[Whole, Field(gt=0, le=100_000_000)]
"""Rows that are in memory at once."""
TableRows = Annotated[Whole, Field(gt=0, le=100_000_000_000)]
"""Rows of an embedding table; at width 64 in fp32 the bound is 25 TB."""
Width = Annotated[Whole, Field(gt=0, le=8_192)]
"""Columns of an embedding table."""
Units = Annotated[Whole, Field(gt=0, le=65_536)]
"""Units of a layer."""
UnitsOrZero = Annotated[Whole, Field(ge=0, le=65_536)]
"""The same, where zero is allowed."""
Layers = Annotated[Whole, Field(ge=0, le=64)]
"""A number of layers."""
Workers = Annotated[Whole, Field(gt=0, le=100_000)]
"""Processes that work on a job."""
Rate = Annotated[Number, Field(gt=0, le=1_000)]
"""A learning rate."""
Weight = Annotated[Number, Field(ge=0, le=1_000_000)]
"""Factor of a term of a loss."""
Margin = Annotated[Number, Field(ge=0, le=1_000)]
"""A threshold for a measured number, at least 0."""
Size = Annotated[Number, Field(gt=0, le=1_000_000)]
"""A number that has no unit of its own: a scale, a mean, a factor."""
Ceiling = Annotated[Number, Field(gt=0, le=1e15)]
"""Upper bound of a number, in a unit that the field names."""
Gib = Annotated[Number, Field(gt=0, le=1_000_000_000)]
"""Memory or disk in GiB."""
Seconds = Annotated[Number, Field(ge=0, le=1_000_000_000)]
"""A time; the bound is 31 years."""
Days = Annotated[Number, Field(ge=0, le=100_000)]
"""Days that something lasts."""
Speed = Annotated[Number, Field(gt=0, le=1_000_000_000)]
"""Bytes, products or rows a second, in a unit that the field names."""
Money = Annotated[Number, Field(ge=0, le=1_000_000_000)]
"""A price, in the currency that the document names."""
Share = Annotated[Number, Field(ge=0, le=1)]
"""A part of a whole."""
