"""`iak export`: what it shows."""

from iak.jobs.export import main
from iak.schemas.export import ExportSpec
from tests.unit.serving.shop import shop_toml, write_base, write_bundles


def test_base_kernels_and_size_are_shown(tmp_path, capsys):
    (tmp_path / "shop.toml").write_text(shop_toml())
    write_bundles(tmp_path / "bundles", write_base(tmp_path / "base"))
    paths = {"catalog": "shop.toml", "base": "base", "bundles": "bundles", "out": "E1"}
    spec = ExportSpec(**{name: tmp_path / path for name, path in paths.items()})
    assert main(spec) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "kernels: 4" in said
    assert (tmp_path / "E1" / "iak_runtime.py").is_file()
    assert "left out" not in said
    assert main(spec.model_copy(update={"to": "peft", "out": tmp_path / "P1"})) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "left out: the encoder and the decoders" in said
    assert (tmp_path / "P1" / "pooled" / "adapter_config.json").is_file()
