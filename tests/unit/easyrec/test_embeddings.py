"""Bags of a row: nulls, ids outside the table, lists and defaults, by hand."""

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.easyrec.config import read_config
from iak.pipeline.easyrec.embeddings import EmbeddingGroup

CONFIG = """
feature_configs { id_feature { feature_name: "a" num_buckets: 3 embedding_dim: 2 } }
feature_configs { id_feature { feature_name: "b" num_buckets: 3 embedding_dim: 2 pooling: "mean"
    fg_encoded_default_value: "1" } }
feature_configs { raw_feature { feature_name: "n" } }
model_config {
    feature_groups { group_name: "one" feature_names: ["n", "a", "b"] group_type: DEEP SUFFIX }
    feature_groups { group_name: "two" feature_names: ["a"] group_type: WIDE }
    mmoe { expert_mlp { hidden_units: 2 } task_towers {
        tower_name: "t" label_name: "t" losses { binary_cross_entropy {} } } }
}
"""


def embeddings(tmp_path, suffix=""):
    path = tmp_path / "pipeline.config"
    path.write_text(CONFIG.replace("SUFFIX", suffix))
    return EmbeddingGroup(read_config(path), wide_width=3)


def weights_of(group):
    return {name.split(".")[-2]: weight for name, weight in group.state_dict().items()}


@torch.no_grad()
def test_bags_by_hand(tmp_path):
    group = embeddings(tmp_path)
    weights = weights_of(group)
    assert {name: tuple(w.shape) for name, w in weights.items()} == {
        "a_emb": (3, 2),
        "b_emb": (3, 2),
        "a_emb_wide": (3, 3),
    }
    ids = KeyedJaggedTensor(
        keys=["b", "other", "a"],
        values=torch.tensor([2, 4, 0, 1] + [9] * 4 + [4, 0, 1, 2]),
        lengths=torch.tensor([2, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    )
    numbers = torch.tensor([[0.5], [1.5], [2.5], [3.5]])
    found = group(ids, numbers)
    a, b, wide = weights["a_emb"], weights["b_emb"], weights["a_emb_wide"]
    zero = torch.zeros(2)
    expected = [
        torch.cat([numbers[0], a[2], (b[0] + b[2]) / 2]),
        torch.cat([numbers[1], zero, b[1]]),
        torch.cat([numbers[2], zero, b[1]]),
        torch.cat([numbers[3], a[0], b[1]]),
    ]
    torch.testing.assert_close(found["one"], torch.stack(expected), atol=0, rtol=0)
    rows = [wide[2], torch.zeros(3), torch.zeros(3), wide[0]]
    torch.testing.assert_close(found["two"], torch.stack(rows), atol=0, rtol=0)


def test_a_suffix_makes_tables_of_its_own(tmp_path):
    group = embeddings(tmp_path, 'embedding_name_suffix: "s"')
    assert set(weights_of(group)) == {"a_emb_s", "b_emb_s", "a_emb_wide"}
    with pytest.raises(ValueError, match="different embedding_name_suffix share the tables"):
        embeddings(tmp_path, 'embedding_name_suffix: "wide"').cpu()
