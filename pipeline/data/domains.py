"""Count the rows of each domain in each split, and find domains that are served but not tuned.

Only the columns of the domain's keys are read, and those that decide which rows a split has. Keys
that are partition keys cost nothing.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from iak.pipeline.data import parquet
from iak.pipeline.data.domain_columns import domain_names
from iak.pipeline.data.splits import Selection
from iak.pipeline.first_few import first_few
from iak.schemas.domain import POOLED
from iak.schemas.log import Catalog
from iak.schemas.task import DomainSpec

BASE = "base"
"""Name of the base where a kernel is named: it serves where no kernel does."""
JUDGED = ("gate", "test")
"""Splits whose domains should have been tuned."""
Path = tuple[str, ...]
"""A domain's names, from the pooled level down to its own."""
Serving = Callable[[Path], str]
"""A domain's names -> the name of the kernel that serves it, `base` for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainRows:
    """Rows of each domain in some splits; rows without a domain are left out."""

    by_split: Mapping[str, Mapping[Path, int]]

    def at_level(self, split: str, depth: int) -> Counter[str]:
        """Return the rows of a split by domain of one level.

        Args:
            split: name of the split; one that was not counted has no rows.
            depth: the level, 0 for the pooled one.
        """
        counts: Counter[str] = Counter()
        for path, rows in self.by_split.get(split, {}).items():
            counts[path[depth]] += rows
        return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class UntunedDomain:
    """A domain that is evaluated or served without a single tuning row."""

    domain: str
    split: str
    rows: int
    served_by: str


def count_domains(selections: Mapping[str, Selection], catalog: Catalog) -> DomainRows:
    """Count each split's rows by domain.

    Args:
        selections: name of a split -> its rows.
        catalog: the log's catalogue.
    """
    return DomainRows(
        by_split={name: _count(selection, catalog) for name, selection in selections.items()}
    )


def _count(selection: Selection, catalog: Catalog) -> Counter[Path]:
    keys = catalog.domain.all_keys
    counts: Counter[Path] = Counter()
    for file, group, rows in selection.groups:
        columns = parquet.selected_columns(selection, file, group, keys, catalog)
        levels = [domain_names(columns, level) for level in catalog.domain.levels]
        paths = Counter(zip(*(names.to_pylist() for names in levels), strict=True))
        if set(keys) <= set(selection.snapshot.files[file].exact_partition):
            # `selected_columns` then returns one row for all rows of the group.
            paths = Counter(dict.fromkeys(paths, rows))
        counts.update({path: count for path, count in paths.items() if None not in path})
    return counts


def expected_serving(rows: DomainRows, domain: DomainSpec) -> Serving:
    """Return the kernel that serves each domain, if the gate publishes every tuned kernel.

    Args:
        rows: rows of the tune split at least.
        domain: the catalogue's `[domain]`, whose `min_rows` decides what is tuned.
    """
    floors = [1, *[domain.min_rows] * (len(domain.levels) - 1)]
    tuned = {
        name
        for depth, floor in enumerate(floors)
        for name, count in rows.at_level("tune", depth).items()
        if count >= floor
    }
    return nearest_of(tuned)


def nearest_of(names: set[str]) -> Serving:
    """Return the rule that the most specific of these kernels serves a domain."""
    return lambda path: next((name for name in reversed(path) if name in names), BASE)


def find_untuned(rows: DomainRows, serving: Serving) -> tuple[UntunedDomain, ...]:
    """Find the domains of any split that have no tuning row, those with most rows first."""
    tuned = {path[-1] for path in rows.by_split.get("tune", {})}
    untuned = [
        UntunedDomain(domain=path[-1], split=split, rows=count, served_by=serving(path))
        for split, domains in rows.by_split.items()
        for path, count in domains.items()
        if path[-1] not in tuned
    ]
    return tuple(sorted(untuned, key=lambda d: (d.split, -d.rows, d.domain)))


def untuned_message(untuned: Sequence[UntunedDomain], split: str) -> str | None:
    """Return a line about the untuned domains of a split; None where it has none."""
    own = [domain for domain in untuned if domain.split == split]
    if not own:
        return None
    each = [f"{d.domain} ({d.rows:,} rows, served by {_kernel(d)})" for d in own]
    rows = sum(domain.rows for domain in own)
    domains = "1 domain has" if len(own) == 1 else f"{len(own):,} domains have"
    return (
        f"{domains} {rows:,} rows in {split} and none in tune: {first_few(each, 3, between='; ')}"
    )


def _kernel(domain: UntunedDomain) -> str:
    names = {BASE: "the base", POOLED: "the pooled kernel"}
    return names.get(domain.served_by, f"the kernel '{domain.served_by}'")
