"""Activations are found again for the same base, precision and inputs, and for no others."""

import pytest
import torch

from iak.pipeline.activations.cache_keys import activations_scope, standard_key
from iak.pipeline.activations.standardizer import Standardizer
from iak.schemas.job import FrozenTablesSpec, KernelSpec

STANDARD = Standardizer(mean_A=torch.zeros(3), scale_A=torch.ones(3), reads_x=True)
OTHER = Standardizer(mean_A=torch.zeros(3), scale_A=torch.full((3,), 2.0), reads_x=True)
SAME = {"base": "b", "tables": FrozenTablesSpec(), "kernel": KernelSpec()}


@pytest.mark.parametrize(
    "changed",
    [
        {"base": "c"},
        {"tables": FrozenTablesSpec(precision="fp16")},
        {"tables": FrozenTablesSpec(precisions={"item": "fp32"})},
        {"tables": FrozenTablesSpec(products="bf16")},
        {"kernel": KernelSpec(reads="h")},
        {"kernel": KernelSpec(narrow=7)},
    ],
)
def test_what_the_base_computes_depends_on_it(changed):
    assert standard_key(**SAME) != standard_key(**SAME | changed)
    one, other = (
        activations_scope(**parts, standard=STANDARD, precision="bf16")
        for parts in (SAME, SAME | changed)
    )
    assert one != other


@pytest.mark.parametrize("changed", [{"standard": OTHER}, {"precision": "fp32"}])
def test_stored_activations_depend_on_how_they_are_stored(changed):
    stored = {**SAME, "standard": STANDARD, "precision": "bf16"}
    assert activations_scope(**stored) == activations_scope(**stored)
    assert activations_scope(**stored) != activations_scope(**stored | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"kernel": KernelSpec(hidden=5)},
        {"tables": FrozenTablesSpec(mapped=True)},
        {"tables": FrozenTablesSpec(verify_mapped=True)},
    ],
)
def test_what_a_kernel_does_with_its_inputs_does_not_count(changed):
    assert standard_key(**SAME) == standard_key(**SAME | changed)
