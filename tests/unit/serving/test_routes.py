"""Which kernel predicts a row, and the reason where it is not its own domain's."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.publish.bundle_set import BASE_SLOT, BundleSet
from iak.pipeline.serving.routes import HELD, NO_BUNDLES, NO_KERNEL, Routes

BASE = "b" * 64
PUBLISHED = {"pooled": True, "region=a": False, "region=b": True}


def routes(published=None, *, levels=2):
    """Routes over bundles whose verdicts are given; None has no bundles."""
    bundles = None
    if published is not None:
        verdicts = tuple(SimpleNamespace(publish=publish) for publish in published.values())
        bundles = SimpleNamespace(
            names=tuple(published),
            versions=tuple(f"version of {name}" for name in published),
            verdicts=verdicts,
            manifests=tuple(SimpleNamespace(verdict=verdict) for verdict in verdicts),
        )
        bundles.slot_for = lambda path, **how: BundleSet.slot_for(bundles, path, **how)
    return Routes(bundles=bundles, base_fingerprint=BASE, levels=levels)


@pytest.mark.parametrize(
    ("path", "kernel", "reason"),
    [
        (("pooled", "region=b"), "region=b", None),
        (("pooled", "region=a"), "pooled", HELD),
        (("pooled", "region=c"), "pooled", NO_KERNEL),
    ],
)
def test_a_row_falls_back_to_what_is_above_its_domain(path, kernel, reason):
    route = routes(PUBLISHED).route(path)
    assert (route.kernel, route.reason) == (kernel, reason)
    assert route.version == f"version of {kernel}"


def test_where_nothing_above_is_published_the_base_predicts():
    route = routes({"pooled": False}).route(("pooled", "region=a"))
    assert (route.slot, route.kernel, route.version) == (BASE_SLOT, "base", BASE)
    assert route.reason == NO_KERNEL


def test_without_bundles_the_base_says_so():
    route = routes().route(("pooled", "region=a"))
    assert (route.kernel, route.reason) == ("base", NO_BUNDLES)


def test_every_row_has_the_route_of_its_own_names():
    names = ["region=a", "region=b", None, "region=b", "region=c"]
    rows = pa.table(
        {
            "l.0": pa.array(["pooled"] * len(names)).dictionary_encode(),
            "l.1": pa.array(names, pa.string()).dictionary_encode(),
        }
    )
    every = routes(PUBLISHED)
    routed = every.of(rows)
    of_rows = [routed.routes[index].kernel for index in routed.index]
    assert of_rows == ["pooled", "region=b", "pooled", "region=b", "pooled"]
    assert np.array_equal(routed.slots, [0, 2, 0, 2, 0])
    # A null name is a domain of its own, not that of a row beside it.
    assert routed.routes[routed.index[2]].reason is None
    assert routed.routes[routed.index[0]].reason == HELD


def test_rows_in_chunks_with_other_dictionaries_are_routed_alike():
    names = ["region=b", "region=a", "region=c", "region=b"]
    whole = pa.table({"l.0": ["pooled"] * 4, "l.1": names})
    encoded = {name: whole.column(name).dictionary_encode() for name in whole.column_names}
    chunks = {
        name: pa.chunked_array([pa.array(values[:1]).dictionary_encode(),
                                pa.array(values[1:]).dictionary_encode()])
        for name, values in (("l.0", ["pooled"] * 4), ("l.1", names))
    }  # fmt: skip
    one, two = (routes(PUBLISHED).of(pa.table(columns)) for columns in (encoded, chunks))
    assert [one.routes[i] for i in one.index] == [two.routes[i] for i in two.index]
