"""What encoding learned from the pre-training window: vocabularies and number statistics.

A vocabulary is the sorted array of its ids' 64-bit keys; an id's row is its place in it plus
`FIRST_ROW`. Rows thus lie in hash order, and frequent ids spread evenly over row-wise shards.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from iak.pipeline.data import hashing, kinds
from iak.pipeline.data.features import Encoding, Floats, counted_keys, raw_number
from iak.pipeline.data.ids import Ids
from iak.pipeline.errors import BadRequest
from iak.pipeline.files import not_permitted, put_file, putting_file
from iak.pipeline.formats import current_document
from iak.schemas.feature import FIRST_ROW, NumericSpec, meaning_of, table_of
from iak.schemas.log import Catalog

_QUANTILE_SAMPLE = 200_000
_MERGE_AT = 4_000_000
FENCE = 10.0
"""Spans of the central values beyond which a value is wild."""
FLATTENED = 10.0
"""Times that wild values must enlarge the deviation before they are left out of it."""
FORMAT = 1
NO_KEYS: hashing.Keys = np.zeros(0, np.uint64)


@dataclass(slots=True)
class _Counts:
    """Counts of keys, merged when the unmerged tail grows long."""

    keys: hashing.Keys = field(default_factory=lambda: np.zeros(0, np.uint64))
    counts: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    tail: list[tuple[hashing.Keys, Ids]] = field(default_factory=list)
    tail_length: int = 0

    def add(self, keys: hashing.Keys, counts: Ids) -> None:
        self.tail.append((keys, counts))
        self.tail_length += len(keys)
        if self.tail_length > _MERGE_AT:
            self.merge()

    def merge(self) -> None:
        keys = np.concatenate([self.keys, *(keys for keys, _ in self.tail)])
        counts = np.concatenate([self.counts, *(counts for _, counts in self.tail)])
        self.keys, places = np.unique(keys, return_inverse=True)
        summed = np.bincount(places, weights=counts, minlength=len(self.keys))
        self.counts = summed.astype(np.int64)
        self.tail, self.tail_length = [], 0

    def frequent(
        self, min_count: int, at_most: int | None, kept: hashing.Keys = NO_KEYS
    ) -> hashing.Keys:
        """Sorted keys: those that are kept, and others counted at least `min_count` times.

        Of others the most frequent are taken, until there are `at_most` in all.
        """
        self.merge()
        keep = (self.counts >= min_count) & ~np.isin(self.keys, kept)
        keys, counts = self.keys[keep], self.counts[keep]
        room = None if at_most is None else max(at_most - len(kept), 0)
        if room is not None and len(keys) > room:
            keys = keys[np.lexsort((keys, -counts))[:room]]
        return np.sort(np.concatenate([kept, keys]))


@dataclass(slots=True)
class Moments:
    """Mean, deviation and an even sample of one number, gathered batch by batch.

    Deviations are gathered around each batch's own mean (Chan, Golub, LeVeque 1979), so that a
    mean far from zero does not drown them.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""
    sample: Floats = field(default_factory=lambda: np.zeros(0))
    """Every `stride`-th value."""
    stride: int = 1

    def add(self, values: Floats) -> None:
        """Take more values in; those that are no finite number are left out."""
        values = values[np.isfinite(values)]
        if not len(values):
            return
        self.sample = np.concatenate(
            [self.sample, values[-self.count % self.stride :: self.stride]]
        )
        while len(self.sample) > _QUANTILE_SAMPLE:
            self.sample, self.stride = self.sample[::2], 2 * self.stride
        mean, count = float(values.mean()), self.count + len(values)
        apart = (mean - self.mean) ** 2 * self.count * len(values) / count
        self.squares += float(np.square(values - mean).sum()) + apart
        self.mean += (mean - self.mean) * len(values) / count
        self.count = count

    def statistics(self) -> tuple[float, float]:
        """Return the mean, and the deviation or 1 where the number never varies.

        A few wild values can make the deviation so large that all others look alike. Where values
        beyond the fence are what most of the deviation comes from, the sample within the fence says
        both; a log without such values keeps its exact moments.
        """
        mean, deviation = self.mean, float(np.sqrt(self.squares / max(self.count, 1)))
        tame = self._tame()
        if len(tame) and deviation > FLATTENED * float(tame.std()):
            mean, deviation = float(tame.mean()), float(tame.std())
        return mean, deviation if deviation > max(1e-12, 1e-14 * abs(mean)) else 1.0

    def wild(self) -> int:
        """Return how many values of the sample the statistics leave out."""
        tame = self._tame()
        if not len(tame) or self.statistics()[1] == float(np.sqrt(self.squares / self.count)):
            return 0
        return len(self.sample) - len(tame)

    def _tame(self) -> Floats:
        low, high = self.fence()
        return self.sample[(self.sample >= low) & (self.sample <= high)]

    def fence(self) -> tuple[float, float]:
        """Return the bounds beyond which a value is wild; infinite where the number hardly varies.

        They lie `FENCE` times the span of the central values beyond that span. The center is the
        middle 98 % of the sample, or more of it where those values are all the same.
        """
        for tail in (0.01, 0.001, 0.0001):
            low, high = np.quantile(self.sample, [tail, 1 - tail]) if len(self.sample) else (0, 0)
            if high > low:
                return float(low - FENCE * (high - low)), float(high + FENCE * (high - low))
        return -np.inf, np.inf

    def quantiles(self, buckets: int) -> Floats:
        """Cuts between `buckets` equally full buckets, without repeats."""
        values = self.sample if len(self.sample) else np.zeros(1)
        return np.unique(np.quantile(values, np.linspace(0, 1, buckets + 1)[1:-1]))


