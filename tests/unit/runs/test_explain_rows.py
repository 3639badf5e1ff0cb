"""Rows are chosen by id, day and column, and explained by one setting's bundles or by two."""

from datetime import UTC, date, datetime

import pytest

from iak.pipeline.errors import BadRequest
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.publish.bundle import bundle_name, read_bundle, write_bundle
from iak.pipeline.publish.bundle_index import read_index, write_index
from iak.pipeline.registry.promote import Run
from iak.pipeline.runs.chosen_rows import open_chosen_rows
from iak.pipeline.runs.explain_rows import explain_rows
from iak.pipeline.runs.predict import predict, to_score
from iak.pipeline.storage.folder_store import FolderStore
from iak.schemas.explaining import ExplainSpec
from iak.schemas.log import Catalog
from iak.schemas.manifest import BundleSettings
from iak.schemas.scoring import PredictSpec
from tests.unit.registry.nights import promote
from tests.unit.serving.shop import (
    HANGZHOU,
    read_all,
    shop_document,
    write_base,
    write_bundles,
    write_shop,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("run") / "R1" / "base")


@pytest.fixture(scope="module")
def place(tmp_path_factory, base):
    root = tmp_path_factory.mktemp("place")
    write_shop(root)
    write_bundles(root / "today" / "bundles", base)
    write_bundles(root / "yesterday" / "bundles", base, seed=50)
    return root


@pytest.fixture(scope="module")
def predicted(place, base):
    spec = PredictSpec.model_validate(
        settings(place, base) | {"run_dir": place / "P", "workers": 1, "device": "cpu"}
    )
    return read_all(predict(spec, catalog(), ProcessLauncher()).predictions).to_pylist()


def catalog(**changes):
    return Catalog.model_validate(shop_document(**changes))


def settings(place, base, **changes):
    fields = {"catalog": "shop", "data_root": str(place), "base": base.folder}
    return fields | {"bundles": place / "today"} | changes


def explained(place, base, described=None, **changes):
    spec = ExplainSpec.model_validate(settings(place, base, **changes))
    return explain_rows(spec, described or catalog())


def test_the_first_rows_of_the_log_are_explained_as_predict_predicts_them(place, base, predicted):
    rows = explained(place, base, rows=200).rows
    assert len(rows) == 200
    for row, score in zip(rows, predicted, strict=False):
        assert (row.row, row.id, row.domain) == (score["row"], score["id"], score["domain"])
        served = {f"p.{name}": p for name, p in row.bundles.probabilities.items()}
        assert served == {n: p for n, p in score.items() if n.startswith("p.") and p is not None}


def test_ids_choose_rows_in_the_log_s_order(place, base, predicted):
    ids = [predicted[index]["id"] for index in (400, 3, 77)]
    assert [row.id for row in explained(place, base, ids=ids).rows] == [ids[1], ids[2], ids[0]]
    assert len(explained(place, base, ids=ids, rows=2).rows) == 2


def test_an_id_without_a_row_is_named(place, base, predicted):
    with pytest.raises(BadRequest, match=r"1 of 2 ids have no chosen row in .*: nobody"):
        explained(place, base, ids=[predicted[0]["id"], "nobody"])
    with pytest.raises(BadRequest, match=r"no chosen row of .* has one of ids=nobody"):
        explained(place, base, ids=["nobody"])


def test_ids_need_a_declared_row_id(place, base):
    document = shop_document()
    undeclared = Catalog.model_validate(document | {"log": document["log"] | {"row_id": None}})
    with pytest.raises(BadRequest, match=r"declares no log\.row_id"):
        explained(place, base, undeclared, ids=["1"])


def test_a_condition_chooses_rows(place, base):
    rows = explained(place, base, where=[f"region={HANGZHOU}"], rows=1000).rows
    assert len(rows) == 254
    assert all(row.domain is None or row.domain.startswith("region=hangzhou") for row in rows)


def test_against_shows_both_nights_and_the_same_base(place, base):
    document = explained(place, base, against=place / "yesterday")
    assert document.against == str(place / "yesterday")
    served = [row for row in document.rows if row.bundles.kernel]
    assert served
    for row in served:
        assert row.bundles.version != row.against.version
        for now, then in zip(row.bundles.tasks, row.against.tasks, strict=True):
            assert now.base_logit == then.base_logit
            assert now.logit != then.logit
    assert all(row.against is None for row in explained(place, base).rows)


def test_the_days_that_a_kernel_was_tuned_on_come_from_its_manifest(place, base, tmp_path):
    manifest = base.manifest
    fits = {
        "base_fingerprint": manifest.fingerprint,
        "schema_hash": manifest.schema_hash,
    }
    pooled = read_bundle(place / "today" / "bundles" / bundle_name(None), **fits)
    write_bundle(
        tmp_path / "bundles", pooled.tensors, domain=None, **fits,
        data_window={"tune": {"first": "2026-10-20", "last": "2026-10-27", "rows": 9}},
        spec=BundleSettings(**pooled.manifest.spec), verdict=pooled.manifest.verdict, versions={},
        created_at=datetime(2026, 11, 21, tzinfo=UTC),
    )  # fmt: skip
    write_index(tmp_path / "bundles")
    found = [row.bundles for row in explained(place, base, bundles=tmp_path).rows]
    assert {(e.kernel, e.first_day, e.last_day) for e in found if e.kernel} == {
        ("pooled", date(2026, 10, 20), date(2026, 10, 27))
    }


def test_bundles_that_are_not_there_are_named_by_their_setting(place, base):
    with pytest.raises(BadRequest, match=r"against=.*nowhere does not exist"):
        explained(place, base, against=place / "nowhere")


def test_settings_that_name_the_same_bundles_share_the_base(place, base):
    spec = ExplainSpec.model_validate(settings(place, base))
    bundles = {"bundles": spec.bundles, "against": place / "yesterday"}
    scored = to_score(spec, catalog())
    with open_chosen_rows(spec, catalog(), scored, bundles, lambda _: None) as chosen:
        bases = {id(opened.scorer.base) for opened in chosen.scorers.values()}
    assert len(bases) == 1


def test_an_alias_of_a_registry_is_explained_beside_a_folder(place, base, tmp_path):
    bundles = place / "yesterday" / "bundles"
    run = Run(
        name="R", bundles=bundles, base=None, index_sha256=read_index(bundles).sha256,
        record_sha256="e" * 64, code="abc", parents={},
    )  # fmt: skip
    promote(FolderStore(tmp_path / "registry"), run)
    alias = f"registry:{tmp_path / 'registry'}@champion"
    document = explained(place, base, against=alias, rows=60)
    assert document.against == alias
    of_folder = explained(place, base, bundles=place / "yesterday", rows=60)
    served = [
        (row.against, other.bundles)
        for row, other in zip(document.rows, of_folder.rows, strict=True)
        if other.bundles.kernel
    ]
    assert served
    for by_alias, by_folder in served:
        assert by_alias.probabilities == by_folder.probabilities
        assert by_alias.tasks == by_folder.tasks
