#!/usr/bin/env bash
# Position weights replace the weights that ids bring, of other features too (torchrec 1.8.0, torch 2.13.0).
#
# A feature is weighted by position, and another one brings a weight with each id, such as the seconds that an item was
# watched. Both are read by one FeatureProcessedEmbeddingBagCollection, whose tables must be weighted. Guess: a feature
# without positions keeps its weights. Seen: PositionWeightedModuleCollection gives 1 to every id of a feature that it has
# no positions for, so that a weighted sum becomes a plain one. PositionWeightedProcessor does worse: where ids have
# weights it takes those for the positions. It cuts each to a whole number and looks up the position weight there, so that
# an id at position 0 that was watched for 2.9 seconds counts as position 2. Nothing warns in either case. What
# avoids it: a collection of tables of its own for features with weights, and no weights where positions are counted.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0 numpy==2.4.6 tensordict iopath tqdm torchmetrics==1.0.3 pyre-extensions
# torchrec asks for fbgemm-gpu, whose build for a CPU has another name.
"${pip[@]}" --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import logging
import sys
from importlib.metadata import version

import torch
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.modules.feature_processor import PositionWeightedProcessor
from torchrec.modules.feature_processor_ import PositionWeightedModuleCollection
from torchrec.modules.fp_embedding_modules import FeatureProcessedEmbeddingBagCollection

logging.disable(logging.WARNING)
print("version: torchrec", version("torchrec"), "torch", torch.__version__)
FEATURES = ["clicked", "watched"]
IDS, LENGTHS = torch.tensor([0, 1, 2, 3]), torch.tensor([2, 2])
SECONDS = torch.tensor([1.0, 1.0, 2.9, 0.5])  # the two clicked ids have weight 1
BY_POSITION = [0.8, 0.4, 0.2]
rows = KeyedJaggedTensor.from_lengths_sync(FEATURES, IDS, LENGTHS, weights=SECONDS)
bare = KeyedJaggedTensor.from_lengths_sync(FEATURES, IDS, LENGTHS)


def positions(module):
    """Return the module with the same weights by position in all features."""
    with torch.no_grad():
        for weight in module.position_weights.values():
            weight.copy_(torch.tensor(BY_POSITION))
    return module


def rounded(values):
    """Return the values with two digits."""
    return [round(value, 2) for value in values.flatten().tolist()]


config = EmbeddingBagConfig(
    name="item", feature_names=FEATURES, num_embeddings=4, embedding_dim=1,
    init_fn=torch.nn.init.ones_,
)  # fmt: skip
tables = EmbeddingBagCollection(tables=[config], is_weighted=True)
collection = positions(PositionWeightedModuleCollection({"clicked": 3}))
processed = FeatureProcessedEmbeddingBagCollection(tables, collection)
processor = positions(PositionWeightedProcessor(dict.fromkeys(FEATURES, 3)))
found = {
    "sums of rows of one (clicked, watched)": rounded(tables(rows).values()),
    "the same with positions for clicked": rounded(processed(rows).values()),
    "the processor's weights, ids without weights": rounded(processor(bare).weights()),
    "the processor's weights, ids with weights": rounded(processor(rows).weights()),
}
print("weights of the ids:", rounded(SECONDS), "by position:", BY_POSITION)
for what, values in found.items():
    print(f"{what}: {values}")
wanted = {
    "sums of rows of one (clicked, watched)": [2.0, 3.4],
    "the same with positions for clicked": [1.2, 2.0],
    "the processor's weights, ids without weights": [0.8, 0.4, 0.8, 0.4],
    "the processor's weights, ids with weights": [0.4, 0.4, 0.2, 0.8],
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
