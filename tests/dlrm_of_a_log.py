"""A DLRM in plain torch that reads all features of a log, trained by a loop of its own.

Nothing of `iak` is in the model and in its training. It learns from nine tenths of the log's
`pretrain` rows and keeps the epoch that is best on the others. What it read and what it answered
are written beside the log's columns, as a platform's serving stack would log them:

    row_<feature>    int64 or list<int64>   ids as the model counts them, 0 for rare ones
    number_<feature> float                  numbers as the model reads them
    score_<task>     float                  logit of each task

`python -m tests.dlrm_of_a_log CATALOG DATA_ROOT OUT` does so with any log, and then adopts, tunes
and evaluates. The page that explains it is `pipeline/base/README.md`.

Source of the model: Naumov et al. 2019, arXiv 1906.00091.
"""

import json
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import torch as safetensors_torch
from torch import Tensor, nn
from torch.nn import functional

from iak.pipeline.runs import load
from iak.pipeline.stats.metrics import MetricRow
from iak.schemas.feature import table_of
from iak.schemas.log import Catalog
from tests.answered_log import gains, of_the_log, rows_of_task, show, split_rows, write_beside

WIDTH, HIDDEN, EPOCHS, BATCH = 16, 64, 6, 1024
FIRST_ROW = 2
"""Row of a table that id 0 reads, as `iak` counts rows: 0 is for nulls, 1 for ids outside."""
NO_ID = -1
Bag = tuple[Tensor, Tensor]
"""Rows of a table, and where the bag of each row of the log begins."""


class Dlrm(nn.Module):
    """Bags of ids and numbers in, a logit for each task out."""

    units = HIDDEN

    def __init__(self, tables: dict[str, int], features: dict[str, str], numbers: int, tasks: int):
        """`tables`: table -> rows; `features`: feature -> its table."""
        super().__init__()
        self.features = features
        self.embeddings = nn.ModuleDict(
            {name: nn.EmbeddingBag(rows, WIDTH, mode="mean") for name, rows in tables.items()}
        )
        for bag in self.embeddings.values():
            nn.init.normal_(bag.weight, std=0.1)
        self.bottom = nn.Sequential(nn.Linear(numbers, WIDTH), nn.ReLU()) if numbers else None
        vectors = len(features) + bool(numbers)
        self.first, self.second = torch.triu_indices(vectors, vectors, offset=1).tolist()
        inputs = len(self.first) + WIDTH * bool(numbers)
        self.top = nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, tasks))

    def hidden(self, bags: dict[str, Bag], numbers: Tensor) -> Tensor:
        """The top MLP's hidden layer before its ReLU."""
        dense = [self.bottom(numbers)] if self.bottom else []
        looked_up = [self.embeddings[t](*bags[f]) for f, t in self.features.items()]
        parts = torch.stack(dense + looked_up, dim=1)
        products = parts @ parts.transpose(1, 2)
        return self.top[0](torch.cat([*dense, products[:, self.first, self.second]], dim=1))

    def tail(self, h: Tensor) -> Tensor:
        """The logits from that layer."""
        return self.top[2](self.top[1](h))

    def represent(self, ids, numbers: Tensor) -> Tensor:
        """The same layer of rows as `iak` encodes them."""
        bags = {name: (ids[name].values(), ids[name].offsets()[:-1]) for name in self.features}
        return self.hidden(bags, numbers)


def build(path: Path) -> Dlrm:
    """factory = "tests.dlrm_of_a_log:build", config = "dlrm.json"."""
    return Dlrm(**json.loads(path.read_text()))


def bag_of(padded: Tensor) -> Bag:
    """The bags of padded ids."""
    is_id = padded != NO_ID
    lengths = is_id.sum(dim=1)
    return padded[is_id] + FIRST_ROW, lengths.cumsum(0) - lengths


