"""Count strictly past rows by day, so that a gain can be one of freshness.

A row of a day reads labels of earlier days alone. A test row reads the state that was published
with the kernels: what was known at the end of the window. So the second test day does not read the
labels of the first one, although a nightly platform would have them by then.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from iak.schemas import fresh
from iak.schemas.fresh import CoOccurrenceSpec, CountsSpec, FreshSpec
from iak.schemas.log import Catalog
from infra.benchmarks.quality.cells import Hyper
from infra.benchmarks.quality.logs import Window
from infra.benchmarks.quality.methods import Fitted, counts_and_pairs
from infra.benchmarks.quality.setup import MethodSetup, Predicted, Slice

Fit = Callable[[MethodSetup, Hyper], Fitted]
Statistics = Callable[[Catalog], tuple[FreshSpec, ...]]
WINDOWS: tuple[fresh.Window, ...] = (*(timedelta(days=d) for d in (1, 3, 7)), "all")
KEYS = (
    ("item_id",),
    ("category",),
    ("shop_id",),
    ("daypart",),
    ("scene",),
    ("daypart", "category"),
)
"""Keys that are counted by day, alone and by domain, where a log has their columns."""


def earlier_days(catalog: Catalog) -> tuple[FreshSpec, ...]:
    """Return counts of `KEYS` over days that end before the row's."""
    columns = {column for feature in catalog.features for column in feature.columns}
    domain = {*catalog.domain.keys}
    return tuple(
        CountsSpec(keys=keys, windows=WINDOWS)
        for keys in KEYS
        if columns.issuperset(keys) and domain.isdisjoint(keys)
    )


def earlier_days_and_pairs(catalog: Catalog) -> tuple[FreshSpec, ...]:
    """Return the same counts, and co-occurrences of the item with each history of items."""
    pairs = tuple(s for s in counts_and_pairs(catalog) if isinstance(s, CoOccurrenceSpec))
    return (*earlier_days(catalog), *pairs)


def by_day(fit: Fit, statistics: Statistics | None = None) -> Fit:
    """Return the fit of a method whose statistics are counted by day, and not out of fold.

    Args:
        fit: of the method.
        statistics: returns what the window's catalogue declares; None where the method says it.
    """

    def dated(window: Window) -> Window:
        window = window.dated()
        if statistics is None:
            return window
        declared = {"fresh": statistics(window.catalog)}
        return replace(window, catalog=window.catalog.model_copy(update=declared))

    def fit_by_day(setup: MethodSetup, hyper: Hyper) -> Fitted:
        fitted = fit(replace(setup, window=dated(setup.window)), hyper)

        def predict(rows: Slice) -> Predicted:
            return fitted.predict(replace(rows, window=dated(rows.window)))

        return replace(fitted, predict=predict)

    return fit_by_day