def fit(
    batches: Iterable[tuple[pa.RecordBatch, hashing.Keys]],
    catalog: Catalog,
    *,
    kept: Encoding | None = None,
    grown: Collection[str] = (),
) -> Encoding:
    """One pass over the pre-training rows: what every id and number was.

    Args:
        batches: raw rows with their identities.
        catalog: the log's catalogue.
        kept: what an earlier window taught; it stands, and only what is not in it is learned.
        grown: tables whose vocabulary in `kept` takes in this window's new ids.
    """
    kept = kept or Encoding(vocabularies={}, statistics={}, boundaries={})
    tables = catalog.table_specs
    vocabularies = [name for name, table in tables.items() if table.encoding == "vocabulary"]
    numbers = [f for f in catalog.features if isinstance(f, NumericSpec)]
    counts = {n: _Counts() for n in vocabularies if n in grown or n not in kept.vocabularies}
    moments = {f.name: Moments() for f in numbers if f.name not in kept.statistics}
    learned = dict(kept.kinds)
    for rows, _ in batches:
        found = kinds.kinds_of(rows, catalog)
        kinds.refuse_change(found, learned)
        learned |= found
        for feature in catalog.features:
            if isinstance(feature, NumericSpec):
                if feature.name in moments:
                    moments[feature.name].add(raw_number(feature, rows))
            elif (table := table_of(feature)) in counts:
                counts[table].add(*counted_keys(feature, rows))
    return Encoding(
        vocabularies={
            name: counts[name].frequent(
                tables[name].min_count,
                _ids_in(tables[name].rows),
                kept.vocabularies.get(name, NO_KEYS),
            )
            if name in counts
            else kept.vocabularies[name]
            for name in vocabularies
        },
        statistics={
            f.name: moments[f.name].statistics() if f.name in moments else kept.statistics[f.name]
            for f in numbers
        },
        boundaries={
            f.name: kept.boundaries[f.name]
            if f.name in kept.boundaries
            else np.asarray(f.boundaries)
            if f.boundaries
            else moments[f.name].quantiles(f.buckets or 2)
            for f in numbers
            if f.is_bucketed
        },
        kinds={name: learned[name] for name in tables if name in learned},
    )


def _ids_in(rows: int | None) -> int | None:
    return None if rows is None else rows - FIRST_ROW


def save(encoding: Encoding, folder: Path) -> None:
    """Write vocabularies and statistics; no pickle."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, npt.NDArray[Any]] = {
        f"vocabulary.{k}": v.view(np.int64) for k, v in encoding.vocabularies.items()
    }
    arrays |= {f"boundaries.{k}": v for k, v in encoding.boundaries.items()}
    with putting_file(folder / "encoding.safetensors") as part:
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, part)
    document = {
        "format": FORMAT,
        "statistics": encoding.statistics,
        "kinds": dict(encoding.kinds),
    }
    put_file(folder / "encoding.json", json.dumps(document, indent=1, sort_keys=True))


def load(folder: Path) -> Encoding:
    """Read what `save` wrote.

    Raises:
        BadRequest: the folder holds no encoding.
        NotPermitted: this user may not read it.
    """
    place = folder / "encoding.json"
    try:
        (folder / "encoding.safetensors").open("rb").close()  # safetensors: closed is missing
        arrays = load_file(folder / "encoding.safetensors")
        document = current_document(
            json.loads(place.read_text()),
            kind="encoding",
            current=FORMAT,
            where=place,
            mend="Publish the base again: iak pretrain",
            migrations={0: _with_unknown_kinds},
        )
        kinds_learned = {str(k): str(v) for k, v in document["kinds"].items()}
        statistics = {k: (float(mean), float(d)) for k, (mean, d) in document["statistics"].items()}
    except PermissionError as error:
        raise not_permitted(folder, error) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise BadRequest(f"no encoding at {folder}: {error}. Is it a published base?") from error
    return Encoding(
        vocabularies={
            k.removeprefix("vocabulary."): v.view(np.uint64)
            for k, v in arrays.items()
            if k.startswith("vocabulary.")
        },
        statistics=statistics,
        boundaries={
            k.removeprefix("boundaries."): v
            for k, v in arrays.items()
            if k.startswith("boundaries.")
        },
        kinds=kinds_learned,
    )


def _with_unknown_kinds(document: Mapping[str, Any]) -> dict[str, Any]:
    """Migrate an encoding from before the kinds of ids were kept: they are not known."""
    return {**document, "kinds": {}}


def schema_hash(catalog: Catalog, encoding: Encoding) -> str:
    """SHA-256 over everything that gives ids and numbers their meaning."""
    digest = hashlib.sha256()
    document = {
        "features": [meaning_of(f) for f in catalog.features],
        "tables": {k: v.model_dump(mode="json") for k, v in catalog.table_specs.items()},
        "tasks": [t.model_dump(mode="json") for t in catalog.tasks],
        "statistics": encoding.statistics,
    }
    if encoding.kinds:  # a base from before they were kept has its hash still
        document["kinds"] = dict(encoding.kinds)
    digest.update(json.dumps(document, sort_keys=True).encode())
    for arrays in (encoding.vocabularies, encoding.boundaries):
        for name in sorted(arrays):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
