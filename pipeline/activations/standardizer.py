"""Standardise the frozen base's output for rows: an encoder reads a = standardise([h ; x]).

Shapes: n rows of this worker, B of them, R rows of a batch (some of them several times), H base
units, X embedding units, A = H + X units that the encoder reads (H where it reads h alone), N
principal components of x.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import pyarrow as pa
import scipy.linalg
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.functional import linear

from iak.pipeline.activations.represent import LOOK_UP_ROWS, represent_rows
from iak.pipeline.collectives import most, total
from iak.pipeline.model.batch_invariant import MIN_OUTPUTS, batch_invariant
from iak.pipeline.model.representation import Representation
from iak.pipeline.process import Worker
from iak.schemas.log import Catalog


class KernelInputs(NamedTuple):
    """The inputs of a kernel for B rows."""

    h_BH: Tensor
    """The base's representation, which the towers read."""
    a_BA: Tensor
    """Standardised inputs of the encoder."""


@dataclass(frozen=True, kw_only=True)
class Standardizer:
    """Mean, scale and projection that turn h and x into the encoder's inputs.

    They are fitted once, then frozen, and stored in every bundle.
    """

    mean_A: Tensor
    """Mean of [h ; x], or of h alone, over a sample of tuning rows."""
    scale_A: Tensor
    """Standard deviation of the same; 1 where it is nearly 0."""
    reads_x: bool
    """Whether the encoder reads x beside h."""
    narrow_XN: Tensor | None = None
    """Maps standardised x to N principal components of unit variance; None leaves x as it is."""

    @property
    def width(self) -> int:
        """Return the inputs of the encoder."""
        if self.narrow_XN is None:
            return len(self.mean_A)
        units, components = self.narrow_XN.shape
        return len(self.mean_A) - units + components

    def of(self, h_BH: Tensor, x_BX: Tensor) -> Tensor:
        """Return the standardised encoder inputs a_BA."""
        if self.narrow_XN is None:
            a_BA = torch.cat([h_BH, x_BX], dim=1) if self.reads_x else h_BH
            return (a_BA - self.mean_A) / self.scale_A
        units = h_BH.shape[1]
        shift_N, scaled_NX = self.narrowing
        a_BA = h_BH.new_empty(len(h_BH), units + len(scaled_NX))
        torch.sub(h_BH, self.mean_A[:units], out=a_BA[:, :units]).div_(self.scale_A[:units])
        if len(scaled_NX) < MIN_OUTPUTS:  # such a product rounds a row by the rows beside it
            with batch_invariant():
                a_BA[:, units:] = linear(x_BX, scaled_NX, shift_N)
        else:
            torch.addmm(shift_N, x_BX, scaled_NX.T, out=a_BA[:, units:])
        return a_BA

    @cached_property
    def narrowing(self) -> tuple[Tensor, Tensor]:
        """Return the shift and the map from x to its components, (N,) and (N, X).

        The map includes the division by the scale of x, and the shift its mean. So no centred copy
        of x is written.
        """
        assert self.narrow_XN is not None
        units = len(self.narrow_XN)
        # In this layout products of 16 rows or more round a row the same way. In the other layout,
        # with 1,796 inputs, products of up to 128 rows round differently from larger ones (MKL of
        # torch 2.13).
        scaled_NX = (self.narrow_XN / self.scale_A[-units:, None]).T.contiguous()
        # In float64, so that a sum of nearly 2,000 products is rounded once.
        shift_N = -(scaled_NX.double() @ self.mean_A[-units:].double()).float()
        return shift_N, scaled_NX

    def read(self, a_BA: Tensor, units: int) -> KernelInputs:
        """Return encoder inputs as they are, and the base units computed back from them.

        So h need not be stored beside a.

        Args:
            a_BA: standardised inputs, in any type.
            units: H; h is the first H of the inputs. It comes out in fp32.
        """
        h_BH = torch.addcmul(self.mean_A[:units], a_BA[:, :units].float(), self.scale_A[:units])
        return KernelInputs(h_BH=h_BH, a_BA=a_BA)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a file stores of it, on the CPU."""
        tensors = {"mean": self.mean_A, "scale": self.scale_A, "narrow": self.narrow_XN}
        return {name: t.cpu() for name, t in tensors.items() if t is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], *, reads_x: bool) -> "Standardizer":
        """Return the standardisation that a file stores."""
        return cls(
            mean_A=tensors["mean"],
            scale_A=tensors["scale"],
            reads_x=reads_x,
            narrow_XN=tensors.get("narrow"),
        )

    def to(self, device: torch.device) -> "Standardizer":
        """Return the same numbers on a device."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return Standardizer.from_tensors(moved, reads_x=self.reads_x)


