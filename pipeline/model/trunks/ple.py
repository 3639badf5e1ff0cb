"""Define PLE: levels of experts, some of one task and some shared, mixed by each task's gate.

Shapes: B rows, X input units, T tasks, E experts of a task, S shared experts, W units of an expert,
I units a level reads (X in the first level, W after it), H = T * W units of the representation
(task t's mixture is h[:, t*W:(t+1)*W]).
Source: Tang et al. 2020, "Progressive layered extraction (PLE): a novel multi-task learning model
for personalized recommendations", eq. 1-3 (one level, CGC) and eq. 5 (levels). An expert is a
single layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iak.pipeline.model.inputs import AlongX


class Ple(nn.Module):
    """Extraction levels, one after the other; h is what the tasks' gates mix in the last one."""

    def __init__(
        self,
        *,
        width: int,
        levels: int,
        experts: int,
        shared_experts: int,
        expert_width: int,
        tasks: int,
        dropout: float = 0.0,
    ) -> None:
        """Build the levels; sizes are in units.

        Args:
            width: X, units that the trunk reads.
            levels: number of extraction levels.
            experts: E, experts of each task in each level.
            shared_experts: S, experts in each level that all tasks read.
            expert_width: W, units of an expert.
            tasks: T.
            dropout: probability that an expert's unit is dropped while training.

        Raises:
            ValueError: there is no level, no expert of a task or no shared expert.
        """
        super().__init__()
        for setting, count in (
            ("levels", levels),
            ("experts", experts),
            ("shared_experts", shared_experts),
        ):
            if count < 1:
                raise ValueError(
                    f"trunk 'ple' has {count} {setting}; set model.{setting} to 1 or more"
                )
        self.tasks = tasks
        self.out_width = tasks * expert_width
        self.levels = nn.ModuleList(
            Level(
                width=expert_width if level else width,
                experts=(*[experts] * tasks, shared_experts),
                expert_width=expert_width,
                dropout=dropout,
                is_last=level == levels - 1,
            )
            for level in range(levels)
        )

    def forward(self, x_BX: Tensor) -> Tensor:
        """Return the tasks' mixtures side by side, `h_BH`."""
        mixtures = [x_BX] * (self.tasks + 1)
        for level in self.levels:
            mixtures = level(mixtures)
        return torch.cat(mixtures, dim=1)

    def along_x(self) -> dict[str, AlongX]:
        """Return the parameters that run along x: experts and gates of the first level."""
        return {
            name: AlongX(reads=1)
            for name, _ in self.named_parameters()
            if name.startswith("levels.0.") and name.endswith(".weight")
        }


class Level(nn.Module):
    """Experts in groups, one group for each task and then the shared one; a gate for each group."""

    def __init__(
        self,
        *,
        width: int,
        experts: Sequence[int],
        expert_width: int,
        dropout: float,
        is_last: bool,
    ) -> None:
        """Build experts and gates; sizes are in units.

        Args:
            width: I, units that each group and each gate reads.
            experts: experts of each group, the shared one last.
            expert_width: W.
            dropout: probability that an expert's unit is dropped while training.
            is_last: whether no level follows. Then the shared experts need no gate.
        """
        super().__init__()
        self.expert_width = expert_width
        self.experts = nn.ModuleList(nn.Linear(width, e * expert_width) for e in experts)
        *own, shared = experts
        gates = [e + shared for e in own] + ([] if is_last else [sum(experts)])
        self.gates = nn.ModuleList(nn.Linear(width, choices) for choices in gates)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return each gate's mixture `g_BW`.

        Args:
            inputs: what each group reads, `g_BI` of the level before, in the order of the groups.
        """
        groups = [
            self.dropout(expert(g_BI).relu().unflatten(1, (-1, self.expert_width)))
            for expert, g_BI in zip(self.experts, inputs, strict=True)
        ]
        *own, shared = groups
        # A task's gate chooses among its own experts and the shared ones (eq. 3), the shared gate
        # among all. The last level has no shared gate, and zip leaves the last choice out.
        choices = [*(torch.cat([group, shared], dim=1) for group in own), torch.cat(groups, dim=1)]
        return [
            _mixture(gate(g_BI), s_BEW)
            for gate, g_BI, s_BEW in zip(self.gates, inputs, choices, strict=False)
        ]


def _mixture(logits_BE: Tensor, s_BEW: Tensor) -> Tensor:
    """Return the experts' mean, weighted by the softmax of a gate (eq. 1-2)."""
    weights_B1E = logits_BE.softmax(dim=-1)[:, None]
    return (weights_B1E @ s_BEW)[:, 0]
