"""Report a night to others: to a chat, Prometheus, MLflow and TensorBoard.

A receiver that fails gives a notice and stops neither the others nor the night.
"""

from iak.pipeline.errors import PipelineError
from iak.pipeline.registry.commits import read_head
from iak.pipeline.registry.stored_bundles import read_entry
from iak.pipeline.report.metrics import write_metrics
from iak.pipeline.report.nights import earlier_nights, night_folders
from iak.pipeline.report.webhook import send_summary
from iak.pipeline.runs.nightly_records import locked_nights, night_folder
from iak.pipeline.storage.store import Store, map_concurrently
from iak.pipeline.storage.working_copy import readable_folder
from iak.pipeline.tracking.champion import follow_registry, night_of
from iak.pipeline.tracking.mlflow_run import find_experiment, track_night
from iak.pipeline.tracking.mlflow_server import MlflowServer
from iak.pipeline.tracking.tensorboard import write_tensorboard
from iak.schemas.night import NightRecord
from iak.schemas.nightly import NightlySpec


def notify(
    spec: NightlySpec, record: NightRecord, *, address: str | None, token: str | None
) -> list[str]:
    """Send and write what the settings ask for, and return a notice for each part that failed.

    Args:
        spec: the platform's settings; `notify` names the receivers.
        record: the night, finished or failed.
        address: address of the webhook, from the environment variable that the settings name.
        token: token of the MLflow server; None where it needs none.
    """
    asked = spec.notify
    notices: list[str] = []
    if asked.webhook is not None and (
        problem := send_summary(record, address, variable=asked.webhook)
    ):
        notices.append(problem)
    if asked.metrics is not None:
        try:
            write_metrics(record, asked.metrics)
        except OSError as error:
            notices.append(f"No metrics were written to {asked.metrics}: {error}.")
    nights = readable_folder(spec.nights)
    folder = night_folder(nights, record)
    if asked.tracking is not None:
        try:
            notices += track_night(MlflowServer(asked.tracking, token), spec, record, folder)
        except PipelineError as error:
            notices.append(f"MLflow may lack the night {record.id}: {error}.")
    if asked.tensorboard:
        try:
            with locked_nights(spec.nights, waits=True) as own:
                earlier = earlier_nights(night_folders(own.folder), record)
                write_tensorboard(record, earlier, night_folder(own.folder, record))
        except (PipelineError, OSError) as error:
            notices.append(f"No TensorBoard files were written to {folder}: {error}.")
    return notices


def follow_rollback(spec: NightlySpec, store: Store, *, token: str | None) -> str:
    """Move MLflow's alias after a rollback, and return a sentence with the result or the problem.

    The registry has moved already, and stays so when the server is down.

    Args:
        spec: the platform's settings, with an address of an MLflow server.
        store: store of the registry, after the rollback.
        token: token of the MLflow server; None where it needs none.
    """
    assert spec.notify.tracking is not None, "the caller asks for no server that is not named"
    head = read_head(store)
    pointers = list(head.pointers.get("champion", {}).values()) if head else []
    entries = map_concurrently(store, lambda pointer: read_entry(store, pointer.stored), pointers)
    nights = {night for entry in entries if (night := night_of(entry.lineage.run))}
    try:
        server = MlflowServer(spec.notify.tracking, token)
        return follow_registry(server, spec.name, nights)
    except PipelineError as error:
        return f"MLflow's alias did not follow: {error}"


def check_tracking(spec: NightlySpec, token: str | None) -> list[tuple[str, str]]:
    """Return why nights could not be written to the MLflow server: setting and problem.

    Args:
        spec: the platform's settings.
        token: token of the MLflow server; None where it needs none.
    """
    if spec.notify.tracking is None:
        return []
    try:
        find_experiment(MlflowServer(spec.notify.tracking, token), spec.name)
    except PipelineError as error:
        return [("notify.tracking", str(error))]
    return []
