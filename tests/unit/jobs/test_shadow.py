"""`iak shadow`: tables, a JSON document, and exit code 4 where a limit does not hold."""

import pytest

from iak.jobs import cli
from iak.schemas.shadow import ShadowDocument
from tests.unit.serving.shop import BUNDLES, shop_toml, write_base, write_bundles, write_shop


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The words of a command, the same for all tests."""
    root = tmp_path_factory.mktemp("shop")
    write_shop(root)
    base = write_base(root / "R1" / "base")
    write_bundles(root / "R2" / "bundles", base)
    write_bundles(root / "R3" / "bundles", base, seed=50)
    (root / "shop.toml").write_text(shop_toml())
    return [
        "shadow", str(root), f"catalog={root / 'shop.toml'}", f"base={root / 'R1'}",
        f"live={root / 'R2'}", f"candidate={root / 'R3'}",
    ]  # fmt: skip


def test_without_limits_the_tables_and_the_document_say_the_same(words, tmp_path, capsys):
    assert cli.run([*words, f"json={tmp_path / 'new' / 'shadow.json'}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    found = ShadowDocument.model_validate_json((tmp_path / "new" / "shadow.json").read_text())
    assert found.exceeded == ()
    assert not found.limits.bounds_something
    assert set(found.kernels) == {
        name for name, (_, is_published) in BUNDLES.items() if is_published
    }
    assert "limits that do not hold" not in said
    for change in found.changes:
        assert change.domain in said
        assert f"{change.mean:+.4f}" in said
    assert len(found.moved) == 10
    for row in found.moved:
        assert f"{row.candidate:.4f}" in said


def test_a_limit_that_does_not_hold_is_shown_and_ends_with_4(words, capsys):
    assert cli.run([*words, "limits.mean_change=0.000001", "limits.min_rows=1"]) == 4
    said = " ".join(capsys.readouterr().out.split())
    assert "limits that do not hold" in said
    assert "mean_change" in said


def test_a_limit_that_holds_ends_with_0(words):
    assert cli.run([*words, "limits.mean_change=1", "limits.min_rows=1"]) == 0
