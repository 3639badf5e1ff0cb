"""What of a run folder is stored, and what every machine makes for itself."""

import pytest

from iak.pipeline.base.frozen_base import MAPPED
from iak.pipeline.data import content
from iak.pipeline.runs.stored_run import ACTIVATIONS, DIGESTS, OF_THIS_MACHINE, is_stored


@pytest.mark.parametrize(
    "path",
    [
        "record.json",
        "tune.safetensors",
        "checkpoints/step-3/state.json",
        ".best/a",
        "base/tables/ray",
    ],
)
def test_what_another_machine_goes_on_with_is_stored(path):
    assert is_stored(path)


@pytest.mark.parametrize(
    "path",
    [
        ".lock", ".lock.json", "bundles/.lock", ".record.json.12.ab.part",
        "checkpoints/.step-3.1.a.part/t", "ray/attempt-1/log", "activations/ab/x.rows",
        "mapped/x/y", "digests.sqlite", "digests.sqlite-wal",
    ],
)  # fmt: skip
def test_locks_parts_and_caches_of_a_machine_are_not(path):
    assert not is_stored(path)


def test_the_names_are_those_that_are_written():
    assert MAPPED in OF_THIS_MACHINE
    assert ACTIVATIONS in OF_THIS_MACHINE
    assert DIGESTS == content.DIGESTS
