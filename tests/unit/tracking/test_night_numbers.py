"""Names of numbers: what MLflow takes, unchanged by TensorBoard, and different for each number."""

import math
import posixpath
import re

from hypothesis import given
from hypothesis import strategies as st
from tensorboardX.summary import _clean_tag

from iak.pipeline.tracking.night_numbers import domain_path, night_numbers, plain_word
from tests.nights import a_night

MLFLOW_NAME = re.compile(r"[/\w.\- :]{1,250}")
"""Names that MLflow 3.17 takes (mlflow/utils/validation.py), besides that they are normal paths."""
texts = st.text(st.characters(exclude_categories=()), min_size=1, max_size=80)
domains = st.lists(st.tuples(texts, texts), max_size=3)


def is_name(name):
    return MLFLOW_NAME.fullmatch(name) and posixpath.normpath(name) == name


def test_every_number_of_a_night_has_a_name_that_both_take():
    numbers = night_numbers(a_night())
    assert all(is_name(name) for name in numbers)
    assert all(_clean_tag(name) == name for name in numbers)
    assert numbers["night/exit_code"] == 5
    assert numbers["traffic/from_workers/files"] == a_night().traffic.from_workers.files
    gain = a_night().domains[1].verdict.gain
    assert numbers["domain/city.shanghai/gain"] == gain
    assert "domain/pooled/ctr/auc_candidate" in numbers


def test_what_is_not_finite_is_left_out():
    record = a_night(domains=1)
    odd = {"cost": math.inf, "worker_seconds": math.nan, "base_age_days": None}
    numbers = night_numbers(record.model_copy(update=odd))
    assert not {"night/cost", "night/worker_seconds", "night/base_age_days"} & set(numbers)
    assert all(map(math.isfinite, numbers.values()))


@given(texts, texts)
def test_different_texts_have_different_words(one, other):
    assert (plain_word(one) == plain_word(other)) == (one == other)


@given(domains, domains)
def test_any_domain_has_a_name_of_its_own(one, other):
    path = domain_path(one)
    assert is_name(f"domain/{path}/{'t' * 61}/calibration_candidate")
    assert _clean_tag(f"domain/{path}") == f"domain/{path}"
    assert (path == domain_path(other)) == (one == other)


def test_words_that_are_plain_stay_as_they_are():
    assert plain_word("杭州_2-b") == "杭州_2-b"
    assert re.fullmatch(r"a_b\.[0-9a-f]{12}", plain_word("a b"))
    assert plain_word(plain_word("a b")) != plain_word("a b")
