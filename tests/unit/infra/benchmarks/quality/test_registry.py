"""Every method that settings can name exists, and searches what its verb can be given."""

from typing import get_args

import pytest

from iak.pipeline.runs.load import known_settings
from iak.schemas.job import FinetuneSpec, PretrainSpec
from infra.benchmarks.quality.logs import catalog_of
from infra.benchmarks.quality.registry import METHODS
from infra.benchmarks.quality.space import trial_settings
from infra.benchmarks.specs import QualityLog, QualityMethod

NEED_NO_PRESET = ("continued", "continued_without_state")
"""Methods that take more epochs than a log's presets give to a training from scratch."""
SPECS = {"finetune": FinetuneSpec, "pretrain": PretrainSpec}


def test_the_settings_name_the_methods_that_there_are():
    assert get_args(QualityMethod) == tuple(METHODS)


@pytest.mark.parametrize("log", get_args(QualityLog))
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.verb])
def test_a_librarys_method_searches_settings_of_its_verb_from_the_logs_presets(name, log):
    method, presets = METHODS[name], catalog_of(log).presets
    shipped = presets.get(method.verb, {})
    settings = trial_settings(method.space(shipped), name=name, trial=0, seed=0)
    known = known_settings(SPECS[method.verb])
    assert settings
    assert set(settings) <= set(known)
    if name not in NEED_NO_PRESET:
        assert {k: v for k, v in settings.items() if k in shipped} == {
            k: v for k, v in shipped.items() if k in settings
        }


def test_an_ablation_names_a_method_that_is_searched():
    for method in METHODS.values():
        assert not method.searched_as or not METHODS[method.searched_as].searched_as
