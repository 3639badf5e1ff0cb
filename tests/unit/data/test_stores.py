"""Folders and object stores: found by path or URI, and waited for within bounds."""

import pytest
from pyarrow import fs

from iak.pipeline.data import stores
from iak.pipeline.data.snapshot import open_folder
from iak.pipeline.data.view import open_log
from iak.pipeline.errors import BadRequest
from tests.builders import small_catalog
from tests.s3 import make_bucket, moto_server, use


@pytest.mark.parametrize("options", ["", "region=us-east-1&"])
def test_an_object_store_that_is_away_is_refused_with_its_setting(options):
    uri = f"s3://bucket/x?{options}endpoint_override=127.0.0.1:1&scheme=http"
    with pytest.raises(BadRequest, match=r"data_root: s3://bucket/x/events\?.* cannot be reached"):
        open_log(small_catalog(), uri, wanted=["pretrain"])


def test_a_store_is_asked_a_bounded_number_of_times_with_a_bounded_wait():
    filesystem, path = stores.open_uri(
        "s3://bucket/x?region=us-east-1&endpoint_override=127.0.0.1:1&scheme=http"
    )
    assert path == "bucket/x"
    settings = filesystem.__reduce__()[1][0]
    assert settings["connect_timeout"] == stores.CONNECT_TIMEOUT_S
    assert settings["endpoint_override"] == "127.0.0.1:1"
    assert settings["scheme"] == "http"


@pytest.mark.parametrize(
    ("root", "whole"),
    [
        ("/data", "/data/events"),
        ("/data/", "/data/events"),
        ("/data?x", "/data?x/events"),
        ("s3://b/x", "s3://b/x/events"),
        ("s3://b/x/?region=r&scheme=http", "s3://b/x/events?region=r&scheme=http"),
    ],
)
def test_a_folder_below_a_uri_stands_before_its_options(root, whole):
    assert stores.below(root, "events") == whole


def test_a_process_follows_the_store_that_the_environment_names(monkeypatch):
    """A long-lived process opens the same URI on another store, or with other credentials."""
    found = []
    for name in ("one", "two"):
        server, endpoint = moto_server()
        try:
            use(monkeypatch, endpoint)
            make_bucket(endpoint, name)
            filesystem, _ = open_folder("s3://shop/log")
            found.append(filesystem.get_file_info(name).type)
            assert open_folder("s3://shop/log")[0] is filesystem
        finally:
            server.stop()
    assert found == [fs.FileType.Directory] * 2
