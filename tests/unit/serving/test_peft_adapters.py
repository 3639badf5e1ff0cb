"""Adapters in PEFT's layout compute what the kernel's towers compute from h."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import linear

from iak.pipeline.errors import BadRequest
from iak.pipeline.publish.bundle_set import read_bundle_set
from iak.pipeline.serving.peft_adapters import check_expressible, write_adapters
from tests.unit.iak.small import normal
from tests.unit.serving.shop import KERNEL

ADDED = {"lora_A.weight", "lora_B.weight", "lora_B.bias"}


@pytest.fixture(scope="module")
def bundles(place, nights, base):
    assert nights
    manifest = base.manifest
    return read_bundle_set(
        place / "night-0" / "bundles",
        base_fingerprint=manifest.fingerprint,
        schema_hash=manifest.schema_hash,
    )


@pytest.fixture(scope="module")
def written(bundles, nights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("peft")
    tasks = [f"task {number}" for number in range(nights[0][0].base.heads.tasks)]
    write_adapters(folder, bundles, tasks, base_fingerprint="b" * 64)
    return folder


def by_peft(config, tensors, layer, w1_WD, b1_D, h_BW):
    """What PEFT's LoRA layer computes: the base's layer, and scaled B(A h) with the bias of B."""
    own = {name: tensors[f"base_model.model.{layer}.{name}"] for name in ADDED}
    scale = config["lora_alpha"] / config["r"]
    narrow_BR = linear(h_BW, own["lora_A.weight"])
    added_BD = linear(narrow_BR, own["lora_B.weight"], own["lora_B.bias"])
    return linear(h_BW, w1_WD.T, b1_D) + scale * added_BD


def test_each_layer_computes_the_towers_hidden_units_with_the_kernels_adapters(
    written, bundles, nights
):
    heads = nights[0][0].base.heads
    h_BH = normal(20, heads.units)
    for slot, manifest in enumerate(bundles.manifests):
        if not manifest.verdict.publish:
            assert not (written / manifest.name).exists()
            continue
        config = json.loads((written / manifest.name / "adapter_config.json").read_text())
        tensors = load_file(written / manifest.name / "adapter_model.safetensors")
        assert len(tensors) == len(ADDED) * heads.tasks
        assert (config["peft_type"], config["r"]) == ("LORA", KERNEL.adapter_rank)
        own = {name: weight[slot] for name, weight in bundles.weights.items()}
        for task, layer in enumerate(config["target_modules"]):
            h_BW = h_BH.unflatten(1, (heads.tasks, heads.width))[:, task]
            expected = linear(h_BW, heads.w1_TWD[task].T, heads.b1_TD[task])
            adapter_DW = own["lora_out"][task] @ own["lora_in"][task]
            expected = expected + linear(h_BW, adapter_DW, own["tower_bias"][task])
            seen = by_peft(config, tensors, layer, heads.w1_TWD[task], heads.b1_TD[task], h_BW)
            torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-5)


def test_kernels_without_adapters_are_refused(bundles):
    none = bundles.weights["lora_in"][:, :, :0]
    with pytest.raises(BadRequest, match="have no adapters"):
        check_expressible(replace(bundles, weights=bundles.weights | {"lora_in": none}))
    check_expressible(bundles)
