"""Define what is read of a `pipeline.config`, with TorchEasyRec's names and default values.

Source: `tzrec/protos` of TorchEasyRec 1.3.16. A field that is not here is refused by its name,
because it may change what the model predicts. One that changes nothing of a trained model's
predictions stands in `without_effect`.
"""

from abc import abstractmethod
from typing import Any, ClassVar, Literal, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

ACTIVATIONS = ("ReLU", "Sigmoid", "Tanh", "LeakyReLU", "GELU", "SiLU", "ELU", "Softplus")
"""Layers of torch.nn that a config may name without arguments, as `nn.ReLU`."""

# How a table is made and trained.
_TRAINING = frozenset({"init_fn", "trainable", "embedding_constraints", "stub_type"})
# How a value is made of the raw columns: rows with FG_NONE have it already.
_GENERATION = frozenset(
    {
        "expression", "variables", "separator", "default_value", "value_dim", "normalizer",
        "fg_value_type", "fill_missing",
    }
)  # fmt: skip


class Message(BaseModel):
    """A message of the text format. Its fields are those that are read here, and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    without_effect: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _one_value_each(cls, message: object) -> object:
        """Take the one value of a field that does not repeat."""
        if not isinstance(message, dict):
            return message
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        taken = {}
        for name, values in message.items():
            if name in cls.without_effect:
                continue
            field = fields.get(name)
            if field is not None and get_origin(field.annotation) is not tuple:
                if len(values) != 1:
                    raise ValueError(f"{name} stands there {len(values)} times; expected once")
                taken[name] = values[0]
            else:
                taken[name] = tuple(values)
        return taken


class Loose(Message):
    """A message of which only the fields here matter; all others change no prediction."""

    model_config = ConfigDict(extra="ignore")


class Mlp(Message):
    """Linear layers with an activation each."""

    without_effect = frozenset({"dropout_ratio"})  # no unit is dropped when a model predicts
    hidden_units: tuple[int, ...] = Field(min_length=1)
    activation: str = "nn.ReLU"
    use_bn: bool = False
    bias: bool = True
    use_ln: bool = False

    @property
    def layer(self) -> str:
        """Return the name of the activation's class in torch.nn; empty for none."""
        return self.activation.strip().removeprefix("torch.").removeprefix("nn.")

    @model_validator(mode="after")
    def _is_built_here(self) -> Self:
        if self.layer and self.layer not in ACTIVATIONS:
            raise ValueError(
                f"activation {self.activation!r} is not built here; those are "
                f"{', '.join(f'nn.{name}' for name in ACTIVATIONS)}, without arguments"
            )
        if self.use_bn and self.use_ln:
            raise ValueError("use_bn and use_ln exclude each other")
        return self


class Feature(Message):
    """What all features have: the column of their name, and how its ids are looked up."""

    without_effect = _TRAINING | _GENERATION
    feature_name: str
    embedding_name: str = ""
    embedding_dim: int = 0
    pooling: str = "sum"
    fg_encoded_default_value: str = ""
    use_mask: bool = False
    data_type: Literal["FP32"] = "FP32"

    @property
    @abstractmethod
    def rows(self) -> int:
        """Return the rows of the table that the ids read; 0 for a number."""

    @property
    def table(self) -> str:
        """Return the name of that table, in groups that are not wide."""
        return self.embedding_name or f"{self.feature_name}_emb"

    @property
    def mode(self) -> str:
        """Return how the vectors of a row become one."""
        return self.pooling.lower()

    @property
    def default(self) -> float | None:
        """Return the id, or the number, of a row that has none; None where nothing replaces it."""
        return float(self.fg_encoded_default_value) if self.fg_encoded_default_value else None

    @model_validator(mode="after")
    def _has_a_meaning(self) -> Self:
        if self.mode not in ("sum", "mean"):
            raise ValueError(f"pooling {self.pooling!r}; expected sum or mean")
        if self.rows and self.embedding_dim < 1:
            raise ValueError("embedding_dim is missing")
        if self.use_mask and not self.fg_encoded_default_value:
            raise ValueError("use_mask needs fg_encoded_default_value, which pyfg would give")
        try:
            default = self.default or 0
        except ValueError as error:
            raise ValueError(
                f"fg_encoded_default_value {self.fg_encoded_default_value!r}; expected one value"
            ) from error
        if self.rows and not 0 <= default < self.rows:
            raise ValueError(f"fg_encoded_default_value {default:g} is no row of its table")
        if default and not self.rows:
            raise ValueError(
                f"fg_encoded_default_value {self.fg_encoded_default_value!r} of a number: a null "
                "reads as 0 here. Write the default into the rows, and leave it out"
            )
        return self


class IdFeature(Feature):
    """Ids: one of a row, or many."""

    weighted: Literal[False, 0, "false", "False"] = False
    hash_bucket_size: int = 0
    num_buckets: int = 0
    vocab_list: tuple[str, ...] = ()
    default_bucketize_value: int | None = None

    @property
    def rows(self) -> int:
        """Return the rows of the table: those of the null and of the unknown id come first."""
        added = 2 if self.default_bucketize_value is None else 0
        listed = len(self.vocab_list) + added if self.vocab_list else 0
        return self.hash_bucket_size or self.num_buckets or listed

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if not self.rows:
            raise ValueError("expected hash_bucket_size, num_buckets or vocab_list")
        return self


