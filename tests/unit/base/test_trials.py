import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.base.defaults import recipe
from iak.pipeline.base.trials import (
    MAX_ROWS,
    MAX_TABLE_BYTES,
    SETS,
    VARIED,
    WIDE_ROWS,
    given_settings,
    part_of,
    trials_of,
)
from iak.schemas.job import ModelSpec, PretrainSpec

OTHER = {
    "model.dropout": 0.4, "model.init_scale": 0.3, "model.width": 24,
    "optim.decay_share": 0.9, "optim.table_decay": 0.5,
    "optim.table_eps": 0.5, "optim.table_lr": 0.9, "optim.table_penalty": 0.5,
}  # fmt: skip


def spec_with(settings=(), **changes):
    parts = {part: part_of(dict(settings), part) for part in ("model", "optim")}
    fields = {"catalog": "planted", "data_root": "/logs", "run_dir": "/runs/r"}
    return PretrainSpec.model_validate(fields | parts | changes)


NARROW = [name for name in SETS if name != "wide"]
SHAPE = {"model.width", "model.init_scale"}


def trials(spec, rows=WIDE_ROWS, table_bytes=2**20, continues=False, **more):
    used = recipe(spec, rows=rows, continues=continues, has_state=False)
    return trials_of(
        spec, used.optim, rows=rows, table_bytes=table_bytes, continues=continues, **more
    )  # fmt: skip


def value(trial, name):
    part, key = name.split(".")
    return getattr(getattr(trial, part), key)


def test_a_small_log_without_such_settings_is_trained_with_every_set():
    found = trials(spec_with())
    assert [trial.name for trial in found] == list(SETS)
    for trial in found:
        assert all(value(trial, name) == SETS[trial.name][name] for name in SETS[trial.name])
    plain = found[0]
    assert plain.model == ModelSpec()
    assert plain.optim == recipe(spec_with(), rows=1, continues=False, has_state=False).optim


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (spec_with(), {"rows": MAX_ROWS + 1}),
        (spec_with(), {"table_bytes": MAX_TABLE_BYTES + 1}),
        (spec_with(), {"continues": True}),
        (spec_with(trials=3), {"continues": True}),
        (spec_with(trials=1), {}),
    ],
    ids=["many rows", "large tables", "continued", "continued, asked", "one is asked for"],
)
def test_one_set_is_trained_where_more_cost_too_much_or_were_chosen_before(spec, size):
    assert trials(spec, **size) == ()


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ((), {"rows": WIDE_ROWS - 1}),
        ((), {"table_bytes": MAX_TABLE_BYTES}),
        ((), {"has_plan": True}),
        ({"model.width": 24}, {}),
        ({"model.init_scale": 0.3}, {}),
    ],
    ids=["few rows", "large tables", "a plan", "width is given", "init_scale is given"],
)
def test_other_embeddings_are_not_tried_where_they_cannot_pay_or_are_given(settings, size):
    found = trials(spec_with(settings), **size)
    assert [trial.name for trial in found] == NARROW
    assert {trial.model.width for trial in found} == {dict(settings).get("model.width", 16)}


def test_all_sets_can_be_asked_for_on_a_small_log():
    assert [trial.name for trial in trials(spec_with(trials=4), rows=9)] == list(SETS)


@pytest.mark.parametrize("name", sorted(set(VARIED) - SHAPE))
def test_who_gives_one_of_the_settings_has_chosen(name):
    spec = spec_with({name: OTHER[name]})
    assert given_settings(spec) == {name}
    assert trials(spec) == ()


@pytest.mark.parametrize("name", ["batch_rows", "epochs", "patience", "validations_per_epoch"])
def test_who_gives_the_length_of_a_run_has_chosen_unless_trials_are_asked_for(name):
    assert trials(spec_with(**{name: 2})) == ()
    assert len(trials(spec_with(**{name: 2}, trials=3))) == 3


@given(st.sets(st.sampled_from(VARIED)), st.integers(2, len(SETS)))
def test_trials_that_are_asked_for_keep_what_is_given_and_differ_from_each_other(names, asked):
    spec = spec_with({name: OTHER[name] for name in names}, trials=asked)
    found = trials(spec, rows=MAX_ROWS + 1)
    assert len(found) <= asked
    assert len(found) != 1, "a single trial is the run itself"
    for trial in found:
        assert all(value(trial, name) == OTHER[name] for name in names)
    described = [(trial.model, trial.optim) for trial in found]
    assert all(described.count(each) == 1 for each in described)


def test_a_continued_base_keeps_what_was_chosen_unless_another_value_is_given():
    chosen = SETS["penalty"]
    kept = recipe(spec_with(), rows=10, continues=True, has_state=True, chosen=chosen)
    assert kept.optim.table_penalty == chosen["optim.table_penalty"]
    assert kept.optim.table_lr == chosen["optim.table_lr"]
    given_rate = spec_with({"optim.table_lr": 0.9})
    other = recipe(given_rate, rows=10, continues=True, has_state=False, chosen=chosen)
    assert other.optim.table_lr == pytest.approx(0.9 * 0.3)
    assert other.optim.table_penalty == chosen["optim.table_penalty"]


def test_a_base_that_a_former_set_was_chosen_for_keeps_it_unless_another_value_is_given():
    chosen = {"model.dropout": 0.1, "optim.table_decay": 1e-4, "optim.decay_share": 1.0}
    kept = recipe(spec_with(), rows=10, continues=True, has_state=True, chosen=chosen)
    assert kept.optim.table_decay == chosen["optim.table_decay"]
    given_decay = spec_with({"optim.table_decay": 0.5})
    other = recipe(given_decay, rows=10, continues=True, has_state=True, chosen=chosen)
    assert other.optim.table_decay == 0.5
