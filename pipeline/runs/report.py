"""Write the page of an evaluation, or the page of a night again, from the files in its folder."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.files import put_output
from iak.pipeline.publish.predictions import (
    Predictions,
    probabilities_of,
    read_predictions,
    task_columns,
)
from iak.pipeline.report.evaluation_page import Curves, evaluation_page
from iak.pipeline.report.night_page import night_page
from iak.pipeline.report.nights import PAGE, earlier_nights, night_folders, read_night
from iak.pipeline.report.nights import RECORD as NIGHT
from iak.pipeline.report.pages import write_pages
from iak.pipeline.runs.metrics import METRICS
from iak.pipeline.runs.record import RECORD, read_record
from iak.pipeline.stats.metrics import MetricRow
from iak.pipeline.stats.reliability import reliability
from iak.schemas.prediction import EvaluationResult
from iak.schemas.predictions import PREDICTIONS

_ROWS = TypeAdapter(tuple[MetricRow, ...])


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the page of a run, and return its path.

    Args:
        run: folder of a night, or run folder of a finished `iak evaluate`.
        out: file of the page; `page.html` beside the record when absent.

    Raises:
        BadRequest: the folder holds neither.
        Corrupt: a document in it was changed or cannot be read.
    """
    if (run / NIGHT).is_file():
        return _night_report(run, out)
    record = read_record(run)
    if record is None or record.verb != "evaluate" or record.status != "finished":
        seen = f"an iak {record.verb} that is {record.status}" if record else "no record of a run"
        raise BadRequest(
            f"{run} has {seen}; expected the folder of a night ({NIGHT}) or of a finished iak "
            f"evaluate ({RECORD}). Evaluate this run's base and bundles with iak evaluate first"
        )
    path = out or run / PAGE
    curves = _curves_of_run(run, record.result_as(EvaluationResult).split)
    put_output(path, evaluation_page(record, read_metrics(run), curves, run, path.parent))
    return path


def _night_report(folder: Path, out: Path | None) -> Path:
    """Write a night's page. Without `out` the index of all nights is written too."""
    if out is None:
        return write_pages(folder)
    record = read_night(folder)
    earlier = earlier_nights(night_folders(folder.resolve().parent), record)
    put_output(out, night_page(record, earlier, out.parent))
    return out


def read_metrics(run: Path) -> Sequence[MetricRow]:
    """Return the rows of `metrics.json`.

    Raises:
        Corrupt: the file is not there, or is not what an evaluation wrote.
    """
    path = run / METRICS
    try:
        return _ROWS.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        problem = str(error).splitlines()[0]  # pydantic names every row, this message one
        raise Corrupt(
            f"{path} cannot be read: {problem}. Evaluate again with iak evaluate"
        ) from error


def _curves_of_run(run: Path, split: str) -> Curves:
    """Return the calibration curves of a run; none where its predictions were removed."""
    if not (run / PREDICTIONS).is_dir():
        return {}
    return curves_of(read_predictions(run, split))


def curves_of(predictions: Predictions) -> Curves:
    """Return task -> method -> calibration curve, over all rows that have a domain."""
    table, document = predictions.table, predictions.document
    table = table.filter(table.column("domain").is_valid())
    columns = task_columns(table, document.tasks)
    methods = probabilities_of(table, document.tasks, document.methods)
    return {
        task.name: {
            method: reliability(
                columns.labels[task.name][columns.masks[task.name]],
                p[task.name][columns.masks[task.name]],
                kept=columns.kept[task.name],
            )
            for method, p in methods.items()
        }
        for task in document.tasks
    }
