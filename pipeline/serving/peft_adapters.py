"""Write the adapters of kernels in PEFT's layout, a folder for each domain.

    peft.json                                the modules, and what is left out
    region=a/adapter_config.json             LoRA of rank R on the first layer of every tower
    region=a/adapter_model.safetensors

Tower t reads h_t, its W units of h. Of the layer `towers.t`, Linear(W, D), PEFT computes

    w1 h_t + b1 + B (A h_t) + b        A: lora_in, B: lora_out, b: tower_bias

which is what a kernel's adapters compute. The rest of a kernel depends on the row: the code that
its encoder reads from [h ; x] moves h and adds to the logit. LoRA has no place for it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from iak.pipeline.errors import BadRequest
from iak.pipeline.files import put_file
from iak.pipeline.publish.bundle_set import BundleSet
from iak.pipeline.sharding.rectangles import save_tensors
from iak.schemas.export import PeftDocument, PeftKernel

DOCUMENT = "peft.json"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model"
"""What PEFT puts before the name of every module."""
LEFT_OUT = (
    "the encoder and the decoders: what they add to h and to the logit depends on the row, and "
    "LoRA adds the same matrix for all rows",
    "the standardizer, which only the encoder reads",
)


def module_of(task: int) -> str:
    """Return the name of the first layer of a task's tower, Linear(W, D), in the base module."""
    return f"towers.{task}"


def check_expressible(bundles: BundleSet) -> None:
    """Refuse kernels without adapters.

    Raises:
        BadRequest: `kernel.adapter_rank` is 0, or the base has no towers of its own.
    """
    if not bundles.weights["lora_in"].shape[2]:
        raise BadRequest(
            "these kernels have no adapters (kernel.adapter_rank=0, or a base that was made "
            "elsewhere), so PEFT cannot express any part of them. Export with to=runtime"
        )


def write_adapters(
    folder: Path, bundles: BundleSet, tasks: Sequence[str], *, base_fingerprint: str
) -> None:
    """Write the adapters of every published kernel.

    Args:
        folder: an empty folder.
        bundles: kernels that `check_expressible` passed.
        tasks: titles of the base's tasks, in the order of its towers.
        base_fingerprint: the base that the kernels were tuned on.
    """
    kernels = []
    for slot, manifest in enumerate(bundles.manifests):
        if not manifest.verdict.publish:
            continue
        own = folder / manifest.name
        own.mkdir()
        save_tensors(adapter_tensors(bundles, slot), own, WEIGHTS)
        rank = bundles.weights["lora_in"].shape[2]
        put_file(own / CONFIG, json.dumps(_config(len(tasks), rank, base_fingerprint), indent=2))
        kernels.append(
            PeftKernel(
                folder=manifest.name, domain=bundles.names[slot], version=bundles.versions[slot]
            )
        )
    document = PeftDocument(
        base_fingerprint=base_fingerprint,
        modules={title: module_of(task) for task, title in enumerate(tasks)},
        kernels=tuple(kernels),
        left_out=LEFT_OUT,
    )
    put_file(folder / DOCUMENT, document.model_dump_json(indent=1))


def adapter_tensors(bundles: BundleSet, slot: int) -> dict[str, Tensor]:
    """Return the adapters of a slot under the names that PEFT reads."""
    parts = {
        "lora_A.weight": bundles.weights["lora_in"][slot],
        "lora_B.weight": bundles.weights["lora_out"][slot],
        "lora_B.bias": bundles.weights["tower_bias"][slot],
    }
    # Copies: safetensors refuses to write views of one tensor.
    return {
        f"{_PREFIX}.{module_of(task)}.{name}": weight_T[task].clone().contiguous()
        for name, weight_T in parts.items()
        for task in range(len(weight_T))
    }


def _config(tasks: int, rank: int, base_fingerprint: str) -> dict[str, Any]:
    """Return `adapter_config.json`; PEFT takes its defaults for fields that are absent."""
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_fingerprint,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,  # PEFT scales B A h by lora_alpha / r
        "lora_dropout": 0.0,
        "lora_bias": True,  # the bias of B is the tower's; PEFT 0.14 or newer
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": [module_of(task) for task in range(tasks)],
    }
