"""Learn an encoding from the pre-training window: vocabularies and number statistics.

A vocabulary is the sorted array of its ids' 64-bit keys. The row of an id is its position there
plus `FIRST_ROW`. So rows are in the order of hashes, and frequent ids spread evenly over row-wise
shards.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors import SafetensorError

from iak.pipeline.data import hashing, kinds
from iak.pipeline.data.features import Encoding, Floats, counted_keys, raw_number
from iak.pipeline.data.ids import Ids
from iak.pipeline.data.stored_keys import PREFIX, StoredKeys, map_arrays, write_arrays
from iak.pipeline.data.table_sum import Entries, TableSum, key_ranges, merge, merged_ranges
from iak.pipeline.errors import BadRequest
from iak.pipeline.files import not_permitted, put_file, putting_file
from iak.pipeline.formats import current_document
from iak.schemas.feature import FIRST_ROW, FeatureSpec, NumericSpec, meaning_of, table_of
from iak.schemas.log import Catalog

_QUANTILE_SAMPLE = 200_000
"""Most values of a number that are kept for quantiles."""
FENCE = 10.0
"""Distance of the fence from the central values, in spans of the central values."""
FLATTENED = 10.0
"""Factor by which wild values must enlarge the deviation before they are left out of it."""
FORMAT = 1
"""Format number of `encoding.json`."""
_ARRAYS = "encoding.safetensors"
_BOUNDARIES = "boundaries."
NO_KEYS: hashing.Keys = np.zeros(0, np.uint64)


def _counted(feature: FeatureSpec, rows: pa.RecordBatch) -> Entries:
    """Return the keys of a feature's values with their numbers of occurrences."""
    keys, counts = counted_keys(feature, rows)
    return merge([Entries(keys, np.zeros(len(keys), np.int32), counts[:, None])])


def _frequent(
    own: TableSum, min_count: int, at_most: int | None, kept: hashing.Keys = NO_KEYS
) -> hashing.Keys:
    """Return the sorted keys of a vocabulary.

    Args:
        own: the occurrences of each key.
        min_count: occurrences that a new key needs to get a row.
        at_most: most keys of the vocabulary, of which the most frequent are taken; None takes all.
        kept: keys that are taken in any case.
    """
    ranges = key_ranges(own)

    def new_keys() -> Iterator[tuple[hashing.Keys, Ids]]:
        for entries in merged_ranges(own, ranges):
            counts = entries.counts_nC[:, 0]
            is_new = (counts >= min_count) & ~np.isin(entries.keys_n, kept)
            yield entries.keys_n[is_new], counts[is_new]

    if at_most is None:
        parts = [keys for keys, _ in new_keys()]
    else:
        parts = list(_most_frequent(new_keys, max(at_most - len(kept), 0)))
    return np.sort(np.concatenate([kept, *parts]))


def _most_frequent(
    new_keys: Callable[[], Iterator[tuple[hashing.Keys, Ids]]], room: int
) -> Iterator[hashing.Keys]:
    """Yield the `room` most frequent keys; of equally frequent ones the smaller keys.

    Args:
        new_keys: returns parts of keys with their counts. Keys ascend from part to part.
        room: most keys that are yielded.
    """
    keys_of_count: Counter[int] = Counter()
    for _, counts in new_keys():
        values, numbers = np.unique(counts, return_counts=True)
        keys_of_count.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    least, rest = _last_count(keys_of_count, room)
    for keys, counts in new_keys():
        is_taken = counts > least
        equal = np.flatnonzero(counts == least)[:rest]
        is_taken[equal] = True
        rest -= len(equal)
        yield keys[is_taken]


def _last_count(keys_of_count: Mapping[int, int], room: int) -> tuple[int, int]:
    """Return the count of which not all keys have room, and how many have; (0, 0) if all have."""
    for count in sorted(keys_of_count, reverse=True):
        if keys_of_count[count] > room:
            return count, room
        room -= keys_of_count[count]
    return 0, 0


