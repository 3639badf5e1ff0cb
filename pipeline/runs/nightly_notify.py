"""Tell of a night: a line for chat, and metrics for Prometheus. What goes wrong fails no night."""

from iak.pipeline.report.metrics import write_metrics
from iak.pipeline.report.webhook import send_summary
from iak.schemas.night import NightRecord
from iak.schemas.nightly import NotifySpec


def notify(spec: NotifySpec, record: NightRecord, address: str | None) -> list[str]:
    """Send and write what the settings ask for, and return a notice for whatever failed.

    Args:
        spec: who hears of a night.
        record: the night, finished or failed.
        address: of the webhook, from the environment variable that the settings name.
    """
    notices: list[str] = []
    if spec.webhook is not None and (
        problem := send_summary(record, address, variable=spec.webhook)
    ):
        notices.append(problem)
    if spec.metrics is not None:
        try:
            write_metrics(record, spec.metrics)
        except OSError as error:
            notices.append(f"No metrics were written to {spec.metrics}: {error}.")
    return notices
