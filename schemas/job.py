"""Define the settings of the jobs: one frozen spec for each verb, with units and defaults."""

from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    ConfigDict,
    Field,
    model_validator,
)

from iak.schemas.base import Column, Spec, Value, with_names, without_userinfo
from iak.schemas.feature import Name
from iak.schemas.job_server import LOOPBACK, ServerAddress
from iak.schemas.numbers import (
    BatchRows,
    Ceiling,
    Count,
    CountOrZero,
    Days,
    Gib,
    Layers,
    Margin,
    Number,
    Rate,
    Rows,
    Seconds,
    Seed,
    Share,
    Size,
    TableRows,
    Units,
    UnitsOrZero,
    Weight,
    Whole,
    Width,
    Workers,
)
from iak.schemas.paths import (
    BaseToRead,
    BundlesToRead,
    FileOrFolderToRead,
    FileToRead,
    FileToWrite,
    FolderToRead,
    FolderToWrite,
    NamedPath,
    Picture,
    PlaceToRead,
    PlaceToWrite,
    bucket_uri,
)
from iak.schemas.plan import PlacedSpec, PlacementSpec

Dropout = Annotated[Number, Field(ge=0, lt=1)]
Allowance = Annotated[
    str,
    Field(
        pattern=r"^(table:[A-Za-z0-9_.-]+:(missing|unexpected|grown|changed|dtype)"
        r"|dense:[A-Za-z0-9_.]+:(missing|unexpected|grown|relaid|changed|dtype))$"
    ),
]
"""One difference between a published base and a model: part, name, and what may differ."""


class LogJobSpec(Spec):
    """Settings of every job that reads a log."""

    model_config = ConfigDict(populate_by_name=True)

    catalog: NamedPath
    """The catalogue: a TOML file, or the name of a shipped one (`planted`, `frappe`, ...)."""
    data_root: Annotated[str, AfterValidator(without_userinfo)]
    """Folder or URI below which the catalogue's paths are (a path, s3://, gs://, ...)."""
    as_of: date | None = None
    """Last date whose labels were collected; the catalogue's, else the newest date of the log that
    is neither stray nor beyond today. Never later than today."""
    today: date | None = None
    """Today's date, after which no row of the log can be; from the machine's clock when absent.
    A planted log has invented dates, which no clock bounds."""
    max_skipped_share: Annotated[Number, Field(ge=0, le=1)] = 0.05
    """Share of a split window's rows that may be in files that cannot be read."""
    allow_skipped: bool = False
    """Run even if more rows than `max_skipped_share`, or a whole day of a window, cannot be
    read."""


class WorkersSpec(Spec):
    """Number, device and seed of a job's workers."""

    workers: Workers = 2
    """Processes that share the work: of this machine, or of the Ray cluster that RAY_ADDRESS
    names."""
    min_workers: Annotated[Whole, Field(ge=0, le=100_000)] = 0
    """Fewest workers with which a run under Ray starts, and goes on when machines are lost. It
    takes more, up to `workers`, when they return. With 0 it never has fewer than `workers`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where workers compute; `auto` takes GPUs when the cluster has enough of them."""
    max_failures: CountOrZero = 3
    """Worker deaths that a run survives, each time by resuming from its last checkpoint."""
    hung_after_s: Annotated[Whole, Field(ge=5, le=86_400)] = 600
    """Seconds without an answer after which a worker counts as dead. A worker answers the others
    at each of their common steps, and all the time the command or Ray, which started it."""
    seed: Seed = 0
    """Seed of everything random."""

    @model_validator(mode="after")
    def _fewest_is_not_more(self) -> Self:
        if self.min_workers > self.workers:
            raise ValueError(
                f"min_workers={self.min_workers} is more than workers={self.workers}; "
                "lower it, or raise workers"
            )
        return self


