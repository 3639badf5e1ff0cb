"""A base is frozen on the worker that loads it; opening it takes no TorchRec."""

import subprocess
import sys

from iak.pipeline.base.frozen_model import load_frozen
from iak.pipeline.base.module_tables import TablesOnWorker
from iak.pipeline.model.recommender import Recommender
from iak.pipeline.sharding.frozen_tables import FrozenTables
from iak.schemas.plan import ResolvedPlacement
from tests.unit.base.test_published_base import ALONE, published


def test_the_model_of_a_base_that_was_pre_trained_has_frozen_tables(tmp_path):
    opened, _ = published(tmp_path, "mlp")
    precisions = {table.name: "fp32" for table in opened.manifest.tables}
    at = TablesOnWorker(worker=ALONE, precisions=precisions, placement=ResolvedPlacement())
    model = load_frozen(opened, at)
    assert isinstance(model, Recommender)
    assert isinstance(model.tables, FrozenTables)


def test_torchrec_is_imported_where_a_base_is_loaded():
    code = (
        "import sys, iak.pipeline.base.frozen_base\n"
        "print({'torchrec', 'fbgemm_gpu'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
