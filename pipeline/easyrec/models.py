"""Build the models of TorchEasyRec, each with an attach point h.

Formulas and names of weights are those of `tzrec/models` and `tzrec/modules` of TorchEasyRec
1.3.16. h is the last hidden layer that all tasks share, before its activation. Models of several
tasks have one h after another: what the gates of the experts make for each task.

Shapes: B rows, N numbers, X inputs of a layer, H units of h, T tasks.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.easyrec import messages
from iak.pipeline.easyrec.config import Config, read_config
from iak.pipeline.easyrec.embeddings import EmbeddingGroup
from iak.pipeline.easyrec.inputs import problems_with
from iak.schemas.log import Catalog


class Perceptron(nn.Module):
    """A linear layer, its normalisation and its activation."""

    def __init__(self, inputs: int, units: int, config: messages.Mlp) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(inputs, units, bias=config.bias and not config.use_bn)]
        if config.use_bn:
            layers.append(nn.BatchNorm1d(units))
        if config.use_ln:
            layers.append(nn.LayerNorm(units))
        if config.layer:
            layers.append(getattr(nn, config.layer)())
        self.perceptron = nn.Sequential(*layers)

    def forward(self, x_BX: Tensor) -> Tensor:
        """Return the units after the activation."""
        return self.finish(self.begin(x_BX))

    def begin(self, x_BX: Tensor) -> Tensor:
        """Return the units before their normalisation and activation."""
        linear: Tensor = self.perceptron[0](x_BX)
        return linear

    def finish(self, h_BH: Tensor) -> Tensor:
        """Return the units after their activation from what `begin` returned."""
        for layer in list(self.perceptron)[1:]:
            h_BH = layer(h_BH)
        return h_BH


class Mlp(nn.Module):
    """Perceptrons, one after the other. It can stop before its last activation."""

    def __init__(self, inputs: int, config: messages.Mlp) -> None:
        super().__init__()
        widths = [inputs, *config.hidden_units]
        self.width = widths[-1]
        self.layers = tuple(
            Perceptron(inputs, units, config) for inputs, units in itertools.pairwise(widths)
        )
        self.mlp = nn.ModuleList(self.layers)

    def forward(self, x_BX: Tensor) -> Tensor:
        """Return the units of the last layer."""
        return self.finish(self.begin(x_BX))

    def begin(self, x_BX: Tensor) -> Tensor:
        """Return the last layer's units before its normalisation and activation."""
        for layer in self.layers[:-1]:
            x_BX = layer(x_BX)
        return self.layers[-1].begin(x_BX)

    def finish(self, h_BH: Tensor) -> Tensor:
        """Return the units of the last layer from what `begin` returned."""
        return self.layers[-1].finish(h_BH)


class Mixture(nn.Module):
    """Experts, and a gate of each task that weighs them (MMoE)."""

    def __init__(
        self, inputs: int, expert: messages.Mlp, gate: messages.Mlp | None, experts: int, tasks: int
    ) -> None:
        super().__init__()
        self.expert_mlps = nn.ModuleList(Mlp(inputs, expert) for _ in range(experts))
        self.width = expert.hidden_units[-1]
        self.gate_mlps: nn.ModuleList | None = None
        if gate is not None:
            self.gate_mlps = nn.ModuleList(Mlp(inputs, gate) for _ in range(tasks))
            inputs = gate.hidden_units[-1]
        self.gate_finals = nn.ModuleList(nn.Linear(inputs, experts) for _ in range(tasks))

    def forward(self, x_BX: Tensor) -> list[Tensor]:
        """Return what each task reads."""
        experts_BEW = torch.stack([expert(x_BX) for expert in self.expert_mlps], dim=1)
        gates = [x_BX] * len(self.gate_finals)
        if self.gate_mlps is not None:
            gates = [gate(x_BX) for gate in self.gate_mlps]
        return [
            (final(gate).softmax(dim=1)[:, None] @ experts_BEW).squeeze(1)
            for final, gate in zip(self.gate_finals, gates, strict=True)
        ]


class TaskTower(nn.Module):
    """The layers of one task."""

    def __init__(self, inputs: int, config: messages.TaskTower) -> None:
        super().__init__()
        self.tower_mlp = Mlp(inputs, config.mlp) if config.mlp else None
        self.linear = nn.Linear(self.tower_mlp.width if self.tower_mlp else inputs, 1)

    def forward(self, x_BX: Tensor) -> Tensor:
        """Return the task's logit, one column."""
        logit: Tensor = self.linear(self.tower_mlp(x_BX) if self.tower_mlp else x_BX)
        return logit


