"""Give methods what they share: a log's rows, the base of a seed, and predictions of rows.

A method reads only `MethodSetup` while it is fitted, from which no test row can be reached. The
runner passes the test rows to the fitted method afterwards, as `Slice`.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor, nn

from iak.pipeline.activations.represent import represent
from iak.pipeline.activations.statistics import count_past
from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.base.published_base import PublishedBase, open_base, task_shapes
from iak.pipeline.data.batch import to_batch
from iak.pipeline.data.content import KeptContents
from iak.pipeline.data.reader import Reader
from iak.pipeline.data.view import open_log
from iak.pipeline.fresh.inputs import statistics_of
from iak.pipeline.fresh.past import past_of
from iak.pipeline.fresh.state import State
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.loss import TaskShape, probabilities
from iak.pipeline.process import current_worker
from iak.pipeline.publish.predictions import (
    TaskColumns,
    probabilities_of,
    read_predictions,
    task_columns,
)
from iak.pipeline.runs.evaluate import evaluate
from iak.pipeline.runs.load import spec_with_presets
from iak.pipeline.runs.metrics import tasks_of
from iak.pipeline.runs.pretrain import pretrain_base
from iak.schemas.fresh import FreshSpec
from iak.schemas.job import EvaluatedTablesSpec, EvaluateSpec, PretrainSpec
from iak.schemas.log import Catalog, SplitName
from iak.schemas.plan import PlacementSpec
from iak.schemas.results import PretrainResult
from infra.benchmarks.quality.logs import Window

Floats = npt.NDArray[np.float64]
Predicted = Mapping[str, Floats]
"""Metric task (`ctr`, `cvr`, `ctcvr`) -> probability of each row, in the slice's order."""
ONE_WORKER: Mapping[str, Any] = {"workers": 1, "device": "cpu"}
A = TypeVar("A", bound=np.generic)
BASE, IAK, PUBLISHED = "base", "iak", "iak_published"


@dataclass(frozen=True, slots=True)
class Slice:
    """A split's rows, to be predicted in the order in which they lie."""

    window: Window
    split: SplitName


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The labels, domains and users of a slice, by which predictions are judged."""

    columns: TaskColumns
    domain_names: tuple[str, ...]
    domain_N: npt.NDArray[np.int64]
    """Index of each row's domain; -1 where it has none."""
    users_N: npt.NDArray[np.int64] | None


def joined(parts: Sequence[Mapping[str, npt.NDArray[A]]]) -> dict[str, npt.NDArray[A]]:
    """Return the columns of several slices as those of one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def joined_rows(parts: Sequence[Rows]) -> Rows:
    """Return the labels, domains and users of several slices as those of one."""
    if len(parts) == 1:
        return parts[0]
    names = tuple(sorted({name for part in parts for name in part.domain_names}))
    users = [part.users_N for part in parts if part.users_N is not None]
    return Rows(
        columns=replace(
            parts[0].columns,
            labels=joined([part.columns.labels for part in parts]),
            masks=joined([part.columns.masks for part in parts]),
        ),
        domain_names=names,
        domain_N=np.concatenate([_renumbered(part, names) for part in parts]),
        users_N=np.concatenate(users) if users else None,
    )


def _renumbered(rows: Rows, names: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Return the domain of each row as an index of other names; -1 where it has none."""
    # The last entry is read by index -1.
    index = np.array([*(names.index(name) for name in rows.domain_names), -1])
    return index[rows.domain_N]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenRows:
    """The frozen base's output for the rows of a slice, and what was counted of earlier rows.

    N rows, T tasks, H and X units, S statistics.
    """

    h_NH: Tensor
    x_NX: Tensor
    s_NS: Tensor
    """Statistics that the window's catalogue declares; none where it declares none."""
    labels_NT: Tensor
    mask_NT: Tensor
    domains: tuple[str | None, ...]
    """Domain of each row."""

    def of_domain(self, name: str) -> "FrozenRows":
        """Return the rows of one domain."""
        return self.take(torch.tensor([domain == name for domain in self.domains]).nonzero()[:, 0])

    def take(self, index_B: Tensor) -> "FrozenRows":
        """Return some rows."""
        return FrozenRows(
            h_NH=self.h_NH[index_B],
            x_NX=self.x_NX[index_B],
            s_NS=self.s_NS[index_B],
            labels_NT=self.labels_NT[index_B],
            mask_NT=self.mask_NT[index_B],
            domains=tuple(self.domains[index] for index in index_B.tolist()),
        )

    def __len__(self) -> int:
        return len(self.h_NH)


