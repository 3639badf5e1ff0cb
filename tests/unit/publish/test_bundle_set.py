"""The bundle set: a row gets its own bundle, else its nearest ancestor's, else the base itself."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.errors import BadRequest, Corrupt, WrongBase
from iak.pipeline.fresh.state import STATISTICS
from iak.pipeline.iak import kernel
from iak.pipeline.publish import bundle_set as bundle_set_module
from iak.pipeline.publish.bundle import StatisticsFile, read_bundle, write_bundle
from iak.pipeline.publish.bundle_index import write_index
from iak.pipeline.publish.bundle_predictor import BundlePredictor
from iak.pipeline.publish.bundle_set import BASE_SLOT, moved_bundle_set, read_bundle_set
from iak.pipeline.publish.publish_bundles import STANDARD
from iak.schemas.job import KernelSpec
from iak.schemas.manifest import BundleSettings, StatisticsEntry
from iak.schemas.verdict import Verdict
from tests.unit.fresh.small import (
    dated_catalog,
    drawn,
    keys_of,
    state_of,
    statistics,
    undated_catalog,
)
from tests.unit.iak.small import SHAPE, X_UNITS, moved_kernel, normal, small_heads

BASE, SCHEMA = "b" * 64, "c" * 64
CATALOG = dated_catalog()
BUNDLES = {  # name -> domain, seed, published
    "pooled": (None, 0, True),
    "region=a": ({"region": "a"}, 1, False),
    "region=b": ({"region": "b"}, 2, True),
    "region=a/daypart=x": ({"region": "a", "daypart": "x"}, 3, True),
    "region=b/daypart=x": ({"region": "b", "daypart": "x"}, 4, False),
}


@pytest.fixture(autouse=True)
def predicting():
    """Let the towers compute as they do while predicting, which no gradient passes."""
    with torch.no_grad():
        yield


def write(
    root, name, *, base=BASE, reads="hx", published=None, hidden=None, state=None, alike=False,
    narrow=0,
):  # fmt: skip
    domain, seed, is_published = BUNDLES[name]
    shape = replace(SHAPE, inputs=SHAPE.base + narrow) if narrow else SHAPE
    tensors = {n: w for n, w in moved_kernel(seed, shape).items() if not n.startswith("probe")}
    if hidden:
        tensors = {n: w[:hidden] if n.startswith("encode") else w for n, w in tensors.items()}
    inputs = SHAPE.inputs if reads == "hx" else SHAPE.base
    tensors |= {f"{STANDARD}mean": normal(inputs, seed=0 if alike else seed)}
    tensors |= {f"{STANDARD}narrow": normal(X_UNITS, narrow)} if narrow else {}
    tensors |= {f"{STANDARD}scale": 1 + normal(inputs).abs()}
    file = None
    if state is not None:
        file = state_file(root.parent / f"{state.id}.state", state)
        width = len(CATALOG.fresh_names)
        tensors["encode_w"] = widened(tensors["encode_w"], seed)
        tensors |= {f"{STANDARD}fresh_mean": normal(width, seed=seed)}
        tensors |= {f"{STANDARD}fresh_scale": 1 + normal(width).abs()}
    return write_bundle(
        root, tensors, domain=domain, base_fingerprint=base, schema_hash=SCHEMA, data_window={},
        spec=BundleSettings(kernel=KernelSpec(reads=reads)), versions={},
        verdict=Verdict(
            publish=is_published if published is None else published, reason="", rows=0
        ),
        created_at=datetime(2026, 11, 20, 3, tzinfo=UTC), statistics=file,
    )  # fmt: skip


def widened(encode_w, seed):
    return torch.cat([encode_w, normal(len(encode_w), len(CATALOG.fresh_names), seed=seed)], dim=1)


def state_file(path, state):
    if not path.exists():
        state.write(path)
    return StatisticsFile(
        path=path, entry=StatisticsEntry(definition=state.definition, state=state.id)
    )


def bundle_set_of(root, names, **changes):
    for name in names:
        write(root, name, **changes)
    write_index(root)
    return read_bundle_set(root, base_fingerprint=BASE, schema_hash=SCHEMA)


@pytest.fixture(scope="module")
def bundle_set(tmp_path_factory):
    return bundle_set_of(tmp_path_factory.mktemp("bundles"), BUNDLES)


@pytest.mark.parametrize(
    ("path", "any_bundle", "published"),
    [
        pytest.param("ax", "region=a/daypart=x", "region=a/daypart=x", id="its own"),
        pytest.param("bx", "region=b/daypart=x", "region=b", id="held: its parent's"),
        pytest.param("ay", "region=a", "pooled", id="none, and the parent's is held: the pooled"),
        pytest.param("by", "region=b", "region=b", id="none: its parent's"),
        pytest.param("cx", "pooled", "pooled", id="an unknown parent: the pooled"),
    ],
)
def test_a_domain_is_served_by_its_nearest_bundle(bundle_set, path, any_bundle, published):
    region, daypart = path
    names = ["pooled", f"region={region}", f"region={region}/daypart={daypart}"]
    for expected, published_only in ((any_bundle, False), (published, True)):
        slot = bundle_set.slot_for(names, published_only=published_only)
        assert bundle_set.names[slot] == expected


def test_without_a_published_ancestor_the_base_serves(tmp_path):
    bundle_set = bundle_set_of(tmp_path, ["pooled", "region=a"], published=False)
    assert bundle_set.slot_for(["pooled", "region=a"], published_only=True) == BASE_SLOT
    assert bundle_set.slot_for(["pooled", "region=a"], published_only=False) != BASE_SLOT
    assert bundle_set.slot_for([], published_only=False) == BASE_SLOT


@given(slots=st.lists(st.integers(-1, len(BUNDLES) - 1), max_size=60))
def test_each_row_is_served_by_its_slot_and_the_bases_rows_are_the_bases_bit_for_bit(
    bundle_set, slots
):
    heads, rows = small_heads(), len(slots)
    h_BH, x_BX = normal(rows, SHAPE.base), normal(rows, X_UNITS, seed=1)
    slots_B = torch.tensor(slots, dtype=torch.int64)
    served_BT = BundlePredictor(bundle_set, heads).logits(h_BH, x_BX, slots_B)
    assert torch.equal(served_BT[slots_B == BASE_SLOT], heads(h_BH)[slots_B == BASE_SLOT])
    for slot, name in enumerate(bundle_set.names):
        mine = slots_B == slot
        seed = BUNDLES[name][1]
        a_BA = torch.cat([h_BH, x_BX], dim=1)[mine]
        a_BA = (a_BA - normal(SHAPE.inputs, seed=seed)) / (1 + normal(SHAPE.inputs).abs())
        alone = kernel.run(moved_kernel(seed), heads, h_BH[mine], a_BA, None).logits_BT
        torch.testing.assert_close(served_BT[mine], alone, atol=1e-5, rtol=1e-5)


def test_a_kernel_that_reads_h_alone_is_served_so(tmp_path):
    bundle_set = bundle_set_of(tmp_path, ["pooled"], reads="h")
    assert not bundle_set.reads_x
    assert bundle_set.mean_KA.shape == (1, SHAPE.base)


@pytest.mark.parametrize("names", [["pooled"], list(BUNDLES)], ids=["one kernel", "several"])
def test_a_row_s_logits_do_not_depend_on_the_rows_beside_it(tmp_path, names):
    bundle_set, heads, rows = bundle_set_of(tmp_path, names), small_heads(), 600
    h_BH, x_BX = normal(rows, SHAPE.base), normal(rows, X_UNITS, seed=1)
    slots_B = torch.randint(-1, len(names), (rows,), generator=torch.Generator().manual_seed(0))
    together_BT = BundlePredictor(bundle_set, heads).logits(h_BH, x_BX, slots_B)
    for first, count in ((0, 32), (5, 64), (90, 96), (333, 256)):
        some = slice(first, first + count)
        alone_BT = BundlePredictor(bundle_set, heads).logits(
            h_BH[some].clone(), x_BX[some].clone(), slots_B[some]
        )
        assert torch.equal(alone_BT, together_BT[some])


def test_no_bundle_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="no bundle below"):
        read_bundle_set(tmp_path, base_fingerprint=BASE, schema_hash=SCHEMA)


def test_a_bundle_of_another_base_is_refused(tmp_path):
    write(tmp_path, "pooled", base="d" * 64)
    write_index(tmp_path)
    with pytest.raises(WrongBase):
        read_bundle_set(tmp_path, base_fingerprint=BASE, schema_hash=SCHEMA)


def test_bundles_of_different_shapes_are_refused(tmp_path):
    write(tmp_path, "pooled")
    write(tmp_path, "region=a", hidden=3)
    write_index(tmp_path)
    with pytest.raises(BadRequest, match="differ in shape: pooled and region=a"):
        read_bundle_set(tmp_path, base_fingerprint=BASE, schema_hash=SCHEMA)


def test_each_row_reads_the_statistics_that_were_published_with_its_kernel(tmp_path):
    root = tmp_path / "bundles"
    rows = drawn(40)
    states = {
        "pooled": state_of([drawn(60, seed=1)], CATALOG),
        "region=a": state_of([drawn(60, seed=2)], CATALOG),
    }
    for name, state in states.items():
        write(root, name, state=state)
    write_index(root)
    served = read_bundle_set(root, base_fingerprint=BASE, schema_hash=SCHEMA, catalog=CATALOG)
    assert len(served.states) == 2
    slots_B = torch.tensor([-1, 0, 1, 0] * 10)
    s_BS = served.statistics(keys_of(rows, CATALOG), CATALOG, slots_B)
    heads, h_BH, x_BX = small_heads(), normal(40, SHAPE.base), normal(40, X_UNITS, seed=1)
    logits_BT = BundlePredictor(served, heads).logits(h_BH, x_BX, slots_B, s_BS)
    assert torch.equal(logits_BT[slots_B == BASE_SLOT], heads(h_BH)[slots_B == BASE_SLOT])
    for slot, name in enumerate(served.names):
        mine, seed, width = slots_B == slot, BUNDLES[name][1], len(CATALOG.fresh_names)
        own = torch.from_numpy(statistics(rows, states[name], CATALOG))
        a_BA = torch.cat([h_BH, x_BX], dim=1)
        a_BA = (a_BA - normal(SHAPE.inputs, seed=seed)) / (1 + normal(SHAPE.inputs).abs())
        own = (own - normal(width, seed=seed)) / (1 + normal(width).abs())
        weights = moved_kernel(seed)
        weights["encode_w"] = widened(weights["encode_w"], seed)
        a_BA = torch.cat([a_BA, own], dim=1)
        alone = kernel.run(weights, heads, h_BH[mine], a_BA[mine], None).logits_BT
        torch.testing.assert_close(logits_BT[mine], alone, atol=1e-4, rtol=1e-4)


def test_a_kernel_without_the_statistics_it_reads_is_refused(tmp_path):
    root = tmp_path / "bundles"
    write(root, "pooled", state=state_of([drawn(60)], CATALOG))
    write_index(root)
    on = {"base_fingerprint": BASE, "schema_hash": SCHEMA}
    with pytest.raises(BadRequest, match="tasks or dates differ"):
        read_bundle_set(root, **on, catalog=undated_catalog())
    (root / "pooled" / STATISTICS).unlink()
    with pytest.raises(Corrupt, match="never taken as zero"):
        read_bundle_set(root, **on, catalog=CATALOG)


def test_kernels_with_and_without_statistics_do_not_serve_together(tmp_path):
    root = tmp_path / "bundles"
    write(root, "pooled", state=state_of([drawn(60)], CATALOG))
    write(root, "region=a")
    write_index(root)
    with pytest.raises(BadRequest, match="differ in shape"):
        read_bundle_set(root, base_fingerprint=BASE, schema_hash=SCHEMA)


@pytest.mark.parametrize("settings", [{"alike": True, "narrow": 2}, {}], ids=["shared", "own"])
def test_bundles_that_did_not_move_are_copied_and_only_the_others_read(
    tmp_path, monkeypatch, settings
):
    wanted = {"base_fingerprint": BASE, "schema_hash": SCHEMA}
    before = bundle_set_of(tmp_path / "bundles", BUNDLES, **settings)
    name = "region=a"
    for root in (tmp_path / "bundles", tmp_path / "moved"):
        write(root, name, published=True, **settings)
    write_index(tmp_path / "bundles")
    whole = read_bundle_set(tmp_path / "bundles", **wanted)
    folders = [manifest.name for manifest in whole.manifests]
    read = []
    monkeypatch.setattr(
        bundle_set_module,
        "read_bundle",
        lambda path, **k: read.append(path) or read_bundle(path, **k),
    )
    again = moved_bundle_set(
        before, tmp_path / "moved", reversed(folders), catalog=CATALOG, **wanted
    )
    assert len(read) == 1
    assert again.versions == whole.versions != before.versions
    assert (again.names, again.verdicts) == (whole.names, whole.verdicts)
    for slot in range(len(BUNDLES)):
        ours, theirs = again.bundle_tensors(slot), whole.bundle_tensors(slot)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[n], theirs[n]) for n in ours)
    assert (again.shared is None) == (whole.shared is None)


def test_statistics_that_were_read_before_are_not_read_again(tmp_path, monkeypatch):
    wanted = {"base_fingerprint": BASE, "schema_hash": SCHEMA, "catalog": CATALOG}
    states = [state_of([drawn(60, seed=seed)], CATALOG) for seed in (1, 2)]
    for name, state in zip(("pooled", "region=a", "region=b"), [*states, states[0]], strict=True):
        write(tmp_path / "bundles", name, state=state)
    write_index(tmp_path / "bundles")
    before = read_bundle_set(tmp_path / "bundles", **wanted)
    newer = state_of([drawn(60, seed=3)], CATALOG)
    for root in (tmp_path / "bundles", tmp_path / "moved"):
        write(root, "pooled", state=newer)
    write_index(tmp_path / "bundles")
    whole = read_bundle_set(tmp_path / "bundles", **wanted)
    read, real = [], bundle_set_module.read_state
    monkeypatch.setattr(
        bundle_set_module, "read_state", lambda *a, **k: read.append(k["id"]) or real(*a, **k)
    )
    folders = [manifest.name for manifest in whole.manifests]
    again = moved_bundle_set(before, tmp_path / "moved", folders, **wanted)
    assert read == [newer.id]
    assert [state.id for state in again.states] == [state.id for state in whole.states]
    assert again.state_K == whole.state_K
    assert torch.equal(again.fresh_mean_KS, whole.fresh_mean_KS)


def test_kernels_of_one_standardisation_read_what_each_would_read_by_itself(tmp_path):
    for name in BUNDLES:
        write(tmp_path, name, alike=True, narrow=2)
    write_index(tmp_path)
    bundle_set = read_bundle_set(tmp_path, base_fingerprint=BASE, schema_hash=SCHEMA)
    heads, rows = small_heads(), 96
    h_BH, x_BX = normal(rows, SHAPE.base), normal(rows, X_UNITS, seed=1)
    slots_B = torch.arange(rows) % (len(BUNDLES) + 1) - 1
    assert bundle_set.shared is not None
    together = BundlePredictor(bundle_set, heads).logits(h_BH, x_BX, slots_B)
    each = BundlePredictor(replace(bundle_set, shared=None), heads).logits(h_BH, x_BX, slots_B)
    torch.testing.assert_close(together, each, atol=1e-5, rtol=1e-5)
