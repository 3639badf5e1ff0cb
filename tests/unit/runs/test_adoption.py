"""Which rows an adoption reads."""

from iak.pipeline.runs.adoption import splits_of
from tests.builders import small_catalog
from tests.dlrm_log import dlrm_catalog
from tests.given_log import given_catalog


def test_old_days_are_read_where_they_are_declared():
    assert splits_of(given_catalog()) == ("tune", "valid")
    assert splits_of(dlrm_catalog()) == ("pretrain", "valid")
    both = {"pretrain": {"slice": [0.0, 0.9]}, "pretrain_valid": {"slice": [0.9, 1.0]}}
    assert splits_of(small_catalog(splits=both)) == ("pretrain", "pretrain_valid")
