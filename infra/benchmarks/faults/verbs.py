"""Run verbs for the benchmark `faults`, in this process, with one worker and without Ray."""

import hashlib
import importlib.readers  # noqa: F401 - else loaded in an attempt, by a user who cannot read it
import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file

from iak.jobs import show
from iak.jobs.console_report import console_report
from iak.pipeline.base import frozen_model, pretrain  # noqa: F401 - else each attempt imports them
from iak.pipeline.events import AnyEvent, Event, LogListed, Report
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.publish.bundle import MANIFEST, WEIGHTS, list_bundles, weights_digest
from iak.pipeline.publish.bundle_index import BUNDLES
from iak.pipeline.runs.evaluate import evaluate
from iak.pipeline.runs.finetune import tune_night
from iak.pipeline.runs.load import load_catalog
from iak.pipeline.runs.pretrain import pretrain_base
from iak.pipeline.runs.record import AlreadyFinished
from iak.pipeline.tuning.work import SPLITS
from iak.schemas.base import Settings
from iak.schemas.job import EvaluateSpec, FinetuneSpec, PretrainSpec, ShowSpec
from iak.schemas.predictions import PREDICTIONS
from iak.schemas.results import PretrainResult
from infra.benchmarks.faults.night_attempt import Moment, attempt_night
from infra.benchmarks.faults.outcome import Ended

_SPECS: dict[str, Any] = {
    "finetune": FinetuneSpec,
    "pretrain": PretrainSpec,
    "evaluate": EvaluateSpec,
    "show": ShowSpec,
}
_USE_CASES: dict[str, Callable[..., object]] = {
    "finetune": tune_night,
    "pretrain": pretrain_base,
    "evaluate": evaluate,
}


def run_verb(verb: str, settings: Settings, at: Moment) -> Ended:
    """Run a verb, and read what it published.

    Args:
        verb: `finetune`, `pretrain`, `evaluate`, `show` or `nightly`.
        settings: settings of the verb; of `nightly`, see `attempt_night`.
        at: gets the name of each moment: `listed`, and the events of the workers.
    """
    if verb == "nightly":
        return attempt_night(settings, at)
    spec = _SPECS[verb].model_validate(settings)
    if verb == "show":
        show.main(spec)
        return _shown(spec, {})
    rows: dict[str, int] = {}
    with console_report() as on_console:
        try:
            result = _USE_CASES[verb](
                spec, load_catalog(spec.catalog), ProcessLauncher(), _report(rows, at, on_console)
            )
            if isinstance(result, PretrainResult):
                rows["trained"] = result.training.rows
        except AlreadyFinished:
            rows.clear()
    return _PUBLISHED[verb](spec, rows)


def _report(rows: dict[str, int], at: Moment, on_console: Report) -> Report:
    """Return a report that passes on moments, records rows, and shows notices."""

    def report(event: AnyEvent) -> None:
        on_console(event)
        if isinstance(event, LogListed):
            at("listed")
        elif not isinstance(event, Event):
            if event.get("event") == "rows":
                rows.update({k: v for k, v in event.items() if k in SPLITS})
            at(str(event.get("event")))

    return report


def _kernels(spec: FinetuneSpec, rows: Mapping[str, int]) -> Ended:
    """Digest every bundle on disk: weights, verdict, and the rows it was tuned on."""
    things = {}
    for folder in list_bundles(spec.run_dir / BUNDLES):
        manifest = json.loads((folder / MANIFEST).read_bytes())
        kept = [manifest["verdict"], manifest["domain"], manifest["data_window"]["tuning_rows"]]
        weights = weights_digest(load_file(folder / WEIGHTS))
        things[folder.name] = _digest(json.dumps([kept, weights]).encode())
    return Ended(things=things, rows=rows or None)


def _base(spec: PretrainSpec, rows: Mapping[str, int]) -> Ended:
    """Digest every file of the published base."""
    folder = spec.run_dir / "base"
    manifest = json.loads((folder / MANIFEST).read_bytes())
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    things = {
        str(path.relative_to(folder)): _digest(path.read_bytes())
        for path in files
        if path.name != MANIFEST
    }
    return Ended(things=things | {"digest": str(manifest["digest"])}, rows=rows or None)


def _predictions(spec: EvaluateSpec, _rows: Mapping[str, int]) -> Ended:
    """Digest every column of the predictions, rows in the order of their keys."""
    things: dict[str, str] = {}
    rows: dict[str, int] = {}
    repeated = 0
    for path in sorted((spec.run_dir / PREDICTIONS).glob("*.parquet")):
        table = pq.read_table(path).sort_by("row")
        keys = table.column("row").to_pylist()
        repeated += len(keys) - len(set(keys))
        rows[path.name] = len(set(keys))
        things |= {f"{path.name}:{name}": _column(table, name) for name in table.column_names}
    metrics = json.loads((spec.run_dir / "metrics.json").read_bytes())
    things["metrics"] = _digest(json.dumps(metrics, sort_keys=True).encode())
    return Ended(things=things, rows=rows, repeated=repeated)


def _shown(spec: ShowSpec, _rows: Mapping[str, int]) -> Ended:
    """Digest the output of `iak show` on a run."""
    assert spec.json_out is not None
    document = json.loads(spec.json_out.read_bytes())
    return Ended(things={str(spec.path): _digest(json.dumps(document, sort_keys=True).encode())})


_PUBLISHED: dict[str, Callable[[Any, Mapping[str, int]], Ended]] = {
    "finetune": _kernels,
    "pretrain": _base,
    "evaluate": _predictions,
    "show": _shown,
}


def _column(table: pa.Table, name: str) -> str:
    return _digest(json.dumps(table.column(name).to_pylist(), default=str).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
