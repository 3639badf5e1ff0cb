"""Define what a worker of a tuning run is given, and what it returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from torch import Tensor

from iak.pipeline.activations.standardizer import Standardizer
from iak.pipeline.activations.statistics import RowStatistics, StatisticsStandard
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.data.view import LogView
from iak.pipeline.fresh.past import Past
from iak.pipeline.tuning.compared import Compared
from iak.pipeline.tuning.context import Stage
from iak.pipeline.tuning.gate_rows import PairedRows
from iak.pipeline.tuning.tuned_kernels import Tuned
from iak.schemas.domain import Domain
from iak.schemas.job import FrozenTablesSpec, KernelSpec
from iak.schemas.plan import ResolvedPlacement
from iak.schemas.table_placement import TablePlacement
from iak.schemas.tuning import CacheUse, OutsideLoss

SPLITS = ("tune", "valid", "gate")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationCacheConfig:
    """Settings of the activation cache: its folder, its kind and its budgets."""

    kind: Literal["cache", "memory", "recompute"]
    """Whether activations are stored on disk for later nights, in memory for this run alone, or
    nowhere."""
    precision: Literal["bf16", "fp32"]
    folder: Path
    """Folder of the cache. Activations that do not fit in memory go to its folder `spill`."""
    budget_bytes: int
    """Bytes of the whole cache on disk. Least recently used entries are evicted."""
    memory_bytes: int
    """Activations of one worker above which they go to a file."""
    uri: str | None = None
    """`s3://bucket/prefix` of the entries of all machines; None where this one shares none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Kernels that serve now, by domain, and the standardisation they were tuned with."""

    kernels: Mapping[str, Mapping[str, Tensor]]
    standard: Standardizer
    statistics: StatisticsStandard | None = None
    """How they read fresh statistics; None where they read none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneWork:
    """The work of a tuning run, the same for every worker."""

    view: LogView
    """The log as it was when the run began, cut into splits."""
    base: PublishedBase
    kernel: KernelSpec
    pooled: Stage
    domain: Stage
    run_dir: Path
    tables: FrozenTablesSpec
    cache: ActivationCacheConfig
    live: Live | None
    """Kernels that serve now; None in a first night."""
    checkpoint_every_s: float
    """Seconds between two checkpoints."""
    placement: ResolvedPlacement
    compares_chains: bool = False
    """Whether kernels are also compared with those that serve and with their ancestors, as evidence
    over nights (publish/chain.py). Gate rows are then predicted in fp32, as serving does."""
    domains: tuple[str, ...] = ()
    """Names of the only domains that are tuned beside the pooled kernel; all when empty."""
    deadline: datetime | None = None
    """Moment after which no further kernels are begun. Until then they begin in the order of
    `domains`."""
    past: Past | None = None
    """Rows that fresh statistics count; None where the catalogue declares none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level's kernels, and their gate rows (on worker 0 alone)."""

    keys: tuple[str, ...]
    """Keys of its domains; none for the pooled kernel."""
    tuned: Tuned
    rows: Mapping[str, int]
    """Name of each kernel -> its tuning rows."""
    gate_rows: Mapping[str, PairedRows]
    """Name of each kernel that has gate rows -> these rows."""
    domains: Mapping[str, Domain]
    """Name of each kernel -> its domain."""
    ancestors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of each kernel -> its domains at the levels above, outermost first."""
    compared: Compared = field(default_factory=Compared)
    """Gate rows against other kernels; nothing where only the base is compared with."""
    outside: Mapping[str, OutsideLoss] = field(default_factory=dict)
    """Name of each kernel -> what it would cost outside its domain, where that can be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetuned:
    """The result of a tuning run on one worker."""

    levels: tuple[Level, ...]
    below_floor: Mapping[str, int]
    """Domains with fewer tuning rows than `min_rows`, and how many they have."""
    not_reached: tuple[str, ...] = ()
    """Domains that were not begun before the deadline."""
    standard: Standardizer
    tasks: tuple[str, ...]
    """The catalogue's tasks, in the order of the gate rows' columns."""
    contract: Mapping[str, int]
    """Quarantined rows of all workers, by reason."""
    labels: Mapping[str, int]
    """`known TASK` and `positive TASK` -> tuning rows."""
    digest: str
    """Digest of tables and trunk after tuning."""
    digest_before: str
    """Digest of tables and trunk before tuning. `finetune` raises where it differs from `digest`.
    """
    plan: Sequence[TablePlacement]
    """Where each table is placed."""
    parameters_per_kernel: int
    standard_from: str
    """Where the standardisation comes from: `live kernels`, `the cache`, or `this run's rows`."""
    cache: CacheUse
    """Rows read from the cache and added to it, over all workers."""
    gate_seconds: float = 0.0
    """Seconds in which the gate's rows were predicted in fp32; 0 where only one night is judged."""
    live: frozenset[str] = frozenset()
    """Domains that have a kernel of their own serving."""
    statistics: RowStatistics | None = None
    """Fresh statistics that the kernels read; None where they read none."""
