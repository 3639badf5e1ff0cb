"""Models of TorchEasyRec, small ones: their `pipeline.config`, and rows that they read.

`tests/easyrec_reference.py` runs TorchEasyRec itself on them, and writes what it answered into
`tests/unit/easyrec/reference`.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from safetensors import numpy as safetensors_numpy

REFERENCE = Path(__file__).parent / "unit/easyrec/reference"
FEATURES = """
feature_configs { id_feature {
    feature_name: "user" expression: "user:user" num_buckets: 30 embedding_dim: 4 } }
feature_configs { id_feature {
    feature_name: "item" expression: "item:item" hash_bucket_size: 20 embedding_dim: 4 } }
feature_configs { id_feature {
    feature_name: "seen" expression: "user:seen" embedding_name: "item_emb" hash_bucket_size: 20
    embedding_dim: 4 } }
feature_configs { id_feature {
    feature_name: "tags" expression: "item:tags" num_buckets: 12 embedding_dim: 4 pooling: "mean"
    fg_encoded_default_value: "3" } }
feature_configs { id_feature {
    feature_name: "city" expression: "user:city" vocab_list: ["a", "b", "c"] embedding_dim: 4 } }
feature_configs { combo_feature {
    feature_name: "pair" expression: "user:city" expression: "item:item" hash_bucket_size: 25
    embedding_dim: 4 } }
feature_configs { raw_feature {
    feature_name: "age" expression: "user:age" boundaries: [18, 30.5, 45, 6e1] embedding_dim: 4 } }
feature_configs { raw_feature { feature_name: "price" expression: "item:price" } }
feature_configs { expr_feature {
    feature_name: "ratio" expression: "a/b" variables: "item:a" variables: "item:b" value_dim: 1 } }
