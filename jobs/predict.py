"""`iak predict`: predict every task of each row, from Parquet to Parquet or in a pipe."""

import os
import sys

from iak.jobs.console_report import console_report
from iak.jobs.launchers import launcher_of
from iak.jobs.progress import console
from iak.jobs.tables import show_facts
from iak.pipeline.runs.load import load_catalog
from iak.pipeline.runs.predict import PredictResult, predict, predict_stream
from iak.schemas.log import Catalog
from iak.schemas.paths import reference_text
from iak.schemas.scoring import PredictSpec

_SHOWN = 12
"""Kernels that are shown, those with most rows."""


def main(spec: PredictSpec) -> int:
    """Predict the rows that were asked for."""
    catalog = load_catalog(spec.catalog)
    if spec.is_stream:
        return _predict_pipe(spec, catalog)
    with console_report() as report:
        result = predict(spec, catalog, launcher_of(spec), report)
    show(result)
    return 0


def _predict_pipe(spec: PredictSpec, catalog: Catalog) -> int:
    """Predict the Arrow stream on standard input."""
    # Output of any library, also from C, would damage the stream. So standard output gets another
    # file descriptor for the stream, and its own is redirected to standard error.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as sink:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        rows = predict_stream(spec, catalog, sys.stdin.buffer, sink)
    console.print(f"predicted {rows:,} rows", style="dim")
    return 0


def show(result: PredictResult) -> None:
    """Show the rows by kernel, and by reason where it was not their domain's own."""
    scoring = result.scoring
    kernels = list(scoring.kernels.items())
    more = sum(rows for _, rows in kernels[_SHOWN:])
    shown = {name: f"{rows:,}" for name, rows in kernels[:_SHOWN]}
    shown |= {f"{len(kernels) - _SHOWN} more": f"{more:,}"} if more else {}
    show_facts(
        f"predictions at {reference_text(result.predictions)}",
        {
            "rows": f"{scoring.rows:,} in {scoring.parts:,} files",
            "rows by kernel": shown,
            "not by their own kernel": {n: f"{r:,}" for n, r in scoring.reasons.items()} or "none",
            "findings": scoring.contract or "nothing",
            "base": scoring.base_fingerprint,
            "seconds": result.record.timings_s,
        },
    )
