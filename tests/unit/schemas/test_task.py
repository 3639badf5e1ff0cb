"""A task's names, when its label is ripe, and what names a domain."""

from datetime import timedelta

import pytest
from pydantic import ValidationError

from iak.schemas.task import DomainSpec, TaskSpec


@pytest.mark.parametrize(
    ("fields", "title", "entire"),
    [
        ({"label": "y"}, "y", None),
        ({"label": "y", "kind": "click"}, "ctr", None),
        ({"label": "y", "kind": "conversion"}, "cvr", "ctcvr"),
        ({"label": "y", "kind": "conversion", "name": "buy"}, "buy", "ct_buy"),
        ({"label": "y", "kind": "click", "name": "tap"}, "tap", None),
    ],
)
def test_a_task_is_named_by_its_kind_unless_it_has_a_name(fields, title, entire):
    task = TaskSpec.model_validate(fields)
    assert (task.title, task.entire_space_title) == (title, entire)


@pytest.mark.parametrize(("written", "seconds"), [("P2D", 172_800), ("PT36H", 129_600), ("P0D", 0)])
def test_a_label_ripens_after_an_iso_time(written, seconds):
    task = TaskSpec.model_validate({"label": "y", "matures_after": written})
    assert task.matures_after == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("written", "message"),
    [(3, 'write "P3D" for 3 days'), ("-P1D", "greater than"), ("P99999D", "less than")],
)
def test_a_time_without_a_unit_or_out_of_bounds_is_refused(written, message):
    with pytest.raises(ValidationError, match=message):
        TaskSpec.model_validate({"label": "y", "matures_after": written})


@pytest.mark.parametrize(
    ("fields", "levels", "all_keys"),
    [
        ({"keys": ("a", "b")}, ((), ("a", "b")), ("a", "b")),
        ({"keys": ("a", "b"), "parent": ("a",)}, ((), ("a",), ("a", "b")), ("a", "b")),
        ({"keys": ("b",), "parent": ("a",)}, ((), ("a",), ("b",)), ("a", "b")),
    ],
)
def test_levels_run_from_the_pooled_kernel_to_the_domain(fields, levels, all_keys):
    domain = DomainSpec.model_validate(fields)
    assert domain.levels == levels
    assert domain.all_keys == all_keys


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keys": ("a", "a")}, "named twice"),
        ({"keys": ("a", "b"), "values": (("1",),)}, "has 1 values for the 2 keys"),
        ({"keys": ("a",), "values": (("1",), ("1",))}, "named twice"),
        ({"keys": ()}, "at least 1"),
        ({"keys": ("a",), "min_rows": 0}, "greater than"),
    ],
)
def test_domains_that_name_nothing_or_twice_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        DomainSpec.model_validate(fields)
