"""DLRM against its formulas."""

import pytest
import torch

from iak.pipeline.base.dense_parts import build_trunk
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.trunks.dlrm import Dlrm
from iak.schemas.job import ModelSpec

SIZES = {"embeddings": [2, 2], "numbers": 1, "width": 2, "expert_width": 1, "tasks": 2}
X_BX = torch.tensor([[1.0, 2.0, 3.0, -1.0, 3.0]])


def test_the_top_reads_every_dot_product_and_the_numbers():
    """The number 3 becomes z = (3, 3). So z.e1 = 9, z.e2 = 6 and e1.e2 = 1."""
    trunk = Dlrm(**SIZES, mlp=[])
    trunk.vectors.weight_KX.data[:, 4] = torch.tensor([1.0, -1.0])  # (3, -3), and (3, 0) by ReLU
    trunk.bottom_bias_K.data.zero_()
    trunk.bottom.weight.data = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    trunk.bottom.bias.data.zero_()
    digits = torch.tensor([1.0, 10.0, 100.0, 1e3, 1e4])
    trunk.top[0].weight.data = torch.stack([digits, -digits])
    trunk.top[0].bias.data = torch.tensor([0.0, 33_170.0])
    torch.testing.assert_close(trunk(X_BX), torch.tensor([[33_169.0, 1.0]]))


def test_without_numbers_the_bottom_is_a_constant():
    """Its dot product with an embedding is then linear in it."""
    trunk = Dlrm(**SIZES | {"embeddings": [2], "numbers": 0}, mlp=[])
    z_K = trunk.bottom(trunk.bottom_bias_K.relu()).relu()
    x_BX = torch.randn(5, 2)
    parts_BZ = torch.cat([(x_BX @ z_K)[:, None], z_K.expand(5, 2)], dim=1)
    torch.testing.assert_close(trunk(x_BX), trunk.top[0](parts_BZ).relu())


def test_h_itself_is_never_dropped():
    trunk = Dlrm(**SIZES, mlp=[], dropout=0.9)
    assert torch.equal(trunk(X_BX), trunk(X_BX))
    deeper = Dlrm(**SIZES | {"expert_width": 32}, mlp=[64], dropout=0.5)
    assert not torch.equal(deeper(X_BX), deeper(X_BX))


def test_a_catalogue_without_embeddings_is_refused_with_what_to_do():
    with pytest.raises(BadRequest, match=r"the catalogue has none.*model\.trunk=mlp"):
        build_trunk(ModelSpec(trunk="dlrm"), embeddings=[], numbers=3, tasks=2)
