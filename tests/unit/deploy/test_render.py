"""`render`: the files of a real nightly.toml, and nights that could not run elsewhere."""

import pytest
import yaml

from iak.pipeline.deploy.render import render
from iak.pipeline.errors import BadRequest
from iak.pipeline.runs.load import load_nightly
from iak.schemas.deploy import RenderSpec

NIGHTLY = """
name = "shop"          # as pages have it
catalog = "{catalog}"
data_root = "s3://logs/shop"
base = "{base}"
registry = "s3://models/shop"
nights = "/iak/nights"
[deploy]
volume_claim = "iak-data"
"""


def _rendered(folder, *, catalog="planted", base="/iak/base", **asked):
    file = folder / "nightly.toml"
    file.write_text(NIGHTLY.format(catalog=catalog, base=base))
    return render(load_nightly(file), RenderSpec(file=file, out=folder / "out", **asked))


def test_every_target_has_its_files(tmp_path):
    assert sorted(_rendered(tmp_path)) == [
        "airflow/iak_shop.py",
        "grafana/iak-shop.json",
        "kubernetes/base.yaml",
        "kubernetes/cronjob.yaml",
        "kubernetes/network.yaml",
        "kubernetes/raycronjob.yaml",
        "kubernetes/rayjob.yaml",
        "prometheus/iak-shop.rules.yaml",
        "systemd/iak-shop.service",
        "systemd/iak-shop.timer",
    ]


def test_only_what_is_asked_is_written(tmp_path):
    assert all(name.startswith("systemd/") for name in _rendered(tmp_path, targets=("systemd",)))


def test_a_catalogue_beside_the_file_goes_along(tmp_path):
    (tmp_path / "shop.toml").write_text("# a catalogue\n")
    base = _rendered(tmp_path, catalog="shop.toml")["kubernetes/base.yaml"]
    config = next(o for o in yaml.safe_load_all(base) if o["kind"] == "ConfigMap")
    assert config["data"]["shop.toml"] == "# a catalogue\n"
    assert config["data"]["nightly.toml"] == (tmp_path / "nightly.toml").read_text()


def test_a_catalogue_elsewhere_is_refused(tmp_path):
    with pytest.raises(BadRequest, match=r"write catalog=shop\.toml"):
        _rendered(tmp_path, catalog="conf/shop.toml")


def test_a_path_that_a_pod_loses_is_refused(tmp_path):
    with pytest.raises(BadRequest, match=r"base=/home/me/base: a pod's own disk is lost"):
        _rendered(tmp_path, base="/home/me/base")
    assert _rendered(tmp_path, base="/home/me/base", targets=("systemd", "airflow"))


def test_a_night_with_everything_on_s3_needs_no_volume(tmp_path):
    file = tmp_path / "nightly.toml"
    text = NIGHTLY.format(catalog="planted", base="s3://models/base")
    file.write_text(text.replace('"/iak/', '"s3://models/').partition("[deploy]")[0])
    spec = load_nightly(file)
    assert str(spec.nights) == "s3:/models/nights"
    written = render(spec, RenderSpec(file=file, out=tmp_path / "out"))
    assert "persistentVolumeClaim" not in written["kubernetes/rayjob.yaml"]


def test_a_name_that_kuberay_does_not_take_is_refused(tmp_path):
    file = tmp_path / "nightly.toml"
    text = NIGHTLY.format(catalog="planted", base="/iak/base")
    file.write_text(text.replace('"shop"', f'"{"shop_" * 12}"'))
    with pytest.raises(BadRequest, match="takes 40 at most"):
        render(load_nightly(file), RenderSpec(file=file, out=tmp_path / "out"))
