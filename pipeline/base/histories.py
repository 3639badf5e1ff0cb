"""Build what a base reads histories with, from the catalogue and the sizes of the model."""

from collections.abc import Mapping

from torch import nn

from iak.pipeline.base.published_base import history_positions
from iak.pipeline.model.histories.caser import Convolutions
from iak.pipeline.model.histories.din import TargetAttention
from iak.pipeline.model.histories.histories import Histories, HistoryShape
from iak.pipeline.model.histories.sasrec import SelfAttention
from iak.schemas.job import ModelSpec
from iak.schemas.log import Catalog


def build_histories(
    catalog: Catalog, model: ModelSpec, widths: Mapping[str, int]
) -> Histories | None:
    """Build a reader for each history; return None where only means are read.

    Args:
        catalog: catalogue of the log.
        model: sizes of the base.
        widths: feature -> columns of its table.

    Raises:
        BadRequest: histories are to be read, and the catalogue has none.
    """
    positions = history_positions(catalog, model)
    if not positions:
        return None
    shapes = [
        HistoryShape(
            feature=feature.name,
            target=target.name,
            positions=positions[feature.name],
            width=widths[feature.name],
        )
        for feature, target in catalog.histories
    ]
    return Histories(shapes, [_reader(model, shape) for shape in shapes])


def _reader(model: ModelSpec, shape: HistoryShape) -> nn.Module:
    """Build the reader of one history."""
    if model.history == "sasrec":
        return SelfAttention(
            width=shape.width,
            positions=shape.positions,
            blocks=model.blocks,
            dropout=model.dropout,
        )
    if model.history == "caser":
        return Convolutions(
            width=shape.width,
            positions=shape.positions,
            heights=model.filter_heights,
            filters=model.filters,
            vertical_filters=model.vertical_filters,
            dropout=model.dropout,
        )
    return TargetAttention(width=shape.width, hidden=model.attention_units)
