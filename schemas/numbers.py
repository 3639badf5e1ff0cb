"""Numbers as settings take them: each kind with the bounds beyond which it is a slip of the pen.

The bounds are far from what anybody runs. They keep `1e23`, a missing dot or a unit that was taken
for another one from reaching a library, which would fail without naming the setting.
"""

from typing import Annotated

from pydantic import Field

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""What random numbers follow from."""
Count = Annotated[int, Field(gt=0, le=1_000_000_000)]
"""Steps, epochs, files, machines: things that are counted."""
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""The same, where zero is an answer."""
Rows = Annotated[int, Field(gt=0, le=1_000_000_000_000_000)]
"""Rows of a log."""
BatchRows = Annotated[int, Field(gt=0, le=100_000_000)]
"""Rows that are held and worked on at once."""
TableRows = Annotated[int, Field(gt=0, le=100_000_000_000)]
"""Rows of an embedding table; with width 64 in fp32 the most are 25 TB."""
Width = Annotated[int, Field(gt=0, le=8_192)]
"""Columns of an embedding table."""
Units = Annotated[int, Field(gt=0, le=65_536)]
"""Units of a layer."""
UnitsOrZero = Annotated[int, Field(ge=0, le=65_536)]
"""The same, where zero is an answer."""
Layers = Annotated[int, Field(ge=0, le=64)]
"""Layers, one upon the other."""
Workers = Annotated[int, Field(gt=0, le=100_000)]
"""Processes that work on a job."""
Rate = Annotated[float, Field(gt=0, le=1_000)]
"""A learning rate."""
Weight = Annotated[float, Field(ge=0, le=1_000_000)]
"""Factor on a term of a loss."""
Margin = Annotated[float, Field(ge=0, le=1_000)]
"""How far a measured number may lie from another one."""
Size = Annotated[float, Field(gt=0, le=1_000_000)]
"""A number that has no unit of its own: a scale, a mean, a factor."""
Ceiling = Annotated[float, Field(gt=0, le=1e15)]
"""What a number may come to at most, in a unit that the field names."""
Gib = Annotated[float, Field(gt=0, le=1_000_000_000)]
"""Memory or disk in GiB."""
Seconds = Annotated[float, Field(ge=0, le=1_000_000_000)]
"""A time; the most are 31 years."""
Speed = Annotated[float, Field(gt=0, le=1_000_000_000)]
"""Bytes, products or rows a second, in a unit that the field names."""
Money = Annotated[float, Field(ge=0, le=1_000_000_000)]
"""In the cluster's currency."""
