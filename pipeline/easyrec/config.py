"""Read a `pipeline.config`, and refuse by name what has no counterpart here.

Features that no group names are not part of the model, and are not looked at.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from iak.pipeline.easyrec.messages import (
    FEATURES,
    Feature,
    Group,
    Message,
    Model,
    Pipeline,
    TaskTower,
)
from iak.pipeline.easyrec.text_format import parse_text
from iak.pipeline.errors import BadRequest

MODELS = ("multi_tower", "dlrm", "deepfm", "wide_and_deep", "mmoe", "dbmtl")

_SEQUENCES = "sequences have no counterpart here; give a model without them"
_SAMPLER = "negatives are sampled for a model that matches, and such models are not built here"
_GENERATED = (
    "ids are made of raw columns by pyfg, a binary that is not run here. Log the rows as it "
    "encodes them, and say fg_mode: FG_NONE in a copy of the config"
)
_ROWS = "not read here; say num_buckets: with the rows of its table in a copy of the config"
_REMAPPED = "the checkpoint maps ids to rows by a state of its own, which is not read here"
REASONS: Mapping[str, str] = {
    "fg_mode": _GENERATED,
    "fg_encoded": _GENERATED,
    "vocab_dict": _ROWS,
    "vocab_file": _ROWS,
    "zch": _REMAPPED,
    "dynamicemb": _REMAPPED,
    "weighted": "ids with weights have no counterpart here",
    "value_dim": "a number of several values has no counterpart here",
    "autodis": "numbers with an embedding of their own are not built here",
    "mlp": "numbers with an embedding of their own are not built here",
    "data_type": "tables are built in FP32 alone",
    "sequence_groups": _SEQUENCES,
    "sequence_encoders": _SEQUENCES,
    "group_type": "expected DEEP or WIDE; " + _SEQUENCES,
    "num_class": "a task has one logit here, that of its positive class",
    "mixed_precision": (
        "the model computed in 16 bits. Leave it out of a copy of the config to compute in fp32, "
        "and scores= says how far the logits are from its own"
    ),
    "ema": (
        "predictions come from the averages in dense_ema, which are not read here. Leave it out of "
        "a copy of the config where the weights themselves predict"
    ),
    "variational_dropout": "not built here",
    "mask_net": "not built here",
} | dict.fromkeys(
    (
        "negative_sampler", "negative_sampler_v2", "hard_negative_sampler",
        "hard_negative_sampler_v2", "tdm_sampler",
    ),
    _SAMPLER,
)  # fmt: skip
"""Field -> why it is refused, and what to change."""
_UNKNOWN = "it has no counterpart here, and may change what the model predicts"


M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Config:
    """A model of TorchEasyRec that can be built here."""

    model: Model
    features: Mapping[str, Feature]
    """Every feature that a group names, in the order of `feature_configs`."""

    @property
    def kind(self) -> str:
        """Return which model it is, as the config names it."""
        (kind,) = (name for name in MODELS if getattr(self.model, name) is not None)
        return kind

    @property
    def numbers(self) -> tuple[str, ...]:
        """Return the features that are numbers, in order."""
        return tuple(name for name, feature in self.features.items() if not feature.rows)

    @property
    def towers(self) -> tuple[TaskTower, ...]:
        """Return the towers of the tasks; empty where the model has one task, without a name."""
        return tuple(getattr(getattr(self.model, self.kind), "task_towers", ()))


def read_config(path: Path) -> Config:
    """Return the model that a file describes.

    Args:
        path: `pipeline.config`, in protobuf's text format.

    Raises:
        BadRequest: it cannot be read, or the model cannot be built here. The message names every
            field in the way, and what to change.
    """
    try:
        tree = parse_text(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadRequest(
            f"base.config={path} cannot be read: {error}. Expected the pipeline.config of a model "
            "of TorchEasyRec"
        ) from error
    problems: list[str] = []
    pipeline = _checked(Pipeline, tree, "", problems)
    features: Mapping[str, Feature] = {}
    if pipeline is not None:
        problems += _problems_of_model(pipeline.model)
        features = _features(pipeline, problems)
    if problems or pipeline is None:
        listing = "\n".join(f"  {problem}" for problem in problems)
        raise BadRequest(f"base.config={path} describes a model that is not built here:\n{listing}")
    return Config(model=pipeline.model, features=features)


def _checked(kind: type[M], tree: object, where: str, problems: list[str]) -> M | None:
    """Return a message; None where it has problems, which are added."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        paths = [found["loc"] for found in error.errors()]
        for found in error.errors():
            # A tuple is "too short" for pydantic where each of its members has a problem.
            if found["type"] == "too_short" and _begins_another(found["loc"], paths):
                continue
            path = [str(part) for part in found["loc"]]
            name = ".".join([where, *path] if where else path) or "the file"
            problems.append(f"{name}: {_reason(path, found['type'], found['msg'])}")
        return None


