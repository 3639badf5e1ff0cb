"""Look for all that would stop a night, before anything is spent."""

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

Reachable = Callable[[str], None]
"""Asks a Ray job server for an answer, and raises a PipelineError where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was found."""

    problems: Sequence[tuple[str, str]]
    """Part of the settings, and what is wrong with it."""
    plan: NightPlan | None
    """What a night would do now; None where something keeps it from being planned."""


def check_nightly(spec: NightlySpec, *, reachable: Reachable) -> Checked:
    """Return every problem that can be found without training anything.

    Args:
        spec: the platform's settings.
        reachable: asks the job server, where nights run on a cluster.
    """
    problems = [*_check_documents(spec), *_check_folders(spec), *_check_cluster(spec, reachable)]
    plan: NightPlan | None = None
    if not any(part in ("catalog", "base", "registry") for part, _ in problems):
        plan, more = _planned(spec)
        problems += more
    return Checked(problems=problems, plan=plan)


def _check_documents(spec: NightlySpec) -> Iterator[tuple[str, str]]:
    """Look at the catalogue, the base, the registry and the nights so far."""
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
    """Look whether this user may write where a night writes."""
    folders = {"nights": spec.nights, "registry": Path(spec.registry)}
    for setting, folder in folders.items():
        if bucket_uri(folder):
            continue
        existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        if not existing.is_dir():
            yield setting, f"{existing} is a file, expected a folder"
        elif not os.access(existing, os.W_OK | os.X_OK):
            yield setting, f"{existing} is not writable for this user"


def _check_cluster(spec: NightlySpec, reachable: Reachable) -> Iterator[tuple[str, str]]:
    """Look whether the workers can be started."""
    if spec.cluster == "local":
        return
    try:
        reachable(spec.cluster)
    except PipelineError as error:
        yield "cluster", str(error)


def _planned(spec: NightlySpec) -> tuple[NightPlan | None, list[tuple[str, str]]]:
    """Plan a night as it would run now, and say what keeps it from being planned or tuned."""
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
