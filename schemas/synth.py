"""Define the settings of a planted log, and the manifest that it carries."""

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from iak.schemas.base import Spec
from iak.schemas.numbers import Count, Margin, Number, Seed, Size, Whole
from iak.schemas.paths import FolderToWrite

REGION_NAMES = (
    "hangzhou",
    "shanghai",
    "nanjing",
    "suzhou",
    "ningbo",
    "hefei",
    "wuxi",
    "jiaxing",
    "shaoxing",
    "huzhou",
    "quzhou",
    "zhoushan",
)
"""Names for regions asked for by number, largest first; after these come `region_13`, ..."""

Share = Annotated[Number, Field(ge=0.0, le=1.0)]
Rate = Annotated[Number, Field(gt=0.0, lt=1.0)]
MAX_REGIONS = 1_000
RegionName = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]


def region_names(count: int) -> tuple[str, ...]:
    """Return the first `count` region names, largest region first."""
    made_up = (f"region_{i + 1}" for i in range(len(REGION_NAMES), count))
    return (*REGION_NAMES[:count], *made_up)


class SynthSpec(Spec):
    """A planted delivery-platform log: its size, its people, and how far its domains differ."""

    rows: Annotated[Whole, Field(gt=0, le=100_000_000_000)] = 1_850_000
    """Rows in the whole log, over all regions and days."""
    days: Annotated[Whole, Field(gt=0, le=10_000)] = 28
    """Days in the log; day 1 is `start_date`."""
    start_date: date = date(2026, 10, 1)
    """The first day, UTC."""
    regions: Annotated[tuple[RegionName, ...], Field(min_length=1, max_length=MAX_REGIONS)] = (
        region_names(8)
    )
    """Region names, largest first; a number asks for that many ready names."""
    users: Count = 10_000
    """Users in the whole log; each lives in one region."""
    items: Count = 4_000
    """Items (dishes) in the whole catalogue."""
    shops: Count = 600
    """Shops in the whole catalogue; every item belongs to one."""
    seed: Seed = 7
    """Seed of everything random."""
    skew: Annotated[Number, Field(ge=1.0, le=1_000_000)] = 20.0
    """Rows of the largest region over rows of the thinnest; sizes fall geometrically."""
    base_share: Rate = 0.714
    """Share of the days, oldest first, that a base learns from: 20 of 28."""
    domain_difference: Margin = 0.3
    """Size of the lasting differences between regions; 0 plants none."""
    drift: Margin = 0.8
    """Size of the movement of tastes away from the base's window; 0 plants none."""
    drift_days: Size = 45.0
    """Days over which tastes stay alike (length scale of a Matern-3/2 process in day time)."""
    drift_shared: Share = 0.4
    """Share of the drift's variance that all regions have in common (season, holidays)."""
    fresh_share: Share = 0.04
    """Share of users and of items that appear only after the base's window."""
    chain_share: Share = 0.3
    """Share of shops that are chains, present in every region; the others are local."""
    user_zipf: Margin = 0.7
    """Exponent of the users' activity over their rank."""
    item_zipf: Margin = 0.9
    """Exponent of the items' popularity over their rank."""
    favourite_share: Share = 0.35
    """Share of rows whose item is drawn from the user's favourite category."""
    warm_clicks: Annotated[Whole, Field(ge=0, le=100_000)] = 16
    """Mean number of clicks a user made before the log's first day; they open the histories."""
    click_rate: Rate = 0.14
    """Mean click probability over the base's window; histories that fill raise it a little."""
    order_rate: Rate = 0.22
    """Mean probability of an order given a click over the base's window."""

    @field_validator("regions", mode="before")
    @classmethod
    def _names_a_number(cls, value: object) -> object:
        """Turn a number of regions, also the lone string a command line gives, into names."""
        if isinstance(value, list | tuple) and len(value) == 1:
            value = value[0] if str(value[0]).isdigit() else value
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, str):
            return (value,)
        if isinstance(value, int) and not isinstance(value, bool):
            return region_names(min(value, MAX_REGIONS + 1))
        return value

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if len(set(self.regions)) != len(self.regions):
            raise ValueError(f"regions repeat a name: {', '.join(self.regions)}")
        if self.days > (date.max - self.start_date).days:
            raise ValueError(f"days ({self.days}) from {self.start_date} on end after {date.max}")
        needed = 2 * self.days * len(self.regions) * self.skew
        if self.rows < needed:
            raise ValueError(
                f"rows ({self.rows:,}) leave the thinnest region without rows on some day; "
                f"ask for at least {needed:,.0f}, or for fewer days, regions or less skew"
            )
        if self.items < self.shops:
            raise ValueError(f"items ({self.items}) must not be fewer than shops ({self.shops})")
        if self.users < 4 * len(self.regions) or self.shops < 4 * len(self.regions):
            raise ValueError("each region needs at least 4 users and 4 shops")
        return self

    @property
    def base_days(self) -> int:
        """Return the number of days, oldest first, in the base's window; at least one."""
        return max(1, round(self.days * self.base_share))


class SynthPart(Spec):
    """One region's day in a finished log."""

    region: str
    """The partition's region."""
    dt: date
    """The partition's day, UTC."""
    rows: PositiveInt
    """Rows in the event file, and in the truth file."""
    clicks: NonNegativeInt
    """Rows with a click."""
    orders: NonNegativeInt
    """Rows with an order; each has a click."""
    events_bytes: PositiveInt
    """Size of the event file."""
    truth_bytes: PositiveInt
    """Size of the truth file."""
    events_sha256: str
    """Digest of the event file's bytes, hexadecimal."""
    truth_sha256: str
    """Digest of the truth file's bytes, hexadecimal."""


class SynthManifest(Spec):
    """`manifest.json` of a finished planted log."""

    format: Literal[1] = 1
    """Number of this document's format."""
    version: PositiveInt
    """Version of the generator; it changes when the same knobs would give other rows."""
    spec: SynthSpec
    """Every knob, the seed among them."""
    base_days: PositiveInt
    """Days, oldest first, in the base's window."""
    rows: PositiveInt
    """Rows in the whole log."""
    clicks: NonNegativeInt
    """Rows with a click."""
    orders: NonNegativeInt
    """Rows with an order."""
    digest: str
    """SHA-256 over the digests of all files, in the order of `parts`."""
    parts: tuple[SynthPart, ...]
    """Every region's every day, by region (largest first), then by day."""


class SynthJobSpec(SynthSpec):
    """`iak synth`: the knobs, and where the log goes."""

    out: FolderToWrite
    """Folder of the log; absent, empty, or already holding this very log."""
