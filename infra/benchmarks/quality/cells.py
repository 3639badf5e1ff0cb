"""Store finished cells: a JSON document for each fit, which is never computed again.

A cell is identified by everything that its result depends on: the log's content, the method with
its version, its settings and the seed. The hash of these is part of the file's name. So cells can
be computed in any order, in several runs of the benchmark, and on several machines.

    cells/<log>/<kind>-<method>-seed<seed>-<id>.json
"""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, NonNegativeInt, ValidationError

from iak.pipeline.errors import Corrupt
from iak.pipeline.files import put_file
from iak.schemas.base import Spec
from iak.schemas.manifest import sha256_of
from infra.benchmarks.specs import SeparatedLogsSpec

Hyper = dict[str, int | float | str]
"""Settings of a method by name."""
S = TypeVar("S", bound=SeparatedLogsSpec)
_FILE_NAME = re.compile(r"[A-Za-z0-9_.-]+")


class CellKey(Spec):
    """Everything that the result of a cell depends on."""

    format: Literal[1] = 1
    """Number of this document's format."""
    kind: Literal["trial", "test", "pair"]
    """`trial`: settings on validation rows; `test`: the chosen ones on test rows; `pair`: two
    methods on the same test rows."""
    log: str
    fingerprint: str
    """SHA-256 of the log's files and catalogue."""
    method: str
    version: Annotated[int, Field(ge=1)]
    """Version of the method, raised with every change of code that changes its results."""
    hyper: Hyper = Field(default_factory=dict)
    seed: NonNegativeInt
    rival: str = ""
    """The method that `method` is compared with; empty unless the kind is `pair`."""
    rival_version: NonNegativeInt = 0
    rival_hyper: Hyper = Field(default_factory=dict)

    @property
    def id(self) -> str:
        """Return the first 16 characters of the key's SHA-256, for the file's name."""
        return sha256_of(self.model_dump(mode="json"))[:16]


class Line(Spec):
    """A method on one task in one domain, beside the base or a rival on the same rows."""

    task: str
    domain: str
    """`all`: mean over domains, weighted by rows; `pooled`: all rows ranked together."""
    rows: int
    positives: int
    auc: float | None
    gauc: float | None
    log_loss: float | None
    ne: float | None
    calibration: float | None
    delta_auc: float | None
    low: float | None
    """Lower end of the 95 % interval of `delta_auc`, in which rows of one user are dependent."""
    high: float | None
    delta_gauc: float | None
    delta_log_loss: float | None
    """Log-loss divided by that of the base or rival, minus 1."""
    delta_log_loss_low: float | None
    delta_log_loss_high: float | None


class Cost(Spec):
    """The cost of a fit."""

    cpu_s: float
    """CPU seconds of this process. Other work on the machine changes them little."""
    parameters: NonNegativeInt
    """Parameters that the method trains, in one copy."""
    kernels: NonNegativeInt = 1
    """Number of copies: one for each domain that has its own, and one for all others."""


class Cell(Spec):
    """The result of a cell."""

    key: CellKey
    valid_loss: float | None = None
    """Nats of a validation row, summed over tasks by their weights; null in a pair."""
    at_cap: tuple[str, ...] = ()
    """Parts of the method that were still improving at their last epoch."""
    cost: Cost | None = None
    base: Cost | None = None
    """Of the base, dense parameters alone; null where other cells share it."""
    reachable: float | None = None
    """On a planted log, the share of the gain from the base to the true probabilities that the
    method reaches on test rows, by the expected log-loss of the first task; null elsewhere."""
    lines: tuple[Line, ...] = ()
    """Metrics on test rows; none in a trial."""
    run: dict[str, Any] = Field(default_factory=dict)
    """Commit, versions, machine and time. They do not identify the cell."""


@dataclass(frozen=True, slots=True)
class CellFolder:
    """The folder of all finished cells."""

    root: Path

    def path(self, key: CellKey) -> Path:
        """Return the file of a cell.

        Raises:
            ValueError: a name in the key cannot be part of a path.
        """
        method = f"{key.method}-{key.rival}" if key.rival else key.method
        for name in (key.log, method):
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(f"'{name}' cannot name a file; expected letters, digits, - _ .")
        return self.root / key.log / f"{key.kind}-{method}-seed{key.seed}-{key.id}.json"

    def get(self, key: CellKey) -> Cell | None:
        """Return a finished cell; None where it is not finished.

        Raises:
            Corrupt: its file is not a cell, or has another cell.
        """
        path = self.path(key)
        if not path.is_file():
            return None
        cell = _read(path)
        if cell.key != key:
            raise Corrupt(f"{path} has another cell than its name says; remove it, and run again")
        return cell

    def run_once(self, key: CellKey, run: Callable[[CellKey], Cell]) -> Cell:
        """Return a finished cell, running it only where it is not finished.

        Args:
            key: identity of the cell.
            run: computes a cell from its key.
        """
        if (finished := self.get(key)) is not None:
            return finished
        cell = run(key)
        self.path(key).parent.mkdir(parents=True, exist_ok=True)
        put_file(self.path(key), cell.model_dump_json(indent=1) + "\n")
        return cell

    def all(self) -> Iterator[Cell]:
        """Yield every finished cell, in the order of their names."""
        for path in sorted(self.root.glob("*/*.json")):
            yield _read(path)


@contextmanager
def own_folders(spec: S) -> Iterator[S]:
    """Yield a benchmark's settings; a smoke run gets folders of its own, which end with it."""
    if not spec.smoke:
        yield spec
        return
    with tempfile.TemporaryDirectory(prefix="iak-cells-") as name:
        folder = Path(name)
        yield spec.model_copy(update={"cells": folder / "cells", "cache": folder / "cache"})


def _read(path: Path) -> Cell:
    try:
        return Cell.model_validate_json(path.read_text())
    except ValidationError as error:
        raise Corrupt(f"{path} is not a cell: {error}. Remove it, and run again") from error
