"""A log, a base and the kernels of two nights, made once for each module."""

import pytest

from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.serving.scorer import Scorer
from iak.schemas.log import SplitSpec
from iak.schemas.plan import ResolvedPlacement
from tests.unit.base.test_published_base import ALONE
from tests.unit.serving.shop import (
    TABLES,
    read_all,
    score,
    score_work,
    shop_catalog,
    write_base,
    write_bundles,
    write_shop,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def rows(place):
    """The rows of the log, written to `place`."""
    return write_shop(place)


@pytest.fixture(scope="module")
def base(place):
    return write_base(place / "base")


@pytest.fixture(scope="module")
def nights(place, base, rows):
    """Two nights: what a scorer makes of each, and the predictions in files."""
    assert len(rows), "the log is written"
    found = []
    for seed in (0, 50):
        folder = write_bundles(place / f"night-{seed}" / "bundles", base, seed=seed)
        scores = place / f"scores-{seed}"
        score(ALONE, score_work(place, base, folder, scores))
        found.append((scorer_of(base, folder), read_all(scores).to_pylist()))
    return found


def scorer_of(base, bundles):
    frozen = FrozenBase.load(base, TABLES, ResolvedPlacement(), ALONE)
    return Scorer.of(frozen, shop_catalog().to_score(SplitSpec()), bundles=bundles, tables=TABLES)
