"""A small log, an untrained base and kernels of every kind, to predict with in milliseconds."""

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.data.view import open_log
from iak.pipeline.iak.kernel import KernelShape
from iak.pipeline.publish.bundle import write_bundle
from iak.pipeline.publish.bundle_index import read_index, write_index
from iak.pipeline.publish.publish_bundles import STANDARD
from iak.pipeline.registry.promote import Run
from iak.pipeline.serving.parts import ScoreWork, score_parts
from iak.schemas.job import EvaluatedTablesSpec, KernelSpec
from iak.schemas.log import SCORED, Catalog, SplitSpec
from iak.schemas.manifest import BundleSettings
from iak.schemas.plan import ResolvedPlacement
from iak.schemas.verdict import Verdict
from tests.builders import DAYS, REGIONS, catalog_document, write_log
from tests.unit.base.test_published_base import ALONE, SIZES, published
from tests.unit.iak.small import moved_kernel, normal

HANGZHOU, NINGBO = REGIONS
TABLES = EvaluatedTablesSpec()
KERNEL = KernelSpec(hidden=7, code=3, adapter_rank=2)
BUNDLES = {  # name -> domain, published
    "pooled": (None, True),
    "region=hangzhou": ({"region": HANGZHOU}, True),
    "region=hangzhou/scene=feed": ({"region": HANGZHOU, "scene": "feed"}, True),
    "region=ningbo": ({"region": NINGBO}, False),
    "region=ningbo/scene=search": ({"region": NINGBO, "scene": "search"}, True),
    "region=ningbo/scene=feed": ({"region": NINGBO, "scene": "feed"}, False),
}
LAYOUT = [(region, day, [90, 0, 37]) for region in REGIONS for day in DAYS[:2]]


def shop_document(**changes):
    domain = {"keys": ["region", "scene"], "parent": ["region"]}
    splits = {"test": {}}
    return catalog_document(**{"tables": SIZES, "domain": domain, "splits": splits} | changes)


def shop_catalog(**changes):
    return Catalog.model_validate(shop_document(**changes))


def write_shop(root, layout=LAYOUT):
    """Write the log; return its rows in the log's order."""
    return write_log(root / "events", layout)


def write_base(folder, kind="crosses"):
    return published(folder, kind)[0]


def write_bundles(
    folder, base, names=BUNDLES, *, seed=0, mean=1, statistics=None, width=0, inputs=None
):
    """Write kernels whose every weight differs from its start; `mean` seeds their standardizer.

    With `statistics`, the file of a state, they read `width` fresh statistics as well. `names` may
    have domains of its own, as `BUNDLES` has them; `inputs` are the units of h and x, of a base
    that was made elsewhere.
    """
    known = names if isinstance(names, dict) else BUNDLES
    heads = FrozenBase.load(base, TABLES, ResolvedPlacement(), ALONE).heads
    inputs = inputs or heads.tasks * heads.width + _x_units(base)
    shape = KernelShape.on(heads, KERNEL, inputs=inputs + width)
    for number, name in enumerate(names):
        domain, is_published = known[name]
        kernel = moved_kernel(seed + number, shape)
        tensors = {n: w for n, w in kernel.items() if not n.startswith("probe")}
        tensors |= {f"{STANDARD}mean": normal(inputs, seed=mean)}
        tensors |= {f"{STANDARD}scale": 1 + normal(inputs, seed=2).abs()}
        if statistics is not None:
            tensors |= {f"{STANDARD}fresh_mean": normal(width, seed=3)}
            tensors |= {f"{STANDARD}fresh_scale": 1 + normal(width, seed=4).abs()}
        manifest = base.manifest
        write_bundle(
            folder, tensors, domain=domain, base_fingerprint=manifest.fingerprint,
            schema_hash=manifest.schema_hash, data_window={},
            spec=BundleSettings(kernel=KERNEL), versions={},
            verdict=Verdict(publish=is_published, reason="", rows=0),
            created_at=datetime(2026, 11, 20, 3, tzinfo=UTC), statistics=statistics,
        )  # fmt: skip
    write_index(folder)
    return folder


def _x_units(base):
    model = FrozenBase.load(base, TABLES, ResolvedPlacement(), ALONE).model
    return model.attach_points["x"]


def run_of(folder):
    """A night's bundles below a folder as a promotion takes them."""
    return Run(
        name=str(folder), bundles=folder / "bundles", base=None,
        index_sha256=read_index(folder / "bundles").sha256, record_sha256="e" * 64, code="abc",
        parents={},
    )  # fmt: skip


def score_work(root, base, bundles, folder, *, catalog=None, rows=None, **changes):
    """The work of predicting the log below a folder."""
    described = (catalog or shop_catalog()).to_score(rows or SplitSpec())
    folder.mkdir(parents=True, exist_ok=True)
    fields = {
        "view": open_log(described, str(root), wanted=[SCORED]), "base": base, "bundles": bundles,
        "folder": folder, "batch_rows": 64, "part_rows": 100, "tables": TABLES,
        "placement": ResolvedPlacement(),
    }  # fmt: skip
    return ScoreWork(**fields | changes)


def score(worker, work):
    torch.set_num_threads(1)
    score_parts(work, worker=worker, report=lambda _: None)


def read_all(folder):
    """All predictions below a folder, in the order of the files' names; names as plain text."""
    table = pq.ParquetDataset(sorted(folder.glob("*.parquet"))).read().combine_chunks()
    types = {
        f.name: pa.string() if pa.types.is_dictionary(f.type) else f.type for f in table.schema
    }
    return table.cast(pa.schema(types))


def bits(table, name):
    return np.asarray(table.column(name).to_numpy()).view(np.int64)


def shop_toml():
    """The catalogue as a TOML file has it."""
    document = shop_document()
    lines = []
    for section in ("log", "domain"):
        lines += [f"[{section}]", *_pairs(document[section])]
    for feature in document["features"]:
        lines += ["[[features]]", *_pairs(feature)]
    for name, table in document["tables"].items():
        lines += [f"[tables.{name}]", *_pairs(table)]
    for task in document["tasks"]:
        lines += ["[[tasks]]", *_pairs(task)]
    return "\n".join([*lines, *(f"[splits.{name}]" for name in document["splits"])])


def _pairs(table):
    # A JSON text, number or list is one of TOML too.
    return [f"{key} = {json.dumps(value)}" for key, value in table.items()]
