"""Choose the kernel of each row, and say why where it is not the kernel of the row's own domain."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import hashing
from iak.pipeline.data.domains import BASE
from iak.pipeline.publish.bundle_set import BASE_SLOT, BundleSet

NO_BUNDLES = "no bundles were given"
NO_KERNEL = "its domain has no kernel"
HELD = "the gate held its domain's kernel"
Indices = npt.NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The kernel that predicts the rows of a domain."""

    slot: int
    """Slot of the kernel in its bundle set; `BASE_SLOT` for the base."""
    kernel: str
    """Domain of the kernel, or `base`."""
    version: str
    """SHA-256 of the kernel's manifest; of the base, its fingerprint."""
    reason: str | None
    """Why it is not the kernel of the domain itself; None where it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedRows:
    """The routes of some rows."""

    routes: tuple[Route, ...]
    index: Indices
    """Index of each row's route."""

    @property
    def slots(self) -> Indices:
        """Return each row's slot."""
        return np.array([route.slot for route in self.routes], np.int64)[self.index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The routes of all domains, each of which is chosen once."""

    bundles: BundleSet | None
    """Kernels that may predict; None where the base predicts alone."""
    base_fingerprint: str
    levels: int
    """Levels of a domain, the pooled one included."""
    known: dict[tuple[str | None, ...], Route] = field(default_factory=dict)
    """Names of a domain at each level -> its route, of the domains so far."""

    @property
    def versions(self) -> dict[str, str]:
        """Return the domain of each published kernel, and its version."""
        return {} if self.bundles is None else self._published(self.bundles.versions)

    @property
    def created_at(self) -> dict[str, datetime]:
        """Return the domain of each published kernel, and when it was written."""
        return {} if self.bundles is None else self._published(self.bundles.created_at)

    def _published(self, values: Sequence[T]) -> dict[str, T]:
        """Return the domains of published kernels with their values, one for each slot."""
        assert self.bundles is not None, "without bundles there are no slots"
        slots = zip(self.bundles.names, self.bundles.verdicts, values, strict=True)
        return {name: value for name, verdict, value in slots if verdict.publish}

    def of(self, rows: pa.Table) -> RoutedRows:
        """Return the route of each encoded row."""
        columns = [one_dictionary(rows.column(f"l.{depth}")) for depth in range(self.levels)]
        combined = np.zeros(len(rows), np.int64)
        for column in columns:
            # One further code is for rows whose name is null at this level.
            codes = hashing.dictionary_indices(column)
            combined = combined * (len(column.dictionary) + 1) + codes
        _, first, index = np.unique(combined, return_index=True, return_inverse=True)
        names = [column.take(pa.array(first)).to_pylist() for column in columns]
        routes = tuple(self.route(path) for path in zip(*names, strict=True))
        return RoutedRows(routes=routes, index=index)

    def route(self, path: tuple[str | None, ...]) -> Route:
        """Return the route of a domain.

        Args:
            path: its names, from the pooled level down to its own; None where it has none.
        """
        if path not in self.known:
            self.known[path] = self._choose([name for name in path if name])
        return self.known[path]

    def _choose(self, path: Sequence[str]) -> Route:
        """Return the route to the nearest published kernel of a path, or to the base."""
        if self.bundles is None:
            return self._base(NO_BUNDLES)
        slot = self.bundles.slot_for(path, published_only=True)
        own = self.bundles.slot_for(path[-1:], published_only=False)
        why_not_own = NO_KERNEL if own == BASE_SLOT else HELD
        if slot == BASE_SLOT:
            return self._base(why_not_own)
        return Route(
            slot=slot,
            kernel=self.bundles.names[slot],
            version=self.bundles.versions[slot],
            reason=None if slot == own else why_not_own,
        )

    def _base(self, reason: str) -> Route:
        """Return the route to the base."""
        return Route(slot=BASE_SLOT, kernel=BASE, version=self.base_fingerprint, reason=reason)


def one_dictionary(column: pa.ChunkedArray | pa.Array) -> pa.DictionaryArray:
    """Return a column of dictionaries as one array with one dictionary."""
    if isinstance(column, pa.ChunkedArray):
        return column.unify_dictionaries().combine_chunks()
    return column