@dataclass(frozen=True)
class MethodSetup:
    """A log's window and the base of a seed. No test row can be reached from here."""

    window: Window
    base: Path
    """Folder of the published base."""
    seed: int
    scratch: Path
    """Folder for runs, which are removed after their cell is finished."""

    @cached_property
    def published(self) -> PublishedBase:
        """Return the base, opened."""
        return open_base(self.base)

    @property
    def catalog(self) -> Catalog:
        """Return the window's catalogue."""
        return self.window.catalog

    @property
    def tasks(self) -> tuple[TaskShape, ...]:
        """Return the tasks with the weights of their losses."""
        return task_shapes(self.catalog)

    @cached_property
    def tune(self) -> FrozenRows:
        """Return the frozen base's output for the rows that kernels learn from."""
        return self.frozen(Slice(self.window, "tune"))

    @cached_property
    def valid(self) -> FrozenRows:
        """Return the same for the validation rows, which stop the training of kernels."""
        return self.frozen(Slice(self.window, "valid"))

    @cached_property
    def counted(self) -> State:
        """Return what is counted of the window's rows for the statistics of its catalogue."""
        # A night of kernels opens the same splits, and so counts the same rows.
        wanted = ["tune", "valid", "gate"]
        view = open_log(self.catalog, str(self.window.root), wanted=wanted)
        past = past_of(view, KeptContents(None))
        assert past is not None, "the catalogue declares statistics"
        return count_past(past, self.catalog, None, current_worker())

    def _statistics_of(self, table: pa.Table, catalog: Catalog) -> Tensor:
        if not catalog.fresh:
            return torch.zeros(len(table), 0)
        return torch.from_numpy(statistics_of(table, self.counted, catalog))

    @cached_property
    def dense(self) -> nn.ModuleDict:
        """Return the frozen base's dense part: `trunk` and `heads`."""
        base = self._load()
        trunk = base.model.trunk
        assert isinstance(trunk, nn.Module), "the league trains its own bases"
        return nn.ModuleDict({"trunk": trunk, "heads": base.heads})

    @property
    def heads(self) -> Heads:
        """Return the base's towers."""
        heads = self.dense["heads"]
        assert isinstance(heads, Heads)
        return heads

    @property
    def base_parameters(self) -> int:
        """Return the parameters of the base: tables, trunk and towers."""
        tables = sum(t.rows * t.width for t in self.published.manifest.tables)
        return int(tables) + sum(p.numel() for p in self.dense.parameters())

    def domains(self) -> tuple[str, ...]:
        """Return the domains with at least `domain.min_rows` tuning rows."""
        names = [name for name in self.tune.domains if name is not None]
        least = self.catalog.domain.min_rows
        return tuple(sorted(n for n in set(names) if names.count(n) >= least))

    def folder(self, name: str) -> Path:
        """Return an empty folder for a run."""
        folder = self.scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    @torch.no_grad()
    def frozen(self, rows: Slice) -> FrozenRows:
        """Return the frozen base's output for a slice, in its order."""
        catalog, parts = rows.window.catalog, []
        view = open_log(catalog, str(rows.window.root), wanted=[rows.split])
        base = self._load()
        reader = Reader(
            selection=view.selections[rows.split],
            catalog=catalog,
            encoding=self.published.encoding,
            rank=0,
            world=1,
            as_of=view.as_of,
        )
        for table in reader.in_step(8_192):
            batch = to_batch(table, catalog)
            h_BH, x_BX = represent(base.model, batch, torch.float32)
            s_BS = self._statistics_of(table, catalog)
            parts.append(
                (h_BH, x_BX, s_BS, batch.labels_BT, batch.mask_BT, _domains(table, catalog))
            )
        h, x, s, labels, mask, domains = zip(*parts, strict=True)
        return FrozenRows(
            h_NH=torch.cat(h),
            x_NX=torch.cat(x),
            s_NS=torch.cat(s),
            labels_NT=torch.cat(labels),
            mask_NT=torch.cat(mask),
            domains=tuple(domain for part in domains for domain in part),
        )

    def predicted(
        self,
        rows: Slice,
        *,
        base: Path,
        bundles: Path | None = None,
        method: str = BASE,
        fresh: tuple[FreshSpec, ...] = (),
    ) -> Predicted:
        """Predict a slice by a base of the library, and by kernels where `bundles` names them.

        Args:
            rows: the slice.
            base: folder of the base.
            bundles: folder of a night's bundles.
            method: `base`, `iak` (every kernel) or `iak_published` (those that the gate let pass).
            fresh: statistics that the kernels read.
        """
        table = self._evaluated(rows, base, bundles, fresh)
        return probabilities_of(table, tasks_of(self.catalog), [method])[method]

    def rows(self, rows: Slice) -> Rows:
        """Return the labels, domains and users of a slice."""
        return self.rows_with_base(rows)[0]

    def rows_with_base(self, rows: Slice) -> tuple[Rows, Predicted]:
        """Return the labels, domains and users of a slice, and the base's predictions."""
        table = self._evaluated(rows, self.base)
        predicted = probabilities_of(table, tasks_of(self.catalog), [BASE])[BASE]
        return self._rows(table), predicted

    def _rows(self, table: pa.Table) -> Rows:
        names, index = np.unique(
            table.column("domain").fill_null("").to_numpy(zero_copy_only=False), return_inverse=True
        )
        # Rows without a domain sort first, under the empty name.
        unnamed = int(names.size > 0 and names[0] == "")
        return Rows(
            columns=task_columns(table, tasks_of(self.catalog)),
            domain_names=tuple(str(name) for name in names[unnamed:]),
            domain_N=index - unnamed,
            users_N=table.column("user").to_numpy() if self.catalog.log.user else None,
        )

    def predicted_by_logits(self, logits_NT: Tensor) -> Predicted:
        """Return the probabilities of every metric task from the tasks' logits."""
        p = probabilities(logits_NT.double(), self.tasks)
        index = {task.name: number for number, task in enumerate(self.tasks)}
        return {
            task.name: (p.own_BT if task.space == "own" else p.entire_BT)[:, index[task.task]]
            .numpy()
            .copy()
            for task in tasks_of(self.catalog)
        }

    def _load(self) -> FrozenBase:
        """Return the base with frozen weights; the process must be in a process group."""
        tables, placement = EvaluatedTablesSpec(), PlacementSpec().resolved()
        return FrozenBase.load(self.published, tables, placement, current_worker())

    def _evaluated(
        self,
        rows: Slice,
        base: Path,
        bundles: Path | None = None,
        fresh: tuple[FreshSpec, ...] = (),
    ) -> pa.Table:
        run_dir = self.folder("evaluation")
        catalog = rows.window.catalog.model_copy(update={"fresh": fresh})
        asked = {
            "catalog": rows.window.name,
            "data_root": str(rows.window.root),
            "base": base,
            "run_dir": run_dir,
            "split": rows.split,
            **ONE_WORKER,
        }
        asked |= {"bundles": bundles} if bundles else {}
        spec = spec_with_presets(EvaluateSpec, "evaluate", catalog, asked)
        evaluate(spec, catalog, ProcessLauncher())
        table = read_predictions(run_dir, rows.split).table
        shutil.rmtree(run_dir)
        return table


def train_base(
    window: Window,
    catalog: Catalog,
    run_dir: Path,
    *,
    seed: int,
    **settings: Any,  # noqa: ANN401
) -> PretrainResult:
    """Train or continue a base on parts of a window.

    Args:
        window: the rows.
        catalog: which of them; see `Window.learning`.
        run_dir: folder of the run.
        seed: of everything random.
        settings: of `iak pretrain`, over the catalogue's presets.
    """
    asked = {
        "catalog": window.name,
        "data_root": str(window.root),
        "run_dir": run_dir,
        "seed": seed,
        **ONE_WORKER,
        **settings,
    }
    spec = spec_with_presets(PretrainSpec, "pretrain", catalog, asked)
    return pretrain_base(spec, catalog, ProcessLauncher())


def _domains(table: pa.Table, catalog: Catalog) -> list[str | None]:
    level = len(catalog.domain.levels) - 1
    names: list[str | None] = table.column(f"l.{level}").cast(pa.string()).to_pylist()
    return names
