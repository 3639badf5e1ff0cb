"""A small log of a recommender that runs elsewhere: its logits, its activations, the labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from iak.schemas.log import Catalog
from tests.builders import write_file

UNITS = 3
REGIONS = ("a", "b")
BEND = {"a": 1.5, "b": -1.5}
"""By region, the weight of the last unit of h that the recommender did not learn."""


def given_document(**changes: Any) -> dict[str, Any]:
    """The log's catalogue as TOML would give it."""
    document: dict[str, Any] = {
        "log": {
            "name": "given",
            "partition_keys": ["region", "dt"],
            "date_key": "dt",
            "row_id": "event_id",
        },
        "domain": {"keys": ["region"], "min_rows": 50},
        "base": {
            "kind": "columns", "logits": {"ctr": "logit_ctr", "cvr": "logit_cvr"}, "h": "h",
            "units": UNITS, "version": "1",
        },
        "features": [{"kind": "numeric", "name": "price", "log": True}],
        "tasks": [{"label": "click", "kind": "click"}, {"label": "order", "kind": "conversion"}],
        "splits": {
            "tune": {"days": [0, 0], "slice": [0.0, 0.6]},
            "valid": {"days": [0, 0], "slice": [0.6, 0.8]},
            "gate": {"days": [0, 0], "slice": [0.8, 1.0]},
            "test": {"days": [1, 1]},
        },
    }  # fmt: skip
    return document | changes


def given_catalog(**changes: Any) -> Catalog:
    return Catalog.model_validate(given_document(**changes))


def towers_document(**changes: Any) -> dict[str, Any]:
    """The same catalogue, whose base also has towers of two hidden units."""
    return given_document(base=given_document()["base"] | {"towers": [2]}, **changes)


def towers_catalog(**changes: Any) -> Catalog:
    return Catalog.model_validate(towers_document(**changes))


def towers_weights() -> dict[str, torch.Tensor]:
    """Towers that make the recommender's logits: ReLU(u) - ReLU(-u) + b of its units 0 and 1."""
    weights = {}
    for task, unit, bias in (("ctr", 0, -0.5), ("cvr", 1, 0.0)):
        first = torch.zeros(2, UNITS)
        first[:, unit] = torch.tensor([1.0, -1.0])
        weights |= {
            f"{task}.0.weight": first,
            f"{task}.0.bias": torch.zeros(2),
            f"{task}.1.weight": torch.tensor([[1.0, -1.0]]),
            f"{task}.1.bias": torch.tensor([bias]),
        }
    return weights  # fmt: skip


def given_rows(count: int, region: str, *, first: int = 0) -> pa.Table:
    """Rows whose clicks follow the logit and, in each region otherwise, a unit of h."""
    draw = np.random.default_rng([first, len(region)])
    h = draw.normal(size=(count, UNITS)).astype(np.float32)
    logit = h[:, 0] - 0.5

    def happens(logits: np.ndarray) -> np.ndarray:
        return draw.random(count) < 1 / (1 + np.exp(-logits))

    click = happens(logit + BEND[region] * h[:, 2])
    order = click & happens(h[:, 1])
    return pa.table(
        {
            "event_id": np.arange(first, first + count),
            "price": draw.gamma(2, 9, count),
            "logit_ctr": logit.astype(np.float64),
            "logit_cvr": h[:, 1],
            "h": pa.FixedSizeListArray.from_arrays(pa.array(h.reshape(-1)), UNITS),
            "click": click.astype(np.int8),
            "order": order.astype(np.int8),
        }
    )


def write_given_log(root: Path, *, rows: int = 600, **columns: Any) -> Path:
    """Two regions of two days; `columns` replace a column of every file, None takes it out."""
    for number, (region, day) in enumerate((r, d) for r in REGIONS for d in ("01", "02")):
        table = given_rows(rows, region, first=number * rows)
        for name, change in columns.items():
            index = table.schema.get_field_index(name)
            table = (
                table.remove_column(index)
                if change is None
                else table.set_column(index, name, change(table.column(name)))
            )
        name = f"events/region={region}/dt=2026-10-{day}/part.parquet"
        write_file(root / name, table, [rows // 2, rows - rows // 2])
    return root
