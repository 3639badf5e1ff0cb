"""Describe the fresh statistics that exported kernels or a base read, as the runtime needs them.

The counts of each night are written as they are published, `statistics-N.safetensors`. All settings
are resolved beforehand: the runtime knows neither tasks nor catalogues.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from iak.pipeline.data.fresh_keys import has_days
from iak.pipeline.fresh.base_numbers import BaseStatistics
from iak.pipeline.fresh.counts import list_table, pair_table
from iak.pipeline.fresh.inputs import lag_of, rate_of
from iak.pipeline.fresh.state import State
from iak.pipeline.publish.bundle_set import BundleSet
from iak.pipeline.sharding.rectangles import save_tensors
from iak.schemas.export import (
    ExportedBaseStatistics,
    ExportedCounts,
    ExportedLifts,
    ExportedRate,
    ExportedState,
    ExportedStatistics,
)
from iak.schemas.feature import ListSpec
from iak.schemas.fresh import CoOccurrenceSpec, CountsSpec, rate_names, rates_of
from iak.schemas.log import Catalog
from iak.schemas.task import TaskSpec


def write_statistics(
    folder: Path, bundles: BundleSet, catalog: Catalog
) -> ExportedStatistics | None:
    """Write the counts that kernels read; return their description, None where they read none.

    Args:
        folder: folder of the bank.
        bundles: the kernels.
        catalog: catalogue of the rows that will be predicted, with the base's tasks.
    """
    if not bundles.states:
        return None
    return _described(folder, catalog.counting("kernel"), bundles.states, bundles.state_K)


def write_base_statistics(folder: Path, fresh: BaseStatistics) -> ExportedBaseStatistics:
    """Write the counts that a base reads; return their description.

    Args:
        folder: an empty folder of their own.
        fresh: the base's statistics.
    """
    return ExportedBaseStatistics(
        statistics=_described(folder, fresh.catalog, [fresh.state], (0,)),
        mean=tuple(fresh.mean_S.tolist()),
        scale=tuple(fresh.scale_S.tolist()),
    )


def _described(
    folder: Path, counted: Catalog, states: Sequence[State], state_of_kernel: Sequence[int]
) -> ExportedStatistics:
    """Write the counts of some nights; return how the catalogue's rows are looked up in them."""
    log = counted.log
    return ExportedStatistics(
        reads=tuple(_read(spec, counted) for spec in counted.fresh),
        date_key=log.date_key,
        date_unit=log.date_unit,
        event_time=log.event_time if has_days(counted) and not log.date_key else None,
        event_time_unit=log.event_time_unit,
        event_time_format=log.event_time_format,
        time_zone=log.time_zone,
        fold_by=log.slice_by,
        row_id=log.row_id,
        states=tuple(_write(folder, index, state) for index, state in enumerate(states)),
        state_of_kernel=tuple(state_of_kernel),
    )


def _read(spec: CountsSpec | CoOccurrenceSpec, catalog: Catalog) -> ExportedCounts | ExportedLifts:
    """Return a specification with everything that it takes from the catalogue."""
    if isinstance(spec, CountsSpec):
        return ExportedCounts(
            chains=spec.chains(catalog.domain.keys),
            windows=tuple(None if window == "all" else window.days for window in spec.windows),
            rates=tuple(_rate(name, catalog.tasks) for name in rates_of(spec, catalog.tasks)),
            prior=spec.prior,
        )
    item, history = spec.pair
    lists = (f for f in catalog.features if isinstance(f, ListSpec))
    return ExportedLifts(
        item=item,
        history=history,
        last=spec.last,
        padding=next(f.padding for f in lists if f.columns[0] == history),
        pairs=pair_table(spec),
        others=list_table(spec),
        rate=_rate(rate_of(spec, catalog.tasks), catalog.tasks),
        prior=spec.prior,
    )


def _rate(name: str, tasks: Sequence[TaskSpec]) -> ExportedRate:
    return ExportedRate(index=rate_names(tuple(tasks)).index(name), lag=lag_of(name, tasks))


def _write(folder: Path, index: int, state: State) -> ExportedState:
    """Write the counts of a night; torch has no searching in unsigned words, so keys are signed."""
    tensors = {
        f"{table}/{name}": torch.from_numpy(np.ascontiguousarray(array).view(np.int64))
        for table, timeline in state.timelines.items()
        for name, array in timeline.arrays().items()
    }
    entry = save_tensors(tensors, folder, f"statistics-{index}.safetensors")
    return ExportedState(last=state.last, sha256=entry.sha256)
