"""Read of a batch what the kernels of a set read, before it is standardised.

A kernel's first layer includes its standardisation (iak/folded.py). So the inputs are h as it is,
x or its components, and fresh statistics, and no kernel's mean or scale.

Shapes: N components of x, R rows sorted by slot, A inputs, and the letters of bundle_set.py.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

from iak.pipeline.iak.predictor import SlotLinear, SortedRows
from iak.pipeline.model.batch_invariant import batch_invariant
from iak.pipeline.publish.bundle_set import BundleSet


class EncoderInputs:
    """The inputs of a set's kernels, and the mean and scale that are left to fold."""

    def __init__(self, bundles: BundleSet) -> None:
        """Choose how x is read: as it is, by the components that all kernels share, or by own ones.

        Args:
            bundles: the kernels, on the base's device.
        """
        self._bundles, self._units = bundles, bundles.weights["decode_w"].shape[1]
        is_shared = bundles.shared is not None
        self.narrow_KXN = None if is_shared else bundles.narrow_KXN
        """Each kernel's map from its standardised x, where they do not share one."""
        self._own = None if self.narrow_KXN is None else SlotLinear(self.narrow_KXN)
        self.components_NX: Tensor | None = None
        """Map from x to its components that all kernels share, the scale of x included."""
        of_x: list[Tensor] = []
        if bundles.narrow_KXN is not None:
            mean_KN = torch.zeros_like(bundles.narrow_KXN[:, 0])  # x is standardised already
            if bundles.shared is not None:
                shift_N, self.components_NX = bundles.shared.narrowing
                mean_KN = (-shift_N).expand_as(mean_KN)
            of_x = [mean_KN, torch.ones_like(mean_KN)]
        self.mean_KA = self._joined(bundles.mean_KA, of_x[:1], bundles.fresh_mean_KS)
        """Mean of each kernel's inputs, which its first layer subtracts."""
        self.scale_KA = self._joined(bundles.scale_KA, of_x[1:], bundles.fresh_scale_KS)

    def _joined(
        self, values_KA: Tensor, of_components: list[Tensor], fresh_KS: Tensor | None
    ) -> Tensor:
        """Return means or scales of all inputs: those of x give way to those of its components."""
        parts = [values_KA[:, : self._units], *of_components] if of_components else [values_KA]
        return torch.cat([*parts, *([] if fresh_KS is None else [fresh_KS])], dim=1)

    def of(
        self, h_BH: Tensor, x_BX: Tensor, s_BS: Tensor | None, rows: SortedRows, index_R: Tensor
    ) -> Tensor:
        """Return the inputs of rows sorted by slot, `u_RA`.

        Args:
            h_BH: the base's representation of the batch.
            x_BX: embeddings of the batch.
            s_BS: fresh statistics of the batch; None where the kernels read none.
            rows: the slots that rows are sorted by.
            index_R: index in the batch of each sorted row; one may occur several times.
        """
        parts = [h_BH]
        if self.components_NX is not None:
            # Once for the batch: each of 1,000 slots would read a copy of the components.
            with batch_invariant():
                parts.append(linear(x_BX, self.components_NX))
        elif self._bundles.reads_x and self._own is None:
            parts.append(x_BX)
        if self._own is None:
            parts += [] if s_BS is None else [s_BS]
            return _selected(parts, index_R)
        own_RN = self._own(self._standardised(x_BX.index_select(0, index_R), rows), rows)
        rest = [] if s_BS is None else [s_BS.index_select(0, index_R)]
        return torch.cat([h_BH.index_select(0, index_R), own_RN, *rest], dim=1)

    def _standardised(self, x_RX: Tensor, rows: SortedRows) -> Tensor:
        """Return x of sorted rows, each by its own kernel's statistics."""
        of_x = slice(self._units, None)
        mean_RX, scale_RX = (
            rows.spread(values_KA[:, of_x])
            for values_KA in (self._bundles.mean_KA, self._bundles.scale_KA)
        )
        return (x_RX - mean_RX) / scale_RX


def _selected(parts: list[Tensor], index_R: Tensor) -> Tensor:
    """Return some rows of tensors side by side; each part is gathered where it is read."""
    widths = [part.shape[1] for part in parts]
    u_RA = parts[0].new_empty(len(index_R), sum(widths))
    for part, out in zip(parts, u_RA.split(widths, dim=1), strict=True):
        torch.index_select(part, 0, index_R, out=out)
    return u_RA
