"""A base that grew scores exactly as before, until it learns on."""

import json
import re
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
import torch

from iak.pipeline.base import build, published_base
from iak.pipeline.data import vocabulary
from iak.pipeline.data.batch import to_batch
from iak.pipeline.data.features import encode
from iak.pipeline.errors import BadRequest, NotPermitted
from iak.pipeline.model.embedding_bags import build_tables
from iak.pipeline.process import Worker
from iak.pipeline.sharding.base_weights import read_base_weights, write_base_weights
from iak.pipeline.sharding.shard import digest_model
from iak.schemas.job import ModelSpec
from iak.schemas.manifest import UNSEALED, BaseManifest, fingerprint_of
from tests.builders import FEATURES, batch_of, draw_rows, encoding_after, small_catalog

ALONE = Worker(rank=0, world=1, device=torch.device("cpu"))
SIZES = {"slot": {"encoding": "identity", "rows": 5}}
SIZES |= {"user_scene": {"encoding": "hash", "rows": 12}, "user_id": {"min_count": 1}}
LARGER = SIZES | {
    "slot": {"encoding": "identity", "rows": 9},
    "user_scene": {"encoding": "hash", "rows": 32},
}
SCENE = {"kind": "categorical", "name": "scene"}
AGE = {"kind": "numeric", "name": "years", "column": "age"}
OUT = {"expert_width": 4, "tower_width": 3, "init_scale": 1.0}
MODELS = {
    "crosses": ModelSpec(
        width=4, cross_layers=2, mlp=(8,), experts=2, expert_width=4, tower_width=3, init_scale=1.0
    ),
    "mlp": ModelSpec(
        trunk="mlp", width=4, mlp=(9, 8), expert_width=4, tower_width=3, init_scale=1.0
    ),
    "deepfm": ModelSpec(trunk="deepfm", width=4, mlp=(9,), **OUT),
    "dlrm": ModelSpec(trunk="dlrm", width=4, mlp=(9,), **OUT),
    "ple": ModelSpec(trunk="ple", width=4, experts=2, **OUT),
    "din": ModelSpec(history="din", width=4, cross_layers=1, mlp=(8,), experts=2, **OUT),
    "deepfm and sasrec": ModelSpec(trunk="deepfm", history="sasrec", width=4, mlp=(9,), **OUT),
    "ple and caser": ModelSpec(trunk="ple", history="caser", width=4, experts=2, **OUT),
    "dlrm and din": ModelSpec(trunk="dlrm", history="din", width=4, mlp=(9,), **OUT),
}


def raw(count, seed):
    rows = draw_rows(count, seed=seed)
    return batch_of(rows.append_column("region", pa.array(["ningbo"] * count)))


FIRST, SECOND = raw(30, 1), raw(400, 2)


def identities(rows):
    return np.arange(len(rows), dtype=np.uint64)


def model_of(catalog, encoding, spec, seed):
    model = build.build_model(catalog, encoding, spec, seed=seed)
    shapes = published_base.table_shapes(catalog, encoding, spec)
    model.tables = build_tables(shapes, init_scale=1.0, device=torch.device("cpu"), seed=seed)
    return model.eval()


def logits_of(model, catalog, encoding, rows):
    batch = encode(rows, identity=identities(rows), catalog=catalog, encoding=encoding)
    batch = to_batch(pa.Table.from_batches([batch]), catalog)
    with torch.no_grad():
        return model(batch.ids, batch.numeric_BN)


def published(folder, kind):
    """A base of the small catalogue, never trained, and what it answers."""
    catalog = small_catalog(tables=SIZES)
    encoding = encoding_after(None, FIRST, catalog)
    model = publish(folder, catalog, encoding, MODELS[kind])
    return published_base.open_base(folder), logits_of(model, catalog, encoding, SECOND)


