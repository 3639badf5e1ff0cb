"""A small planted log and a base on it, published once for the tests of whole runs."""

import warnings

import pytest

from iak.pipeline.base.published_base import open_base
from iak.pipeline.data.view import open_log
from iak.pipeline.process import process_group
from iak.pipeline.tuning.work import SPLITS, ActivationCacheConfig, FinetuneWork
from iak.schemas.job import FrozenTablesSpec, KernelSpec
from iak.schemas.plan import ResolvedPlacement
from tests.integration.small_log import catalog, publish_base, write_log
from tests.unit.iak.small import stage


@pytest.fixture(scope="session")
def small_base(tmp_path_factory):
    """A folder with a log and a base, which tests only read."""
    root = tmp_path_factory.mktemp("small")
    write_log(root / "log", rows=1_500)
    with process_group(0, 1, backend="gloo") as worker, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torchrec's DDP, in torch 2.13
        publish_base(worker, root / "log", root / "base")
    return root


@pytest.fixture
def alone():
    """This process as the only worker."""
    with process_group(0, 1, backend="gloo") as worker:
        yield worker


@pytest.fixture
def work(small_base, tmp_path):
    """A night of two epochs, its activations stored below the test's own folder."""
    how = {"min_batch": 16, "max_batch": 64, "max_epochs": 2, "compression_epochs": 1}
    cache = ActivationCacheConfig(
        kind="cache", precision="fp32", folder=tmp_path / "activations", budget_bytes=2**30,
        memory_bytes=2**30,
    )  # fmt: skip
    return FinetuneWork(
        view=open_log(catalog(), str(small_base / "log"), wanted=SPLITS),
        base=open_base(small_base / "base"),
        kernel=KernelSpec(hidden=8, code=3, adapter_rank=2, narrow=8),
        pooled=stage(**how), domain=stage(**how), run_dir=tmp_path, cache=cache, live=None,
        tables=FrozenTablesSpec(precision="fp32"), checkpoint_every_s=0,
        placement=ResolvedPlacement(row_wise_from_rows=100),
    )  # fmt: skip
