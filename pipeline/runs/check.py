"""Check and profile a log by its catalogue before anything is trained."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from iak.pipeline.data import check
from iak.pipeline.data.check import Report as LogReport
from iak.pipeline.data.profile import Profile, profile_log
from iak.pipeline.data.view import open_log
from iak.pipeline.errors import PipelineError
from iak.pipeline.events import Event, Notice, PhaseAdvanced, Report, silent
from iak.pipeline.runs.record import reported_phase
from iak.pipeline.runs.skipped import today_of
from iak.schemas.job import CheckSpec
from iak.schemas.log import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Result of a check: findings, and a profile of the log."""

    log: str
    """Name of the log in its catalogue."""
    report: LogReport
    """Findings in footers and in a sample of rows, and the rows of each split."""
    profile: Profile | None
    """The log's profile; None where `profile` is false, or the log cannot be read."""

    @property
    def is_refused(self) -> bool:
        """Return whether no training may read the log before it is corrected."""
        return any(finding.level == "refuse" for finding in self.report.findings)

    def document(self) -> dict[str, Any]:
        """Return findings and profile as a JSON object."""
        return {
            "findings": [asdict(finding) for finding in self.report.findings],
            "splits": self.report.split_rows,
            "unseen": self.report.unseen,
            "counted_rows": self.report.counted_rows,
            "profile": asdict(self.profile) if self.profile else None,
        }


@dataclass(frozen=True, slots=True)
class LogChecked(Event):
    """The log is checked; its profile follows, which takes longer."""

    name: ClassVar[str] = "log_checked"
    log: str
    report: LogReport


def check_log(spec: CheckSpec, catalog: Catalog, report: Report = silent) -> Findings:
    """Judge every footer and a sample of rows, and profile the splits.

    Args:
        spec: settings of `iak check`. Its pictures and files are left to the caller.
        catalog: the log's catalogue.
        report: gets the events of the check, `LogChecked` among them.

    Raises:
        BadRequest: the folder does not exist.
    """
    path = f"{spec.data_root}/{catalog.log.path}"
    with reported_phase(report, "check", "checking the log", detail=path):
        log_report = check.check_log(
            catalog,
            spec.data_root,
            sample_rows=spec.sample_rows,
            as_of=spec.as_of,
            today=today_of(spec, catalog),
            all_ids=spec.all_ids,
        )
    report(LogChecked(catalog.log.name, log_report))
    profile = _profile(spec, catalog, log_report, report)
    return Findings(log=catalog.log.name, report=log_report, profile=profile)


def _profile(
    spec: CheckSpec, catalog: Catalog, log_report: LogReport, report: Report
) -> Profile | None:
    """Return the profile of the splits that have rows; None where the log cannot be read at all."""
    splits = [name for name, rows in log_report.split_rows.items() if rows]
    if not spec.profile or not splits:
        return None
    try:
        with reported_phase(report, "profile", "profiling", detail=f"{log_report.rows:,} rows"):
            view = open_log(
                catalog,
                spec.data_root,
                wanted=splits,
                as_of=spec.as_of,
                today=today_of(spec, catalog),
            )
            return profile_log(
                view,
                sample_rows=spec.sample_rows,
                count_rows=spec.count_rows,
                top_domains=spec.top_domains,
                say=lambda detail: report(PhaseAdvanced(detail)),
            )
    except PipelineError as error:  # a job would be refused with it; the findings stay valid
        report(Notice(f"no profile: {error}"))
        return None
