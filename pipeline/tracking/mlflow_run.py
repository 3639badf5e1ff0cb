"""Store a night as a run of an MLflow server, and what it promoted as a version of a model.

experiment SERVICE
    run DATE-ID                 found again by the tag `iak.id`: a night has one run
        parameters              the settings of nightly.toml, as `finetune.kernel.width`
        metrics                 night_numbers.py
        artefacts               night.json, page.html, bundles/DIGEST/ of what was promoted
registered model SERVICE
    version                     one for each night that tuned kernels, aliases champion, candidate
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from iak.pipeline.errors import Unreachable
from iak.pipeline.publish.bundle import bundle_name
from iak.pipeline.publish.bundle_index import BUNDLES
from iak.pipeline.report.nights import PAGE, RECORD
from iak.pipeline.report.summary import summary_of
from iak.pipeline.storage.working_copy import readable_folder
from iak.pipeline.tracking.mlflow_answers import (
    Answer,
    Experiment,
    FoundExperiment,
    FoundRuns,
    MadeRun,
    Run,
    RunInfo,
)
from iak.pipeline.tracking.mlflow_server import MlflowServer, Refused
from iak.pipeline.tracking.model_version import publish_version
from iak.pipeline.tracking.night_numbers import night_numbers
from iak.schemas.base import JsonObject
from iak.schemas.night import NightRecord
from iak.schemas.nightly import NightlySpec

ID_TAG = "iak.id"
_MAX_VALUE_CHARACTERS = 500
"""Characters of a parameter's value; MLflow 3.17 takes 6,000, and older servers took 500."""
_MAX_PARAMETERS, _MAX_METRICS = 100, 250
"""Parameters and metrics in one request at most. The server takes 100 and 1,000. On a busy machine
MLflow 3.17 on sqlite took more than ten seconds, the time-out of a request, for 900 metrics."""
_STATES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_PROXIED = "mlflow-artifacts"


def track_night(
    server: MlflowServer, spec: NightlySpec, record: NightRecord, folder: Path
) -> list[str]:
    """Store a night on a server, and return a notice for each file that could not be stored.

    A night that is stored again changes its run and makes no second one.

    Args:
        server: the MLflow server.
        spec: the platform's settings.
        record: the night, finished or failed.
        folder: of the night.

    Raises:
        Unreachable: the server does not answer, or refuses. What arrived stays.
    """
    run = _run_of(server, _experiment(server, spec.name), record)
    _log(server, run, spec, record)
    notices = _put_artifacts(server, run.info, record, folder)
    if not notices and any(domain.candidate for domain in record.domains):
        publish_version(server, record, run.info)
    # The state comes last, so that a run that says FINISHED is whole.
    ended = {"end_time": _milliseconds(record)} if record.ended_at else {}
    state = _STATES.get(record.status, "RUNNING")
    server.post("runs/update", {"run_id": run.info.run_id, "status": state, **ended}, Answer)
    return notices


def find_experiment(server: MlflowServer, name: str) -> str | None:
    """Return the id of an experiment; None where there is none.

    Raises:
        Unreachable: the server does not answer, refuses, or keeps it as deleted.
    """
    try:
        answer = server.get("experiments/get-by-name", FoundExperiment, experiment_name=name)
    except Refused as error:
        if error.code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if answer.experiment.lifecycle_stage != "active":
        raise Unreachable(
            f"the experiment {name} of {server.address} is deleted. Restore it there "
            f"(`mlflow experiments restore -x {answer.experiment.experiment_id}`)"
        )
    return answer.experiment.experiment_id


def _experiment(server: MlflowServer, name: str) -> str:
    """Return the id of an experiment, which is made where there is none."""
    answer = find_experiment(server, name)
    return answer or server.post("experiments/create", {"name": name}, Experiment).experiment_id


def _run_of(server: MlflowServer, experiment: str, record: NightRecord) -> Run:
    """Return the night's run, which is made where there is none."""
    wanted = {
        "experiment_ids": [experiment],
        "filter": f"tags.`{ID_TAG}` = '{record.id}'",
        "max_results": 1,
    }
    for run in server.post("runs/search", wanted, FoundRuns).runs:
        return run
    made = {
        "experiment_id": experiment,
        "run_name": f"{record.night}-{record.id}",
        "start_time": int(record.started_at.timestamp() * 1000),
        # With the run itself, so that a night that breaks off here is found again.
        "tags": _pairs({ID_TAG: record.id}),
    }
    return server.post("runs/create", made, MadeRun).run