def publish(folder, catalog, encoding, spec):
    """Publish a base that was never trained, and return its model."""
    model = model_of(catalog, encoding, spec, seed=1)
    files = write_base_weights(model, folder, ALONE)
    digest = dict(digest_model(model, ALONE).by_name)
    vocabulary.save(encoding, folder / published_base.ENCODING)
    manifest = BaseManifest(
        **dict(published_base.contents(catalog, encoding, spec, files, digest)),
        fingerprint=UNSEALED, spec={"model": spec.model_dump(mode="json")}, snapshot={},
        versions={}, metrics=[], created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    published_base.seal(folder, manifest)
    return model


GROWTHS = {
    "rows": ({"tables": LARGER}, ()),
    "a vocabulary": ({"tables": SIZES}, ("item", "user_id")),
    "a feature": ({"tables": SIZES, "features": [SCENE, *FEATURES]}, ()),
    "a number": ({"tables": SIZES, "features": [*FEATURES, AGE]}, ()),
    "everything, in another order": (
        {"tables": LARGER, "features": [AGE, *FEATURES[::-1], SCENE]}, ("item",),
    ),
}  # fmt: skip


def continued(opened, changes, vocabularies):
    catalog = small_catalog(**changes)
    published_base.check_continues(opened, catalog)
    encoding = encoding_after(opened.encoding, SECOND, catalog, grown=vocabularies)
    return catalog, encoding


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("growth", GROWTHS)
def test_a_grown_base_scores_as_before(tmp_path, kind, growth):
    opened, expected = published(tmp_path, kind)
    catalog, encoding = continued(opened, *GROWTHS[growth])
    with pytest.raises(BadRequest) as refused:
        build.check_loads(opened, catalog, encoding, ())
    allow = re.findall(r"allow=(\S+)", str(refused.value))
    assert allow
    assert {word.rpartition(":")[2] for word in allow} <= {"grown", "missing"}
    told = build.check_loads(opened, catalog, encoding, allow)
    grown = model_of(catalog, encoding, MODELS[kind], seed=2)
    fresh = logits_of(grown, catalog, encoding, SECOND)
    found = read_base_weights(
        grown, opened.folder, published_base.files_of(opened), ALONE,
        allow=allow, growth=build.growth_from(opened, catalog, encoding),
    )  # fmt: skip
    assert found == told
    logits = logits_of(grown, catalog, encoding, SECOND)
    if growth in ("rows", "a vocabulary"):
        assert torch.equal(logits, expected)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(fresh, expected, atol=1e-2)


def test_a_grown_vocabulary_tells_new_ids_apart(tmp_path):
    opened, _ = published(tmp_path, "mlp")
    _, encoding = continued(opened, {"tables": SIZES}, ("item",))
    assert len(encoding.vocabularies["item"]) > len(opened.encoding.vocabularies["item"])


def test_the_same_catalogue_keeps_the_encoding_and_needs_no_allowance(tmp_path):
    opened, _ = published(tmp_path, "crosses")
    catalog, encoding = continued(opened, {"tables": SIZES}, ())
    assert vocabulary.schema_hash(catalog, encoding) == opened.manifest.schema_hash
    assert build.check_loads(opened, catalog, encoding, ()) == []


def test_a_lost_feature_is_left_behind_when_it_is_named(tmp_path):
    opened, _ = published(tmp_path, "crosses")
    features = [f for f in FEATURES if f["name"] != "slot"]
    tables = {name: table for name, table in SIZES.items() if name != "slot"}
    catalog, encoding = continued(opened, {"features": features, "tables": tables}, ())
    with pytest.raises(BadRequest, match="table:slot:unexpected") as refused:
        build.check_loads(opened, catalog, encoding, ())
    allow = re.findall(r"allow=(\S+)", str(refused.value))
    assert "dense:trunk.mlp.0.weight:relaid" in allow
    model = model_of(catalog, encoding, MODELS["crosses"], seed=2)
    read_base_weights(
        model, opened.folder, published_base.files_of(opened), ALONE,
        allow=allow, growth=build.growth_from(opened, catalog, encoding),
    )  # fmt: skip
    catalog_before = small_catalog(tables=SIZES)
    old = model_of(catalog_before, opened.encoding, MODELS["crosses"], seed=1)
    assert torch.equal(model.trunk.mlp[0].weight[:, :8], old.trunk.mlp[0].weight[:, :8])
    assert torch.equal(model.trunk.mlp[0].weight[:, 8:], old.trunk.mlp[0].weight[:, 12:])


def test_a_hash_table_of_no_multiple_is_refused_with_the_rows_that_fit(tmp_path):
    opened, _ = published(tmp_path, "mlp")
    tables = SIZES | {"user_scene": {"encoding": "hash", "rows": 30}}
    catalog, encoding = continued(opened, {"tables": tables}, ())
    with pytest.raises(BadRequest, match=r"tables\.user_scene\.rows = 32"):
        build.check_loads(opened, catalog, encoding, ["table:user_scene:grown"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param(
            {"features": [{**FEATURES[0], "column": "scene"}, *FEATURES[1:]]},
            "feature user_id is defined otherwise",
            id="a feature",
        ),
        pytest.param(
            {"tables": SIZES | {"slot": {"encoding": "hash", "rows": 5}}},
            "table slot has encoding hash, the base's has identity",
            id="an encoding",
        ),
        pytest.param(
            {"tasks": [{"label": "click", "kind": "click"}]}, "the tasks differ", id="the tasks"
        ),
    ],
)
def test_another_meaning_is_refused_however_it_is_allowed(tmp_path, changes, says):
    opened, _ = published(tmp_path, "mlp")
    with pytest.raises(BadRequest, match=says):
        published_base.check_continues(opened, small_catalog(**{"tables": SIZES} | changes))


def test_a_base_from_before_bases_kept_their_optimiser_opens_without_a_state(tmp_path):
    opened, _ = published(tmp_path, "mlp")
    path = tmp_path / published_base.MANIFEST
    document = json.loads(path.read_text()) | {"format": 1}
    del document["optimizer"]
    name = fingerprint_of(document)
    path.write_text(json.dumps(document | {"fingerprint": name}))
    older = published_base.open_base(tmp_path)
    assert (older.manifest.format, older.manifest.fingerprint) == (2, name)
    assert older.manifest.files == opened.manifest.files
    assert not older.has_optimizer


def test_a_base_that_may_not_be_read_is_no_missing_or_damaged_one(tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text("{}")

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    for method in ("is_file", "read_bytes"):
        with monkeypatch.context() as closed:
            closed.setattr(type(tmp_path), method, denied)
            with pytest.raises(NotPermitted, match=r"manifest.json: Permission denied"):
                published_base.open_base(tmp_path)
