"""A small planted log, its catalogue with a parent level, and a base trained on it in seconds."""

import tomllib
from collections import Counter
from pathlib import Path

from iak.pipeline.base import published_base
from iak.pipeline.base.pretrain import pretrain
from iak.pipeline.data.labels import LabelCounts
from iak.pipeline.data.view import open_log
from iak.pipeline.planted.files import generate
from iak.pipeline.planted.population import build_knobs
from iak.pipeline.runs import pretrain as use_case
from iak.pipeline.runs.load import resolve_placement
from iak.schemas.job import PretrainSpec
from iak.schemas.log import Catalog
from iak.schemas.synth import SynthSpec

SHIPPED = Path(__file__).parents[2] / "schemas" / "catalog" / "planted.toml"
SPLITS = {
    "pretrain": {"days": [0, -4], "slice": [0.0, 0.9]},
    "pretrain_valid": {"days": [0, -4], "slice": [0.9, 1.0]},
    "tune": {"days": [-3, -2], "slice": [0.0, 0.6]},
    "valid": {"days": [-3, -2], "slice": [0.6, 0.8]},
    "gate": {"days": [-3, -2], "slice": [0.8, 1.0]},
    "test": {"days": [-1, -1]},
}
MODEL = {
    "width": 4, "mlp": [8], "cross_layers": 1, "experts": 2, "expert_width": 6, "tower_width": 4,
    "dropout": 0.1,
}  # fmt: skip


def write_log(root, rows=4_000, **knobs):
    """The planted log below `root`: eight days of three regions."""
    fields = {
        "days": 8, "regions": ("a", "b", "c"), "skew": 3.0, "users": 300, "items": 200,
        "shops": 60, "drift": 2.0,
    }  # fmt: skip
    generate(build_knobs(SynthSpec(rows=rows, **fields | knobs)), root, lambda _: None)
    return root


def catalog_document(**domain):
    """The shipped catalogue, its domains a cross of region and daypart below the region."""
    document = tomllib.loads(SHIPPED.read_text())
    document["splits"] = SPLITS
    document["domain"] = {"keys": ["region", "daypart"], "parent": ["region"], "min_rows": 60}
    document["domain"] |= domain
    document.pop("presets", None)
    return document


def catalog(**domain):
    return Catalog.model_validate(catalog_document(**domain))


def pretrain_spec(root, run_dir, **changes):
    fields = {
        "catalog": SHIPPED, "data_root": str(root), "run_dir": run_dir, "model": MODEL,
        "batch_rows": 128, "epochs": 2, "patience": 9, "shuffle_rows": 256,
        "placement": {"row_wise_from_rows": 100}, "checkpoint_every_steps": 1000, "seed": 3,
        "optim": {"warmup_steps": 5, "table_decay": 0.01, "table_penalty": 0.01},
    }  # fmt: skip
    return PretrainSpec.model_validate(fields | changes)


def pretrain_work(spec, described):
    """What the workers of `iak pretrain` are handed."""
    spec.run_dir.mkdir(parents=True, exist_ok=True)
    valid = "pretrain_valid" if "pretrain_valid" in described.splits else "valid"
    view = open_log(described, spec.data_root, wanted=["pretrain", valid])
    parent = published_base.open_base(spec.from_) if spec.from_ else None
    labels = LabelCounts(view.catalog)
    encoding = use_case.fit_encoding(spec, view, parent, labels=labels, counts=Counter())
    return use_case.pretrain_work(
        spec, view, encoding, parent=parent, labels=labels,
        placement=resolve_placement(spec.placement, job="pretrain"),
    )  # fmt: skip


def publish(spec, work, result):
    parent = published_base.open_base(spec.from_) if spec.from_ else None
    return use_case.publish_base(spec, work, parent, result)


def publish_base(worker, root, run_dir, described=None):
    """A base of one worker, published as `iak pretrain` does."""
    spec = pretrain_spec(root, run_dir, epochs=1)
    work = pretrain_work(spec, described or catalog())
    result = pretrain(work, worker=worker, report=lambda _: None)
    return publish(spec, work, result)