def _log(server: MlflowServer, run: Run, spec: NightlySpec, record: NightRecord) -> None:
    """Write tags, parameters and metrics."""
    # A parameter is written once: MLflow refuses another value for it.
    known = {each.key for each in run.data.params}
    parameters = {k: v for k, v in parameters_of(spec).items() if k not in known}
    metrics = [
        # MLflow shows the value with the newest time, so that a resumed night's numbers are shown.
        {"key": key, "value": value, "timestamp": _milliseconds(record), "step": record.attempts}
        for key, value in night_numbers(record).items()
    ]
    bodies: list[JsonObject] = [{"tags": _pairs(tags_of(record))}]
    bodies += [{"params": some} for some in _batches(_pairs(parameters), _MAX_PARAMETERS)]
    bodies += [{"metrics": some} for some in _batches(metrics, _MAX_METRICS)]
    for body in bodies:
        server.post("runs/log-batch", {"run_id": run.info.run_id, **body}, Answer)


def parameters_of(spec: NightlySpec) -> dict[str, str]:
    """Return every setting that has a value, by its dotted name, cut to what servers take."""
    return {
        key: value
        if len(value) <= _MAX_VALUE_CHARACTERS
        else value[: _MAX_VALUE_CHARACTERS - 1] + "…"
        for key, value in _flat(spec.model_dump(mode="json"))
    }


def _flat(settings: JsonObject, above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{above}{name}", text


def tags_of(record: NightRecord) -> dict[str, str]:
    """Return what a run is found by, and its summary, which MLflow shows as its description."""
    after = record.registry_after
    return {
        ID_TAG: record.id,
        "iak.night": record.night.isoformat(),
        "iak.status": record.status,
        "iak.base": record.base_fingerprint,
        "iak.registry": record.registry,
        "iak.registry_generation": str(record.registry_before if after is None else after),
        "mlflow.note.content": summary_of(record),
    }


def _put_artifacts(
    server: MlflowServer, info: RunInfo, record: NightRecord, folder: Path
) -> list[str]:
    """Store the record, the page and the promoted bundles; return notices of what is not stored."""
    uri = urlsplit(info.artifact_uri)
    if uri.scheme != _PROXIED:
        return [
            f"Of the night {record.id}, MLflow has no files: {server.address} keeps artefacts at "
            f"{info.artifact_uri} and does not take them itself. Start the server with "
            "--serve-artifacts."
        ]
    notices = []
    for name, path in _artifacts(record, folder):
        try:
            content = path.read_bytes()
        except OSError as error:
            notices.append(f"MLflow has no {name}: {path} cannot be read: {error.strerror}.")
        else:
            server.put_artifact(f"{uri.path.strip('/')}/{name}", content)
    return notices


def _artifacts(record: NightRecord, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield each file's name among the artefacts, and its path."""
    yield RECORD, folder / RECORD
    if record.page is not None or (folder / PAGE).exists():
        yield PAGE, folder / PAGE
    if record.run_dir is None or record.counts["promoted"] == 0:
        return
    run_dir = readable_folder(Path(record.run_dir), below=[BUNDLES])
    for domain in record.domains:
        if domain.outcome != "promoted" or domain.bundle is None:
            continue
        bundle = run_dir / BUNDLES / bundle_name(dict(domain.decision.domain) or None)
        # By digest: the folder's own name may hold what an artefact's path may not.
        for path in sorted(bundle.glob("[!.]*")) or [bundle]:
            yield f"{BUNDLES}/{domain.bundle}/{path.name}", path


def _milliseconds(record: NightRecord) -> int:
    return int((record.ended_at or record.started_at).timestamp() * 1000)


def _pairs(values: Mapping[str, str]) -> list[JsonObject]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _batches(items: Sequence[JsonObject], size: int) -> Iterator[list[JsonObject]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