class Inputs:
    """What the model reads of all rows of a log."""

    def __init__(self, table: pa.Table, catalog: Catalog) -> None:
        """Count the ids of old rows; one that fewer than two of them have is rare."""
        is_old, keyed = pa.array(split_rows(table, catalog)), catalog.keyed
        ids = {f.name: as_lists(table[f.columns[0]], getattr(f, "last", 1)) for f in keyed}
        self.features = {f.name: table_of(f) for f in keyed}
        self.lists = {f.name for f in keyed if f.kind == "list"}
        self.tables: dict[str, int] = {}
        self.ids: dict[str, pa.ListArray] = {}
        for name in dict.fromkeys(self.features.values()):
            readers = [feature for feature, of in self.features.items() if of == name]
            old = [pc.list_flatten(ids[reader].filter(is_old)) for reader in readers]
            counted = pa.chunked_array(old).value_counts()
            known = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
            self.tables[name] = len(known) + 1 + FIRST_ROW
            self.ids |= {reader: numbered(ids[reader], known) for reader in readers}
        numeric = [f for f in catalog.features if f.kind == "numeric"]
        self.numbers = {f.name: standard(table[f.columns[0]], f.log) for f in numeric}
        self._padded = {name: torch.from_numpy(padded(lists)) for name, lists in self.ids.items()}
        self._numbers = torch.zeros(len(table), len(numeric))
        for index, column in enumerate(self.numbers.values()):
            self._numbers[:, index] = torch.from_numpy(column)

    def batches(self, index: Tensor) -> Iterator[tuple[Tensor, dict[str, Bag], Tensor]]:
        """Some rows in batches: their indices, bags and numbers."""
        for rows in index.split(BATCH):
            bags = {name: bag_of(ids[rows]) for name, ids in self._padded.items()}
            yield rows, bags, self._numbers[rows]

    def columns(self) -> dict[str, pa.Array]:
        """What the model's server would log of them."""
        rows = {n: i if n in self.lists else pc.list_flatten(i) for n, i in self.ids.items()}
        numbers = {f"number_{name}": pa.array(values) for name, values in self.numbers.items()}
        return {f"row_{name}": ids for name, ids in rows.items()} | numbers


