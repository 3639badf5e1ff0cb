"""A platform in a folder: a catalogue, a log of three days, a base, and the settings of its nights.

The base was never trained, so that all of it is made in a moment.
"""

import tomllib
from datetime import UTC, datetime

import numpy as np

from iak.pipeline.base import published_base
from iak.pipeline.data import vocabulary
from iak.pipeline.sharding.base_weights import write_base_weights
from iak.pipeline.sharding.shard import digest_model
from iak.schemas.job import ModelSpec
from iak.schemas.log import Catalog
from iak.schemas.manifest import UNSEALED, BaseManifest
from iak.schemas.nightly import NightlySpec
from iak.schemas.tuning import TuningResult, TuningRunResult
from tests.builders import DAYS, REGIONS, partition, raw_rows, write_log
from tests.unit.base.test_published_base import ALONE, model_of
from tests.unit.jobs.test_pretrain import CATALOG, MODEL

NOW = datetime(2026, 10, 4, 3, tzinfo=UTC)
DOCUMENT = CATALOG.format(label="click", kind="click").replace(
    'keys = ["region"]', 'keys = ["region"]\nmin_rows = 10'
)
BASE_DAYS = {"first": "2026-09-20", "last": "2026-10-01"}


def write_platform(folder, *, base_days=BASE_DAYS, **settings):
    """Write a platform below a folder, and return the settings of its nights."""
    (folder / "shop.toml").write_text(DOCUMENT)
    layout = [(region, day, [60]) for region in REGIONS for day in DAYS]
    write_log(folder / "log" / "events", layout)
    for region, day, _ in layout:
        (folder / "log" / "events" / partition(region, day) / "_SUCCESS").touch()
    write_base(folder, base_days)
    fields = {
        "name": "shop", "catalog": folder / "shop.toml", "data_root": str(folder / "log"),
        "base": folder / "base", "registry": str(folder / "registry"), "nights": folder / "nights",
        "window": {"days": 2}, "finetune": {"tables": {"precision": "fp32"}},
    }  # fmt: skip
    return NightlySpec.model_validate(fields | settings)


def write_base(folder, days):
    """Publish a base that knows the log's ids, and says that it learned from some days."""
    catalog = Catalog.model_validate(tomllib.loads(DOCUMENT))
    rows = [(rows, np.arange(len(rows), dtype=np.uint64)) for rows, _ in _rows(folder, catalog)]
    encoding = vocabulary.fit(rows, catalog)
    spec = ModelSpec.model_validate(MODEL)
    model = model_of(catalog, encoding, spec, seed=0)
    files = write_base_weights(model, folder / "base", ALONE)
    digest = digest_model(model, ALONE).by_name
    vocabulary.save(encoding, folder / "base" / published_base.ENCODING)
    manifest = BaseManifest(
        **dict(published_base.contents(catalog, encoding, spec, files, digest)),
        fingerprint=UNSEALED, spec={"model": spec.model_dump(mode="json")},
        snapshot={"splits": {"pretrain": days}} if days else {},
        versions={}, metrics=[], created_at=datetime(2026, 10, 2, tzinfo=UTC),
    )  # fmt: skip
    published_base.seal(folder / "base", manifest)


def _rows(folder, catalog):
    return raw_rows(folder / "log" / "events", catalog)


def tuning_result(**changes):
    """Return what a tuning run measured: no kernel, unless `kernels=` has some."""
    fields = {
        "kernels": (), "below_floor": {}, "stopped_at_cap": (), "epochs": (), "contract": {},
        "labels": {}, "cache": {}, "standardisation": {"from": "this run's rows", "digest": "s"},
        "digest": "d", "digest_before": "d", "tables_and_trunk_unchanged": True,
        "parameters_per_kernel": 100, "plan": (),
    }  # fmt: skip
    return TuningResult.model_validate(fields | changes)


def tuning_run_result(**changes):
    """Return what the record of such a run has."""
    return TuningRunResult(
        **dict(tuning_result(**changes)), base_fingerprint="b", live=("region=a",),
        untuned_domains=(),
    )  # fmt: skip


def kernel(domain, rows):
    """One tuned kernel of a domain with so many tuning rows."""
    return {
        "domain": domain, "tuning_rows": rows, "published": True, "reason": "gain",
        "gate": {"publish": True, "reason": "gain", "rows": 10}, "best_epoch": 1, "valid_gain": 0.1,
        "bundle": domain,
    }  # fmt: skip