class WorkerJobSpec(WorkersSpec, LogJobSpec):
    """Settings of every job that runs on workers."""

    run_dir: PlaceToWrite
    """Folder of the run: record, progress, checkpoints, results. On a cluster, a shared folder, or
    `s3://bucket/prefix`."""
    if_busy: Literal["leave", "wait"] = "leave"
    """What to do when another process works in `run_dir`: name it and exit, or wait for it."""


class ModelSpec(Spec):
    """Shape of the base: embedding tables, a trunk, and a tower for each task."""

    trunk: Literal["dcnv2_mmoe", "deepfm", "dlrm", "mlp", "ple"] = "dcnv2_mmoe"
    """`dcnv2_mmoe`: a cross network beside an MLP, then experts that each task mixes; `deepfm`: a
    factorization machine beside an MLP; `dlrm`: dot products of all pairs of embeddings, then an
    MLP; `mlp`: the MLP alone, whose last width is tasks * expert_width; `ple`: levels of each
    task's own experts and shared ones."""
    width: Width = 16
    """Embedding dimension of tables that do not state their own, and units of the vectors that
    `deepfm` and `dlrm` multiply."""
    init_scale: Size = 0.01
    """Table entries start uniform in plus and minus this."""
    cross_layers: Layers = 2
    """DCN-v2 cross layers."""
    cross_rank: UnitsOrZero = 0
    """Rank of a cross layer's matrix; 0 is full rank."""
    mlp: Annotated[tuple[Units, ...], Field(min_length=1, max_length=64)] = (128,)
    """Widths of the deep part: beside the cross network or the factorization machine, or over the
    dot products of `dlrm`. `ple` has none."""
    experts: Annotated[Whole, Field(gt=0, le=1_024)] = 4
    """MMoE experts; in `ple`, experts of each task in each level."""
    # A default of what follows up to `vertical_filters` is not written. So the settings of other
    # trunks keep their digest, and a run that an earlier version began is still the same run.
    shared_experts: Annotated[Whole, Field(gt=0, le=1_024, exclude_if=lambda n: n == 2)] = 2
    """Experts in each level of `ple` that all tasks read."""
    levels: Annotated[Whole, Field(gt=0, le=64, exclude_if=lambda n: n == 2)] = 2
    """Extraction levels of `ple`."""
    history: Annotated[
        Literal["mean", "din", "sasrec", "caser"], Field(exclude_if=lambda kind: kind == "mean")
    ] = "mean"
    """How the trunk reads a history: a list whose table a categorical feature reads too, which is
    its target. `mean`: as any list, by its mean. The others read its values too. `din`: each is
    weighted by what it has to do with the target; `sasrec`: the last state of self-attention;
    `caser`: convolutions over successive values."""
    positions: Annotated[Whole, Field(gt=0, le=1_000, exclude_if=lambda n: n == 20)] = 20
    """Newest values of a history that are read one by one; no more than its `last`."""
    attention_units: Annotated[Units, Field(exclude_if=lambda n: n == 36)] = 36
    """Hidden units of the layer of `din` that weighs a value."""
    blocks: Annotated[Whole, Field(gt=0, le=64, exclude_if=lambda n: n == 2)] = 2
    """Self-attention blocks of `sasrec`."""
    filter_heights: Annotated[
        tuple[Annotated[Whole, Field(gt=0, le=1_000)], ...],
        Field(min_length=1, max_length=64, exclude_if=lambda heights: heights == (2, 3, 4)),
    ] = (2, 3, 4)
    """Successive values that a horizontal filter of `caser` covers."""
    filters: Annotated[Units, Field(exclude_if=lambda n: n == 16)] = 16
    """Horizontal filters of `caser` of each height."""
    vertical_filters: Annotated[Units, Field(exclude_if=lambda n: n == 4)] = 4
    """Vertical filters of `caser`."""
    expert_width: Units = 64
    """Units of an expert, and so of each task's representation."""
    tower_width: Units = 32
    """Hidden units of a task's tower."""
    dropout: Dropout = 0.0
    """Dropout in the deep part and the experts, in pre-training."""
    embedding_dropout: Dropout = 0.0
    """Dropout of the trunk's inputs (embeddings and numbers), in pre-training."""


