"""Clusters have a name, or a file of their own, and numbers that make sense."""

import pytest

from iak.jobs.clusters import load_cluster, shipped_clusters, with_constants
from iak.pipeline.errors import BadRequest


def test_a_cluster_file_with_nonsense_names_each_field(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "../x"\ndevices_per_node = 0\nspeed = "fast"\n')
    with pytest.raises(BadRequest) as error:
        load_cluster(str(path))
    for field in ("name", "devices_per_node", "speed", "device_memory_gib"):
        assert field in str(error.value)
    path.write_text("name = ")
    with pytest.raises(BadRequest, match="not TOML"):
        load_cluster(str(path))
    with pytest.raises(BadRequest, match="No such file"):
        load_cluster(str(tmp_path / "none.toml"))


def test_shipped_clusters_are_whole_and_named_as_their_files():
    for name, path in shipped_clusters().items():
        cluster = load_cluster(name)
        assert cluster.name == path.stem
        assert load_cluster(f"16x{name}").world == 128
        assert load_cluster(f"4{name[1:]}").price_per_hour == cluster.price_per_hour / 2
        assert with_constants(cluster, {"step_ms": 7.0}).constants.step_ms == 7.0
