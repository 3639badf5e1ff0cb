"""The state that is published with kernels: read back as it was, and never taken as zero."""

from dataclasses import replace

import numpy as np
import pytest

from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.fresh.state import STATISTICS, definition_of, read_state
from iak.pipeline.fresh.timeline import Timeline
from iak.schemas.fresh import DEFAULT_MAX_KEYS
from iak.schemas.log import SplitSpec
from tests.unit.fresh.small import dated_catalog, drawn, state_of, statistics, undated_catalog

CATALOG = dated_catalog()


@pytest.fixture
def written(tmp_path):
    state = state_of([drawn(60)], CATALOG)
    path = tmp_path / STATISTICS
    state.write(path)
    return state, path


def test_a_state_is_read_back_with_its_id(written):
    state, path = written
    again = read_state(path, definition=state.definition, id=state.id)
    rows = drawn(60, seed=1)
    assert (again.id, again.last) == (state.id, state.last)
    assert (statistics(rows, again, CATALOG) == statistics(rows, state, CATALOG)).all()


def test_arrays_that_skip_memory_are_written_as_they_read(written, tmp_path):
    # safetensors 0.8.0 writes the memory of a numpy array, whatever its strides are.
    state, _ = written
    strided = {
        name: Timeline.from_arrays(
            {key: np.repeat(array, 2, axis=0)[::2] for key, array in timeline.arrays().items()}
        )
        for name, timeline in state.timelines.items()
    }
    path = tmp_path / "strided.safetensors"
    replace(state, timelines=strided).write(path)
    assert read_state(path, definition=state.definition, id=state.id).id == state.id


def test_a_missing_state_is_refused_and_never_zero(written):
    state, path = written
    path.unlink()
    with pytest.raises(Corrupt, match="never taken as zero"):
        read_state(path, definition=state.definition, id=state.id)


def test_a_changed_byte_is_refused(written):
    state, path = written
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(Corrupt, match="the manifest beside it names"):
        read_state(path, definition=state.definition, id=state.id)


def test_a_state_of_another_definition_is_refused(written):
    state, path = written
    with pytest.raises(BadRequest, match=r"\[\[fresh\]\], tasks or dates differ"):
        read_state(path, definition=definition_of(undated_catalog()), id=state.id)


@pytest.mark.parametrize(
    "changes",
    [
        {"fresh": ({"keys": ["item_id"]},)},
        {"fresh": ({"keys": ["item_id"], "prior": 5},)},
        {"log__time_zone": "Asia/Shanghai"},
        {"domain__keys": ["region", "scene"]},
        {"tasks": [{"label": "click", "kind": "click", "matures_after": "P1D"},
                   {"label": "order", "kind": "conversion"}]},
    ],
)  # fmt: skip
def test_what_changes_a_number_changes_the_definition(changes):
    assert definition_of(dated_catalog(**changes)) != definition_of(CATALOG)


def test_a_bound_on_keys_changes_the_definition_unless_it_is_the_default():
    plain, default, small = (
        definition_of(dated_catalog(fresh=({"keys": ["item_id"]} | bound,)))
        for bound in ({}, {"most_keys": DEFAULT_MAX_KEYS}, {"most_keys": 7})
    )
    assert plain == default != small


def test_what_changes_no_number_leaves_the_definition():
    other = dated_catalog(splits={"pretrain": {"slice": [0, 0.5]}}, domain__min_rows=7)
    assert definition_of(other) == definition_of(CATALOG)


def test_rows_that_are_scored_read_statistics_under_the_definition_of_their_kernels():
    scored = CATALOG.to_score(SplitSpec()).model_copy(update={"tasks": CATALOG.tasks})
    assert definition_of(scored) == definition_of(CATALOG)
