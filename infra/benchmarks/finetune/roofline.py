"""Compute a lower bound on the time of a step, from its FLOPs and bytes (a roofline).

FLOPs are those of matrix products: two for each multiply and add. Bytes are those that must cross
the memory bus at least once: inputs, outputs and weights of each layer, embedding rows, and the
optimiser's state. Scratch memory, indices and the network are left out, so the bound is low.

Shapes: B rows of a worker's step, X units of x, H units of h, V ids a row, E units of an embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from iak.pipeline.iak.kernel import KernelShape

FP32 = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """FLOPs and bytes that one step on one worker needs at least."""

    flops: float
    num_bytes: float

    def __add__(self, other: "Floor") -> "Floor":
        return Floor(flops=self.flops + other.flops, num_bytes=self.num_bytes + other.num_bytes)

    def seconds(self, *, flops_per_s: float, bytes_per_s: float) -> float:
        """Return the longer of both times, since they may overlap."""
        return max(self.flops / flops_per_s, self.num_bytes / bytes_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of the benchmark's base, and of a worker's step."""

    rows: int
    ids: float
    """V, histories included."""
    width: int
    """E."""
    x_units: int
    mlp: tuple[int, ...]
    """The last one is H."""

    @property
    def trunk(self) -> int:
        """Return the number of weights of the trunk."""
        return sum(a * b for a, b in pairwise((self.x_units, *self.mlp)))


def lookups(sizes: Sizes, *, row_bytes: float, trained: bool) -> Floor:
    """Return the lookups: rows read and pooled into x, and updated where tables are trained."""
    read = sizes.rows * (sizes.ids * row_bytes + sizes.x_units * FP32)
    update = sizes.rows * (sizes.x_units * FP32 + 2 * sizes.ids * (row_bytes + FP32))
    return Floor(flops=0.0, num_bytes=read + (update if trained else 0.0))


def trunk(sizes: Sizes, *, passes: Sequence[str]) -> Floor:
    """Return the trunk's products: `forward`, and gradients of its `inputs` and its `weights`.

    Each product reads two matrices and writes one; a trained trunk also moves Adam's state.
    """
    floor = Floor(flops=0.0, num_bytes=0.0)
    for before, after in pairwise((sizes.x_units, *sizes.mlp)):
        touched = FP32 * (sizes.rows * (before + after) + before * after)
        one = Floor(flops=2.0 * sizes.rows * before * after, num_bytes=touched)
        for _ in passes:
            floor += one
    if "weights" in passes:
        floor += adam(sizes.trunk)
    return floor


def kernels(
    shape: KernelShape, *, rows: int, present: float, inputs_have_gradients: bool, kept_bytes: int
) -> Floor:
    """Return the kernels' part: forward, gradients of weights, and of inputs but the first layer's.

    Args:
        shape: shape of each kernel.
        rows: B.
        present: kernels that have rows in the step.
        inputs_have_gradients: whether the base's gradients are computed too.
        kept_bytes: bytes of a stored activation; 0 where activations are computed in the step.
    """
    first = shape.hidden * shape.inputs
    rest = shape.code * (2 * shape.hidden + shape.base + shape.tasks) + shape.tasks * (
        shape.tower_in * (shape.rank + shape.tower_hidden) + shape.tower_hidden * (shape.rank + 1)
    )
    products = first * (3 if inputs_have_gradients else 2) + 3 * rest
    moved = rows * shape.inputs * (kept_bytes + 2 * FP32)
    weights = adam(present * (first + rest))
    return Floor(flops=2.0 * rows * products, num_bytes=moved) + weights


def adam(parameters: float) -> Floor:
    """Return Adam's part: read and write weight and two moments, write and read the gradient."""
    return Floor(flops=0.0, num_bytes=8.0 * FP32 * parameters)
