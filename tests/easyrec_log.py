"""A log of rows that a small model of TorchEasyRec scored, with a catalogue that gives it these."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.builders import write_file
from tests.easyrec_models import LISTS, NUMBERS, ROWS, config_text, draw_rows, tasks_of

REGIONS, DAYS = ("a", "b"), (1, 2, 3)
LOG = """
[log]
name = "easyrec"
partition_keys = ["region", "dt"]
date_key = "dt"
row_id = "event_id"

[domain]
keys = ["region"]
min_rows = 20

[base]
kind = "torch"
factory = "iak.pipeline.easyrec.models:build"
config = "{config}"
names = {{ "model." = "" }}
{features}
[[tasks]]
label = "ctr"
kind = "click"
{tasks}
[splits]
pretrain = {{ days = [0, 0] }}
tune = {{ days = [1, 1], slice = [0.0, 0.6] }}
valid = {{ days = [1, 1], slice = [0.6, 0.8] }}
gate = {{ days = [1, 1], slice = [0.8, 1.0] }}
test = {{ days = [2, 2] }}
"""


def catalog_text(name: str, config: Path) -> str:
    """The catalogue of a model."""
    features = ""
    for feature, rows in ROWS.items():
        kind = "list" if feature in LISTS else "categorical"
        features += f'\n[[features]]\nkind = "{kind}"\nname = "{feature}"\n'
        features += f'[tables.{feature}]\nencoding = "identity"\nrows = {rows + 2}\n'
    for feature in NUMBERS:
        features += f'\n[[features]]\nkind = "numeric"\nname = "{feature}"\nstandardise = false\n'
    tasks = "".join(f'\n[[tasks]]\nlabel = "{task}"\n' for task in tasks_of(name)[1:])
    return LOG.format(config=config, features=features, tasks=tasks)


def write_easyrec_log(root: Path, name: str, logits: np.ndarray) -> Path:
    """Write the config of a model, a catalogue, and the rows with its scores as a log.

    Labels depend on the scores and, in each region otherwise, on the price.
    """
    (root / "pipeline.config").write_text(config_text(name))
    (root / "easyrec.toml").write_text(catalog_text(name, root / "pipeline.config"))
    columns = draw_rows()
    parts = [(region, day) for day in DAYS for region in REGIONS]
    rng, size = np.random.default_rng(5), len(logits) // len(parts)
    price = np.array(columns["price"])
    for number, (region, day) in enumerate(parts):
        rows = slice(number * size, (number + 1) * size)
        part = {feature: values[rows] for feature, values in columns.items()}
        turn = {"a": 2.0, "b": -2.0}[region] * price[rows]
        for i, task in enumerate(tasks_of(name)):
            chance = 1 / (1 + np.exp(-logits[rows, i] - turn))
            part[task] = pa.array((rng.random(size) < chance).astype(np.int8))
            part[f"score_{task}"] = pa.array(logits[rows, i])
        part["event_id"] = pa.array(range(rows.start, rows.stop))
        path = root / f"events/region={region}/dt=2026-10-0{day}/part.parquet"
        write_file(path, pa.table(part))
    return root
