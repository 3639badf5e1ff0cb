"""Find everything that would stop a night, before anything is trained."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from iak.pipeline.errors import PipelineError
from iak.pipeline.nightly.choice import LEVELS
from iak.pipeline.registry.commits import check_empty, is_registry
from iak.pipeline.registry.live import registry_head
from iak.pipeline.runs.load import load_catalog
from iak.pipeline.runs.nightly_plan import NightPlan, plan_night
from iak.pipeline.runs.nightly_records import read_nights
from iak.pipeline.runs.nightly_tuning import finetune_spec
from iak.pipeline.runs.preflight import check_workers, open_frozen_base
from iak.pipeline.runs.record import now
from iak.pipeline.storage.store import open_store
from iak.schemas.nightly import NightlySpec
from iak.schemas.paths import bucket_uri

AskJobServer = Callable[[str], None]
"""Takes the address of a Ray job server, and raises a PipelineError where none answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NightlyFindings:
    """The result of a check of `nightly.toml`."""

    problems: Sequence[tuple[str, str]]
    """Setting or section, and what is wrong with it."""
    plan: NightPlan | None
    """What a night would do now; None where something keeps it from being planned."""


def check_nightly(spec: NightlySpec, *, ask_job_server: AskJobServer) -> NightlyFindings:
    """Return every problem that can be found without training anything.

    Args:
        spec: the platform's settings.
        ask_job_server: is called once where nights run on a cluster, with its address.
    """
    problems = [
        *_check_documents(spec),
        *_check_folders(spec),
        *_check_cluster(spec, ask_job_server),
    ]
    plan: NightPlan | None = None
    # Without these three there is nothing to plan on, and their problem would be named twice.
    if not any(part in ("catalog", "base", "registry") for part, _ in problems):
        plan, more = _planned(spec)
        problems += more
    return NightlyFindings(problems=problems, plan=plan)


def _check_documents(spec: NightlySpec) -> Iterator[tuple[str, str]]:
    """Yield the problems of the catalogue, the base, the registry and the nights so far."""
    try:
        catalog = load_catalog(spec.catalog)
    except PipelineError as error:
        yield "catalog", str(error)
    else:
        try:
            open_frozen_base(spec.base, catalog, spec.finetune.tables)
        except PipelineError as error:
            yield "base", str(error)
        if catalog.base is not None and spec.refresh is not None:
            yield (
                "refresh",
                "the catalogue's [base] runs elsewhere, so that no night can train it further; "
                "take [refresh] out, and adopt its next version by iak adopt",
            )
    try:
        store = open_store(spec.registry)
        if registry_head(store) is None and not is_registry(store):
            check_empty(store)
        store.check_creates_once()
    except PipelineError as error:
        yield "registry", str(error)
    try:
        if uri := bucket_uri(spec.nights):
            open_store(uri).check_creates_once()
        for problem in read_nights(spec.nights).problems:
            yield "nights", problem
    except PipelineError as error:
        yield "nights", str(error)


def _check_folders(spec: NightlySpec) -> Iterator[tuple[str, str]]:
    """Yield the folders in which a night would write and this user may not."""
    folders = {"nights": spec.nights, "registry": Path(spec.registry)}
    for setting, folder in folders.items():
        if bucket_uri(folder):
            continue
        # A folder that is missing is made by the night, so its nearest parent decides.
        existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        if not existing.is_dir():
            yield setting, f"{existing} is a file, expected a folder"
        elif not os.access(existing, os.W_OK | os.X_OK):
            yield setting, f"{existing} may not be written to by this user"


def _check_cluster(spec: NightlySpec, ask_job_server: AskJobServer) -> Iterator[tuple[str, str]]:
    """Yield why no job can be submitted to the cluster; nothing where nights run here."""
    if spec.cluster == "local":
        return
    try:
        ask_job_server(spec.cluster)
    except PipelineError as error:
        yield "cluster", str(error)


def _planned(spec: NightlySpec) -> tuple[NightPlan | None, list[tuple[str, str]]]:
    """Return the plan of a night that would run now, and what would stop it or its tuning."""
    try:
        plan = plan_night(spec, read_nights(spec.nights).records, asked=None, now=now())
    except PipelineError as error:
        return None, [("data", str(error))]
    problems: list[tuple[str, str]] = []
    try:
        asked = finetune_spec(spec, plan, list(plan.trained), spec.nights / "check")
        if spec.cluster == "local":
            check_workers(asked, lambda _: None, is_elsewhere=False)
    except PipelineError as error:
        problems.append(("finetune", str(error)))
    unknown = set(spec.choice.domains) - {decision.name for decision in plan.decisions}
    if unknown:
        names = ", ".join(sorted(unknown))
        problems.append(("choice.domains", f"{names}: no row of the window is of such a domain"))
    if not any(d.level == LEVELS[-1] and d.window_rows for d in plan.decisions):
        problems.append(("data", "no domain has a row in the window"))
    problems += [("data", d.reason) for d in plan.days if d.holds]
    return plan, problems
