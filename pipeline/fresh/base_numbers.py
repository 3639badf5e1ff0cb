"""Give a base fresh statistics as numbers among its inputs: out of fold, or of earlier days.

They are counted when the base is trained, and published with it. A row of a later night reads what
the day after the base's last one would have read, so that the base stays frozen.

Shapes: B rows, S statistics.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import hashing
from iak.pipeline.data.fresh_keys import fresh_columns
from iak.pipeline.errors import Corrupt
from iak.pipeline.files import put_file, putting_file
from iak.pipeline.fresh.inputs import Floats, statistics_of
from iak.pipeline.fresh.state import STATISTICS, State, definition_of, read_state
from iak.schemas.log import Catalog

_DOCUMENT = "statistics.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaseStatistics:
    """Fresh statistics that a base reads. It is the `BaseNumbers` of an encoding (features.py)."""

    state: State
    catalog: Catalog
    """The log's catalogue, with the statistics of the base alone."""
    mean_S: Floats
    scale_S: Floats
    """Standard deviation over the rows of `pretrain`; 1 where it is nearly 0."""

    @property
    def id(self) -> str:
        """Return SHA-256 over what was counted, and how it is standardised."""
        content = hashlib.sha256(self.state.id.encode())
        for values_S in (self.mean_S, self.scale_S):
            content.update(values_S.tobytes())
        return content.hexdigest()

    def of(self, rows: pa.Table) -> npt.NDArray[np.float32]:
        """Return the standardised statistics of rows with the columns of fresh_keys.py, (B, S)."""
        s_BS = (statistics_of(rows, self.state, self.catalog) - self.mean_S) / self.scale_S
        return s_BS.astype(np.float32)

    def write(self, folder: Path) -> None:
        """Write the statistics to a base's folder of encodings."""
        with putting_file(folder / STATISTICS) as part:
            self.state.write(part)
        document = {
            "state": self.state.id,
            "mean": self.mean_S.tolist(),
            "scale": self.scale_S.tolist(),
        }
        put_file(folder / _DOCUMENT, json.dumps(document, indent=1))


def fit_base_statistics(
    state: State, catalog: Catalog, batches: Iterable[tuple[pa.RecordBatch, hashing.Keys]]
) -> BaseStatistics:
    """Return statistics that are standardised over the rows of `pretrain`.

    Args:
        state: what was counted for the base.
        catalog: the log's catalogue, with the statistics of the base alone.
        batches: raw rows with their identities.
    """
    # In one pass, since `batches` can be read only once.
    rows, sums_S, squares_S = 0, 0.0, 0.0
    for batch, identity in batches:
        keys = pa.table(fresh_columns(batch, identity, catalog))
        s_BS = statistics_of(keys, state, catalog).astype(np.float64)
        rows += len(s_BS)
        sums_S = sums_S + s_BS.sum(axis=0)
        squares_S = squares_S + np.square(s_BS).sum(axis=0)
    mean_S = np.asarray(sums_S) / rows
    deviation_S = np.sqrt(np.maximum(np.asarray(squares_S) / rows - mean_S**2, 0.0))
    return BaseStatistics(
        state=state,
        catalog=catalog,
        mean_S=mean_S,
        # A number that is the same in all rows has no information, and must not be scaled up.
        scale_S=np.where(deviation_S > 1e-4, deviation_S, 1.0),
    )


def read_base_statistics(folder: Path, catalog: Catalog) -> BaseStatistics | None:
    """Return the statistics of a base's folder of encodings; None where the base reads none.

    Args:
        folder: folder of the base's encoding.
        catalog: the catalogue that the base was trained with.

    Raises:
        Corrupt: the statistics are missing, or not what was published.
    """
    catalog = catalog.counting("base")
    if not catalog.fresh:
        return None
    path = folder / _DOCUMENT
    try:
        document = json.loads(path.read_text())
        mean_S, scale_S = (np.array(document[name], np.float64) for name in ("mean", "scale"))
        id = str(document["state"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Corrupt(
            f"{path} cannot be read ({error}), and its base reads fresh statistics, which are "
            "never taken as zero. Restore the file from a copy, or publish the base again"
        ) from error
    state = read_state(folder / STATISTICS, definition=definition_of(catalog), id=id)
    return BaseStatistics(state=state, catalog=catalog, mean_S=mean_S, scale_S=scale_S)