class _OptimSpec(Spec):
    """Settings that the fixed and the open form of the base's optimisers share."""

    table_eps: Size = 1e-8
    """Row-wise Adagrad's epsilon; a larger one slows down rows whose gradients are small."""
    table_decay: Weight = 0.0
    """L2 decay of each table row that a batch uses, the same for rare and frequent rows."""
    table_penalty: Weight = 0.0
    """This / 2 times the squared length of each embedding read is added to a row's loss."""
    dense_decay: Weight = 0.0
    """AdamW's decoupled decay."""
    decay_share: Annotated[Number, Field(ge=0, le=1)] = 0.4
    """Share of the run, at its end, over which both rates fall linearly to zero."""


class BaseOptimSpec(_OptimSpec):
    """How the base is trained, every setting fixed."""

    table_lr: Rate = 0.05
    """Row-wise Adagrad's rate for the tables."""
    dense_lr: Rate = 1e-3
    """AdamW's rate for trunk and towers."""
    warmup_steps: CountOrZero = 50
    """Steps over which both rates rise from zero; a tenth of the run at most."""


class PretrainOptimSpec(_OptimSpec):
    """How `iak pretrain` trains the base; what is left open follows from the training rows."""

    table_lr: Rate | None = None
    """Row-wise Adagrad's rate for the tables. Open: 0.1."""
    dense_lr: Rate | None = None
    """AdamW's rate for trunk and towers. Open: 0.001."""
    warmup_steps: CountOrZero | None = None
    """Steps over which both rates rise from zero; a tenth of the run at most. Open: 50."""


class PretrainSpec(PlacedSpec, WorkerJobSpec):
    """Pre-train a base on the catalogue's `pretrain` split and publish it."""

    from_: Annotated[BaseToRead | None, Field(alias="from")] = None
    """Run or published base to continue; its encoding is kept, the result has a new fingerprint."""
    allow: tuple[Allowance, ...] = ()
    """Differences from `from` that are meant, `table:NAME:grown` or `dense:NAME:KIND`; every other
    one is refused. Kinds: `missing` and `changed` start fresh, `unexpected` is left behind, `grown`
    keeps all it was, `relaid` keeps what belongs to inputs that are still there, `dtype` converts.
    A vocabulary takes in new ids only where its table is allowed to have `grown`."""
    model: ModelSpec = ModelSpec()
    optim: PretrainOptimSpec = PretrainOptimSpec()
    from_rates: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Factor on both rates where `from` continues a base. Open: 1 with the base's optimiser state,
    0.3 without it."""
    batch_rows: BatchRows | None = None
    """Rows per step, over all workers. Open: the power of two that gives an epoch 256 to 512 steps,
    but 64 at least and 2048 at most."""
    epochs: Count | None = None
    """Passes over the window at most. Open: as many as make up four million rows, 8 at most."""
    patience: Count | None = None
    """Validations without improvement after which training stops. Open: 3."""
    validations_per_epoch: Count | None = None
    """Validations in an epoch; the state of the best one is published. Open: 2."""
    trials: Annotated[Whole | None, Field(ge=1, le=4, exclude_if=lambda trials: trials is None)] = (
        None
    )
    """Sets of settings to train with, one after the other; the base with the best validation loss
    is published. They differ in dropout and in the tables' learning rate, epsilon and penalty,
    where these are left open; the fourth also in their width. 1 trains once. Open: 3, or 4 from
    500,000 training rows, for a new base of at most four million training rows and 1 GiB of
    tables, unless any of these but the width, `batch_rows`, `epochs` or another setting of the
    run's length is given."""
    early_stop: Literal["sum", "per_task"] = "sum"
    """How the best state is chosen. `sum`: by the weighted validation loss of all tasks.
    `per_task`: by that, and then each task's tower is trained further by itself, on the frozen
    tables and trunk of that state, and kept at its own best validation."""
    task_weights: Annotated[dict[str, Weight], AfterValidator(with_names)] = {}
    """Task -> weight of its loss, over the catalogue's (`task_weights.cvr=0.5`)."""
    shuffle_rows: Count = 262_144
    """Rows shuffled together by a worker; row groups are shuffled first."""
    bf16: bool = False
    """Run trunk and towers under bfloat16 autocast."""
    placement: PlacementSpec = PlacementSpec()
    checkpoint_every_steps: Count = 200
    """Steps between checkpoints."""

    @model_validator(mode="after")
    def _allows_what_is_loaded(self) -> Self:
        if self.allow and self.from_ is None:
            raise ValueError(
                f"allow {list(self.allow)} is about loading a base, but `from` names none; "
                "give from=RUN, or leave allow out"
            )
        return self


