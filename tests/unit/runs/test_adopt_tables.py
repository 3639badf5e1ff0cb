"""An adopted module is published with its tables, and opens as it was, or is refused."""

import pytest
import torch
from torch import nn

from iak.pipeline.errors import BadRequest
from iak.pipeline.events import silent
from iak.pipeline.model.adopted import AdoptedModel
from iak.pipeline.runs import adopt_tables
from iak.pipeline.runs.adopt_tables import publish_module
from tests import mixed_tables
from tests.mixed_tables import SHARDED, rows_of, trained

FACTORY = "tests.mixed_tables:build"
ROWS = rows_of([4, 0, 52, 4], [[1, 2], [], [7], [0, 0, 0]])


class FewRows:
    """A reader of a split with four rows."""

    catalog = None

    def in_step(self, _rows):
        yield "the rows as a table"


@pytest.fixture
def publish(tmp_path, monkeypatch):
    class Batch:
        ids, numeric_BN = ROWS

    monkeypatch.setattr(adopt_tables, "to_batch", lambda *_: Batch)
    monkeypatch.setattr(adopt_tables, "_precisions", lambda *_: [])
    model = AdoptedModel(trained(), tasks=2)
    return lambda: publish_module(
        model, tmp_path, factory=FACTORY, source="s", reader=FewRows(), report=silent
    )


@pytest.fixture(autouse=True)
def any_source(monkeypatch):
    plain = adopt_tables.adopted_module.build_module
    monkeypatch.setattr(
        adopt_tables.adopted_module, "build_module", lambda factory: (plain(factory)[0], "s")
    )


def test_tables_are_published_and_each_other_one_is_named_with_its_reason(publish):
    published = publish()
    tables = {table.name: (table.rows, table.width) for table in published.written.tables}
    assert tables.keys() == set(SHARDED)
    files = {entry.table for entry in published.written.files}
    assert files == {None, *SHARDED}
    assert not any(f"module.{name}.weight" in published.written.digest for name in SHARDED)
    assert set(SHARDED) < published.written.digest.keys()
    named = [line.split()[1] for line in published.advice]
    assert sorted(named) == ["idle", "late", "read", "some", "tied"]


class KeepsNumber(mixed_tables.Mixed):
    """Keeps what it computed from a table that may have no values yet."""

    def __init__(self):
        super().__init__()
        self.kept = 1.0 if self.users.weight.is_meta else 0.0

    def represent(self, ids, numbers):
        return super().represent(ids, numbers) + self.kept


class KeepsWeight(mixed_tables.Mixed):
    """Keeps a table's weight in a place of its own."""

    def __init__(self):
        super().__init__()
        self.kept = self.users.weight.detach()

    def represent(self, ids, numbers):
        return super().represent(ids, numbers) + 0 * self.kept[:1, : mixed_tables.UNITS]


@pytest.mark.parametrize("module", [KeepsNumber, KeepsWeight])
def test_no_table_is_cut_where_the_opened_base_answers_otherwise(
    publish, monkeypatch, tmp_path, module
):
    monkeypatch.setattr(mixed_tables, "build", module)
    published = publish()
    assert not published.written.tables
    assert not published.written.precisions
    assert [entry.path for entry in published.written.files] == ["module.safetensors"]
    assert not (tmp_path / "tables").exists()
    assert any(
        line.startswith("Table users stays whole on every worker: with its tables frozen")
        for line in published.advice
    )


def test_a_module_that_is_another_one_each_time_it_is_built_is_refused(publish, monkeypatch):
    class Drawn(mixed_tables.Mixed):
        def __init__(self):
            super().__init__()
            self.noise = nn.Buffer(torch.rand(()), persistent=False)

        def represent(self, ids, numbers):
            return super().represent(ids, numbers) + self.noise

    monkeypatch.setattr(mixed_tables, "build", Drawn)
    with pytest.raises(BadRequest, match="answers otherwise each time it is built"):
        publish()
