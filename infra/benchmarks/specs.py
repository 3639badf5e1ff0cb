"""Settings of `python -m infra.benchmarks NAME`: sizes, and how often each variant is measured."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from iak.schemas.base import without_repeats
from iak.schemas.bench import BenchSetupSpec, BenchSpec
from iak.schemas.job import Precision
from iak.schemas.numbers import (
    BatchRows,
    Ceiling,
    Count,
    CountOrZero,
    Rows,
    Seed,
    Share,
    Size,
    TableRows,
    Whole,
    Width,
    Workers,
)
from iak.schemas.paths import FolderToRead, FolderToWrite

SeparatedLog = Literal[
    "planted", "frappe", "movielens", "retailrocket", "xmrec", "coupons", "open_bandit", "ipinyou"
]
QualityLog = Literal[SeparatedLog, "planted_large_test"]
"""Logs of `quality`: `planted_large_test` is the planted one with many more test rows."""
QualityMethod = Literal[
    "base",
    "platt",
    "bias",
    "iak",
    "iak_gated",
    "iak_counts",
    "iak_pairs",
    "iak_past",
    "iak_past_pairs",
    "iak_no_kl",
    "iak_one_phase",
    "iak_h_only",
    "iak_no_pooling",
    "bottleneck",
    "head",
    "lora",
    "lora_past",
    "dense",
    "continued",
    "continued_without_state",
    "full",
    "joint",
    "oracle",
    "oracle_global",
    "ceiling",
]
"""Methods of `quality`, each in infra/benchmarks/quality/methods.py."""
Trunk = Literal["dcnv2_mmoe", "deepfm", "dlrm", "mlp", "ple"]
HistoryReader = Literal["din", "sasrec", "caser"]


class BenchDataSpec(BenchSpec):
    """Settings of `data`: how fast rows become batches, against raw decoding."""

    rows: Annotated[Whole, Field(gt=0, le=10_000_000_000)] = 524_288
    """Rows of the wide log: 20 columns, two of them histories."""
    row_group_rows: BatchRows = 65_536
    """Rows of a Parquet row group."""
    batch_rows: BatchRows = 8_192
    """Rows of a batch."""
    compression: Literal["zstd", "snappy", "lz4", "none"] = "zstd"
    """Codec of the Parquet pages. The faster it is decoded, the larger is encoding's share."""
    prefetch: Annotated[Whole, Field(gt=0, le=10_000)] = 4
    """Batches that the background thread may be ahead."""


class BenchFinetuneSpec(BenchSetupSpec):
    """Settings of `finetune`: the cost of a night on a frozen base, against the practice today."""

    separate_sample: Count = 24
    """Domains that are tuned one by one, to estimate the time of all."""
    separate_batches: tuple[BatchRows, ...] = (256, 1024, 4096)
    """Batch sizes of which a separate fine-tune takes the fastest."""


class BenchTablesSpec(BenchSpec):
    """Settings of `tables`: the cost of a night on a table of a billion rows and on small ones."""

    rows: TableRows = 1_000_000_000
    """Rows of the table; all workers together need its bytes and those of the smaller ones."""
    smaller: Annotated[tuple[TableRows, ...], Field(min_length=1)] = (1_000_000, 100_000_000)
    """Rows of the tables that it is compared with, step by step; targets refer to the first."""
    dim: Width = 8
    """Columns."""
    precision: Precision = "int8"
    """Type of its entries."""
    workers: Workers = 2
    """gloo workers, one thread each."""
    batch_rows: BatchRows = 8192
    """Rows of a tuning step over all workers; each looks up 40 ids, half of them uniform."""
    domains: Count = 100
    """Kernels in the bank."""
    domains_per_step: Count = 8
    """Kernels that have rows in a step."""
    slice_steps: Count = 20
    """Steps of one measured slice."""
    lookups: BatchRows = 500_000
    """Ids a worker asks for at once, where lookups alone are timed."""
    checked_rows: Count = 1_000
    """Rows that are recomputed and compared, of each table and by each worker."""


class BenchServeSpec(BenchSetupSpec):
    """Settings of `serve`: what kernels cost where rows are predicted, in files and over HTTP."""

    predicted_rows: BatchRows = 24_576
    """Rows that are predicted at a time from Parquet to Parquet, as `iak predict` does."""
    request_rows: BatchRows = 512
    """Rows of a request whose domains vary."""
    domains_in_request: Annotated[tuple[Count, ...], Field(min_length=1)] = (8, 100, 400)
    """Distinct domains of such a request, rising."""
    sizes: Annotated[tuple[BatchRows, ...], Field(min_length=1)] = (1, 16, 128, 512, 2048)
    """Rows of a request whose domains are those of the log."""
    requests: Count = 60
    """Times that each request is sent, in turns with the others."""
    clients: Count = 2
    """Clients that ask at the same time while kernels are promoted."""
    promotions: Count = 3
    """Promotions under load; the median time to the first answer is reported."""
    adapters: Annotated[tuple[Count, ...], Field(min_length=1)] = (10, 100, 400)
    """Distinct adapters in a batch of `request_rows` rows, rising, where PEFT is installed."""
    adapter_turns: Count = 20
    """Times that each such batch is computed, in turns with the others."""


