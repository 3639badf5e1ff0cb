"""Run TorchEasyRec itself on the small models, and write what it answered.

    python -m tests.easyrec_reference references tests/unit/easyrec/reference
    python -m tests.easyrec_reference checkpoint OUT      # of two ranks, and rows with its scores

It needs the source of TorchEasyRec on the PYTHONPATH, its compiled protos and a protobuf before 5.
The tests do not: they read what this wrote.
"""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import torch as safetensors_torch
from torch import distributed
from torch.nn import functional
from torchrec.distributed.sharding_plan import (
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from tzrec.datasets.data_parser import DataParser
from tzrec.main import _create_features, _create_model
from tzrec.models.model import TrainWrapper
from tzrec.utils.checkpoint_util import save_model
from tzrec.utils.config_util import load_pipeline_config
from tzrec.utils.dist_util import DistributedModelParallel
from tzrec.utils.state_dict_util import init_parameters

from tests.easyrec_models import MODELS, ROWS, config_text, draw_rows, tasks_of
from tests.torchrec_dlrm import RowWiseOnCpu

WORLD, STEPS, CHECKPOINTED = 2, 15, "mmoe"
TABLES = "model.embedding_group.emb_impls.__BASE__.ebc"


def read_config(name: str):
    """The config of a model, as TorchEasyRec reads it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.config"
        path.write_text(config_text(name))
        return load_pipeline_config(str(path))


def build(name: str) -> tuple:
    """A model of TorchEasyRec, and its parser of rows."""
    config = read_config(name)
    labels = list(config.data_config.label_fields)
    features = _create_features(list(config.feature_configs), config.data_config)
    model = _create_model(config.model_config, features, labels)
    return model, DataParser(features, labels)


def batch_of(parser, name: str, rows: dict[str, pa.Array], part: slice = slice(None)):
    """Rows with labels that depend on the item and a number, as the model reads them."""
    count, item = len(rows["user"]), np.array(rows["item"].fill_null(0))
    rising = (-1.0) ** item + np.array(rows["price"])
    labels = [(rising > i).astype(np.float32) for i, _ in enumerate(tasks_of(name))]
    columns = rows | {task: pa.array(labels[i]) for i, task in enumerate(tasks_of(name))}
    taken = pa.table(columns).take(pa.array(range(count)[part])).combine_chunks()
    columns = {name: taken[name].combine_chunks() for name in taken.column_names}
    return parser.to_batch(parser.parse(columns))


def logits_of(name: str, predictions: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits of every task, (B, T)."""
    tasks = tasks_of(name)
    names = [f"logits_{task}" for task in tasks] if len(tasks) > 1 else ["logits"]
    return torch.stack([predictions[n] for n in names], dim=1)


def trained(name: str) -> tuple:
    """A model after some steps, so that no weight is as it began."""
    torch.manual_seed(sum(map(ord, name)))
    model, parser = build(name)
    init_parameters(model, device=torch.device("cpu"))
    batch = batch_of(parser, name, draw_rows(300, seed=1))
    labels = torch.stack([batch.labels[task] for task in tasks_of(name)], dim=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(STEPS):
        logits = logits_of(name, model.predict(batch))
        loss = functional.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), parser


def write_references(folder: Path) -> None:
    """Write the weights and logits of every model."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        model, parser = trained(name)
        with torch.no_grad():
            logits = logits_of(name, model.predict(batch_of(parser, name, draw_rows())))
        weights = {k: v.contiguous().clone() for k, v in model.state_dict().items()}
        path = folder / f"{name}.safetensors"
        safetensors_torch.save_file(weights | {"logits": logits}, path)
        print(f"{name}: {len(weights)} weights, logits of {logits.std():.3f}", flush=True)  # noqa: T201


def over_ranks(model: TrainWrapper):
    """The model over both ranks: one table cut by rows, the others each on one rank."""
    tables = model.model.embedding_group.emb_impls["__BASE__"].ebc
    apply_optimizer_in_backward(RowWiseAdagrad, tables.parameters(), {"lr": 0.1})
    names = [config.name for config in tables.embedding_bag_configs()]
    cuts = {
        name: table_wise(rank=i % WORLD, compute_kernel="fused") for i, name in enumerate(names)
    }
    cuts["user_emb"] = row_wise(compute_kernel="fused")
    sharder = RowWiseOnCpu()
    plan = construct_module_sharding_plan(
        tables, cuts, sharder=sharder, local_size=WORLD, world_size=WORLD, device_type="cpu"
    )
    return DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(distributed.group.WORLD),
        device=torch.device("cpu"),
        plan=ShardingPlan({TABLES: plan}),
        sharders=[sharder],
    )


def train_rank(rank: int, folder: Path) -> None:
    """What one rank does: train on its half, save as TorchEasyRec does, and score all rows."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_RANK": str(rank)}
    store = distributed.FileStore(str(folder / "meeting"), WORLD)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    torch.manual_seed(rank)
    name = CHECKPOINTED
    module, parser = build(name)
    model = over_ranks(TrainWrapper(module, device=torch.device("cpu")))
    dense = [w for n, w in model.named_parameters() if "embedding_bags" not in n]
    optimizer = torch.optim.Adam(dense, lr=0.02)
    for _ in range(STEPS):
        loss, _ = model(batch_of(parser, name, draw_rows(300, seed=1), slice(rank, None, WORLD)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_model(str(folder / f"model.ckpt-{STEPS}"), model, optimizer)
    model.eval()
    rows = draw_rows()
    with torch.no_grad():
        _, (_, predictions, _) = model(batch_of(parser, name, rows))
    if rank == 0:
        scores = logits_of(name, predictions).numpy()
        rows |= {f"score_{task}": pa.array(scores[:, i]) for i, task in enumerate(tasks_of(name))}
        pq.write_table(pa.table(rows), folder / "rows.parquet")
        (folder / "pipeline.config").write_text(config_text(name))
    distributed.barrier()
    distributed.destroy_process_group()


def write_checkpoint(folder: Path) -> None:
    """Train a model on two ranks, and write its checkpoint, its config and rows with scores."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=train_rank, args=(rank, folder)) for rank in range(WORLD)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    print(f"ranks ended with {[rank.exitcode for rank in ranks]}; {len(ROWS)} tables")  # noqa: T201


if __name__ == "__main__":
    {"references": write_references, "checkpoint": write_checkpoint}[sys.argv[1]](Path(sys.argv[2]))
