"""Tables have the rows that TorchEasyRec gives them."""

import pytest

from iak.pipeline.easyrec.messages import IdFeature, RawFeature

ID = {"feature_name": ["x"], "embedding_dim": [4]}


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({"num_buckets": [7]}, 7),
        ({"hash_bucket_size": [5], "num_buckets": [7]}, 5),
        ({"vocab_list": ["a", "b"]}, 4),
        ({"vocab_list": ["a", "b"], "default_bucketize_value": [0]}, 2),
    ],
)
def test_rows_of_ids(fields, rows):
    assert IdFeature.model_validate(ID | fields).rows == rows


def test_buckets_of_a_number():
    assert RawFeature.model_validate(ID | {"boundaries": [1, 2.5, 3]}).rows == 4
    assert RawFeature.model_validate({"feature_name": ["x"]}).rows == 0


def test_tables_are_named_after_their_feature_or_shared():
    assert IdFeature.model_validate(ID | {"num_buckets": [7]}).table == "x_emb"
    shared = ID | {"num_buckets": [7], "embedding_name": ["item"]}
    assert IdFeature.model_validate(shared).table == "item"