class RawFeature(Feature):
    """A number, or the bucket that it is in."""

    without_effect = Feature.without_effect - {"value_dim"}
    boundaries: tuple[float, ...] = ()
    value_dim: Literal[0, 1] = 1

    @property
    def rows(self) -> int:
        """Return the number of buckets; 0 where the number itself is read."""
        return len(self.boundaries) + 1 if self.boundaries else 0


FEATURES: dict[str, type[Feature]] = {
    "id_feature": IdFeature,
    "combo_feature": IdFeature,
    "raw_feature": RawFeature,
    "expr_feature": RawFeature,
}
"""Kinds of features that are read: with FG_NONE a combination is an id like any other."""


class Group(Message):
    """Features whose vectors stand side by side, in order."""

    group_name: str
    feature_names: tuple[str, ...] = ()
    group_type: Literal["DEEP", "WIDE"]
    embedding_name_suffix: str = ""


class Loss(Message):
    """A loss whose model answers with the logit of one class."""

    binary_cross_entropy: dict[str, Any] | None = None
    binary_focal_loss: dict[str, Any] | None = None


class TaskTower(Message):
    """The layers from the shared part to one task's logit."""

    without_effect = frozenset(
        {
            "metrics", "train_metrics", "weight", "sample_weight_name", "in_task_space_weight",
            "pareto_min_loss_weight",
        }
    )  # fmt: skip
    tower_name: str
    label_name: str
    losses: tuple[Loss, ...] = Field(min_length=1)
    num_class: Literal[1] = 1
    mlp: Mlp | None = None
    task_space_indicator_label: str = ""
    out_task_space_weight: float = 1.0

    @property
    def is_conditional(self) -> bool:
        """Return whether it learned from rows with another label alone, such as clicks."""
        return bool(self.task_space_indicator_label) and self.out_task_space_weight == 0


class BayesTaskTower(TaskTower):
    """A tower that reads towers before it."""

    relation_tower_names: tuple[str, ...] = ()
    relation_mlp: Mlp | None = None


class Tower(Message):
    """The layers of one group."""

    input: str
    mlp: Mlp


class MultiTower(Message):
    """A tower for each group, and final layers."""

    towers: tuple[Tower, ...] = Field(min_length=1)
    final: Mlp


class Dlrm(Message):
    """Dot products of all pairs of vectors."""

    dense_mlp: Mlp | None = None
    arch_with_sparse: bool = True
    final: Mlp


class WideAndDeep(Message):
    """A sum of wide vectors beside deep layers."""

    without_effect = frozenset({"wide_init_fn"})
    deep: Mlp
    final: Mlp | None = None
    wide_embedding_dim: int = 4


class DeepFm(WideAndDeep):
    """The same, and a factorisation machine."""


class Mmoe(Message):
    """Experts that the tasks weigh, each with a gate of its own."""

    expert_mlp: Mlp
    gate_mlp: Mlp | None = None
    num_expert: int = 3
    task_towers: tuple[TaskTower, ...] = Field(min_length=1)


class Dbmtl(Message):
    """Towers that read each other, on a shared bottom or on experts."""

    bottom_mlp: Mlp | None = None
    expert_mlp: Mlp | None = None
    gate_mlp: Mlp | None = None
    num_expert: int = 3
    task_towers: tuple[BayesTaskTower, ...] = Field(min_length=1)


class Model(Message):
    """The model, and the features of each of its groups."""

    without_effect = frozenset({"metrics", "train_metrics", "kernel", "use_pareto_loss_weight"})
    feature_groups: tuple[Group, ...] = Field(min_length=1)
    num_class: Literal[1] = 1
    losses: tuple[Loss, ...] = ()
    multi_tower: MultiTower | None = None
    dlrm: Dlrm | None = None
    deepfm: DeepFm | None = None
    wide_and_deep: WideAndDeep | None = None
    mmoe: Mmoe | None = None
    dbmtl: Dbmtl | None = None


class Data(Loose):
    """What a row's columns mean."""

    fg_mode: Literal["FG_NONE", 1] = "FG_NONE"
    fg_encoded: Literal["true", "True", 1] = 1
    negative_sampler: None = None
    negative_sampler_v2: None = None
    hard_negative_sampler: None = None
    hard_negative_sampler_v2: None = None
    tdm_sampler: None = None


class DenseOptimizer(Loose):
    """Whether predictions come from averaged weights."""

    ema: None = None


class Training(Loose):
    """What of training a prediction depends on."""

    mixed_precision: Literal[""] = ""
    dense_optimizer: DenseOptimizer = DenseOptimizer()


class Pipeline(Message):
    """A whole `pipeline.config`."""

    without_effect = frozenset(
        {"train_input_path", "eval_input_path", "model_dir", "eval_config", "export_config"}
    )
    train_config: Training = Training()
    data_config: Data = Data()
    feature_configs: tuple[dict[str, Any], ...]
    model: Model = Field(alias="model_config")