class AdoptSpec(LogJobSpec):
    """Check a recommender that was made elsewhere, and publish it as a base for the other verbs."""

    run_dir: FolderToWrite
    """Folder of the run: its record, and the published base."""
    weights: FileOrFolderToRead | None = None
    """Weights of the module of a base of kind `torch`, or of the towers of one of kind `columns`:
    safetensors, or a state dict of tensors. Of a module also a folder that
    torch.distributed.checkpoint wrote."""
    trust: Literal["pickle"] | None = None
    """`pickle`: unpickle the metadata of the folder that `weights` names. A pickle can run any
    code as this user, so say so only of a folder whose writers you trust."""
    scores: Annotated[dict[str, Column], AfterValidator(with_names)] = {}
    """Task -> column with the module's own logits, which its logits here are compared with."""
    outputs: Annotated[dict[str, Column], AfterValidator(with_names)] = {}
    """List column -> layer of the module whose output was logged there, such as `top.0`. Where a
    score differs, the first of these layers whose output differs is named."""
    scores_tolerance: Margin = 1e-4
    """Most that a logit may differ from the module's own, absolutely and relative to its size."""
    max_unusable_share: Share = 0.0
    """Share of rows that may lack a finite logit, or an h of the declared length. Such rows lose
    their labels: no kernel learns from them and no metric ranks them."""
    if_busy: Literal["leave", "wait"] = "leave"
    """What to do when another process works in `run_dir`: name it and exit, or wait for it."""


class KernelSpec(Spec):
    """Shape of a kernel, and the weight of its rate."""

    hidden: Units = 64
    """Units of the encoder's hidden layer."""
    code: Units = 16
    """Units of the Gaussian code z."""
    beta: Weight = 1e-3
    """Weight of the rate, in units of loss per nat."""
    reads: Literal["h", "hx"] = "hx"
    """What the encoder reads. `h`: the trunk's output. `hx`: that, and the embeddings x."""
    narrow: UnitsOrZero = 256
    """Principal components to which a wider x is reduced before it is cached and read; 0 keeps x
    whole."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Type of the encoder's first matrix product while tuning; weights and the rest stay fp32."""
    adapter_rank: UnitsOrZero = 4
    """Rank of the LoRA on each task's tower, 0 for none; tower biases are tuned in any case."""


class StageSpec(Spec):
    """How the pooled kernel is tuned."""

    lr: Rate = 2e-3
    """Adam's rate in matching until it falls, and in compression."""
    decay_share: Annotated[Number, Field(ge=0, le=1)] = 1.0
    """Share of a kernel's steps, at their end, over which its rate falls linearly to zero. With 0
    the rate is constant, and `max_epochs` should be so large that few kernels reach it."""
    compression_epochs: CountOrZero = 1
    """Epochs of knowledge compression, with a probe on the code and the base's logits fixed."""
    max_epochs: Count = 4
    """Epochs of knowledge matching at most, over which the rate falls."""
    live_epochs: Count = 2
    """Epochs of matching at most where tuning starts from live kernels: they were tuned on most of
    the window, and are not compressed again."""
    patience: Count = 2
    """Epochs without a better validation loss after which a kernel is finished."""
    shrink: Weight = 0.0
    """Weight of the squared distance to the kernel it started from."""
    weight_decay: Share = 0.0
    """Share that an epoch at the full rate takes off the encoder's first matrix. A kernel then
    learns less by heart of single ids, whose embeddings it reads."""
    target_rate: Size | None = None
    """Nats a row that a code is to keep. `kernel.beta` is then only where the weight of the rate
    begins: it rises where a code keeps more, and falls where it keeps less. Without a target the
    weight is constant."""
    min_batch: BatchRows = 128
    """Smallest batch of a domain, in rows."""
    max_batch: BatchRows = 1024
    """Largest batch of a domain, in rows."""
    steps_per_epoch: Count = 32
    """Steps that a domain's epoch should have; its batch size follows, within those two bounds."""
    max_steps_per_epoch: Count = 1024
    """Most steps of a domain's epoch. Where rows would make more steps, a random part is used."""


