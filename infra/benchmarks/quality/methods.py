"""Define the interface of the methods, `fit(setup, hyper) -> Fitted`, and those that tune kernels.

Each method takes the log's window and the base of a seed, and learns from the recent rows. Kernels
are tuned by the library's own nights, so a method here is a few settings of a night. Methods that
train everything are in training.py, those over frozen activations in dense.py and calibration.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.runs.finetune import tune_night
from iak.pipeline.runs.load import nested, spec_with_presets
from iak.schemas.feature import ListSpec, table_of
from iak.schemas.fresh import CoOccurrenceSpec, CountsSpec, FreshSpec
from iak.schemas.job import FinetuneSpec
from iak.schemas.log import Catalog
from infra.benchmarks.quality.cells import Hyper
from infra.benchmarks.quality.setup import (
    IAK,
    ONE_WORKER,
    PUBLISHED,
    MethodSetup,
    Predicted,
    Slice,
)
from infra.benchmarks.quality.space import LogRange, Space, first_of

ITEM = "item_id"
COUNTED = (ITEM, "category")
"""Columns that are counted, where a log has them."""
Predict = Callable[[Slice], Predicted]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A method that has learned."""

    predict: Predict
    """Predicts the rows of a slice in their order."""
    parameters: int
    """Parameters that the method trained, in one copy."""
    copies: int = 1
    """Number of copies: one for each domain that has its own, and one for all others."""
    at_cap: tuple[str, ...] = ()
    """Parts that were still improving at their last epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way to use the recent rows."""

    what: str
    """The method in words, for tables."""
    fit: Callable[[MethodSetup, Hyper], Fitted]
    space: Callable[[Mapping[str, Any]], Space] = lambda _presets: {}
    """Returns the search space, given the catalogue's presets of the verb `verb`."""
    verb: str = ""
    """Verb whose presets the search starts from; empty where it needs none."""
    version: int = 1
    """Raise it with every change of code or of a fixed setting that changes results."""
    searched_as: str = ""
    """Method whose search decides the settings; its own where empty."""
    knows_truth: bool = False
    """Whether it knows what the generator of a planted log knows. Such a method is no rival, and
    other logs are without it."""
    needs_times: bool = False
    """Whether it counts rows by day. A log whose rows have no time is without it."""


def fit_base(setup: MethodSetup, _hyper: Hyper) -> Fitted:
    """Return the base as it is."""
    return Fitted(predict=lambda rows: setup.predicted(rows, base=setup.base), parameters=0)


def kernel_space(presets: Mapping[str, Any]) -> Space:
    """Return the search space of a night's settings."""
    return {
        "pooled.lr": LogRange(presets.get("pooled.lr", 2e-3), 5e-4, 1.6e-2),
        "pooled.max_epochs": first_of(presets.get("pooled.max_epochs", 4), 8, 16),
        "domain.lr": LogRange(presets.get("domain.lr", 1e-3), 2.5e-4, 8e-3),
        "domain.shrink": LogRange(presets.get("domain.shrink", 1e-2), 1e-4, 1e-1),
        "kernel.beta": LogRange(presets.get("kernel.beta", 1e-3), 1e-5, 1e-2),
        "kernel.hidden": first_of(presets.get("kernel.hidden", 64), 128),
    }


def no_statistics(_catalog: Catalog) -> tuple[FreshSpec, ...]:
    """Return no statistics."""
    return ()


def counts(catalog: Catalog) -> tuple[FreshSpec, ...]:
    """Return counts of the item, and of its category where the log has one, also by domain.

    In a window without dates, rows of `pretrain` and `tune` are counted, out of fold. A gain is
    then what counts tell and the base does not hold. It is no proof of freshness.
    """
    columns = {column for feature in catalog.features for column in feature.columns}
    return tuple(CountsSpec(keys=(name,)) for name in COUNTED if name in columns)


def counts_and_pairs(catalog: Catalog) -> tuple[FreshSpec, ...]:
    """Return counts, and co-occurrences of the item with each history of items that the log has."""
    (item,) = (f for f in catalog.features if f.columns == (ITEM,))
    histories = [
        feature.columns[0]
        for feature in catalog.features
        if isinstance(feature, ListSpec) and table_of(feature) == table_of(item)
    ]
    pairs = (CoOccurrenceSpec(kind="co_occurrence", pair=(ITEM, name)) for name in histories)
    return (*counts(catalog), *pairs)


def kernels(
    method: str = IAK,
    *,
    statistics: Callable[[Catalog], tuple[FreshSpec, ...]] = no_statistics,
    **fixed: Any,  # noqa: ANN401
) -> Callable[[MethodSetup, Hyper], Fitted]:
    """Return the fit of a night's kernels.

    Args:
        method: `iak` predicts with every kernel, `iak_published` with those that the gate let pass.
        statistics: returns what encoders read beside activations, given the log's catalogue.
        fixed: settings of the night that the method fixes, `__` for a dot.
    """
    settings = {name.replace("__", "."): value for name, value in fixed.items()}

    def fit(setup: MethodSetup, hyper: Hyper) -> Fitted:
        run_dir, fresh = setup.folder("night"), statistics(setup.catalog)
        catalog = setup.catalog.model_copy(update={"fresh": fresh})
        asked = {
            "catalog": setup.window.name,
            "data_root": str(setup.window.root),
            "base": setup.base,
            "run_dir": run_dir,
            "seed": setup.seed,
            "activations": "memory",
            **ONE_WORKER,
            **nested({**hyper, **settings}),
        }
        spec = spec_with_presets(FinetuneSpec, "finetune", catalog, asked)
        night = tune_night(spec, catalog, ProcessLauncher())
        return Fitted(
            predict=lambda rows: setup.predicted(
                rows, base=setup.base, bundles=night.bundles, method=method, fresh=fresh
            ),
            parameters=night.tuning.parameters_per_kernel,
            copies=len(night.kernels),
            at_cap=night.tuning.stopped_at_cap,
        )

    return fit


GATED = kernels(PUBLISHED)
"""A night's kernels after the gate: what a platform would serve."""