class BenchFaultsSpec(BenchSpec):
    """Settings of `faults`: whether runs survive damaged files, full disks and kills."""

    per_play: Count = 3
    """Faults of each play of a class, at other seeded positions."""
    per_class: Count = 24
    """Most faults of a class, over all its plays."""
    only: tuple[str, ...] = ()
    """Parts of the names of classes and places that are played; all where empty."""
    bad_inputs: CountOrZero = 600
    """Bad files, catalogues, settings and paths that are tried."""
    fewest_faults: Count = 400
    """Target: faults that are injected at least."""
    fewest_inputs: Count = 600
    """Target: bad inputs that are tried at least."""
    undamaged: Annotated[Whole, Field(ge=2, le=100)] = 3
    """Undamaged runs of each attempt, which must agree; seconds are compared with their median."""
    workers: Workers = 2
    """Faults that are played at the same time, each by a process of one thread."""


class BenchGateSpec(BenchSpec):
    """How often a gate errs in a month of nights, and the smallest gain that it finds."""

    domains: Count = 1_000
    """Domains without a true gain, in each world."""
    rows: BatchRows = 10_000
    """Their new gate rows a night."""
    spread: Size = 0.25
    """Standard deviation of a row's gain, as a share of the base's loss."""
    power_rows: Annotated[tuple[BatchRows, ...], Field(min_length=1)] = (1_000, 10_000, 100_000)
    """New gate rows a night of which the power is stated."""
    power_domains: Count = 60
    """Domains with a gain, for each of them."""


class BenchNightsSpec(BenchSpec):
    """What weeks of nights bring on a log whose tastes drift, beside nights without a chain."""

    rows: Rows = 1_200_000
    """Rows of the planted log over all days."""
    nights: Annotated[Count, Field(ge=1)] = 12
    """Nights, one a day."""
    base_days: Count = 20
    """Days that the base learns from, before the first night's window."""
    window_days: Count = 6
    """Days that a night reads."""
    regions: Count = 8
    """Domains."""
    users: Count = 10_000
    """Users of the log."""
    items: Count = 4_000
    """Items of the log."""
    workers: Workers = 2
    """gloo workers, one thread each."""


class BenchTermsSpec(BenchSpec):
    """Settings of `terms`: kernels without single terms, on planted logs that are made harder."""

    rows: Rows = 600_000
    """Rows of the planted log over all days."""
    days: Annotated[Whole, Field(ge=12, le=10_000)] = 28
    """Its days. The last two judge, and kernels are tuned on the six before them."""
    regions: Count = 8
    """Domains."""
    users: Count = 5_000
    """Users of the log."""
    items: Count = 2_000
    """Items of the log."""
    noise: Share = 0.3
    """Share of the recent rows that trade their labels, under that condition."""
    thin_rows: Count = 50
    """Rows of each region and day that are left, under that condition."""
    poison: Share = 0.1
    """Share of one day's rows without a click that become clicks, under that condition."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(without_repeats)] = (
        *range(5),
    )
    """Seeds, each of a log, a base and kernels."""


class SeparatedLogsSpec(BenchSpec):
    """Settings of benchmarks on logs whose test rows lie in a folder of their own."""

    data_root: FolderToRead | None = None
    """Folder of the public logs, where `logs` names one. A planted log is made in `cache`."""
    budget_minutes: Ceiling | None = None
    """Minutes after which no further cell begins; what is finished is reported."""
    cache: FolderToWrite = Path("runs/quality")
    """Folder of separated logs, bases and predictions, which can be made again."""
    planted_rows: Rows = 1_850_000
    """Rows of the planted log."""
    planted_days: Annotated[Whole, Field(ge=12, le=10_000)] = 28
    """Its days."""
    planted_users: Count = 10_000
    """Its users."""
    planted_regions: Count = 8
    """Its domains."""
    planted_repeats: Annotated[Whole, Field(ge=0, le=1_000)] = 15
    """How often the log `planted_large_test` draws its test days again from the same truth."""


class BenchQualitySpec(SeparatedLogsSpec):
    """Settings of `quality`: IAK beside what else could be done with the same recent rows."""

    logs: Annotated[
        tuple[QualityLog, ...], Field(min_length=1), AfterValidator(without_repeats)
    ] = ("frappe", "movielens", "retailrocket", "xmrec", "coupons", "planted")
    """Logs, one after the other."""
    methods: Annotated[
        tuple[QualityMethod, ...], Field(min_length=1), AfterValidator(without_repeats)
    ] = ("base", "platt", "iak", "continued", "lora", "bottleneck", "joint")
    """Methods, each on every log."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(without_repeats)] = (
        *range(5),
    )
    """Seeds of base and methods. Settings are searched on the first one."""
    trials: Count = 8
    """Settings that are tried of every method, the shipped ones first."""
    cells: FolderToWrite = Path("infra/benchmarks/quality/cells")
    """Folder of the finished cells. A cell that is there is never run again."""


class BenchTrunksSpec(SeparatedLogsSpec):
    """Settings of `trunks`: each trunk and each reader of histories, as a base and with kernels."""

    logs: Annotated[
        tuple[SeparatedLog, ...], Field(min_length=1), AfterValidator(without_repeats)
    ] = ("movielens", "retailrocket")
    """Logs, one after the other."""
    trunks: Annotated[tuple[Trunk, ...], Field(min_length=1), AfterValidator(without_repeats)] = (
        "dcnv2_mmoe",
        "deepfm",
        "dlrm",
        "mlp",
        "ple",
    )
    """Trunks, each over the means of histories. The first is what all others are compared with."""
    histories: Annotated[tuple[HistoryReader, ...], AfterValidator(without_repeats)] = (
        "din",
        "sasrec",
        "caser",
    )
    """Readers of histories, each with the first trunk."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(without_repeats)] = (
        *range(3),
    )
    """Seeds of bases and kernels. All logs and models of one seed come before the next."""
    cells: FolderToWrite = Path("infra/benchmarks/trunks/cells")
    """Folder of the finished cells. A cell that is there is never run again."""
