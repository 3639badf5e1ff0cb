"""The log of a DLRM: rows of two regions, and the scores that the model gave them.

The DLRM is the one in plain torch, or that of TorchRec which two ranks train.
"""

import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors import torch as safetensors_torch

from iak.schemas.log import Catalog
from tests import torchrec_dlrm
from tests.builders import write_file
from tests.plain_dlrm import ITEMS, USERS, train

REGIONS = ("a", "b")
BASE = """[base]
kind = "torch"
factory = "tests.plain_dlrm:build"
"""
CATALOG = f"""
[log]
name = "dlrm"
partition_keys = ["region", "dt"]
date_key = "dt"
row_id = "event_id"

[domain]
keys = ["region"]
min_rows = 50

{BASE}
[[features]]
kind = "categorical"
name = "user"

[[features]]
kind = "categorical"
name = "item"

[[features]]
kind = "numeric"
name = "price"
standardise = false

[tables.user]
encoding = "identity"
rows = {USERS + 2}

[tables.item]
encoding = "identity"
rows = {ITEMS + 2}

[[tasks]]
label = "click"
kind = "click"

[splits]
pretrain = {{ days = [0, 0] }}
tune = {{ days = [1, 1], slice = [0.0, 0.6] }}
valid = {{ days = [1, 1], slice = [0.6, 0.8] }}
gate = {{ days = [1, 1], slice = [0.8, 1.0] }}
test = {{ days = [2, 2] }}
"""
DOCUMENT = tomllib.loads(CATALOG)


def dlrm_catalog(**changes) -> Catalog:
    return Catalog.model_validate(DOCUMENT | changes)


def draw(rows: int, region: str, seed: int) -> dict[str, np.ndarray]:
    """Rows whose click depends on user and item, and on the price, in each region otherwise."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng([seed, len(region)])
    taste, kind = fixed.normal(size=(USERS, 2)), fixed.normal(size=(ITEMS, 2))
    user, item = rng.integers(0, USERS, rows), rng.integers(0, ITEMS, rows)
    price = rng.normal(size=rows).astype(np.float32)
    logit = (taste[user] * kind[item]).sum(1) + {"a": 1.5, "b": -1.5}[region] * price
    click = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    return {"user": user, "item": item, "price": price, "click": click}


def draw_log(rows: int) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """Rows of each region and day."""
    return {
        (region, day): draw(rows, region, 10 * day + number)
        for day in (1, 2, 3)
        for number, region in enumerate(REGIONS)
    }


def joined(parts) -> dict[str, np.ndarray]:
    """Rows of several regions and days, one after the other."""
    parts = list(parts)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def write_part(root: Path, key: tuple[str, int], part: dict[str, np.ndarray], answers: pa.Table):
    """Write the rows of a region and day, beside what a model answered for them."""
    region, day = key
    first = len(part["click"]) * (2 * day + REGIONS.index(region))
    ids = np.arange(first, first + len(part["click"]))
    table = pa.table(part | {"click": part["click"].astype(np.int8), "event_id": ids})
    for name in answers.column_names:
        table = table.append_column(name, answers[name])
    write_file(root / f"events/region={region}/dt=2026-10-0{day}/part.parquet", table)


def write_dlrm_log(root: Path, rows: int = 1500) -> Path:
    """Train on the first day; write three days with answers, the model's weights, a catalogue."""
    parts = draw_log(rows)
    old = joined(part for (_, day), part in parts.items() if day == 1)
    model = train(*old.values())
    (root / "dlrm.toml").write_text(CATALOG)
    safetensors_torch.save_file(model.state_dict(), root / "model.safetensors")
    torch.save(model.state_dict(), root / "model.pt")
    for key, part in parts.items():
        user, item, price = (torch.from_numpy(part[name]) for name in ("user", "item", "price"))
        with torch.no_grad():
            score = model(user, item, price[:, None]).flatten().numpy()
            hidden = model.top[0](model.interact(user, item, price[:, None])).tolist()
            bottom = model.bottom(price[:, None]).tolist()
        vectors = pa.list_(pa.float32())
        answers = {"score": score, "out_hidden": pa.array(hidden, vectors)}
        answers |= {"out_bottom": pa.array(bottom, vectors)}
        write_part(root, key, part, pa.table(answers))
    return root


TORCHREC_BASE = """[base]
kind = "torch"
factory = "tests.torchrec_dlrm:build"
names = { "model.model." = "" }
ignore = ["optim.", "dense_optim.", "epochs"]
"""


def write_torchrec_log(root: Path, rows: int = 1500) -> Path:
    """The same with a DLRM of TorchRec, which two ranks train and checkpoint."""
    parts = draw_log(rows)
    old = joined(part for (_, day), part in parts.items() if day == 1)
    scores = torchrec_dlrm.train(root, old, joined(parts.values()))
    text = CATALOG.replace(BASE, TORCHREC_BASE)
    text = text.replace(f"rows = {USERS + 2}", f"rows = {torchrec_dlrm.USERS + 2}")
    (root / "dlrm.toml").write_text(text)
    for (key, part), score in zip(parts.items(), np.split(scores, len(parts)), strict=True):
        write_part(root, key, part, pa.table({"score": score}))
    return root
