"""Time a batch of many domains through PEFT's adapters and through kernels, on one base.

Both take x and return logits: looking embeddings up costs both the same, and is left out. PEFT gets
the adapters of the kernels as `iak export to=peft` writes them, and in another turn adapters of the
same rank on every linear layer, as LoRA is mostly used. The kernels compute their encoders too.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.base.precision import ANYTHING
from iak.pipeline.base.published_base import open_base, task_shapes
from iak.pipeline.bench.setup import BenchSetup
from iak.pipeline.model.batch_invariant import batch_invariant
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.recommender import Recommender
from iak.pipeline.process import Worker
from iak.pipeline.publish.bundle_predictor import BundlePredictor
from iak.pipeline.publish.bundle_set import BundleSet, read_bundle_set
from iak.pipeline.serving.peft_adapters import module_of, write_adapters
from iak.schemas.job import EvaluatedTablesSpec
from iak.schemas.plan import ResolvedPlacement
from infra.benchmarks.serve.kernels import Kernels

BASE, KERNELS = "base alone", "kernels"
TOWERS, EVERYWHERE = "PEFT, the kernels' adapters", "PEFT, adapters of every linear layer"
_WARM_UP = 2
Batch = Callable[[], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedBatches:
    """Seconds of each batch, by what computed it and the adapters in it."""

    seconds: Mapping[tuple[str, int], list[float]]
    version: str
    """Version of PEFT."""


def mixed_batches_on_worker(
    worker: Worker,
    setup: BenchSetup,
    kernels: Kernels,
    rows: int,
    counts: Sequence[int],
    turns: int,
) -> MixedBatches | None:
    """Return the times of batches with some numbers of adapters; None where PEFT is not installed.

    Args:
        worker: this process.
        setup: the base.
        kernels: its kernels.
        rows: rows of a batch.
        counts: distinct adapters in a batch.
        turns: times that each batch is computed, in turns with the others.
    """
    if find_spec("peft") is None:
        return None
    tables = EvaluatedTablesSpec(precision="int8", tolerance=ANYTHING)
    base = FrozenBase.load(open_base(setup.base), tables, ResolvedPlacement(), worker)
    model, manifest = base.model, base.published.manifest
    assert isinstance(model, Recommender)
    assert isinstance(model.heads, Heads)
    bundles = read_bundle_set(
        kernels.all, base_fingerprint=manifest.fingerprint, schema_hash=manifest.schema_hash
    )
    folder = kernels.all.parent / "adapters"
    folder.mkdir()
    titles = [shape.name for shape in task_shapes(base.published.catalog)]
    write_adapters(folder, bundles, titles, base_fingerprint=manifest.fingerprint)
    x_BX = torch.randn(rows, model.attach_points["x"], generator=torch.Generator().manual_seed(0))
    batches: dict[tuple[str, int], Batch] = {(BASE, 0): partial(_by_kernels, model, None, x_BX, 0)}
    predictor = BundlePredictor(bundles, model.heads)
    for count in counts:
        written = _with_written(model, folder, bundles, count)
        drawn = _with_drawn(model, bundles, count)
        batches[KERNELS, count] = partial(_by_kernels, model, predictor, x_BX, count)
        batches[TOWERS, count] = partial(_by_peft, written, x_BX, count)
        batches[EVERYWHERE, count] = partial(_by_peft, drawn, x_BX, count)
    return MixedBatches(seconds=_in_turns(batches, turns), version=metadata.version("peft"))


class DenseBase(nn.Module):
    """Trunk and towers of a base as linear layers, which PEFT wraps."""

    def __init__(self, trunk: nn.Module, heads: Heads) -> None:
        """Take the trunk, and copy the towers."""
        super().__init__()
        self.trunk, self._tasks = trunk, heads.tasks
        self.towers = nn.ModuleList(
            _linear(w1_WD.T, b1_D) for w1_WD, b1_D in zip(heads.w1_TWD, heads.b1_TD, strict=True)
        )
        self.read_outs = nn.ModuleList(
            _linear(w2_D[None], b2[None]) for w2_D, b2 in zip(heads.w2_TD, heads.b2_T, strict=True)
        )
        self.eval()

    def forward(self, x_BX: Tensor) -> Tensor:
        """Return the logits of inputs of the trunk."""
        h_BTW = self.trunk(x_BX).unflatten(1, (self._tasks, -1))
        layers = enumerate(zip(self.towers, self.read_outs, strict=True))
        parts = [read_out(tower(h_BTW[:, t]).relu()) for t, (tower, read_out) in layers]
        return torch.cat(parts, dim=1)


def _linear(weight_OI: Tensor, bias_O: Tensor) -> nn.Linear:
    layer = nn.Linear(weight_OI.shape[1], weight_OI.shape[0])
    layer.load_state_dict({"weight": weight_OI, "bias": bias_O})
    return layer


def _with_written(model: Recommender, folder: Path, bundles: BundleSet, count: int) -> nn.Module:
    """Return the base with the adapters of the first kernels, as an export wrote them."""
    names = [manifest.name for manifest in bundles.manifests[:count]]
    peft = import_module("peft")
    adapted = peft.PeftModel.from_pretrained(_dense(model), str(folder / names[0]), "0")
    for number, name in enumerate(names[1:], 1):
        adapted.load_adapter(str(folder / name), str(number))
    return adapted.eval()  # type: ignore[no-any-return]


def _with_drawn(model: Recommender, bundles: BundleSet, count: int) -> nn.Module:
    """Return the base with drawn adapters of the kernels' rank on every linear layer."""
    peft = import_module("peft")
    base, rank = _dense(model), bundles.weights["lora_in"].shape[2]
    layers = [name for name, module in base.named_modules() if isinstance(module, nn.Linear)]
    config = peft.LoraConfig(r=rank, target_modules=layers, init_lora_weights=False)
    adapted = peft.get_peft_model(base, config, "0")
    for number in range(1, count):
        adapted.add_adapter(str(number), config)
    return adapted.eval()  # type: ignore[no-any-return]


def _dense(model: Recommender) -> DenseBase:
    assert isinstance(model.heads, Heads)
    # A copy: PEFT puts its own layers into the modules that it is given.
    dense = DenseBase(deepcopy(model.trunk), model.heads)
    assert module_of(0) in dict(dense.named_modules()), "an export names this layer"
    return dense


@torch.no_grad()
def _by_kernels(
    model: Recommender, predictor: BundlePredictor | None, x_BX: Tensor, count: int
) -> Tensor:
    """Return the logits of a batch whose rows have so many kernels, or none."""
    with batch_invariant():
        h_BH: Tensor = model.trunk(x_BX)
    if predictor is None:
        logits_BT: Tensor = model.heads(h_BH)
        return logits_BT
    return predictor.logits(h_BH, x_BX, torch.arange(len(x_BX)) % count)


@torch.no_grad()
def _by_peft(adapted: nn.Module, x_BX: Tensor, count: int) -> Tensor:
    """Return the logits of a batch whose rows have so many adapters."""
    logits_BT: Tensor = adapted(x_BX, adapter_names=[str(row % count) for row in range(len(x_BX))])
    return logits_BT


def _in_turns(
    batches: Mapping[tuple[str, int], Batch], turns: int
) -> dict[tuple[str, int], list[float]]:
    """Compute each batch some times, all of them in turns."""
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in batches}
    for turn in range(_WARM_UP + turns):
        for key, compute in batches.items():
            started = time.perf_counter()
            compute()
            if turn >= _WARM_UP:
                seconds[key].append(time.perf_counter() - started)
    return seconds
