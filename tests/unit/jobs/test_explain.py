"""`iak explain`: a table and a JSON document, by one command."""

import json

import pytest

from iak.jobs import cli
from iak.schemas.explaining import ExplanationsDocument
from tests.unit.serving.shop import shop_toml, write_base, write_bundles, write_shop


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The words of a command, the same for all tests."""
    root = tmp_path_factory.mktemp("shop")
    write_shop(root)
    write_bundles(root / "R2" / "bundles", write_base(root / "R1" / "base"))
    (root / "shop.toml").write_text(shop_toml())
    return [
        "explain", str(root), f"catalog={root / 'shop.toml'}", f"base={root / 'R1'}",
        f"bundles={root / 'R2'}",
    ]  # fmt: skip


def shown(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_the_table_and_the_document_say_the_same(words, tmp_path, capsys):
    assert cli.run([*words, "rows=9", f"json={tmp_path / 'new' / 'rows.json'}"]) == 0
    said = shown(capsys)
    document = json.loads((tmp_path / "new" / "rows.json").read_text())
    found = ExplanationsDocument.model_validate(document)
    assert len(found.rows) == 9
    served = [row for row in found.rows if row.bundles.kernel]
    assert served
    for row in served:
        assert row.id in said
        assert row.bundles.version[:12] in said
        for task in row.bundles.tasks:
            assert f"{task.base_logit:.4f}" in said
            assert f"{task.through_skip:+.4f}" in said
        for probability in row.bundles.probabilities.values():
            assert f"{probability:.4f}" in said


def test_a_setting_beside_another_is_named_in_each_line(words, capsys):
    bundles = words[-1].removeprefix("bundles=")
    assert cli.run([*words, "rows=1", f"against={bundles}"]) == 0
    said = shown(capsys)
    assert f"against={bundles}" in said
    assert said.count(" against ") >= 4


def test_an_id_without_a_row_is_a_bad_request(words, capsys):
    assert cli.run([*words, "ids=['nobody']"]) == 2
    assert "nobody" in capsys.readouterr().err


def test_ids_that_a_shell_passes_on_are_values_of_their_own(words):
    for asked in (["--ids", "u1-17", "--ids", "u1-18"], ["ids=['u1-17','u1-18']"]):
        assert cli.read_spec("explain", [*words[1:], *asked]).ids == ("u1-17", "u1-18")