@dataclass(slots=True)
class Moments:
    """Mean, standard deviation and an even sample of one number, updated batch by batch.

    Squares are summed around the mean of each batch (Chan, Golub, LeVeque 1979). Summed around
    zero, they would lose all precision where the mean is far from zero.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""
    sample: Floats = field(default_factory=lambda: np.zeros(0))
    """Every `stride`-th value."""
    stride: int = 1

    def add(self, values: Floats) -> None:
        """Add more values; those that are not finite are left out."""
        values = values[np.isfinite(values)]
        if not len(values):
            return
        # The stride goes on where the values before ended.
        self.sample = np.concatenate(
            [self.sample, values[-self.count % self.stride :: self.stride]]
        )
        # Every second value goes, and from now on only every second one is taken: the sample
        # stays even over all values, and does not depend on how they were cut into batches.
        while len(self.sample) > _QUANTILE_SAMPLE:
            self.sample, self.stride = self.sample[::2], 2 * self.stride
        mean, count = float(values.mean()), self.count + len(values)
        apart = (mean - self.mean) ** 2 * self.count * len(values) / count
        self.squares += float(np.square(values - mean).sum()) + apart
        self.mean += (mean - self.mean) * len(values) / count
        self.count = count

    def statistics(self) -> tuple[float, float]:
        """Return the mean, and the standard deviation or 1 where the number never varies.

        A few wild values can make the deviation so large that all others look alike. Where most of
        the deviation comes from values beyond the fence, both are taken from the sample within the
        fence. A log without such values has its exact moments.
        """
        mean, deviation = self.mean, float(np.sqrt(self.squares / max(self.count, 1)))
        tame = self._tame()
        if len(tame) and deviation > FLATTENED * float(tame.std()):
            mean, deviation = float(tame.mean()), float(tame.std())
        return mean, deviation if deviation > max(1e-12, 1e-14 * abs(mean)) else 1.0

    def wild(self) -> int:
        """Return the number of sampled values that `statistics` leaves out."""
        tame = self._tame()
        if not len(tame) or self.statistics()[1] == float(np.sqrt(self.squares / self.count)):
            return 0
        return len(self.sample) - len(tame)

    def _tame(self) -> Floats:
        low, high = self.fence()
        return self.sample[(self.sample >= low) & (self.sample <= high)]

    def fence(self) -> tuple[float, float]:
        """Return the bounds beyond which a value is wild; infinite where the number hardly varies.

        They lie `FENCE` spans of the central values outside of the central values. Those are the
        middle 98 % of the sample, or more of it where these are all equal.
        """
        for tail in (0.01, 0.001, 0.0001):
            low, high = np.quantile(self.sample, [tail, 1 - tail]) if len(self.sample) else (0, 0)
            if high > low:
                return float(low - FENCE * (high - low)), float(high + FENCE * (high - low))
        return -np.inf, np.inf

    def quantiles(self, buckets: int) -> Floats:
        """Return the boundaries between `buckets` equally full buckets, without repeats."""
        values = self.sample if len(self.sample) else np.zeros(1)
        return np.unique(np.quantile(values, np.linspace(0, 1, buckets + 1)[1:-1]))


def fit(
    batches: Iterable[tuple[pa.RecordBatch, hashing.Keys]],
    catalog: Catalog,
    *,
    before: Encoding | None = None,
    grown: Collection[str] = (),
) -> Encoding:
    """Learn vocabularies and statistics in one pass over the pre-training rows.

    Args:
        batches: raw rows with their identities.
        catalog: the log's catalogue.
        before: encoding of an earlier window. It stays as it is, and only what it lacks is learned.
        grown: tables whose vocabulary in `before` takes in the new ids of this window.

    Raises:
        WrongBase: ids of a table are of another kind than before.
    """
    before = before or Encoding(vocabularies={}, statistics={}, boundaries={})
    tables = catalog.table_specs
    vocabularies = [name for name, table in tables.items() if table.encoding == "vocabulary"]
    numbers = [f for f in catalog.features if isinstance(f, NumericSpec)]
    counts = {n: TableSum(1) for n in vocabularies if n in grown or n not in before.vocabularies}
    moments = {f.name: Moments() for f in numbers if f.name not in before.statistics}
    learned = dict(before.kinds)
    for rows, _ in batches:
        batch_kinds = kinds.kinds_of(rows, catalog)
        kinds.refuse_change(batch_kinds, learned)
        learned |= batch_kinds
        for feature in catalog.features:
            if isinstance(feature, NumericSpec):
                if feature.name in moments:
                    moments[feature.name].add(raw_number(feature, rows))
            elif (table := table_of(feature)) in counts:
                counts[table].add(_counted(feature, rows))
    return Encoding(
        vocabularies={
            name: _frequent(
                counts[name],
                tables[name].min_count,
                _ids_in(tables[name].rows),
                before.vocabularies.get(name, NO_KEYS),
            )
            if name in counts
            else before.vocabularies[name]
            for name in vocabularies
        },
        statistics={
            f.name: moments[f.name].statistics() if f.name in moments else before.statistics[f.name]
            for f in numbers
        },
        boundaries={
            f.name: before.boundaries[f.name]
            if f.name in before.boundaries
            else _boundaries(f, moments)
            for f in numbers
            if f.is_bucketed
        },
        kinds={name: learned[name] for name in tables if name in learned},
    )


def _boundaries(feature: NumericSpec, moments: Mapping[str, Moments]) -> Floats:
    """Return the declared boundaries of a bucketed number, else its quantiles."""
    if feature.boundaries:
        return np.asarray(feature.boundaries)
    return moments[feature.name].quantiles(feature.buckets or 2)


def _ids_in(rows: int | None) -> int | None:
    return None if rows is None else rows - FIRST_ROW


def save(encoding: Encoding, folder: Path) -> None:
    """Write vocabularies and statistics, as safetensors and JSON.

    Args:
        encoding: encoding that was learned.
        folder: folder to write to; made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, npt.NDArray[Any]] = {
        f"{PREFIX}{k}": v.view(np.int64) for k, v in encoding.vocabularies.items()
    }
    arrays |= {f"{_BOUNDARIES}{k}": v for k, v in encoding.boundaries.items()}
    with putting_file(folder / _ARRAYS) as part:
        write_arrays(part, arrays)
    document = {
        "format": FORMAT,
        "statistics": encoding.statistics,
        "kinds": dict(encoding.kinds),
    }
    put_file(folder / "encoding.json", json.dumps(document, indent=1, sort_keys=True))


