"""Define what the verbs of `iak nightly` may be asked."""

from datetime import date, time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, IPvAnyAddress

from iak.schemas.base import Spec
from iak.schemas.nightly import Minutes, Uri
from iak.schemas.numbers import Count, Rows, Whole
from iak.schemas.paths import (
    BaseToRead,
    FileToRead,
    FileToWrite,
    FolderToWrite,
    NamedPath,
    PlaceToWrite,
    RegistryToWrite,
)

Night = date
"""A night is named by its nominal date. The alias leaves the name `date` to the setting."""


def _range(nights: str) -> str:
    """Return a range of dates unchanged, or refuse it."""
    first, dots, last = nights.partition("..")
    try:
        is_range = bool(dots) and date.fromisoformat(first) <= date.fromisoformat(last)
    except ValueError as error:
        raise ValueError(f"{error}; expected two dates, 2026-10-20..2026-10-28") from error
    if not is_range:
        raise ValueError("expected two dates, the first one first: 2026-10-20..2026-10-28")
    return nights


Nights = Annotated[str, AfterValidator(_range)]


class NightlyFileSpec(Spec):
    """What every verb takes that reads a `nightly.toml`."""

    file: FileToRead
    """The `nightly.toml`; given first, without a name."""


class NightlyRunSpec(NightlyFileSpec):
    """Run one night: decide, tune, judge, promote, and write the page."""

    date: Night | None = None
    """Nominal date: the last day that the night may read. The log's last complete day when
    absent."""
    deadline: time | None = None
    """Time of day, in the zone of the schedule, at which what is ready is promoted; the file's when
    absent."""
    rows: Rows | None = None
    """Budget of tuning rows; the file's when absent."""
    minutes: Minutes | None = None
    """Budget of minutes; the file's when absent."""
    dry_run: bool = False
    """Print the decisions and change nothing."""
    here: bool = False
    """Run on the Ray of this machine, although the file names a cluster: how a night is started
    there once it was submitted."""
    out: FolderToWrite = Path("runs/nights")
    """Folder on this machine for the record and the page of a night on a cluster."""


class NightlyBackfillSpec(NightlyFileSpec):
    """Run the nights of a range of dates, oldest first."""

    nights: Nights
    """First and last date, as `2026-10-20..2026-10-28`. Nights that are finished are left alone."""

    @property
    def first(self) -> Night:
        """Return the first date."""
        return date.fromisoformat(self.nights.partition("..")[0])

    @property
    def last(self) -> Night:
        """Return the last date."""
        return date.fromisoformat(self.nights.partition("..")[2])


class NightlyWatchSpec(NightlyFileSpec):
    """Keep the schedule on this machine: run every night when it is due, until it is stopped."""

    metrics_port: Annotated[Whole, Field(ge=1, le=65535)] | None = None
    """Port on which Prometheus can scrape `/metrics`: the numbers of the newest night that ended.
    Nobody has to sign in. Absent: none is opened."""
    metrics_address: IPvAnyAddress = IPv4Address("127.0.0.1")
    """Address of this machine on which that port is open: by default to this machine alone."""


class NightlyStatusSpec(NightlyFileSpec):
    """Show the last nights, the live kernels and their age, and what is held."""

    model_config = ConfigDict(populate_by_name=True)

    last: Count = 7
    """Nights shown, the newest ones."""


class NightlyCheckSpec(NightlyFileSpec):
    """Say what is wrong with the file, the registry, the data and the cluster."""


class NightlyInitSpec(Spec):
    """Write a commented `nightly.toml` from a catalogue and a base."""

    catalog: NamedPath
    """The catalogue: a TOML file, or the name of a shipped one."""
    base: BaseToRead
    """Run or folder of the published base."""
    data_root: Uri | None = None
    """Folder or URI below which the catalogue's paths are; where the base was trained when
    absent."""
    registry: RegistryToWrite | None = None
    """Folder of the registry; `registry` beside `nights` when absent."""
    nights: PlaceToWrite | None = None
    """Folder of the nights; `nights` beside the file when absent."""
    out: FileToWrite | None = None
    """The file to write; `nightly.toml` in this folder when absent."""
    overwrite: bool = False
    """Replace `out` where it exists."""