def _begins_another(path: tuple[int | str, ...], paths: list[tuple[int | str, ...]]) -> bool:
    return any(len(other) > len(path) and other[: len(path)] == path for other in paths)


def _reason(path: list[str], kind: str, message: str) -> str:
    field = path[-1] if path else ""
    # A rule of ours says what is wrong; pydantic's own sentence does not.
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "missing":
        return "missing"
    if field in REASONS:
        return REASONS[field]
    if kind != "extra_forbidden":
        return message
    if path[:-1] == ["model_config"]:
        return f"{_UNKNOWN}. Models that are built here: {', '.join(MODELS)}"
    if path[-2:-1] and path[-2].isdigit() and "losses" in path:
        return "only binary_cross_entropy and binary_focal_loss answer with a logit"
    return _UNKNOWN


def _problems_of_model(model: Model) -> Iterator[str]:
    """Yield what contradicts itself in a model that has all its fields."""
    given = [name for name in MODELS if getattr(model, name) is not None]
    if len(given) != 1:
        yield f"model_config: it names {given or 'no model'}; expected one of {', '.join(MODELS)}"
    elif not model.losses and not hasattr(getattr(model, given[0]), "task_towers"):
        yield "model_config.losses: missing"
    names = [group.group_name for group in model.feature_groups]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        yield f"model_config.feature_groups: {repeated} are named twice"


def _features(pipeline: Pipeline, problems: list[str]) -> dict[str, Feature]:
    """Return the features that groups name; what is wrong with them is added to the problems."""
    described = {
        name: (kind, body)
        for feature in pipeline.feature_configs
        for kind, bodies in feature.items()
        for body in bodies
        for name, body in _named(kind, body)
    }
    features: dict[str, Feature | None] = {}
    for group in pipeline.model.feature_groups:
        for name in group.feature_names:
            kind, body = described.get(name, ("", None))
            if name in features:
                continue
            if not kind:
                problems.append(f"feature {name} of group {group.group_name}: there is none")
            elif kind not in FEATURES:
                problems.append(f"feature {name}: a {kind} has no counterpart here")
            else:
                features[name] = _checked(FEATURES[kind], body, f"feature {name}", problems)
    for group in pipeline.model.feature_groups:
        problems += _problems_of_group(group, features)
    known = {name: feature for name, feature in features.items() if feature is not None}
    return {name: known[name] for name in described if name in known}


def _named(kind: str, body: object) -> Iterator[tuple[str, object]]:
    """Yield the name and the message of a feature, or of each feature of a sequence."""
    if kind != "sequence_feature":
        yield _first(body, "feature_name"), body
        return
    sequence = _first(body, "sequence_name")
    features = body.get("features", []) if isinstance(body, dict) else []
    for feature in features:
        for inner in feature.values() if isinstance(feature, dict) else []:
            yield f"{sequence}__{_first(inner[0], 'feature_name')}", inner[0]


def _first(body: object, field: str) -> str:
    """Return the first value of a field; empty where there is none."""
    return str(body.get(field, [""])[0]) if isinstance(body, dict) else ""


def _problems_of_group(group: Group, features: Mapping[str, Feature | None]) -> Iterator[str]:
    if group.group_type != "WIDE":
        return
    for name in group.feature_names:
        feature = features.get(name)
        if feature is not None and not feature.rows:
            yield f"feature {name}: a number cannot be in the wide group {group.group_name}"