def as_lists(column: pa.ChunkedArray, last: int) -> pa.ListArray:
    """Ids as text, in lists of at most `last` of them; a single id is a list of one."""
    if not pa.types.is_list(column.type):
        ids = column.cast(pa.string()).fill_null("").combine_chunks()
        return pa.ListArray.from_arrays(np.arange(len(ids) + 1, dtype=np.int32), ids)
    texts = column.cast(pa.list_(pa.string())).combine_chunks()
    lengths = pc.list_value_length(texts).fill_null(0).to_numpy(zero_copy_only=False)
    ends = lengths.cumsum()
    values = pc.list_flatten(texts)
    position = np.arange(len(values)) - np.repeat(ends, lengths)
    kept = np.minimum(lengths, last)
    offsets = np.concatenate([[0], kept.cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, values.filter(pa.array(position >= -last)))


def numbered(lists: pa.ListArray, known: pa.Array) -> pa.ListArray:
    """Ids as numbers from 1; 0 for an id that is not known."""
    found = pc.index_in(lists.values, known).fill_null(-1).cast(pa.int64())
    return pa.ListArray.from_arrays(lists.offsets, pc.add(found, 1))


def padded(lists: pa.ListArray) -> np.ndarray:
    """Lists side by side, with NO_ID behind the shorter ones."""
    starts, ends = lists.offsets.to_numpy()[:-1, None], lists.offsets.to_numpy()[1:, None]
    index = starts + np.arange((ends - starts).max())
    values = np.append(lists.values.to_numpy(), NO_ID)
    return values[np.where(index < ends, index, len(values) - 1)]


def standard(column: pa.ChunkedArray, log: bool) -> np.ndarray:
    """Numbers with mean 0 and deviation 1 over all rows, or their logarithms where asked for."""
    numbers = column.cast(pa.float64()).fill_null(0.0).to_numpy()
    numbers = np.log1p(numbers) if log else numbers
    return ((numbers - numbers.mean()) / numbers.std()).astype(np.float32)


def loss_of(logits: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of a row, summed over tasks; a conversion's over clicked rows."""
    losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (losses * masks).sum() / len(losses)


def train(model: Dlrm, inputs: Inputs, labels: Tensor, masks: Tensor, old: Tensor) -> None:
    """The loop: Adam over nine tenths of the old rows; the best epoch on the others stays."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    held_out, used = old.split([len(old) // 10, len(old) - len(old) // 10])
    lowest, best = float("inf"), model.state_dict()
    for _ in range(EPOCHS):
        for rows, bags, numbers in inputs.batches(used[torch.randperm(len(used))]):
            logits = model.tail(model.hidden(bags, numbers))
            optimizer.zero_grad()
            loss_of(logits, labels[rows], masks[rows]).backward()
            optimizer.step()
        loss = loss_of(answers(model, inputs, held_out), labels[held_out], masks[held_out]).item()
        if loss < lowest:
            lowest, best = loss, {name: w.clone() for name, w in model.state_dict().items()}
    model.load_state_dict(best)


@torch.no_grad()
def answers(model: Dlrm, inputs: Inputs, index: Tensor) -> Tensor:
    """The logits of some rows."""
    return torch.cat([model.tail(model.hidden(b, n)) for _, b, n in inputs.batches(index)])


def columns_of(table: pa.Table, catalog: Catalog, out: Path) -> dict[str, pa.Array]:
    """Train a model on a log; write it into a folder; what its server would log."""
    torch.manual_seed(0)
    inputs = Inputs(table, catalog)
    sizes = {"tables": inputs.tables, "features": inputs.features}
    sizes |= {"numbers": len(inputs.numbers), "tasks": len(catalog.tasks)}
    (out / "dlrm.json").write_text(json.dumps(sizes))
    labels = [table[t.label].cast(pa.float32()).fill_null(0).to_numpy() for t in catalog.tasks]
    masks = [rows_of_task(table, task, catalog) for task in catalog.tasks]
    stacked = (torch.from_numpy(np.stack(columns, axis=1)) for columns in (labels, masks))
    old = torch.from_numpy(split_rows(table, catalog).nonzero()[0])
    model = build(out / "dlrm.json")
    train(model, inputs, *stacked, old[torch.randperm(len(old))])
    safetensors_torch.save_file(model.state_dict(), out / "dlrm.safetensors")
    scores = answers(model.eval(), inputs, torch.arange(len(table))).numpy()
    given = {f"score_{task.title}": scores[:, t] for t, task in enumerate(catalog.tasks)}
    return inputs.columns() | {name: pa.array(values) for name, values in given.items()}


def module_catalog(document: dict[str, Any], out: Path) -> dict[str, Any]:
    """A catalogue whose features are what the model read, and whose base is the model."""
    sizes = json.loads((out / "dlrm.json").read_text())
    features = []
    for feature in document["features"]:
        name, kind = feature["name"], feature["kind"]
        if kind == "numeric":
            more = {"column": f"number_{name}", "standardise": False}
        else:
            more = {"column": f"row_{name}", "table": sizes["features"][name]}
            more |= {"last": feature["last"]} if kind == "list" else {}
        features.append({"name": name, "kind": kind} | more)
    tables = {n: {"encoding": "identity", "rows": rows} for n, rows in sizes["tables"].items()}
    base = {"kind": "torch", "factory": "tests.dlrm_of_a_log:build"}
    base |= {"config": str(out / "dlrm.json")}
    return of_the_log(document) | {"features": features, "tables": tables, "base": base}


def main(name: str, data_root: Path, out: Path) -> None:
    """Train a model on a log, adopt it, tune kernels on it, and write what that gains."""
    document = tomllib.loads(load.catalog_path(Path(name)).read_text())
    show(trained_and_tuned(document, data_root, out))


def trained_and_tuned(document: dict[str, Any], data_root: Path, out: Path) -> list[MetricRow]:
    """What kernels gain on a model that is trained on a log."""
    catalog = Catalog.model_validate(document)
    folder = Path(catalog.log.path)
    out.mkdir(parents=True, exist_ok=True)
    answer = partial(columns_of, out=out)
    write_beside(catalog, data_root / folder, out / folder, answer)
    scores = {task.title: f"score_{task.title}" for task in catalog.tasks}
    given = Catalog.model_validate(module_catalog(document, out))
    return gains(given, out, weights=out / "dlrm.safetensors", scores=scores)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
