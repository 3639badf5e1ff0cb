"""The base that PEFT wraps computes the logits of the benchmark's base."""

import torch

from iak.pipeline.model.heads import Heads
from iak.pipeline.model.trunks.mlp import Mlp
from iak.pipeline.serving.peft_adapters import module_of
from infra.benchmarks.serve import peft_batch


def test_linear_layers_compute_the_bases_logits_under_the_names_of_an_export():
    torch.manual_seed(0)
    trunk = Mlp(width=7, mlp=(9, 8), tasks=2, expert_width=4).eval()
    heads = Heads(tasks=2, width=4, hidden=3)
    with torch.no_grad():
        for weight in heads.parameters():
            weight.normal_()
        x_BX = torch.randn(5, 7)
        dense = peft_batch.DenseBase(trunk, heads)
        torch.testing.assert_close(dense(x_BX), heads(trunk(x_BX)), atol=1e-6, rtol=1e-5)
    layers = dict(dense.named_modules())
    assert all(isinstance(layers[module_of(task)], torch.nn.Linear) for task in range(2))


def test_where_peft_is_absent_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(peft_batch, "find_spec", lambda _: None)
    assert peft_batch.mixed_batches_on_worker(None, None, None, 8, (2,), 1) is None
