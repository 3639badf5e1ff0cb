"""Refresh a night's base: continue its training on later days, and compare it with its parent."""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from iak.pipeline.base.published_base import FOLDER, PublishedBase
from iak.pipeline.errors import BadRequest
from iak.pipeline.events import Report
from iak.pipeline.launcher import Launcher
from iak.pipeline.nightly.known_days import trained_days
from iak.pipeline.runs.load import spec_with_presets
from iak.pipeline.runs.pretrain import pretrain_base
from iak.pipeline.runs.record import AlreadyFinished
from iak.pipeline.storage.working_copy import readable_folder
from iak.schemas.job import PretrainSpec
from iak.schemas.log import Catalog, SplitSpec
from iak.schemas.nightly import NightlySpec, RefreshSpec


def base_days(base: PublishedBase) -> tuple[date, date] | None:
    """Return the first and the last day that a base learned from; None where it does not say."""
    trained = trained_days(base)
    return (trained.first, trained.last) if trained else None


def base_age_days(base: PublishedBase, night: date) -> int | None:
    """Return the days from the last day that a base learned from to a night, at least 0."""
    days = base_days(base)
    return max((night - days[1]).days, 0) if days else None


def refresh_base(
    spec: NightlySpec,
    catalog: Catalog,
    base: PublishedBase,
    path: Path,
    run_dir: Path,
    *,
    night: date,
    launcher: Launcher,
    report: Report,
) -> bool:
    """Continue a base on the days since its own; return whether the result was published.

    A run that was interrupted is resumed, one that is finished is left as it is.

    Args:
        spec: the platform's settings; `refresh` has those of the training.
        catalog: the night's catalogue, whose splits name the partitions that are read.
        base: the parent.
        path: folder or reference of the parent.
        run_dir: run folder of the refresh, in which the new base is published.
        night: the last day that the base is trained on.
        launcher: starts the workers.
        report: gets the events.

    Raises:
        BadRequest: the base does not say which days it has learned from.
        PipelineError: the refresh cannot be run; the parent stays.
    """
    days = base_days(base)
    if days is None:
        raise BadRequest(
            f"{path} does not say which days it learned from, so that no day is known to be new; "
            "refresh it by `iak pretrain from=`"
        )
    pretrain = _pretrain_spec(spec, catalog, path, run_dir)
    window = (days[1] + timedelta(days=1), night)
    try:
        result = pretrain_base(pretrain, _refresh_catalog(catalog, window), launcher, report)
    except AlreadyFinished:
        # An earlier attempt of this night ended the training. It published a base or it did not.
        return (readable_folder(run_dir, below=[FOLDER]) / FOLDER).is_dir()
    return result.manifest is not None


def _pretrain_spec(spec: NightlySpec, catalog: Catalog, path: Path, run_dir: Path) -> PretrainSpec:
    """Return the settings of `iak pretrain` for a refresh, in which vocabularies take new ids."""
    refresh = spec.refresh or RefreshSpec()
    grown: Sequence[str] = [
        name for name, table in catalog.table_specs.items() if table.encoding == "vocabulary"
    ]
    settings: dict[str, Any] = {
        **spec.workers.model_dump(exclude_unset=True),
        "catalog": spec.catalog,
        "data_root": spec.data_root,
        "from": path,
        "run_dir": run_dir,
        "allow": [f"table:{name}:grown" for name in grown],
        "epochs": refresh.epochs,
        "from_rates": refresh.from_rates,
    }
    return spec_with_presets(PretrainSpec, "pretrain", catalog, settings)


def _refresh_catalog(catalog: Catalog, window: tuple[date, date]) -> Catalog:
    """Return the night's catalogue with the splits of a refresh.

    The gate's slice of rows is in neither split, because the gate compares kernels with this base.
    """
    splits = {
        "pretrain": _with_dates(catalog.splits["tune"], window),
        "pretrain_valid": _with_dates(catalog.splits["valid"], window),
    }
    return catalog.model_copy(update={"splits": splits})


def _with_dates(split: SplitSpec, window: tuple[date, date]) -> SplitSpec:
    """Return a split over other days; its partitions and its slice of rows stay."""
    return SplitSpec(dates=window, where=split.where, slice=split.slice)
