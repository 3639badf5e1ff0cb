"""Define the record that a run or a benchmark leaves."""

from datetime import datetime
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from iak.schemas.base import JsonObject, SparseSpec, Spec, View
from iak.schemas.log_snapshot import LogSnapshot
from iak.schemas.manifest import Sha256

RECORD_FORMAT = 3
"""1: written before a record named inputs and outputs; it is read as one that names none.
2: written before the settings of the placement had their own entry, `placement`."""
SEALED_FROM = 2
"""First format whose records hold their own digest."""
R = TypeVar("R", bound=BaseModel)


class Output(Spec):
    """One result of a run, with the digest that covers every byte of it."""

    kind: Literal["file", "base", "bundles"]
    """What the digest is of. `file`: its bytes. `base`: its manifest, which names every file by
    SHA-256. `bundles`: the manifests of all bundles, each of which names its weights."""
    sha256: Sha256
    bytes: NonNegativeInt
    """Bytes of the file, or of all files that the digest covers."""


class Machine(SparseSpec):
    """The machine that a run is driven from."""

    model_config = ConfigDict(extra="allow")  # what another version wrote is kept

    processor: str = ""
    cores: NonNegativeInt | None = None
    """Null where the system does not say."""
    memory_gib: float = 0.0
    system: str = ""
    """Name and version of the operating system."""


class CacheSettings(View):
    """The settings of a run's activation cache that readers of its record need."""

    folder: str | None = None
    """Null for the folder beside the base."""


class RunSettings(View):
    """The settings of a run, of any verb, that readers of its record need."""

    base: str | None = None
    """Where its base lies; null where it reads none."""
    bundles: str | None = None
    live: str | None = None
    """Where the kernels lie that served when it began."""
    workers: PositiveInt = 1
    cache: CacheSettings = CacheSettings()


class _LogColumns(View):
    user: str | None = None


class _CatalogColumns(View):
    log: _LogColumns = _LogColumns()


def user_column(catalog: JsonObject) -> str | None:
    """Return the column that names the user; None where the catalogue names none.

    Args:
        catalog: a catalogue of any version, as a record or a manifest has it.
    """
    return _CatalogColumns.model_validate(catalog).log.user or None


class RunRecord(Spec):
    """`record.json`: what ran, on which inputs, and with which results.

    Settings, catalogue and result stay as they were written, because digests cover them and because
    their types are those of the verb and version that ran. `settings` and `result_as` read them as
    types.
    """

    format: Literal[3] = 3
    """Number of this document's format."""
    verb: str
    """Verb that ran, as in `iak VERB`."""
    status: Literal["running", "finished", "failed", "interrupted"]
    """State of the run: it still runs, or how it ended."""
    exit_code: int | None = None
    """0 ok, 1 failed, 2 bad request, 3 does not fit, 4 some held, 5 some failed, 6 nothing to do,
    130 interrupted."""
    spec: JsonObject
    """The resolved spec: file, command line and defaults merged."""
    spec_digest: str
    """SHA-256 of the spec without its run folder; a run is only resumed under the same spec."""
    inputs: dict[str, Sha256] = {}
    """What the run reads -> SHA-256 of its content; a run is only resumed on the same inputs. Empty
    until they are known."""
    catalog: JsonObject = {}
    """The catalogue as it was parsed, without its presets, which stand in `spec`."""
    started_at: datetime
    ended_at: datetime | None = None
    commit: str | None = None
    """Commit of the code, with `+` when the tree was changed."""
    machine: Machine = Machine()
    versions: dict[str, str] = {}
    snapshot: LogSnapshot = LogSnapshot()
    """Exact files read, with rows and fingerprints, by split."""
    timings_s: dict[str, float] = {}
    """Seconds by phase."""
    result: JsonObject = {}
    """What the job reports."""
    outputs: dict[str, Output] = {}
    """Path below the run folder -> the result there. Empty until the run has finished."""
    error: str | None = None
    attempts: int = 1
    """Times the run was started, resumes included."""
    record_sha256: Sha256 | None = None
    """SHA-256 of this document without this field; None in one of an older format."""

    @property
    def settings(self) -> RunSettings:
        """Return the settings that readers of a record need, of whichever verb ran."""
        return RunSettings.model_validate(self.spec)

    def result_as(self, kind: type[R]) -> R:
        """Return the result as a document that has some of its fields.

        Args:
            kind: type of the document. Fields of the result that it lacks are left out.

        Raises:
            ValueError: a field that it needs is missing, or has another type.
        """
        names = {field.alias or name for name, field in kind.model_fields.items()}
        return kind.model_validate({n: v for n, v in self.result.items() if n in names})


class Target(Spec):
    """What a benchmark should reach, and what it reached."""

    name: str
    wanted: str
    """The target in words: `at least 15x`."""
    measured: float
    is_met: bool
    note: str = ""
    """Why it was missed, and what would have to change."""


class BenchmarkLine(Spec):
    """A line of a benchmark's table. Each field is a column of it."""

    def as_row(self) -> JsonObject:
        """Return the line as JSON values, by column."""
        return self.model_dump(mode="json")


Line = JsonObject
"""A line of a benchmark's table, as its record has it: column -> JSON value.

The columns are those of the benchmark and of the version that ran it. `BenchmarkRecord.lines` reads
them as a type.
"""
L = TypeVar("L", bound=Spec)


class BenchmarkResult(Spec):
    """What a benchmark returns; its record adds settings, machine and versions."""

    rows: list[Line]
    targets: list[Target] = []
    notes: list[str] = []
    """What a reader needs to understand the numbers, and what limits them."""
    limits: dict[str, float] = {}
    """Measured ceilings of the machine: memory bandwidth in bytes/s, matmul rate in FLOP/s."""


class BenchmarkRecord(Spec):
    """What a benchmark measured: enough to run it again and to compare."""

    format: Literal[1] = 1
    """Number of this document's format."""
    bench: str
    """Its name, as in `iak bench NAME`."""
    spec: JsonObject
    is_smoke: bool
    """Whether sizes were small, to check that it runs; its numbers then mean nothing."""
    command: str
    started_at: datetime
    seconds: float
    commit: str | None = None
    machine: Machine = Machine()
    limits: dict[str, float] = {}
    """Measured ceilings of the machine: memory bandwidth in bytes/s, matmul rate in FLOP/s."""
    versions: dict[str, str] = {}
    rows: list[Line] = []
    targets: list[Target] = []
    notes: list[str] = []

    def lines(self, kind: type[L], table: str | None = None) -> list[L]:
        """Return the lines of a table, with the columns that a reader needs.

        Args:
            kind: type of the lines.
            table: name of the table. A record of one table does not name it in its lines. None for
                the lines of all tables.

        Raises:
            ValueError: a line lacks a column that the type needs.
        """
        rows = [row for row in self.rows if table is None or row.get("table", table) == table]
        return [kind.model_validate(row) for row in rows]
