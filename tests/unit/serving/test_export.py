"""An exported base answers as the scorer does, to the last bit, and reads nothing else."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.base.published_base import open_base
from iak.pipeline.data import batch as batches
from iak.pipeline.errors import BadRequest
from iak.pipeline.publish.bundle import read_bundle, write_bundle
from iak.pipeline.publish.bundle_index import read_index, write_index
from iak.pipeline.publish.bundle_set import read_bundle_set
from iak.pipeline.publish.publish_bundles import STANDARD
from iak.pipeline.runs.adopt import adopt_base
from iak.pipeline.serving import export, routes, runtime
from iak.pipeline.serving.encode import encode_to_score, identity_of, raw_batch
from iak.pipeline.serving.scorer import Scorer
from iak.schemas.job import AdoptSpec, EvaluatedTablesSpec, ModelSpec
from iak.schemas.log import SplitSpec
from iak.schemas.manifest import BundleSettings
from iak.schemas.plan import ResolvedPlacement
from tests.builders import FEATURES
from tests.given_log import (
    UNITS,
    given_catalog,
    given_rows,
    towers_catalog,
    towers_weights,
    write_given_log,
)
from tests.unit.base.test_published_base import ALONE, MODELS, published
from tests.unit.serving.shop import (
    BUNDLES,
    TABLES,
    shop_catalog,
    write_base,
    write_bundles,
    write_shop,
)

H = 8
"""Units of h of the small base: two tasks of four."""
CATALOG = shop_catalog().to_score(SplitSpec())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def rows(place):
    return write_shop(place)


@pytest.fixture(scope="module")
def base(place):
    return write_base(place / "base")


@pytest.fixture(scope="module")
def night(place, base):
    return write_bundles(place / "night" / "bundles", base)


@pytest.fixture(scope="module")
def pair(place, base, night):
    """The scorer and the export of one base with the same kernels."""
    return scorer(base, night), exported(place / "whole", base, night)


def scorer(base, bundles, tables=TABLES, catalog=CATALOG):
    frozen = FrozenBase.load(base, tables, ResolvedPlacement(), ALONE)
    return Scorer.of(frozen, catalog, bundles=bundles, tables=tables)


def bundle_set(base, bundles):
    manifest = base.manifest
    return read_bundle_set(
        bundles, base_fingerprint=manifest.fingerprint, schema_hash=manifest.schema_hash
    )


def exported(folder, base, bundles, tables=TABLES, catalog=CATALOG):
    folder.mkdir(parents=True)
    export.write_base(folder, base, catalog, tables)
    if bundles is not None:
        write_bank(folder / "bank", base, bundles, catalog)
    return runtime.load(folder)


def write_bank(folder, base, bundles, catalog=CATALOG):
    folder.mkdir()
    found = bundle_set(base, bundles)
    export.write_bank(folder, found, base, catalog)


def answers(scorer, rows):
    raw = raw_batch(rows.combine_chunks().to_batches()[0], scorer.catalog)
    identity = identity_of(raw, scorer.catalog, first=0)
    encoded = encode_to_score(
        raw, identity, catalog=scorer.catalog, encoding=scorer.base.published.encoding,
        counts=Counter(),
    )  # fmt: skip
    return scorer.score(pa.Table.from_batches([encoded]))


def assert_same(model, scorer, rows, *, within=0.0):
    """Compare every column that both answer; probabilities to the bit unless `within` is given."""
    found, expected = model.predict(rows.to_pydict()), answers(scorer, rows)
    for name, values in found.items():
        if not name.startswith("p."):
            assert values == expected.column(name).to_pylist()
            continue
        wanted = expected.column(name).to_numpy()
        if within:
            np.testing.assert_allclose(values, wanted, rtol=0, atol=within)
        else:
            np.testing.assert_array_equal(values, wanted)
    assert {f"p.{task.name}" for task in scorer.tasks} <= found.keys()
    return found


@settings(max_examples=40)
@given(order=st.lists(st.integers(0, 507), min_size=1, max_size=70))
def test_any_rows_in_any_order_are_predicted_to_the_last_bit(pair, rows, order):
    scorer, model = pair
    assert_same(model, scorer, rows.take(pa.array(order)))


def test_rows_of_every_kind_of_route_are_among_them(pair, rows):
    found = assert_same(pair[1], pair[0], rows)
    reasons = {routes.NO_KERNEL, routes.HELD, "null domain key in scene", None}
    assert set(found["reason"]) == reasons
    assert {"region=hangzhou", "region=hangzhou/scene=feed", "pooled"} <= set(found["kernel"])


def test_without_rows_there_are_columns_without_values(pair):
    found = pair[1].predict({name: [] for name in ("user_id", "item_id", "slot", "region", "hist",
                                                    "scene", "price", "age")})  # fmt: skip
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(found, 0)
    assert "p.ctcvr" in found


@pytest.mark.parametrize("names", [["pooled"], list(BUNDLES)[3:4]])
def test_a_single_kernel_is_exported(tmp_path, base, rows, names):
    night = write_bundles(tmp_path / "bundles", base, names)
    assert_same(exported(tmp_path / "out", base, night), scorer(base, night), rows.slice(0, 37))


def test_a_base_without_kernels_is_exported(tmp_path, base, rows):
    found = assert_same(exported(tmp_path / "out", base, None), scorer(base, None), rows)
    assert set(found["kernel"]) == {"base", None}


@pytest.mark.parametrize("nights", ["one", "several"])
def test_kernels_read_components_of_their_night(tmp_path, base, night, rows, nights):
    """Those of one night share them. Of several, each has its own standardisation too."""
    components, folder = 12, tmp_path / "bundles"
    for place, entry in enumerate(read_index(night).bundles):
        number = place if nights == "several" else 0
        bundle = read_bundle(
            night / entry.folder, base_fingerprint=base.manifest.fingerprint,
            schema_hash=base.manifest.schema_hash,
        )  # fmt: skip
        tensors = dict(bundle.tensors)
        tensors[f"{STANDARD}mean"] = tensors[f"{STANDARD}mean"] + number
        units = len(tensors[f"{STANDARD}mean"]) - H
        tensors[f"{STANDARD}narrow"] = torch.randn(
            units, components, generator=torch.Generator().manual_seed(number)
        )
        tensors["encode_w"] = tensors["encode_w"].repeat(1, 2)[:, : H + components]
        manifest = bundle.manifest
        write_bundle(
            folder, tensors, domain=manifest.domain or None,
            base_fingerprint=manifest.base_fingerprint, schema_hash=manifest.schema_hash,
            data_window={}, spec=BundleSettings(**manifest.spec), versions={},
            verdict=manifest.verdict, created_at=manifest.created_at,
        )  # fmt: skip
    write_index(folder)
    assert (bundle_set(base, folder).shared is None) == (nights == "several")
    assert_same(exported(tmp_path / "out", base, folder), scorer(base, folder), rows)


SHAPES = {
    **{name: model for name, model in MODELS.items() if name != "crosses"},
    "deepfm, other widths": MODELS["deepfm"].model_copy(update={"width": 5}),
    "ple, one level": MODELS["ple"].model_copy(update={"levels": 1, "shared_experts": 1}),
    "sasrec, three blocks of two positions": MODELS["deepfm and sasrec"].model_copy(
        update={"trunk": "mlp", "mlp": (9, 8), "blocks": 3, "positions": 2}
    ),
    "caser, one filter": MODELS["ple and caser"].model_copy(
        update={"filter_heights": (1,), "filters": 1, "vertical_filters": 1}
    ),
    "crosses of low rank": ModelSpec(
        width=4, cross_layers=3, cross_rank=2, mlp=(13, 6), experts=3, expert_width=4, tower_width=3
    ),
    "no crosses": ModelSpec(
        width=4, cross_layers=0, mlp=(16,), experts=4, expert_width=4, tower_width=8
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_base_of_another_shape_is_exported(tmp_path, rows, monkeypatch, shape):
    monkeypatch.setitem(MODELS, shape, SHAPES[shape])
    base, _ = published(tmp_path / "base", shape)
    night = write_bundles(tmp_path / "bundles", base)
    assert_same(exported(tmp_path / "out", base, night), scorer(base, night), rows)


@pytest.mark.parametrize("shape", ["crosses", "din", "deepfm and sasrec", "ple and caser"])
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_low_precision_agrees_within_rounding(tmp_path, rows, precision, shape):
    base, _ = published(tmp_path / "base", shape)
    night = write_bundles(tmp_path / "bundles", base)
    tables = EvaluatedTablesSpec(precision=precision, tolerance=1.0)
    model = exported(tmp_path / "out", base, night, tables)
    # fbgemm adds scale * code with one rounding, torch with two.
    assert_same(model, scorer(base, night, tables), rows, within=1e-6)
    size = {"int8": 4 + 4, "fp16": 2 * 4}[precision]
    weight = model.tables.rows["item"]
    assert weight.shape[1] * weight.element_size() == size


def test_declared_domains_and_null_users_are_breaches(tmp_path, base, night, rows):
    domain = {"keys": ["region", "scene"], "parent": ["region"], "values": [["hangzhou", "feed"]]}
    catalog = shop_catalog(domain=domain).to_score(SplitSpec())
    users = rows.column("user_id").to_pylist()
    users[2] = None
    rows = rows.set_column(rows.schema.get_field_index("user_id"), "user_id", pa.array(users))
    model = exported(tmp_path / "out", base, night, catalog=catalog)
    found = assert_same(model, scorer(base, night, catalog=catalog), rows)
    assert {"undeclared domain", "null user in user_id"} <= set(found["reason"])


def test_a_column_that_is_optional_may_be_missing(tmp_path, base, night, rows):
    features = [
        feature | {"optional": feature["name"] in ("price", "hist")} for feature in FEATURES
    ]
    catalog = shop_catalog(features=features).to_score(SplitSpec())
    model = exported(tmp_path / "out", base, night, catalog=catalog)
    fewer = rows.drop_columns(["price", "hist"])
    assert_same(model, scorer(base, night, catalog=catalog), fewer)


def test_another_bank_is_swapped_in_without_the_base(tmp_path, base, night, rows):
    other = write_bundles(tmp_path / "bundles", base, seed=50)
    model = exported(tmp_path / "out", base, night)
    before = model.predict(rows.to_pydict())
    write_bank(tmp_path / "bank", base, other)
    model.load_bank(tmp_path / "bank")
    after = assert_same(model, scorer(base, other), rows)
    assert not np.array_equal(before["p.ctr"], after["p.ctr"], equal_nan=True)
    model.load_bank(tmp_path / "out")
    again = model.predict(rows.to_pydict())
    np.testing.assert_array_equal(before["p.ctr"], again["p.ctr"])


def test_a_bank_of_another_base_is_refused(tmp_path, pair, night, base):
    folder = tmp_path / "bank"
    folder.mkdir()
    manifest = base.manifest.model_copy(update={"fingerprint": "0" * 64})
    other = SimpleNamespace(manifest=manifest, catalog=base.catalog, folder=base.folder)
    export.write_bank(folder, bundle_set(base, night), other, CATALOG)
    with pytest.raises(runtime.BadExport, match=f"kernels of base {'0' * 64}"):
        pair[1].load_bank(folder)


@pytest.mark.parametrize(
    "name", ["dense.safetensors", "encoding.safetensors", "bank/bank.safetensors"]
)
def test_a_file_that_was_changed_is_refused_by_name(tmp_path, base, night, name):
    exported(tmp_path / "out", base, night)
    path = tmp_path / "out" / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(runtime.BadExport, match=f"{name} has SHA-256"):
        runtime.load(tmp_path / "out")


def test_a_table_that_was_changed_is_found_by_verify(tmp_path, base):
    exported(tmp_path / "out", base, None)
    runtime.verify(tmp_path / "out")
    path = tmp_path / "out" / "tables" / "item.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(runtime.BadExport, match=r"item.safetensors has SHA-256"):
        runtime.verify(tmp_path / "out")


def test_what_is_no_export_is_refused(tmp_path):
    with pytest.raises(runtime.BadExport, match=r"export.json cannot be read.*iak export"):
        runtime.load(tmp_path)
    for other in (runtime.FORMAT - 1, runtime.FORMAT + 1):
        (tmp_path / "export.json").write_text(f'{{"kind": "iak-export", "format": {other}}}')
        with pytest.raises(runtime.BadExport, match=r"expected .*Export it again"):
            runtime.load(tmp_path)


def test_rows_that_cannot_be_read_are_refused_by_column(pair, rows):
    columns = rows.slice(0, 2).to_pydict()
    model = pair[1]
    with pytest.raises(runtime.BadRows, match="columns price are missing"):
        model.predict({n: v for n, v in columns.items() if n != "price"})
    with pytest.raises(runtime.BadRows, match="differ in length"):
        model.predict(columns | {"price": [1.0]})
    for name, value in {"price": "x", "slot": 0.5, "hist": "ab", "region": 1.5}.items():
        with pytest.raises(runtime.BadRows, match=f"column {name} holds {value!r}"):
            model.predict(columns | {name: [value, value]})


def test_tables_are_mapped_and_not_read(tmp_path, base):
    model = exported(tmp_path / "out", base, None)
    path = str(tmp_path / "out" / "tables" / "item.safetensors")
    address = model.tables.rows["item"].data_ptr()
    with open("/proc/self/maps") as maps:  # noqa: PTH123 - of the kernel
        spans = [line.split(maxsplit=1)[0] for line in maps if path in line]
    bounds = [[int(end, 16) for end in span.split("-")] for span in spans]
    assert any(start <= address < end for start, end in bounds)


def manifest_of(base, **changes):
    names = ("catalog", "model", "manifest", "encoding")
    fields = {name: getattr(base, name) for name in names}
    return SimpleNamespace(location="here", **fields | changes)


GIVEN_KERNELS = {
    "pooled": (None, True),
    "region=a": ({"region": "a"}, True),
    "region=b": ({"region": "b"}, False),
}


def given_base(folder, kind):
    """A base that is known by its columns, alone, with activations, or with towers."""
    weights = None
    if kind == "towers":
        catalog, inputs = towers_catalog(), (2 + UNITS) + (1 + 2)
        weights = folder / "towers.safetensors"
        folder.mkdir()
        save_file(towers_weights(), weights)
    else:
        logits = {"ctr": "logit_ctr", "cvr": "logit_cvr"}
        given = {} if kind == "activations" else {"base": {"kind": "columns", "logits": logits}}
        catalog, inputs = given_catalog(**given), 2 + 1 + (0 if given else UNITS)
    root = write_given_log(folder, rows=60)
    spec = {"catalog": "given", "data_root": str(root), "run_dir": root / "run", "weights": weights}
    adopt_base(AdoptSpec.model_validate(spec), catalog)
    base = open_base(root / "run")
    night = write_bundles(folder / "bundles", base, GIVEN_KERNELS, inputs=inputs)
    return base, night, catalog.to_score(SplitSpec())


def logged_rows():
    """Rows of three regions, some of which lack a logit or an activation."""
    parts = []
    for first, region in enumerate(("a", "b", "c", None)):
        rows = given_rows(21, "a", first=100 * first).drop_columns(["click", "order"])
        parts.append(rows.append_column("region", pa.array([region] * 21, pa.string())))
    rows = pa.concat_tables(parts)
    logits, lists = rows.column("logit_ctr").to_pylist(), rows.column("h").to_pylist()
    logits[:4] = [None, math.inf, math.nan, 1e300]
    lists[2], lists[5], lists[7], lists[8] = None, [1.0], [1.0, None, 2.0], [1e300, 0.0, 0.0]
    columns = {"logit_ctr": pa.array(logits), "h": pa.array(lists, pa.list_(pa.float64()))}
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, values)
    return rows.append_column("dt", pa.array(["2026-10-02"] * len(rows)))


@pytest.mark.parametrize("kind", ["logits", "activations", "towers"])
def test_a_base_that_is_known_by_its_columns_is_exported(tmp_path, kind):
    base, night, catalog = given_base(tmp_path / "given", kind)
    expected, rows = scorer(base, night, catalog=catalog), logged_rows()
    model = exported(tmp_path / "out", base, night, catalog=catalog)
    found = assert_same(model, expected, rows)
    assert {"no finite logit in logit_ctr", "null domain key in region", None} < {*found["reason"]}
    if kind != "logits":
        assert "no list of 3 finite numbers in h" in found["reason"]
    assert {"region=a", "pooled"} <= set(found["kernel"])
    for order in ([5], [40, 3, 9], list(range(33))[::-1]):
        assert_same(model, expected, rows.take(pa.array(order)))
    alone = exported(tmp_path / "alone", base, None, catalog=catalog)
    assert_same(alone, scorer(base, None, catalog=catalog), rows)


def test_activations_of_an_array_of_uint16_are_the_bits_of_bfloat16(tmp_path):
    base, night, catalog = given_base(tmp_path / "given", "activations")
    model = exported(tmp_path / "out", base, night, catalog=catalog)
    columns = logged_rows().slice(20, 9).to_pydict()
    floats = [torch.tensor(values).bfloat16() for values in columns["h"]]
    by_value = model.predict(columns | {"h": [values.tolist() for values in floats]})
    bits = [values.view(torch.int16).numpy().view(np.uint16) for values in floats]
    by_bits = model.predict(columns | {"h": bits})
    np.testing.assert_array_equal(by_bits["p.ctr"], by_value["p.ctr"])


def test_what_the_runtime_cannot_express_is_refused_with_the_reason(base):
    module = SimpleNamespace(columns_base=None, base=object())
    cases = {
        "an adopted torch module": (manifest_of(base, catalog=module), TABLES),
        "computes in fp32 alone": (base, EvaluatedTablesSpec(products="bf16")),
        "would be exported as int4": (base, EvaluatedTablesSpec(precision="int4")),
    }  # fmt: skip
    export.check_exportable(base, TABLES)
    for words, (refused, tables) in cases.items():
        with pytest.raises(BadRequest, match=words):
            export.check_exportable(refused, tables)


def test_constants_are_those_of_the_package():
    assert runtime.FULL_ROWS == batches.FULL_ROWS
    assert (runtime.NO_BUNDLES, runtime.NO_KERNEL, runtime.HELD) == (
        routes.NO_BUNDLES, routes.NO_KERNEL, routes.HELD,
    )  # fmt: skip