def load(folder: Path) -> Encoding:
    """Open an encoding that `save` wrote. Its vocabularies are mapped, and take no memory.

    Raises:
        BadRequest: the folder holds no encoding.
        NotPermitted: this user may not read it.
    """
    path = folder / "encoding.json"
    try:
        # safetensors reports a file that may not be read as one that is missing, so open it first.
        (folder / _ARRAYS).open("rb").close()
        # Absolute: workers run in other folders.
        vocabularies = StoredKeys((folder / _ARRAYS).absolute())
        arrays = map_arrays(folder / _ARRAYS)
        document = current_document(
            json.loads(path.read_text()),
            kind="encoding",
            current=FORMAT,
            where=path,
            remedy="Publish the base again: iak pretrain",
            migrations={0: _with_unknown_kinds},
        )
        kinds_learned = {str(k): str(v) for k, v in document["kinds"].items()}
        statistics = {k: (float(mean), float(d)) for k, (mean, d) in document["statistics"].items()}
    except PermissionError as error:
        raise not_permitted(folder, error) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise BadRequest(f"no encoding at {folder}: {error}. Is it a published base?") from error
    return Encoding(
        vocabularies=vocabularies,
        statistics=statistics,
        boundaries={
            k.removeprefix(_BOUNDARIES): np.array(v)
            for k, v in arrays.items()
            if k.startswith(_BOUNDARIES)
        },
        kinds=kinds_learned,
    )


def _with_unknown_kinds(document: Mapping[str, Any]) -> dict[str, Any]:
    """Migrate an encoding from before the kinds of ids were stored: they are not known."""
    return {**document, "kinds": {}}


def schema_hash(catalog: Catalog, encoding: Encoding) -> str:
    """Return SHA-256 over everything that gives ids and numbers their meaning.

    Two inputs with the same hash may be read by the same base.
    """
    digest = hashlib.sha256()
    document: dict[str, Any] = {
        "features": [meaning_of(f) for f in catalog.features],
        "tables": {k: v.model_dump(mode="json") for k, v in catalog.table_specs.items()},
        "tasks": [t.model_dump(mode="json") for t in catalog.tasks],
        "statistics": encoding.statistics,
    }
    if encoding.kinds:  # absent in an older base, whose hash must stay the same
        document["kinds"] = dict(encoding.kinds)
    if encoding.fresh is not None:
        specs = [spec.model_dump(mode="json") for spec in catalog.fresh_of("base")]
        document["fresh"] = [encoding.fresh.id, specs, list(catalog.number_names)]
    if catalog.base is not None:
        document["base"] = catalog.base.meaning
    digest.update(json.dumps(document, sort_keys=True).encode())
    for arrays in (encoding.vocabularies, encoding.boundaries):
        for name in sorted(arrays):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
