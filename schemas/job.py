"""All a job may be asked: one frozen spec a verb, every setting with its unit and default."""

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from schemas.base import Spec

Dropout = Annotated[float, Field(ge=0, lt=1)]


class LogJobSpec(Spec):
    """What every job that reads a log is told."""

    model_config = ConfigDict(populate_by_name=True)

    catalog: Path
    """The catalogue: a TOML file, or the name of a shipped one (`planted`, `frappe`, ...)."""
    data_root: str
    """Folder or URI under which the catalogue's paths lie (a path, s3://, gs://, ...)."""
    as_of: date | None = None
    """Last date whose labels were collected; the catalogue's, else the newest date of the log."""


class WorkerJobSpec(LogJobSpec):
    """What every job that runs on workers is told."""

    run_dir: Path
    """Folder of the run: record, progress, checkpoints, results. On a cluster, a shared folder."""
    workers: PositiveInt = 2
    """Ray Train workers."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where workers compute; `auto` takes GPUs when the cluster has enough of them."""
    max_failures: NonNegativeInt = 3
    """Worker deaths after which the run gives up; each one resumes from the last checkpoint."""
    seed: NonNegativeInt = 0
    """Seed of everything random."""


class ModelSpec(Spec):
    """Shape of the base: embedding tables, DCN-v2 and MMoE trunk, one tower a task."""

    width: PositiveInt = 16
    """Embedding dimension of tables that do not state their own."""
    init_scale: PositiveFloat = 0.01
    """Table entries start uniform in plus and minus this."""
    cross_layers: NonNegativeInt = 2
    """DCN-v2 cross layers."""
    cross_rank: NonNegativeInt = 0
    """Rank of a cross layer's matrix; 0 is full rank."""
    mlp: tuple[PositiveInt, ...] = (128,)
    """Widths of the deep part beside the cross network."""
    experts: PositiveInt = 4
    """MMoE experts."""
    expert_width: PositiveInt = 64
    """Units of an expert, and so of each task's representation."""
    tower_width: PositiveInt = 32
    """Hidden units of a task's tower."""
    dropout: Dropout = 0.0
    """Dropout in the deep part and the experts, in pre-training."""
    embedding_dropout: Dropout = 0.0
    """Dropout of what the trunk reads (embeddings and numbers), in pre-training."""


class BaseOptimSpec(Spec):
    """How the base is trained."""

    table_lr: PositiveFloat = 0.05
    """Row-wise Adagrad's rate for the tables."""
    table_eps: PositiveFloat = 1e-8
    """Row-wise Adagrad's epsilon; a larger one calms rows whose gradients are small."""
    table_decay: NonNegativeFloat = 0.0
    """L2 pull on each table row a batch touches, the same for rare and frequent rows."""
    table_penalty: NonNegativeFloat = 0.0
    """This / 2 times the squared length of each embedding read is added to a row's loss."""
    dense_lr: PositiveFloat = 1e-3
    """AdamW's rate for trunk and towers."""
    dense_decay: NonNegativeFloat = 0.0
    """AdamW's decoupled decay."""
    warmup_steps: NonNegativeInt = 50
    """Steps over which both rates rise from zero; a tenth of the run at most."""
    decay_share: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Share of the run, at its end, over which both rates fall linearly to zero."""


class PretrainSpec(WorkerJobSpec):
    """Pre-train a base on the catalogue's `pretrain` split and publish it."""

    from_: Annotated[Path | None, Field(alias="from")] = None
    """Run or published base to continue; its encoding is kept, the result has a new fingerprint."""
    model: ModelSpec = ModelSpec()
    optim: BaseOptimSpec = BaseOptimSpec()
    batch_rows: PositiveInt = 2048
    """Rows a step, over all workers."""
    epochs: PositiveInt = 1
    """Passes over the window at most; these models overfit from the second on."""
    patience: PositiveInt = 1
    """Validations without improvement after which training stops."""
    validations_per_epoch: PositiveInt = 2
    """How often an epoch stops to validate; the best state is the one that is published."""
    shuffle_rows: PositiveInt = 262_144
    """Rows shuffled together by a worker; row groups are shuffled first."""
    bf16: bool = False
    """Run trunk and towers under bfloat16 autocast."""
    sharding: dict[str, Literal["row_wise", "table_wise", "column_wise"]] = {}
    """Table -> sharding type, where the default is not wanted."""
    row_wise_from_rows: PositiveInt = 10_000
    """Tables at least this long are cut by rows over all workers; shorter ones stay whole."""
    checkpoint_every_steps: PositiveInt = 200
    """Steps between checkpoints."""