def fit_standardizer(
    model: nn.Module,
    sample: pa.Table,
    catalog: Catalog,
    *,
    reads_x: bool,
    narrow: int,
    worker: Worker,
) -> Standardizer:
    """Fit mean and deviation of the encoder's inputs over all workers' rows; a collective call.

    Args:
        model: the frozen base.
        sample: this worker's encoded rows, possibly none.
        catalog: catalogue of the log.
        reads_x: whether kernels read x beside h.
        narrow: principal components that x is narrowed to. 0, or as many as x has units, leaves x
            as it is.
        worker: this process.
    """
    # The lookup is a collective call: a worker with fewer rows takes part with empty slices.
    rounds = most(-(-len(sample) // LOOK_UP_ROWS), worker)
    represented = [
        _represented(model, sample.slice(start, LOOK_UP_ROWS), catalog, worker)
        for start in range(0, rounds * LOOK_UP_ROWS, LOOK_UP_ROWS)
    ]
    h_nH, x_nX = (torch.cat(parts) for parts in zip(*represented, strict=True))
    # float64, in two passes: in float32 the variance of a nearly constant unit would be only a
    # rounding error.
    a_nA = (torch.cat([h_nH, x_nX], dim=1) if reads_x else h_nH).double().cpu()
    count = total(torch.tensor(float(len(sample)), dtype=torch.float64), worker).clamp(min=1)
    mean_A = total(a_nA.sum(0), worker) / count
    a_nA -= mean_A
    deviation_A = (total(a_nA.square().sum(0), worker) / count).sqrt()
    scale_A = torch.where(deviation_A > 1e-6, deviation_A, torch.ones_like(deviation_A))
    narrow_XN = None
    if reads_x and 0 < narrow < x_nX.shape[1]:
        x = a_nA.div_(scale_A)[:, h_nH.shape[1] :].numpy()
        # numpy recognises x.T @ x as symmetric and computes one half of it, in half the time.
        covariance_XX = total(torch.from_numpy(x.T @ x), worker) / count
        narrow_XN = _components(covariance_XX, narrow, worker).float()
    return Standardizer(
        mean_A=mean_A.float(), scale_A=scale_A.float(), reads_x=reads_x, narrow_XN=narrow_XN
    ).to(worker.device)


@torch.no_grad()
def _represented(
    model: nn.Module, rows: pa.Table, catalog: Catalog, worker: Worker
) -> Representation:
    """Return h and x of encoded rows; a collective call."""
    h_BH, x_BX = represent_rows(model, rows, catalog, products=torch.float32, device=worker.device)
    return Representation(h_BH=h_BH[: len(rows)], x_BX=x_BX[: len(rows)])


def _components(covariance_XX: Tensor, narrow: int, worker: Worker) -> Tensor:
    """Return the map from standardised x to its first principal components of unit variance.

    A collective call: every worker gets worker 0's map.

    Args:
        covariance_XX: covariance of standardised x.
        narrow: N, the number of components. One without variance stays zero.
        worker: this process.
    """
    units = len(covariance_XX)
    # Only the largest: `eigh` returns them in ascending order.
    solved = scipy.linalg.eigh(covariance_XX.numpy(), subset_by_index=[units - narrow, units - 1])
    variance_N, vectors_XN = (torch.from_numpy(part).flip(-1) for part in solved)
    # The sign of an eigenvector is arbitrary. Its largest weight is made positive, so that neither
    # rounding nor another library flips it.
    vectors_XN = vectors_XN * vectors_XN.take_along_dim(vectors_XN.abs().argmax(0)[None], 0).sign()
    is_empty_N = variance_N < 1e-6 * variance_N[0]
    narrow_XN: Tensor = vectors_XN / variance_N.clamp(min=1e-12).sqrt()
    narrow_XN[:, is_empty_N] = 0.0
    narrow_XN = narrow_XN.contiguous()  # eigh returns column-major; safetensors refuses it
    if worker.world > 1:
        shared = narrow_XN.contiguous().to(worker.device)
        dist.broadcast(shared, src=0)
        narrow_XN = shared.cpu()
    return narrow_XN
