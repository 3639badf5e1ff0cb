import numpy as np
import pyarrow as pa

from iak.pipeline.data.labels import UNDECIDED, LabelCounts
from iak.schemas.log import Catalog

CATALOG = Catalog.model_validate(
    {
        "log": {"name": "small", "partition_keys": ["region"]},
        "domain": {"keys": ["region"]},
        "features": [{"kind": "categorical", "name": "item"}],
        "tasks": [{"label": "click", "kind": "click"}, {"label": "order", "kind": "conversion"}],
        "splits": {"test": {}},
    }
)


def test_a_click_starts_at_its_rate_among_known_and_sound_labels_and_a_conversion_undecided():
    counts = LabelCounts(CATALOG)
    rows = pa.RecordBatch.from_pydict(
        {"click": pa.array([1, 0, 0, None, 1]), "order": pa.array([1, 0, 0, 0, None])}
    )
    counts.add(rows, np.array([False, False, False, False, True]))
    counts.add(rows, None)
    assert counts.rates == ((3 + 0.5) / (7 + 1.0), UNDECIDED)