class EasyRecModel(nn.Module, ABC):
    """A model with its tables. A subclass says what it computes of the groups' vectors."""

    units: int
    """H, the width of h."""

    def __init__(self, config: Config, *, wide_width: int = 4) -> None:
        super().__init__()
        self.config = config
        self.embedding_group = EmbeddingGroup(config, wide_width=wide_width)

    def represent(self, ids: KeyedJaggedTensor, numbers: Tensor) -> Tensor:
        """Return h_BH of rows."""
        return self.attach(self.embedding_group(ids, numbers))

    @abstractmethod
    def attach(self, groups: dict[str, Tensor]) -> Tensor:
        """Return h_BH of the vectors of each group."""

    @abstractmethod
    def tail(self, h: Tensor) -> Tensor:
        """Return the logits of every task, `logits_BT`, from h."""

    def problems_with(self, catalog: Catalog) -> list[str]:
        """Return what a catalogue must change to give this model what it reads."""
        return problems_with(self.config, catalog)


class OneTask(EasyRecModel):
    """Final layers, and the logit of one task after them."""

    final_mlp: Mlp
    output_mlp: nn.Linear

    def end_with(self, inputs: int, final: messages.Mlp) -> None:
        """Build the final layers."""
        self.final_mlp = Mlp(inputs, final)
        self.units = self.final_mlp.width
        self.output_mlp = nn.Linear(self.units, 1)

    def tail(self, h: Tensor) -> Tensor:
        """Return the logit from the last hidden layer before its activation."""
        logit: Tensor = self.output_mlp(self.final_mlp.finish(h))
        return logit


class MultiTower(OneTask):
    """A tower for each group."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        model = config.model.multi_tower
        assert model is not None, "another model"
        widths = self.embedding_group.widths
        self.towers = nn.ModuleDict(
            {tower.input: Mlp(sum(widths(tower.input)), tower.mlp) for tower in model.towers}
        )
        joined = sum(tower.mlp.hidden_units[-1] for tower in model.towers)
        self.end_with(joined, model.final)

    def attach(self, groups: dict[str, Tensor]) -> Tensor:
        """Return h_BH of the vectors of each group."""
        towers = [tower(groups[name]) for name, tower in self.towers.items()]
        return self.final_mlp.begin(torch.cat(towers, dim=-1))


class Dlrm(OneTask):
    """Dot products of all pairs of vectors, of which one is made of the numbers."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        model, group = config.model.dlrm, self.embedding_group
        assert model is not None, "another model"
        (only, *more) = (g.group_name for g in config.model.feature_groups)
        self.sparse = "sparse" if more else only
        self.with_sparse = model.arch_with_sparse
        self.dense_mlp: Mlp | None = None
        if more and group.has("dense"):
            if model.dense_mlp is None:
                raise ValueError("group 'dense' needs dlrm.dense_mlp")
            self.dense_mlp = Mlp(sum(group.widths("dense")), model.dense_mlp)
        widths = group.widths(self.sparse)
        all_widths = {*widths, *([self.dense_mlp.width] if self.dense_mlp else [])}
        if len(all_widths) != 1:
            raise ValueError(f"dot products need vectors of one width, and there are {all_widths}")
        (self.width,), self.count = all_widths, len(widths)
        vectors = self.count + (self.dense_mlp is not None)
        inputs = vectors * (vectors - 1) // 2
        inputs += self.width if self.dense_mlp else 0
        inputs += sum(widths) if self.with_sparse else 0
        self.end_with(inputs, model.final)

    def attach(self, groups: dict[str, Tensor]) -> Tensor:
        """Return h_BH of the vectors of each group."""
        sparse_BX = groups[self.sparse]
        vectors_BVW = sparse_BX.reshape(-1, self.count, self.width)
        more: list[Tensor] = []
        if self.dense_mlp is not None:
            dense_BW = self.dense_mlp(groups["dense"])
            vectors_BVW = torch.cat([dense_BW[:, None], vectors_BVW], dim=1)
            more.append(dense_BW)
        if self.with_sparse:
            more.append(sparse_BX)
        products_BVV = torch.bmm(vectors_BVW, vectors_BVW.transpose(1, 2))
        count = products_BVV.shape[1]
        first, second = torch.triu_indices(count, count, offset=1)
        return self.final_mlp.begin(torch.cat([products_BVV[:, first, second], *more], dim=-1))


