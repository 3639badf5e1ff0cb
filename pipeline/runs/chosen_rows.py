"""Open a base, bundles and chosen rows of a log in this process, for `explain` and `shadow`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.data import kinds
from iak.pipeline.data.view import LogView
from iak.pipeline.events import Report
from iak.pipeline.process import process_group
from iak.pipeline.runs import skipped
from iak.pipeline.runs.log import list_log
from iak.pipeline.runs.pinned import bundles_now
from iak.pipeline.runs.preflight import bundles_folder, open_frozen_base
from iak.pipeline.serving.scorer import Scorer
from iak.schemas.explaining import ChosenRowsSpec
from iak.schemas.log import SCORED, Catalog
from iak.schemas.plan import ResolvedPlacement


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerOfSetting:
    """The base with the kernels of one setting, such as `bundles=` or `against=`."""

    scorer: Scorer
    bundles: Path | None
    """Folder of the kernels, verified; None where the base predicts alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenRows:
    """Rows of a log, and what predicts them."""

    view: LogView
    base: PublishedBase
    scorers: Mapping[str, ScorerOfSetting]
    """Setting -> what it names."""


@contextmanager
def open_chosen_rows(
    spec: ChosenRowsSpec,
    catalog: Catalog,
    scored: Catalog,
    bundles: Mapping[str, Path | None],
    report: Report,
    *,
    with_labels: bool = False,
) -> Iterator[ChosenRows]:
    """Yield the chosen rows and the scorers of all settings; the base is loaded once.

    Args:
        spec: settings of base, tables and log.
        catalog: the log's catalogue.
        scored: the same catalogue without labels, and with the rows as its split `score`.
        bundles: setting -> the bundles that it names; None for the base alone. An alias is resolved
            once, here.
        report: gets the files and rows of the log.
        with_labels: whether the view reads the columns of labels too.

    Raises:
        PipelineError: base, bundles or log cannot be used.
    """
    opened = open_frozen_base(spec.base, catalog, spec.tables)
    with (
        TemporaryDirectory(prefix="iak-bundles-") as scratch,
        process_group(0, 1, backend="gloo", threads=1) as worker,
    ):
        folders = {
            setting: path and _verified_folder(path, opened, Path(scratch), setting)
            for setting, path in bundles.items()
        }
        read = scored.model_copy(update={"tasks": catalog.tasks}) if with_labels else scored
        view = list_log(spec, read, report, wanted=(SCORED,), digests_in=opened.folder.parent)
        skipped.report_skipped(view, spec, report)
        kinds.refuse_other_kinds(view.snapshot, read, opened.encoding.kinds)
        base = FrozenBase.load(opened, spec.tables, ResolvedPlacement(), worker)
        scorers = {
            setting: ScorerOfSetting(
                scorer=Scorer.of(base, scored, bundles=folder, tables=spec.tables),
                bundles=folder,
            )
            for setting, folder in folders.items()
        }
        yield ChosenRows(view=view, base=opened, scorers=scorers)


def _verified_folder(path: Path, opened: PublishedBase, scratch: Path, setting: str) -> Path:
    """Return the folder of the bundles that a setting names, its index verified."""
    now = bundles_now(path, opened, scratch, setting=setting)
    return bundles_folder(now, opened, setting=setting).path
