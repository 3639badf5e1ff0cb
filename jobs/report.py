"""`iak report RUN`: write the page of a night or an evaluation from its folder."""

from iak.jobs.progress import console
from iak.pipeline.errors import OK
from iak.pipeline.runs.report import write_report
from iak.schemas.job import ReportSpec


def main(spec: ReportSpec) -> int:
    """Write the page, and say where it is."""
    path = write_report(spec.path, spec.out)
    console.print(f"page at {path}", markup=False)
    return OK
