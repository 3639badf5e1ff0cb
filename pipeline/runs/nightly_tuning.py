"""Tune the kernels of a night: settings, the run, and the log that it must match."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from iak.pipeline.errors import BadLog
from iak.pipeline.events import Report
from iak.pipeline.first_few import first_few
from iak.pipeline.launcher import Launcher
from iak.pipeline.publish.judge_chains import NightChains
from iak.pipeline.runs.finetune import tune_night
from iak.pipeline.runs.load import spec_with_presets
from iak.pipeline.runs.nightly_plan import NightPlan, changed_days
from iak.pipeline.runs.outputs import verify_outputs
from iak.pipeline.runs.record import read_record
from iak.pipeline.runs.stored_run import remove_run
from iak.pipeline.storage.working_copy import folder_exists, readable_folder
from iak.schemas.job import FinetuneSpec
from iak.schemas.log import Catalog
from iak.schemas.nightly import NightlySpec
from iak.schemas.record import RunRecord


def tune_once(
    spec: FinetuneSpec,
    catalog: Catalog,
    launcher: Launcher,
    report: Report,
    *,
    chains: NightChains | None = None,
    verify_log: Callable[[], None] | None = None,
) -> RunRecord:
    """Tune kernels in a run folder, or return the run that did.

    Args:
        spec: settings of the tuning.
        catalog: the night's catalogue.
        launcher: starts the workers.
        report: gets the events.
        chains: evidence on the chains that these kernels continue; None where they continue none.
        verify_log: is called after the tuning, and raises BadLog where the log is no longer the
            planned one. The run folder is then removed, so that no attempt promotes its kernels.

    Raises:
        BadLog: the log changed.
        Corrupt: the finished run does not have the files that it wrote.
    """
    run_dir = readable_folder(spec.run_dir) if folder_exists(spec.run_dir) else None
    before = read_record(run_dir) if run_dir else None
    if run_dir is not None and before is not None and before.status == "finished":
        # The night may have promoted these kernels before it was interrupted. `live=` then names
        # other bundles than this run read, so that `tune_night` would refuse the run's folder.
        verify_outputs(run_dir, before.outputs)
        return before
    tuned = tune_night(spec, catalog, launcher, report, chains=chains).record
    if verify_log is not None:
        try:
            verify_log()
        except BadLog:
            remove_run(spec.run_dir)
            raise
    return tuned


def refuse_changed_log(spec: NightlySpec, plan: NightPlan) -> None:
    """Refuse a log that is not the one that a night was planned on.

    The night's record would say that its kernels know other rows than they do.

    Raises:
        BadLog: names the days whose files changed.
    """
    changed = changed_days(spec, plan)
    if not changed:
        return
    names = [
        "/".join([*(f"{key}={value}" for key, value in day.partition), str(day.day)])
        for day in changed
    ]
    raise BadLog(
        f"the log changed while the night ran: {first_few(names, 3)} below "
        f"{spec.data_root} are not the files that the night was planned on. Nothing was "
        "promoted. Run the night again, once nobody writes these days"
    )


def finetune_spec(
    spec: NightlySpec,
    plan: NightPlan,
    trained: list[str],
    run_dir: Path,
    *,
    deadline: datetime | None = None,
    parent: NightPlan | None = None,
) -> FinetuneSpec:
    """Return the settings of `iak finetune` for a night.

    Args:
        spec: the platform's settings; the catalogue's presets for `finetune` stand below them.
        plan: the night's plan.
        trained: names of the domains that train.
        run_dir: folder of the run.
        deadline: moment after which no further kernel is begun; None for none.
        parent: plan on the parent of the base, in a night that refreshed the base. Its live kernels
            are the start of tonight's where they validate better than the kernels above them.
    """
    settings: dict[str, Any] = {
        **spec.finetune.model_dump(exclude_unset=True),
        **spec.workers.model_dump(exclude_unset=True),
        "catalog": spec.catalog,
        "data_root": spec.data_root,
        "base": plan.base_path,
        "run_dir": run_dir,
        "as_of": plan.night,
        "domains": trained,
        "deadline": deadline,
    }
    if plan.live or (parent is not None and parent.live):
        settings["live"] = f"registry:{spec.registry}@champion"
    if parent is not None and parent.live:
        settings["live_base"] = parent.base_path
    return spec_with_presets(FinetuneSpec, "finetune", plan.catalog, settings)
