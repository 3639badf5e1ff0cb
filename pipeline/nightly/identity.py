"""Name a night: the same base, domains, data window and settings give the same id."""

from collections.abc import Collection, Sequence
from datetime import date, time

from iak.schemas.base import JsonObject
from iak.schemas.domain import Domain
from iak.schemas.log import Catalog
from iak.schemas.manifest import sha256_of
from iak.schemas.night import PartitionDay
from iak.schemas.nightly import NightlySpec

_ELSEWHERE = frozenset(
    {"name", "data_root", "base", "registry", "nights", "cluster", "allow", "workers", "schedule"}
    | {"keep", "notify", "cost", "deploy", "catalog"}
)
"""Settings that say where and how a night runs, and not what its result is."""


def night_id(
    spec: NightlySpec,
    catalog: Catalog,
    *,
    night: date,
    base: str,
    domains: Collection[Domain],
    days: Sequence[PartitionDay],
) -> str:
    """Return a night's id.

    What earlier nights decided is not part of it: a finished night has the same id when it is run
    again.

    Args:
        spec: the platform's settings, with the budget that the night was given.
        catalog: the log's catalogue.
        night: nominal date.
        base: fingerprint of the base.
        domains: domains that have rows in the window.
        days: what the night sees of every partition's day.
    """
    settings = spec.model_dump(mode="json", exclude=set(_ELSEWHERE))
    window = [[day.partition, str(day.day), day.content, day.state == "open"] for day in days]
    document: JsonObject = {
        "night": str(night),
        "base": base,
        "seed": spec.workers.seed,
        "catalog": catalog.model_dump(mode="json", exclude={"splits", "presets"}),
        "domains": sorted(domain.name for domain in domains),
        "window": sorted(window),
        "settings": settings,
    }
    return sha256_of(document)[:16]


def with_overrides(
    spec: NightlySpec,
    *,
    rows: int | None,
    minutes: float | None,
    deadline: time | None,
) -> NightlySpec:
    """Return the settings, with those that the command line gives in place of the file's."""
    budget = {"rows": rows, "minutes": minutes}
    given = {name: value for name, value in budget.items() if value is not None}
    changed = {"budget": spec.budget.model_copy(update=given)}
    if deadline is not None:
        schedule = spec.schedule.model_copy(update={"deadline": deadline})
        return spec.model_copy(update={**changed, "schedule": schedule})
    return spec.model_copy(update=changed)
