"""Define the settings of the verbs of `iak registry`."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from iak.schemas.base import Column, Spec
from iak.schemas.numbers import Count, CountOrZero, Days
from iak.schemas.paths import (
    BaseToRead,
    FileToRead,
    FileToWrite,
    PlaceToRead,
    RegistryToRead,
    RegistryToWrite,
)
from iak.schemas.registry import Alias

Domains = Annotated[tuple[Column, ...], Field(min_length=1)]
JsonFile = Annotated[FileToWrite | None, Field(alias="json")]
State = Annotated[str, Field(pattern=r"^(champion|candidate)(:[1-9][0-9]*)?$")]
"""Pointers of an alias, now or after a commit: `champion`, `champion:12`."""


class RegistrySpec(Spec):
    """Settings that every verb of `iak registry` has."""

    model_config = ConfigDict(populate_by_name=True)

    json_out: JsonFile = None
    """Also write what is shown as JSON to this file."""


class RegistryListSpec(RegistrySpec):
    """List what serves each domain."""

    registry: RegistryToRead
    """Folder of the registry, or `s3://bucket/prefix`."""
    alias: Alias | None = None
    """Only the pointers of this alias."""


class RegistryShowSpec(RegistrySpec):
    """Show the history of a registry, of one domain, or a bundle's lineage."""

    registry: RegistryToRead
    """Folder of the registry, or `s3://bucket/prefix`."""
    domain: Column | None = None
    """Domain whose evidence, pointers and lineage are shown; the newest commits and the evidence of
    every domain when absent."""
    last: Count = 20
    """Commits shown, the newest ones; the JSON has all."""


class RegistryDiffSpec(RegistrySpec):
    """Compare two sets of pointers, domain by domain."""

    registry: RegistryToRead
    """Folder of the registry, or `s3://bucket/prefix`."""
    first: State = "champion"
    """`champion` or `candidate`, now, or as a commit left it: `champion:12`."""
    second: State = "candidate"
    """Pointers that `first` is compared with, written in the same way."""


class RegistryPromoteSpec(RegistrySpec):
    """Point an alias at what the gate published in a run, in one step."""

    registry: RegistryToWrite
    """Folder of the registry, or `s3://bucket/prefix`; made when it is missing."""
    run: PlaceToRead | None = None
    """Run folder of an `iak finetune`."""
    source: Alias | None = None
    """Promote what this alias means now, in the place of a run."""
    alias: Alias = "champion"
    """Pointers that move."""
    domains: tuple[Column, ...] = ()
    """Domains to promote; all that the gate published when absent."""
    force: bool = False
    """Also promote bundles that the gate held."""
    shadow: FileToRead | None = None
    """Replay that must have passed: the file of an `iak shadow json=FILE` with limits, none of them
    exceeded, whose candidate has every bundle that is promoted. Absent: none is asked for."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.run is None) == (self.source is None):
            raise ValueError("give either run=RUN or source=candidate: what is promoted")
        if self.source == self.alias:
            raise ValueError(f"source={self.source} and alias={self.alias} are the same pointers")
        return self


class RegistryRollbackSpec(RegistrySpec):
    """Return domains to the bundles they had before."""

    registry: RegistryToRead
    """Folder of the registry, or `s3://bucket/prefix`."""
    domain: Domains
    """One domain, or several that go back in one step."""
    alias: Alias = "champion"
    """Pointers that move."""
    nightly: FileToRead | None = None
    """The `nightly.toml` of these nights. The alias `champion` of the MLflow server that it names
    (`notify.tracking`) then moves too. Absent: the registry alone moves."""


class RegistryVerifySpec(RegistrySpec):
    """Read every byte of a registry, and name what is damaged."""

    registry: RegistryToRead
    """Folder of the registry, or `s3://bucket/prefix`."""


class RegistryForgetSpec(RegistrySpec):
    """Find the files, bundles, bases and caches that a request to delete users' data touches."""

    registry: RegistryToRead
    """Folder of the registry, or `s3://bucket/prefix`."""
    rows_of: FileToRead
    """Text file with a user a line, as the log's user column has them."""
    remove_caches: bool = False
    """Also remove the entries of caches that are touched. Nothing else is removed."""


class RegistryGcSpec(RegistrySpec):
    """Remove stored bundles that neither a pointer nor a rollback needs."""

    registry: RegistryToRead
    """Folder of the registry, or `s3://bucket/prefix`."""
    keep: CountOrZero = 3
    """Earlier pointers of each domain that a rollback can return to."""
    nights: PlaceToRead | None = None
    """Folder of nights: run folders of older ones are emptied, records and pages stay. Absent:
    left alone."""
    keep_nights: Count = 30
    """Newest nights whose run folders stay as they are."""
    base: BaseToRead | None = None
    """Base beside which unused mapped tables are removed. Absent: left alone."""
    mapped_days: Days = 14.0
    """Days since a process of this machine mapped such tables last."""
    dry_run: bool = False
    """List what would be removed, and remove nothing."""
