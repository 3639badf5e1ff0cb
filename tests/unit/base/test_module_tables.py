"""An adopted module with frozen tables answers as it did, and what would not stays whole."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.base.adopted_module import build_hollow, open_module
from iak.pipeline.base.module_tables import TablesOnWorker, judged_tables, write_module
from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.model.adopted import AdoptedModel
from iak.pipeline.model.digest import digest
from iak.pipeline.model.tables import TableShape
from iak.pipeline.process import Worker
from iak.pipeline.sharding.mapped import MapFolder
from iak.pipeline.sharding.shard import dense_state
from iak.schemas.plan import ResolvedPlacement
from tests import mixed_tables
from tests.mixed_tables import ITEMS, POOLED, SHARDED, USERS, rows_of, trained

FACTORY = "tests.mixed_tables:build"
ALONE = Worker(rank=0, world=1, device=torch.device("cpu"))
USERS_OF = [4, 0, 52, 4, 17, 30, 8, 8]
HISTORIES = [[1, 2, 30], [], [7], [0, 0, 0, 5], [3], [], [29, 28], [2]]
rows_drawn = st.lists(
    st.tuples(st.integers(0, USERS - 1), st.lists(st.integers(0, ITEMS - 1), max_size=5)),
    max_size=9,
)


def whole_model():
    return AdoptedModel(trained(), tasks=2)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_module(whole_model().module, SHARDED, tmp_path_factory.mktemp("base"), source="s")


def opened(files, kind="fp32", **settings):
    at = {"worker": ALONE, "placement": ResolvedPlacement()} | settings
    precisions = dict.fromkeys((table.name for table in files.tables), kind)
    at = TablesOnWorker(precisions=precisions, **at)
    return open_module(FACTORY, files, tasks=2, at=at, allowed_source=SOURCE)


_, SOURCE = build_hollow(FACTORY, [], None)


def test_tables_that_the_module_does_not_only_look_up_stay_whole():
    model = whole_model()
    before = model.module.state_dict()
    found = judged_tables(model, rows_of(USERS_OF, HISTORIES))
    assert set(found.tables) == set(SHARDED)
    reasons = {name: reason.partition(",")[0] for name, reason in found.whole.items()}
    assert reasons == {
        "tied": "another name of the module has the same weight",
        "read": "the module reads its weight other than by a lookup",
        "late": "tail(h) reads it",
        "idle": "represent(ids",
        "some": "the number of its lookups depends on the rows",
    }
    assert all(torch.equal(model.module.state_dict()[n], w) for n, w in before.items())


def test_tables_stay_whole_where_a_row_without_meaning_is_refused():
    model = whole_model()
    model.module.users = torch.nn.Embedding(1, 8)  # of the row only id 0, and user 4 fails
    found = judged_tables(model, rows_of(USERS_OF, HISTORIES))
    assert not found.tables
    assert "IndexError" in found.whole["users"]


def test_other_layers_that_answer_otherwise_stay_whole():
    model = whole_model()
    plain, module = model.module.represent, model.module
    module.represent = lambda ids, x: plain(ids, x) + isinstance(module.users, torch.nn.Embedding)
    found = judged_tables(model, rows_of(USERS_OF, HISTORIES))
    assert found.whole["users"].startswith("the module answers otherwise")


@given(rows=rows_drawn)
def test_the_opened_module_answers_as_the_one_that_was_adopted(files, rows):
    batch = rows_of([user for user, _ in rows], [history for _, history in rows])
    model = whole_model()
    with torch.no_grad():
        expected = model(*batch) if rows else torch.zeros(0, 2)
        assert torch.equal(opened(files)(*batch), expected)


def test_mapped_tables_answer_the_same(files, tmp_path):
    where = MapFolder(path=tmp_path / "maps", base_fingerprint="f", is_verified=True, days=1.0)
    batch = rows_of(USERS_OF, HISTORIES)
    mapped = opened(files, mapped_at=where)
    assert torch.equal(mapped(*batch), whole_model()(*batch))
    assert {line.type for line in mapped.tables.describe()} == {"mapped"}


def test_each_precision_is_as_near_as_its_numbers_are(files):
    batch = rows_of(USERS_OF, HISTORIES)
    own = whole_model().represent(*batch).h_BH
    for kind, bound in (("fp16", 1e-3), ("int8", 2e-2), ("int4", 0.3)):
        model = opened(files, kind)
        distance = (model.represent(*batch).h_BH - own).norm() / own.norm()
        assert 0 < distance < bound, kind
        assert {line.precision for line in model.tables.describe()} == {kind}


def test_no_table_is_whole_in_the_module_and_the_digest_is_that_of_its_weights(files):
    model, whole = opened(files), whole_model().module
    own = digest(model.tables.local_shards(), dense_state(model)).by_name
    tables = {f"module.{name}.weight": name for name in SHARDED}
    weights = digest(replicas={f"module.{n}": w for n, w in whole.state_dict().items()}).by_name
    assert own.keys() == {tables.get(name, name) for name in weights}
    assert not any(name in own for name in tables)
    assert all(own[name] == value for name, value in weights.items() if name not in tables)
    model(*rows_of(USERS_OF, HISTORIES))
    assert digest(model.tables.local_shards(), dense_state(model)).by_name == own
    assert model.tables.num_bytes == 4 * 8 * (2 * USERS + 4 * ITEMS)


def test_values_of_tables_are_never_allocated_where_the_factory_needs_none():
    shapes = [TableShape(name="users", rows=USERS, width=8, features=("users",))]
    module, _ = build_hollow(FACTORY, shapes, None)
    assert not any(weight.is_meta for weight in module.parameters())
    assert module.out.weight is module.tied.weight
    assert "users.weight" not in module.state_dict()


def test_a_factory_that_reads_values_of_a_table_gets_a_whole_one(monkeypatch):
    def build():
        module = trained()
        module.register_buffer("norms", module.users.weight.detach().norm(dim=1))
        return module

    monkeypatch.setattr(mixed_tables, "build", build)
    shapes = [TableShape(name="users", rows=USERS, width=8, features=("users",))]
    module, _ = build_hollow(FACTORY, shapes, None)
    assert torch.equal(module.norms, trained().users.weight.norm(dim=1))


def test_a_module_without_the_tables_of_the_base_is_refused():
    shapes = [TableShape(name="users", rows=USERS + 1, width=8, features=("users",))]
    with pytest.raises(BadRequest, match=r"users \(54, 8\), here \(53, 8\)"):
        build_hollow(FACTORY, shapes, None)


def test_a_flipped_byte_of_a_table_is_refused(files, tmp_path):
    copy = tmp_path / "base"
    shutil.copytree(files.folder, copy)
    (path,) = (copy / "tables" / POOLED).iterdir()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    changed = SimpleNamespace(
        folder=copy, files=files.files, tables=files.tables, source=files.source
    )
    with pytest.raises(Corrupt, match="is not the file that was published"):
        opened(changed)


def test_a_table_without_all_its_files_is_refused(files):
    fewer = SimpleNamespace(
        folder=files.folder,
        files=[entry for entry in files.files if entry.table != "users"],
        tables=files.tables,
        source=files.source,
    )
    with pytest.raises(Corrupt, match="0 files do not make up table users"):
        opened(fewer)