"""
SPARSE = ("user", "item", "seen", "tags", "city", "pair", "age")
NUMBERS = ("price", "ratio")
ROWS = {"user": 30, "item": 20, "seen": 20, "tags": 12, "city": 5, "pair": 25, "age": 5}
"""Rows of the table of each feature with one."""
LISTS = ("tags", "seen")


def group(name: str, *features: str, kind: str = "DEEP") -> str:
    """A group of features."""
    names = " ".join(f'feature_names: "{feature}"' for feature in features)
    return f'feature_groups {{ group_name: "{name}" {names} group_type: {kind} }}'


def mlp(name: str, *units: int, more: str = "") -> str:
    """The layers of a part."""
    return f"{name} {{ hidden_units: {list(units)} {more} }}"


def tower(name: str, *parts: str) -> str:
    """The tower of a task."""
    inner = " ".join(parts)
    loss = "losses { binary_cross_entropy {} } metrics { auc {} }"
    return f'task_towers {{ tower_name: "{name}" label_name: "{name}" {inner} {loss} }}'


LOSS = "losses { binary_cross_entropy {} }"
ALL = group("all", *SPARSE, *NUMBERS)
WIDE = group("wide", "user", "item", kind="WIDE")
MODELS = {
    "multi_tower": f"""
        {group("user", "user", "city", "age", "seen", "ratio")}
        {group("item", "item", "tags", "price", "pair", "seen")}
        multi_tower {{
            towers {{ input: 'user' {mlp("mlp", 6, 5, more="use_bn: true dropout_ratio: 0.3")} }}
            towers {{ input: 'item' {mlp("mlp", 7, more="use_ln: true activation: 'nn.SiLU'")} }}
            {mlp("final", 8, 6, more="use_bn: true")}
        }} {LOSS}""",
    "dlrm": f"""
        {group("dense", *NUMBERS)} {group("sparse", *SPARSE)}
        dlrm {{ {mlp("dense_mlp", 5, 4)} {mlp("final", 8, 6)} }} {LOSS}""",
    "dlrm_sparse": f"""
        {group("only", *SPARSE)}
        dlrm {{ arch_with_sparse: false {mlp("final", 8, 6, more="bias: false")} }} {LOSS}""",
    "deepfm": f"""
        {WIDE} {group("deep", *SPARSE)}
        deepfm {{ {mlp("deep", 8, 6)} wide_embedding_dim: 8 }}
        losses {{ binary_focal_loss {{}} }}""",
    "deepfm_final": f"""
        {WIDE} {group("fm", "user", "item", "city")} {ALL.replace('"all"', '"deep"')}
        deepfm {{ {mlp("deep", 8, 6)} {mlp("final", 5, more="activation: 'nn.Tanh'")} }} {LOSS}""",
    "wide_and_deep": f"""
        {WIDE} {ALL.replace('"all"', '"deep"')}
        wide_and_deep {{ {mlp("deep", 8, 6)} }} {LOSS}""",
    "mmoe": f"""
        {ALL}
        mmoe {{ {mlp("expert_mlp", 8, 6)} {mlp("gate_mlp", 5)} num_expert: 3
            {tower("ctr", mlp("mlp", 5, 4))} {tower("cvr")} }}""",
    "dbmtl": f"""
        {ALL}
        dbmtl {{ {mlp("bottom_mlp", 9, 8, more="use_bn: true")}
            {tower("ctr", mlp("mlp", 6, 5))}
            {tower("cvr", mlp("mlp", 5), 'relation_tower_names: "ctr"', mlp("relation_mlp", 4))}
            {tower("buy", 'relation_tower_names: ["ctr", "cvr"]', mlp("relation_mlp", 4))} }}""",
    "dbmtl_experts": f"""
        {ALL}
        dbmtl {{ {mlp("bottom_mlp", 9)} {mlp("expert_mlp", 6)} num_expert: 2
            {tower("ctr", mlp("mlp", 6, 5))} {tower("cvr")} }}""",
}
TASKS = {"mmoe": ("ctr", "cvr"), "dbmtl": ("ctr", "cvr", "buy"), "dbmtl_experts": ("ctr", "cvr")}


def tasks_of(name: str) -> tuple[str, ...]:
    """The tasks of a model, in order."""
    return TASKS.get(name, ("ctr",))


def config_text(name: str) -> str:
    """The `pipeline.config` of a model."""
    labels = " ".join(f'label_fields: "{task}"' for task in tasks_of(name))
    return f"""
# A comment, and what training alone reads.
train_input_path: "rows" eval_input_path: "rows" model_dir: 'experiments/' "{name}"
train_config {{
    sparse_optimizer {{ adagrad_optimizer {{ lr: 0.05 }} constant_learning_rate {{}} }}
    dense_optimizer {{ adam_optimizer {{ lr: 1e-2 }} constant_learning_rate {{}} }}
    num_epochs: 1
}}
eval_config {{}}
data_config {{ batch_size: 64 dataset_type: ParquetDataset fg_mode: FG_NONE {labels} }}
{FEATURES}
model_config {{ {MODELS[name]} }}
"""


def draw_rows(rows: int = 480, seed: int = 0) -> dict[str, pa.Array]:
    """Rows with nulls, with empty lists and with ids that repeat in a list."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, pa.Array] = {}
    for name, count in ROWS.items():
        if name in LISTS:
            lists = [rng.integers(0, count, rng.integers(0, 5)).tolist() for _ in range(rows)]
            drawn[name] = pa.array([None if i % 9 == 4 else ids for i, ids in enumerate(lists)])
        else:
            ids = rng.integers(0, count, rows)
            drawn[name] = pa.array([None if i % 7 == 3 else int(x) for i, x in enumerate(ids)])
    for name in NUMBERS:
        drawn[name] = pa.array(rng.normal(size=rows).astype(np.float32))
    return drawn


def read_reference(name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The weights of a model, and the logits that TorchEasyRec gave `draw_rows()`, (B, T)."""
    stored = safetensors_numpy.load_file(REFERENCE / f"{name}.safetensors")
    logits = stored.pop("logits")
    return stored, logits
