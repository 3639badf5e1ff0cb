#!/usr/bin/env bash
# TorchRec refuses a table whose name is an attribute of its own container (torchrec 1.8.0, torch 2.13.0).
#
# A log has a column `type`, and the model a table of that name. Guess: the name of a table is free, as that of a feature
# is. Seen: EmbeddingBagCollection keeps its tables in a torch ModuleDict under their names. The dictionary takes no name
# that it has as an attribute or a method, so `type`, `items`, `keys`, `values`, `half` and others end the
# construction with a KeyError that tells of an attribute and of no table. The same table under another name, with the
# same feature, is built. A catalogue is written for a log, so its tables need names of their own inside the collection.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0 numpy==2.4.6 tensordict iopath tqdm torchmetrics pyre-extensions
# torchrec asks for fbgemm-gpu, whose build for a CPU has another name.
"${pip[@]}" --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

print("version: torchrec", version("torchrec"), "torch", torch.__version__)


def outcome(table):
    """Return what comes of a table of this name that the feature `type` reads."""
    config = EmbeddingBagConfig(
        name=table, embedding_dim=4, num_embeddings=10, feature_names=["type"]
    )
    try:
        tables = EmbeddingBagCollection(tables=[config])
    except KeyError as error:
        return f"KeyError: {error}"
    ids = KeyedJaggedTensor.from_lengths_sync(["type"], torch.tensor([1, 2]), torch.tensor([1, 1]))
    return f"built, and looked up {tuple(tables(ids)['type'].shape)}"


found = {name: outcome(name) for name in ("kind", "type", "items", "keys", "values", "half")}
for name, what in found.items():
    print(f"table {name!r}: {what}")
refused = [name for name, what in found.items() if what.startswith("KeyError")]
if refused != ["type", "items", "keys", "values", "half"] or "attribute" not in found["type"]:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