class DomainStageSpec(StageSpec):
    """How parents and domains are tuned, each from its nearest tuned ancestor."""

    lr: Rate = 1e-3
    """Adam's rate in matching until it falls, and in compression."""
    max_epochs: Count = 2
    """Epochs of knowledge matching at most, over which the rate falls."""
    live_epochs: Count = 1
    """Epochs of matching at most where tuning starts from live kernels, which were tuned on most of
    the window."""
    compression_epochs: CountOrZero = 0
    """Epochs of knowledge compression; the ancestor has compressed already."""
    shrink: Weight = 1e-2
    """Weight of the squared distance to the kernel it started from."""
    borrow: bool = False
    """Keep of a new kernel's change only a share, and its ancestor's kernel for the rest. The share
    is tau^2 / (tau^2 + e^2): e is the standard error of its gain on the validation rows, and tau
    how far the gains of all domains of the level are from zero (empirical Bayes)."""


Precision = Literal["fp32", "fp16", "int8", "int4"]


class FrozenTablesSpec(Spec):
    """How workers store the tables of a frozen base, and compute with it."""

    precision: Precision = "int8"
    """Type of a table's entries; int8 and int4 have a scale and a bias for each row."""
    precisions: Annotated[dict[str, Precision], AfterValidator(with_names)] = {}
    """Table -> type, where it differs from `precision`."""
    tolerance: Margin = 1e-3
    """AUC that a precision may cost any task on the base's validation rows. It is refused where the
    cost exceeds that by more than its noise on these rows."""
    products: Literal["fp32", "bf16"] = "fp32"
    """Type of the trunk's matrix products, forward only. Activations are cached in cache.precision
    in any case. bf16 is several times faster where the processor supports it."""
    mapped: bool = False
    """Map every table whole from local disk, shared by a machine's workers, and send no id."""
    verify_mapped: bool = False
    """Compare every byte of mapped tables with their digests when they are mapped, instead of a
    sample."""
    mapped_days: Days = 14.0
    """Days after which mapped tables that no process has mapped since are removed."""


class EvaluatedTablesSpec(FrozenTablesSpec):
    """How an evaluation stores the base: in full precision, unless another one is given."""

    precision: Precision = "fp32"
    """Type of a table's entries; int8 and int4 have a scale and a bias for each row."""


class CacheSpec(Spec):
    """Cache of the activations that a frozen base computed, for later epochs, runs and nights."""

    folder: PlaceToWrite | None = None
    """Folder of the cache, or `s3://bucket/prefix`; `activations/` beside the base when absent."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Type of activations, on disk and in memory."""
    budget_gib: Gib = 50.0
    """GiB on a machine's disk; beyond it the least recently used entries are removed there."""
    memory_gib: Gib = 6.0
    """GiB of activations in a worker's memory; beyond it they are memory-mapped from disk."""

    @property
    def uri(self) -> str | None:
        """Return where the cache lies on an object store; None for a folder."""
        return bucket_uri(self.folder) if self.folder else None


