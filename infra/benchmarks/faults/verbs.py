"""Verbs as the benchmark `faults` attempts them: in this process, with one worker and no Ray."""

import hashlib
import json
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file

from iak.jobs import evaluate, finetune, pretrain, show
from iak.jobs._record import AlreadyFinished
from iak.pipeline.process import Worker, process_group
from iak.pipeline.publish.bundle import MANIFEST, WEIGHTS, list_bundles, weights_digest
from iak.pipeline.publish.bundle_index import BUNDLES
from iak.pipeline.publish.predict import PREDICTIONS
from iak.pipeline.tuning.finetune import SPLITS
from iak.schemas.job import EvaluateSpec, FinetuneSpec, PretrainSpec, ShowSpec
from infra.benchmarks.faults.outcome import Ended

Moment = Callable[[str], None]
_SPECS: dict[str, tuple[ModuleType, Any]] = {
    "finetune": (finetune, FinetuneSpec),
    "pretrain": (pretrain, PretrainSpec),
    "evaluate": (evaluate, EvaluateSpec),
    "show": (show, ShowSpec),
}


def run_verb(verb: str, settings: Mapping[str, Any], at: Moment) -> Ended:
    """Run a verb, and read what it published; moments are `listed` and what workers report."""
    job, kind = _SPECS[verb]
    spec = kind.model_validate(settings)
    rows: dict[str, int] = {}
    with process_group(0, 1, backend="gloo", threads=1) as worker:
        _without_ray(job, worker, at, rows)
        try:
            job.main(spec)
        except AlreadyFinished:
            rows.clear()
    return _PUBLISHED[verb](spec, rows)


def _without_ray(job: ModuleType, worker: Worker, at: Moment, rows: dict[str, int]) -> None:
    """Let a job's workers be this process, and tell when its log has been listed.

    The process is an attempt's own, and ends with it: what is replaced stays replaced.
    """

    def report(event: Mapping[str, Any]) -> None:
        if event.get("event") == "rows":
            rows.update({k: v for k, v in event.items() if k in SPLITS})
        at(str(event.get("event")))

    def here(run: Any, work: Any, **_: object) -> Any:  # noqa: ANN401
        result = run(worker, work, report)
        if "rows" in result:
            rows["trained"] = result["rows"]
        return json.loads(json.dumps(result, default=str))

    def listing(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        opened = open_log(*arguments, **named)
        at("listed")
        return opened

    if hasattr(job, "on_ray"):
        open_log = job.open_log
        job.on_ray, job.open_log = here, listing  # type: ignore[attr-defined]


def _kernels(spec: FinetuneSpec, rows: Mapping[str, int]) -> Ended:
    """Digest every bundle as it lies there: weights, verdict, and the rows it was tuned on."""
    things = {}
    for folder in list_bundles(spec.run_dir / BUNDLES):
        document = json.loads((folder / MANIFEST).read_bytes())
        kept = [document["verdict"], document["domain"], document["data_window"]["tuning_rows"]]
        weights = weights_digest(load_file(folder / WEIGHTS))
        things[folder.name] = _digest(json.dumps([kept, weights]).encode())
    return Ended(things=things, rows=rows or None)


def _base(spec: PretrainSpec, rows: Mapping[str, int]) -> Ended:
    """Digest every file of the published base."""
    folder = spec.run_dir / "base"
    document = json.loads((folder / MANIFEST).read_bytes())
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    things = {
        str(path.relative_to(folder)): _digest(path.read_bytes())
        for path in files
        if path.name != MANIFEST
    }
    return Ended(things=things | {"digest": str(document["digest"])}, rows=rows or None)


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
    """Digest what is shown of a run."""
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