class WideAndDeep(EasyRecModel):
    """A sum of wide vectors beside deep layers, and final layers on both where there are any."""

    def __init__(self, config: Config) -> None:
        model = config.model.wide_and_deep or config.model.deepfm
        assert model is not None, "another model"
        super().__init__(config, wide_width=model.wide_embedding_dim)
        self.embedding_group.group("wide")
        self.deep_mlp = Mlp(sum(self.embedding_group.widths("deep")), model.deep)
        beside = 1 + self.crossed_width()
        self.units, last = beside + self.deep_mlp.width, self.deep_mlp.width
        self.final_mlp: Mlp | None = None
        if model.final is not None:
            self.final_mlp = Mlp(self.units, model.final)
            self.units = last = self.final_mlp.width
        self.output_mlp = nn.Linear(last, 1)
        self.beside = beside

    def crossed_width(self) -> int:
        """Return the width of what stands between the wide and the deep part."""
        return 0

    def crossed(self, groups: dict[str, Tensor]) -> list[Tensor]:  # noqa: ARG002 - of subclasses
        """Return what stands between the wide and the deep part."""
        return []

    def attach(self, groups: dict[str, Tensor]) -> Tensor:
        """Return h_BH of the vectors of each group."""
        wide_B1 = groups["wide"].sum(dim=1, keepdim=True)
        parts = [wide_B1, *self.crossed(groups)]
        if self.final_mlp is None:
            return torch.cat([*parts, self.deep_mlp.begin(groups["deep"])], dim=1)
        return self.final_mlp.begin(torch.cat([*parts, self.deep_mlp(groups["deep"])], dim=1))

    def tail(self, h: Tensor) -> Tensor:
        """Return the logit: of the final layers, or the sum of what every part says."""
        if self.final_mlp is not None:
            logit: Tensor = self.output_mlp(self.final_mlp.finish(h))
            return logit
        deep_B1: Tensor = self.output_mlp(self.deep_mlp.finish(h[:, self.beside :]))
        said_B1 = h[:, :1]
        if self.beside > 1:
            said_B1 = said_B1 + h[:, 1 : self.beside].sum(dim=1, keepdim=True)
        return said_B1 + deep_B1


class DeepFm(WideAndDeep):
    """A factorisation machine between the wide and the deep part."""

    def crossed_width(self) -> int:
        """Return the width of the machine's vectors, which is the same for all features."""
        self.crosses = "fm" if self.embedding_group.has("fm") else "deep"
        widths = self.embedding_group.widths(self.crosses)
        if len(set(widths)) != 1:
            raise ValueError(
                f"features of a factorisation machine have one width, and group {self.crosses!r} "
                f"has {sorted(set(widths))}"
            )
        self.vectors = len(widths)
        return widths[0]

    def crossed(self, groups: dict[str, Tensor]) -> list[Tensor]:
        """Return half of (the square of the sum - the sum of the squares)."""
        x_BX = groups[self.crosses]
        vectors_BVW = x_BX.reshape(len(x_BX), self.vectors, -1)
        sum_BW = vectors_BVW.sum(dim=1)
        return [0.5 * (sum_BW * sum_BW - (vectors_BVW * vectors_BVW).sum(dim=1))]