class ChainSpec(Spec):
    """What nights together must show before a domain has a kernel of its own.

    `iak nightly` alone uses it. Gains are shares of the base's loss: 0.01 lowers it by 1 %.
    """

    alpha: Annotated[Number, Field(gt=0, lt=1)] = 0.05
    """Probability that a domain without any gain is ever promoted on one base, over all nights."""
    at_once: Share = 0.5
    """Part of `alpha` that the first night may use to promote at once; 0 waits for evidence."""
    at_once_margin: Margin = 0.003
    """Gain that the first night's own test must exceed. One night shows no loss that is rarer than
    its days, so a small gain has to be seen again."""
    floor: Annotated[Number, Field(gt=0, le=1)] = 0.02
    """Gain or loss up to which a night counts in full. A smaller one finds small gains sooner; a
    larger one also counts rare nights of large loss."""
    canary_hours: Annotated[Number, Field(ge=0, le=10_000)] = 24.0
    """Newest hours that are also judged by themselves, against what serves; 0 leaves this out. In a
    log without `event_time` they are rounded up to whole days."""


class GateSpec(Spec):
    """When a tuned kernel may be published."""

    z: Margin = 1.64
    """Standard errors by which the paired gain in nats must exceed zero. More are needed where the
    gain is based on few users, by Student's distribution."""
    min_positives: Count = 30
    """Positives among a task's gate rows below which the task is not judged."""
    min_negatives: Count = 30
    """Negatives among a task's gate rows below which the task is not judged."""
    auc_margin: Margin = 0.002
    """AUC that a task may lose. A kernel is held back if the whole 95 % interval of the difference
    is below minus this."""
    logloss_margin: Margin = 0.005
    """Share by which a task's log-loss may rise. A kernel is held back if the whole interval is
    above."""
    calibration_margin: Margin = 0.05
    """How much further a task's calibration may be from 1. A kernel is held back if the whole
    interval is above."""
    chain: ChainSpec = ChainSpec()
    """What nights together must show."""


class TuningSpec(PlacedSpec):
    """How kernels are tuned and judged, wherever the log and the base are."""

    kernel: KernelSpec = KernelSpec()
    pooled: StageSpec = StageSpec()
    domain: DomainStageSpec = DomainStageSpec()
    gate: GateSpec = GateSpec()
    tables: FrozenTablesSpec = FrozenTablesSpec()
    activations: Literal["cache", "memory", "recompute"] = "cache"
    """Compute each row's h and x once and keep them on disk for later runs, or in memory for this
    run alone, or look the tables up each step."""
    cache: CacheSpec = CacheSpec()
    step_rows: BatchRows = 8192
    """Rows of a step over all workers; no domain is added to a step that has as many."""
    checkpoint_every_s: Seconds = 30.0
    """Seconds between checkpoints."""
    placement: PlacementSpec = PlacementSpec()


class FinetuneSpec(TuningSpec, WorkerJobSpec):
    """Tune every domain's kernel on a frozen base and write the bundles."""

    base: BaseToRead
    """Run or folder of the published base, `s3://bucket/prefix` of one, or
    `registry:PLACE@champion`: the one it runs on."""
    live: BundlesToRead | None = None
    """Bundles that serve now (a run, its `bundles/`, or `registry:PLACE@champion`): kernels start
    from them."""
    live_base: BaseToRead | None = None
    """Base that the live bundles run on, where that is the parent of `base`. Kernels start from
    them where they validate better than what is above them; absent: `base`."""
    domains: tuple[Column, ...] = ()
    """Names of the only domains that are tuned, beside the pooled kernel; all that have rows enough
    when absent. What serves the others stays as it is."""
    deadline: AwareDatetime | None = None
    """Moment, with its zone, after which no further kernels are begun; what is tuned by then is
    judged and published. The pooled kernel is tuned in any case. Kernels are begun in the order of
    `domains`, else those with most rows first."""