class KernelSpec(Spec):
    """Shape of a kernel and the price it pays for information."""

    hidden: PositiveInt = 64
    """Units of the encoder's hidden layer."""
    code: PositiveInt = 16
    """Units of the Gaussian code z."""
    beta: NonNegativeFloat = 1e-3
    """Weight of the rate, in loss units a nat."""
    reads: Literal["h", "hx"] = "hx"
    """What the encoder sees: the trunk's output, or that and the embeddings."""
    adapter_rank: NonNegativeInt = 4
    """Rank of the LoRA on each task's tower, 0 for none; tower biases are tuned in any case."""


class StageSpec(Spec):
    """How the pooled kernel is tuned."""

    lr: PositiveFloat = 1e-3
    """Adam's rate."""
    compression_epochs: NonNegativeInt = 2
    """Epochs of knowledge compression, with a probe on the code and the base's logits fixed."""
    max_epochs: PositiveInt = 8
    """Epochs of knowledge matching at most."""
    patience: PositiveInt = 2
    """Epochs without a better validation loss after which a kernel is finished."""
    shrink: NonNegativeFloat = 0.0
    """Weight of the squared distance to the kernel it started from."""
    min_batch: PositiveInt = 128
    """Smallest batch of a domain, in rows."""
    max_batch: PositiveInt = 1024
    """Largest batch of a domain, in rows."""
    steps_per_epoch: PositiveInt = 32
    """Steps a domain's epoch aims at between those two bounds."""


class DomainStageSpec(StageSpec):
    """How parents and domains are tuned, each from its nearest tuned ancestor."""

    lr: PositiveFloat = 5e-4
    """Adam's rate."""
    compression_epochs: NonNegativeInt = 0
    """Epochs of knowledge compression; the ancestor has compressed already."""
    shrink: NonNegativeFloat = 1e-2
    """Weight of the squared distance to the kernel it started from."""


class GateSpec(Spec):
    """When a tuned kernel may be published."""

    z: NonNegativeFloat = 1.64
    """Standard errors by which the paired gain must exceed zero."""
    min_rows: PositiveInt = 200
    """Gate rows below which nothing can be said."""


class FinetuneSpec(WorkerJobSpec):
    """Tune every domain's kernel on a frozen base and write the bundles."""

    base: Path
    """Run or folder of the published base."""
    kernel: KernelSpec = KernelSpec()
    pooled: StageSpec = StageSpec()
    domain: DomainStageSpec = DomainStageSpec()
    gate: GateSpec = GateSpec()
    activations: Literal["memory", "recompute"] = "memory"
    """Compute the frozen base once and keep h and x in memory, or look the tables up each step."""
    encode_rows: PositiveInt = 8192
    """Rows a worker passes through the base at a time."""
    sharding: dict[str, Literal["row_wise", "table_wise", "column_wise"]] = {}
    """Table -> sharding type, where the default is not wanted."""
    row_wise_from_rows: PositiveInt = 10_000
    """Tables at least this long are cut by rows over all workers."""


class EvaluateSpec(WorkerJobSpec):
    """Evaluate base and kernels on the same later rows, with paired intervals."""

    base: Path
    """Run or folder of the published base."""
    bundles: Path | None = None
    """Folder of bundles; the base alone is evaluated when absent."""
    split: Literal["pretrain_valid", "pretrain_test", "valid", "gate", "test"] = "test"
    """Split to evaluate."""
    max_base_gap: PositiveFloat = 0.01
    """On planted logs: AUC the base may lie below the global oracle before the run fails."""
    batch_rows: PositiveInt = 8192
    """Rows a worker evaluates at a time."""
    sharding: dict[str, Literal["row_wise", "table_wise", "column_wise"]] = {}
    """Table -> sharding type, where the default is not wanted."""
    row_wise_from_rows: PositiveInt = 10_000
    """Tables at least this long are cut by rows over all workers."""


class CheckSpec(LogJobSpec):
    """Check a log against its catalogue before anything is trained."""

    sample_rows: PositiveInt = 200_000
    """Rows looked at, spread over the files; 0 findings in a sample is not a proof."""
    json_out: Annotated[Path | None, Field(alias="json")] = None
    """Also write the findings as JSON to this file."""


class DemoSpec(Spec):
    """Make a planted log, pre-train, tune, evaluate, publish."""

    run_dir: Path = Path("runs/demo")
    """Folder for the log and the three runs."""
    workers: PositiveInt = 2
    """Ray Train workers."""
    synth: Path | None = None
    """Knobs of the planted log; the shipped demo knobs when absent."""
    fresh: bool = False
    """Remove what an earlier demo left in `run_dir` first."""
