from datetime import date

import pytest

from iak.pipeline.registry.commits import read_head
from iak.pipeline.registry.live import data_until, live_pointers, registry_head
from iak.pipeline.storage.folder_store import FolderStore
from tests.unit.publish.test_bundle import BASE
from tests.unit.registry.nights import NAMES, ROME, night, promote


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "registry")


def test_a_registry_that_does_not_exist_has_no_head_and_is_not_made(store, tmp_path):
    assert registry_head(store) is None
    assert live_pointers(None, BASE) == {}
    assert not (tmp_path / "registry").exists()


def test_the_champions_of_a_base_are_live_by_domain(store, tmp_path):
    promote(store, night(tmp_path / "n1", held=[ROME]))
    head = registry_head(store)
    assert head == read_head(store)
    assert set(live_pointers(head, BASE)) == set(NAMES) - {"city=rome"}
    assert live_pointers(head, "f" * 64) == {}


def test_what_another_alias_names_does_not_serve(store, tmp_path):
    promote(store, night(tmp_path / "n1"), "candidate")
    assert live_pointers(registry_head(store), BASE) == {}


@pytest.mark.parametrize(
    ("window", "last"),
    [
        ({"tune": {"first": "2026-10-01", "last": "2026-10-07"}}, date(2026, 10, 7)),
        ({"tune": {"first": None, "last": None}}, None),
        ({"rows": 7}, None),
    ],
)
def test_a_live_kernel_says_until_when_it_knows_the_log(store, tmp_path, window, last):
    promote(store, night(tmp_path / "n1", domains=[ROME], data_window=window))
    (pointer,) = live_pointers(registry_head(store), BASE).values()
    assert data_until(store, pointer) == last
