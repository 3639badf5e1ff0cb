"""A cell is one document, run once, and found again by everything that its result depends on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.errors import Corrupt
from infra.benchmarks.quality.cells import Cell, CellFolder, CellKey

KEY = CellKey(
    kind="test", log="frappe", fingerprint="f" * 64, method="iak", version=1, hyper={"lr": 0.5},
    seed=3,
)  # fmt: skip
CHANGES = (
    {"kind": "trial"},
    {"log": "xmrec"},
    {"fingerprint": "e" * 64},
    {"method": "lora"},
    {"version": 2},
    {"hyper": {"lr": 0.25}},
    {"seed": 4},
    {"kind": "pair", "rival": "lora"},
    {"kind": "pair", "rival": "lora", "rival_version": 2},
    {"kind": "pair", "rival": "lora", "rival_hyper": {"rank": 4}},
)


@pytest.fixture
def folder(tmp_path):
    return CellFolder(tmp_path)


def changed(changes):
    return CellKey.model_validate(KEY.model_dump() | changes)


def test_a_cell_is_run_once_and_then_read(folder):
    runs = []

    def run(key):
        runs.append(key)
        return Cell(key=key, valid_loss=len(runs))

    first = folder.run_once(KEY, run)
    assert folder.run_once(KEY, run) == first
    assert runs == [KEY]
    assert list(folder.all()) == [first]


def test_whatever_changes_the_result_is_another_cell():
    assert len({changed(change).id for change in ({}, *CHANGES)}) == 1 + len(CHANGES)


@given(
    st.dictionaries(
        st.text("abc", min_size=1), st.integers(0, 9) | st.floats(1e-9, 1e9) | st.text("xy")
    )
)
def test_a_key_survives_its_file(hyper):
    """Otherwise a finished cell would not be found again."""
    key = changed({"hyper": hyper})
    again = Cell.model_validate_json(Cell(key=key).model_dump_json()).key
    assert (again, again.id) == (key, key.id)


def test_a_cell_under_another_cells_name_is_refused(folder):
    folder.run_once(KEY, lambda key: Cell(key=key))
    other = changed({"seed": 4})
    folder.path(KEY).rename(folder.path(other))
    with pytest.raises(Corrupt, match="another cell"):
        folder.get(other)


def test_a_damaged_cell_is_refused_by_its_name(folder):
    folder.run_once(KEY, lambda key: Cell(key=key))
    folder.path(KEY).write_text("{")
    with pytest.raises(Corrupt, match=folder.path(KEY).name):
        folder.get(KEY)


@pytest.mark.parametrize("change", [{"log": "../x"}, {"method": "a/b"}, {"rival": "a b"}])
def test_a_name_that_cannot_be_a_file_is_refused(change, folder):
    with pytest.raises(ValueError, match="cannot name a file"):
        folder.path(changed(change))