class Mmoe(EasyRecModel):
    """Experts, and a tower for each task."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        model = config.model.mmoe
        assert model is not None, "another model"
        towers = model.task_towers
        self.group = config.model.feature_groups[0].group_name
        inputs = sum(self.embedding_group.widths(self.group))
        self.mmoe = Mixture(inputs, model.expert_mlp, model.gate_mlp, model.num_expert, len(towers))
        self.units = self.mmoe.width * len(towers)
        self._task_tower = nn.ModuleList(TaskTower(self.mmoe.width, tower) for tower in towers)

    def attach(self, groups: dict[str, Tensor]) -> Tensor:
        """Return h_BH of the vectors of each group."""
        return torch.cat(self.mmoe(groups[self.group]), dim=1)

    def tail(self, h: Tensor) -> Tensor:
        """Return the logits of every task, each from its part of h."""
        parts = h.split(self.mmoe.width, dim=1)
        logits = [tower(part) for tower, part in zip(self._task_tower, parts, strict=True)]
        return torch.cat(logits, dim=1)


class Dbmtl(EasyRecModel):
    """Towers that read each other, on a shared bottom or on experts."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        model = config.model.dbmtl
        assert model is not None, "another model"
        self.cfgs = model.task_towers
        self.group = config.model.feature_groups[0].group_name
        width = sum(self.embedding_group.widths(self.group))
        self.bottom_mlp = Mlp(width, model.bottom_mlp) if model.bottom_mlp else None
        width = self.bottom_mlp.width if self.bottom_mlp else width
        self.mmoe: Mixture | None = None
        if model.expert_mlp is not None:
            self.mmoe = Mixture(
                width, model.expert_mlp, model.gate_mlp, model.num_expert, len(self.cfgs)
            )
            width = self.mmoe.width
        self.width = width
        self.units = width * (len(self.cfgs) if self.mmoe else 1)
        self._build_towers(width)

    def _build_towers(self, width: int) -> None:
        """Build the towers on inputs of a width, in order: each may read those before it."""
        self.task_mlps, self.relation_mlps = nn.ModuleDict(), nn.ModuleDict()
        self.task_outputs = nn.ModuleList()
        widths: dict[str, int] = {}
        for cfg in self.cfgs:
            own = width
            if cfg.mlp is not None:
                self.task_mlps[cfg.tower_name] = Mlp(own, cfg.mlp)
                own = cfg.mlp.hidden_units[-1]
            if cfg.relation_mlp is not None:
                if later := [name for name in cfg.relation_tower_names if name not in widths]:
                    raise ValueError(f"tower {cfg.tower_name} reads {later}, not before it")
                read = own + sum(widths[name] for name in cfg.relation_tower_names)
                self.relation_mlps[cfg.tower_name] = Mlp(read, cfg.relation_mlp)
                own = cfg.relation_mlp.hidden_units[-1]
            widths[cfg.tower_name] = own
            self.task_outputs.append(nn.Linear(own, 1))

    def attach(self, groups: dict[str, Tensor]) -> Tensor:
        """Return h_BH of the vectors of each group."""
        x_BX = groups[self.group]
        if self.mmoe is None:
            return self.bottom_mlp.begin(x_BX) if self.bottom_mlp else x_BX
        return torch.cat(self.mmoe(self.bottom_mlp(x_BX) if self.bottom_mlp else x_BX), dim=1)

    def tail(self, h: Tensor) -> Tensor:
        """Return the logits of every task; a tower reads the towers before it."""
        read: dict[str, Tensor] = {}
        for cfg, part in zip(self.cfgs, self._parts(h), strict=True):
            name, units = cfg.tower_name, part
            if name in self.task_mlps:
                units = self.task_mlps[name](units)
            if name in self.relation_mlps:
                others = [read[other] for other in cfg.relation_tower_names]
                units = self.relation_mlps[name](torch.cat([units, *others], dim=1))
            read[name] = units
        outputs = zip(self.task_outputs, read.values(), strict=True)
        return torch.cat([output(units) for output, units in outputs], dim=1)

    def _parts(self, h_BH: Tensor) -> Sequence[Tensor]:
        """Return what each tower reads of h."""
        if self.mmoe is not None:
            parts: tuple[Tensor, ...] = h_BH.split(self.width, dim=1)
            return parts
        return [self.bottom_mlp.finish(h_BH) if self.bottom_mlp else h_BH] * len(self.cfgs)


_MODELS: dict[str, type[EasyRecModel]] = {
    "multi_tower": MultiTower,
    "dlrm": Dlrm,
    "deepfm": DeepFm,
    "wide_and_deep": WideAndDeep,
    "mmoe": Mmoe,
    "dbmtl": Dbmtl,
}


def build(config: Path) -> EasyRecModel:
    """Build the model of a `pipeline.config`, without weights yet.

    Args:
        config: the file, in protobuf's text format.

    Raises:
        BadRequest: the model cannot be built here; the message names every field in the way.
        ValueError: sizes in it do not agree.
    """
    read = read_config(config)
    return _MODELS[read.kind](read)
