"""Define the trunk as a plain MLP. Its last layer has the units of every task.

Shapes: B rows, X input units, T tasks, W units a task reads, H = T * W units of the representation
(task t reads h[:, t*W:(t+1)*W]).
"""

from collections.abc import Sequence

from torch import Tensor, nn

from iak.pipeline.model.inputs import AlongX


class Mlp(nn.Module):
    """Linear, ReLU, dropout, once per width."""

    def __init__(
        self,
        *,
        width: int,
        mlp: Sequence[int],
        expert_width: int,
        tasks: int,
        dropout: float = 0.0,
    ) -> None:
        """Build the layers; sizes are in units.

        Args:
            width: X, units that the trunk reads.
            mlp: widths of the layers; the last one is H.
            expert_width: W, units of each task's part of h.
            tasks: T.
            dropout: probability that a unit of a layer before h is dropped while training.

        Raises:
            ValueError: the last width is not tasks * expert_width.
        """
        super().__init__()
        if not mlp or mlp[-1] != tasks * expert_width:
            raise ValueError(
                f"trunk 'mlp' with widths {tuple(mlp)} ends in {mlp[-1] if mlp else 'nothing'}; "
                f"{tasks} tasks of expert_width {expert_width} read {tasks * expert_width} units. "
                f"Let the last of model.mlp be tasks * model.expert_width"
            )
        self.expert_width, self.tasks = expert_width, tasks
        self.out_width = tasks * expert_width
        self.layers = mlp_layers(width, mlp, dropout)[:-1]  # h itself is never dropped

    def forward(self, x_BX: Tensor) -> Tensor:
        """Return the tasks' units side by side, `h_BH`."""
        h_BH: Tensor = self.layers(x_BX)
        return h_BH

    def along_x(self) -> dict[str, AlongX]:
        """Return the parameters that run along x."""
        return {"layers.0.weight": AlongX(reads=1)}


def mlp_layers(width: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Build linear, ReLU, dropout, once per width.

    Args:
        width: units that the first layer reads.
        widths: units of each layer, in order.
        dropout: probability that a unit is dropped while training.
    """
    layers: list[nn.Module] = []
    for before, after in zip([width, *widths[:-1]], widths, strict=True):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)
