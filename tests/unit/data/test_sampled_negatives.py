"""The trap of sampled negatives: a key that has one label alone is warned of, and no other."""

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.data.sampled_negatives import SampledNegatives
from tests.builders import batch_of
from tests.unit.fresh.small import dated_catalog, drawn, raw_of, with_labels

CATALOG = dated_catalog(fresh=[{"keys": ["user_id", "item_id"], "cross_domain": False}])


def findings(click, catalog=CATALOG, rows=None):
    rows = drawn(2_000) if rows is None else rows
    found = SampledNegatives(catalog)
    labelled = with_labels(rows, click)
    for part in (labelled.slice(0, 70), labelled.slice(70)):
        raw = raw_of(part)
        found.add(raw.rows, raw.identity)
    return list(found.findings())


def used(rows):
    """Whether a user used an item: an arbitrary half of the pairs."""
    pairs = zip(rows.column("user_id").to_pylist(), rows.column("item_id").to_pylist(), strict=True)
    return np.array([sum(map(ord, user)) + (item or 0) for user, item in pairs]) % 2


def test_negatives_of_items_that_the_user_never_had_are_warned_of():
    rows = drawn(2_000)
    (finding,) = findings(used(rows), rows=rows)
    assert finding.level == "warn"
    assert finding.column == "user_id+item_id"
    assert "negatives were drawn from what a user never had" in finding.what
    assert "gives the label away" in finding.remedy


@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_impressions_are_not_warned_of(noise):
    rows = drawn(2_000)
    click = used(rows)
    is_other = np.random.default_rng(0).random(len(click)) < noise
    assert findings(np.where(is_other, 1 - click, click), rows=rows) == []


def test_pairs_that_occur_once_tell_nothing():
    rows = drawn(200)
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    rows = batch_of(columns | {"item_id": pa.array(np.arange(200))})
    assert findings(used(rows), rows=rows) == []


def test_a_catalogue_without_statistics_is_not_looked_at():
    rows = drawn(2_000)
    assert findings(used(rows), dated_catalog(fresh=()), rows) == []