class EvaluateSpec(PlacedSpec, WorkerJobSpec):
    """Evaluate base and kernels on the same later rows, with paired intervals."""

    base: BaseToRead
    """Run or folder of the published base, `s3://bucket/prefix` of one, or
    `registry:PLACE@champion`: the one it runs on."""
    bundles: BundlesToRead | None = None
    """Folder of bundles, or `registry:PLACE@champion`; the base alone is evaluated when absent."""
    split: Literal["pretrain_valid", "pretrain_test", "valid", "gate", "test"] = "test"
    """Split to evaluate."""
    max_base_gap: Annotated[Number, Field(gt=0, le=1)] | None = None
    """On planted logs: AUC the base may lie below the global oracle before the run fails; it is
    reported and never fails when absent."""
    batch_rows: BatchRows = 8192
    """Rows a worker evaluates at a time."""
    tables: EvaluatedTablesSpec = EvaluatedTablesSpec()


class CompareSpec(Spec):
    """Compare two evaluations on the same rows, method by method."""

    model_config = ConfigDict(populate_by_name=True)

    first: PlaceToRead
    """Run folder of an evaluation, or `s3://bucket/prefix` of one: what the other one is compared
    with."""
    second: PlaceToRead
    """Run folder of the other evaluation; differences are second minus first."""
    split: Literal["pretrain_valid", "pretrain_test", "valid", "gate", "test"] = "test"
    """Split that both evaluated."""
    common: bool = False
    """Compare on the rows that both have, where they differ; refused when absent."""
    json_out: Annotated[FileToWrite | None, Field(alias="json")] = None
    """Also write every line as JSON to this file."""


class CheckSpec(LogJobSpec):
    """Check a log against its catalogue before anything is trained."""

    sample_rows: Rows = 200_000
    """Rows to read, spread over the files; a sample without findings is not proof."""
    all_ids: bool = False
    """Look for repeated row ids among all rows, instead of the newest million."""
    count_rows: Rows = 20_000_000
    """Rows of a split up to which its labels are counted exactly; of more, evenly spread row groups
    are counted and scaled up."""
    profile: bool = True
    """Also profile the log: rows and positives by split and domain, new ids, drift."""
    top_domains: Count = 12
    """Domains that the profile lists, those with most rows first; the rest is summed."""
    json_out: Annotated[FileToWrite | None, Field(alias="json")] = None
    """Also write findings and profile as JSON to this file."""
    picture: Picture | None = None
    """Draw the profile into this file (PNG, SVG or PDF)."""


class InitSpec(Spec):
    """Look at a Parquet folder and write a commented starting catalogue."""

    log: Annotated[str, AfterValidator(without_userinfo)]
    """Folder or URI of the log; given first, without a name: `iak init LOG`."""
    out: FileToWrite | None = None
    """The TOML file to write; NAME.toml in this folder when absent."""
    name: Name | None = None
    """Name of the log; its folder's when absent."""
    overwrite: bool = False
    """Replace `out` where it exists."""
    sample_rows: Rows = 200_000
    """Rows to read, spread over the files."""


class ShowSpec(Spec):
    """Show what is in a run, a published base or a folder of bundles."""

    model_config = ConfigDict(populate_by_name=True)

    path: PlaceToRead
    """The folder, or `s3://bucket/prefix` of a run or a base; given first, without a name:
    `iak show RUN`."""
    json_out: Annotated[FileToWrite | None, Field(alias="json")] = None
    """Also write what is shown as JSON to this file."""


class ReportSpec(Spec):
    """Make the page of an evaluation, or the page of a night again."""

    path: FolderToRead
    """Folder of a night or run folder of an `iak evaluate`; given first, without a name."""
    out: FileToWrite | None = None
    """HTML file to write; `page.html` in that folder when absent."""


class DemoSpec(Spec):
    """Make a planted log, pre-train, tune, evaluate, publish."""

    run_dir: FolderToWrite = Path("runs/demo")
    """Folder for the log and the three runs."""
    workers: Workers = 2
    """Processes that share the work."""
    synth: FileToRead | None = None
    """Knobs of the planted log; the shipped demo knobs when absent."""
    fresh: bool = False
    """Remove what an earlier demo left in `run_dir` first."""


