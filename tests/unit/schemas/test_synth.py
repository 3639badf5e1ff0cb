"""What a planted log may be asked to be."""

import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from iak.schemas.synth import SynthSpec

DEMO = Path(__file__).parents[3] / "jobs" / "configs" / "demo" / "synth.toml"


@pytest.mark.parametrize("asked", [2, "2", ["2"], ("hangzhou", "shanghai")])
def test_regions_may_be_a_number_or_names(asked):
    assert SynthSpec.model_validate({"regions": asked}).regions == ("hangzhou", "shanghai")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"rows": 100}, "without rows", id="too few rows"),
        pytest.param({"regions": ("a", "a")}, "repeat", id="a name twice"),
        pytest.param({"items": 10}, "fewer than shops", id="empty shops"),
        pytest.param({"users": 10}, "at least 4 users", id="empty regions"),
        pytest.param({"regions": ("a b",)}, "pattern", id="a name no path holds"),
        pytest.param({"row": 10}, "Extra inputs", id="an unknown knob"),
    ],
)
def test_the_spec_refuses_what_cannot_be(changes, message):
    with pytest.raises(ValidationError, match=message):
        SynthSpec.model_validate(changes)


def test_the_demos_knobs_are_the_defaults():
    assert SynthSpec.model_validate(tomllib.loads(DEMO.read_text())) == SynthSpec()
