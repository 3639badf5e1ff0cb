"""Learn an encoding from the pre-training window: vocabularies and number statistics.

A vocabulary is the sorted array of its ids' 64-bit keys. The row of an id is its position there
plus `FIRST_ROW`. So rows are in the order of hashes, and frequent ids spread evenly over row-wise
shards.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors import SafetensorError

from iak.pipeline.data import hashing
from iak.pipeline.data.encoding_counts import EncodingCounts
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.stored_keys import PREFIX, StoredKeys, map_arrays, write_arrays
from iak.pipeline.errors import BadRequest
from iak.pipeline.files import not_permitted, put_file, putting_file
from iak.pipeline.formats import current_document
from iak.schemas.feature import meaning_of
from iak.schemas.log import Catalog

FORMAT = 1
"""Format number of `encoding.json`."""
_ARRAYS = "encoding.safetensors"
_BOUNDARIES = "boundaries."


def fit(batches: Iterable[tuple[pa.RecordBatch, hashing.Keys]], catalog: Catalog) -> Encoding:
    """Learn vocabularies and statistics in one pass over the pre-training rows.

    Args:
        batches: raw rows with their identities.
        catalog: the log's catalogue.
    """
    counts = EncodingCounts(catalog)
    for rows, _ in batches:
        counts.add(rows)
    return counts.encoding()


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