class PlanSpec(PlacedSpec):
    """Estimate what a job needs of a cluster before it is rented. No GPU and no log is needed."""

    model_config = ConfigDict(populate_by_name=True)

    catalog: NamedPath
    """The catalogue: a TOML file, or the name of a shipped one."""
    job: Literal["pretrain", "finetune"] = "pretrain"
    """Job to plan."""
    cluster: Value = "8xH100"
    """A shipped kind of machine (8xA100-40, 8xA100-80, 8xH100, 8xH200, 8xL40S), several of them
    (16x8xH100), or a TOML file of your own."""
    compare: Value = ""
    """Clusters, separated by commas. Each gets one line, in the place of one detailed answer."""
    sweep: Value = ""
    """`gpus=8,16,32`: the same kind of machine in these numbers; reports the smallest that fits."""
    settings: FileToRead | None = None
    """The TOML file that the job itself is given by --config; what matters here is taken over."""
    base: BaseToRead | None = None
    """Run or folder of a published base: its size, and the rows of its tables."""
    table_rows: Annotated[dict[str, TableRows], AfterValidator(with_names)] = {}
    """Table -> rows to plan for, where the catalogue leaves them open or you expect others."""
    ids: Annotated[dict[str, Size], AfterValidator(with_names)] = {}
    """Feature -> mean number of ids per row. Absent: one, or for a list the most that are kept."""
    rows: Rows = 100_000_000
    """Rows of the log that the job trains or tunes on."""
    epochs: Size = 1.0
    """Passes of pre-training; of tuning, every stage's own epochs are counted instead."""
    batch_rows: BatchRows = 2048
    """Rows of a step, over all workers; for tuning, see step_rows."""
    step_rows: BatchRows | None = None
    """Rows per step of tuning, over all workers; 8192 as `iak finetune` when absent."""
    bf16: bool = False
    """Trunk and towers of pre-training under bfloat16; for tuning, see tables.products."""
    model: ModelSpec = ModelSpec()
    kernel: KernelSpec = KernelSpec()
    pooled: StageSpec = StageSpec()
    domain: DomainStageSpec = DomainStageSpec()
    domains: Count = 1000
    """Kernels in the bank."""
    parents: Count = 10
    """Kernels of the level above, where the catalogue's domains have parents."""
    tables: FrozenTablesSpec = FrozenTablesSpec()
    cache: CacheSpec = CacheSpec()
    constants: dict[str, Annotated[Number, Field(ge=0, le=1_000_000_000)]] = {}
    """Constants of the estimates, over the cluster's: lookup_efficiency, matmul_efficiency, ..."""
    max_hours: Ceiling | None = None
    """Exit with 3 when the job takes longer."""
    max_cost: Ceiling | None = None
    """Exit with 3 when it costs more, in the cluster's currency."""
    save: FileToWrite | None = None
    """Write the plan to this file, for placement.plan=FILE of the job that it is for."""
    picture: Picture | None = None
    """Draw the memory of every rank into this file (PNG, SVG or PDF)."""
    json_out: Annotated[FileToWrite | None, Field(alias="json")] = None
    """Write everything as JSON to this file."""


class SubmitSpec(Spec):
    """Run a verb on a Ray cluster, follow what it prints, and fetch its record."""

    command: Annotated[Value, Field(min_length=1)]
    """The verb and its settings, as they would follow `iak` there."""
    address: ServerAddress = LOOPBACK
    """The cluster's job server. Its token is read from RAY_AUTH_TOKEN and is not a setting."""
    out: FolderToWrite = Path("runs/submitted")
    """Folder on this machine for the record and what belongs to it."""
    project: FolderToRead | None = None
    """Folder of the code to send; the one this command runs from when absent."""
    include: tuple[Value, ...] = ()
    """Files and folders of it to send besides pipeline/, jobs/, schemas/ and pyproject.toml: a
    catalogue, a settings file. Hidden files and names of secrets never travel."""
