"""Find the part of a log that has no labels, as competitions ship their test rows.

Nothing can be learned or measured there, so the log is guessed and cut without these rows. They
are predicted by `iak predict`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data.guess_labels import LabelGuess
from iak.pipeline.data.guess_splits import Parts, SplitCut
from iak.pipeline.data.log_sample import LogSample, without_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlabelledPart:
    """The test rows of a log, which have no labels, and the log without them."""

    column: str
    """Says of which part a row is."""
    values: tuple[str, ...]
    """Its values in rows without labels."""
    labelled: tuple[str, ...]
    """Its values in the other rows."""
    others: LogSample
    """The sample without these rows."""
    share: float
    """Share of the log's rows that the snapshot of `others` has and that have labels."""

    def parts(self, parts: Parts) -> dict[str, Parts]:
        """Return what cuts the labelled rows: a part for validation is tested on.

        Args:
            parts: the parts of the whole log.
        """
        if "valid" not in parts:
            return {}
        return {self.column: {"train": parts["train"], "test": parts["valid"]}}

    def narrowed(self, cuts: Mapping[str, SplitCut], days: Sequence[date]) -> dict[str, SplitCut]:
        """Return splits that have labelled rows alone.

        Windows become dates, since days are counted from the last one of the whole log.

        Args:
            cuts: splits of the labelled rows, as if these were all.
            days: the first and the last day that they are cut by; empty where there is no day.
        """
        narrowed = {}
        for name, cut in cuts.items():
            where = {self.column: self.labelled} | dict(cut.where)
            window = _dates(cut.days, days) if cut.days else None
            narrowed[name] = replace(
                cut, where=where, days=None, dates=window, share=cut.share * self.share
            )
        return narrowed

    @property
    def condition(self) -> str:
        """Return what rows without labels have."""
        return f"{self.column} = {', '.join(self.values)}"

    @property
    def note(self) -> str:
        """Return what a person should know of these rows."""
        where = " ".join(f"where={self.column}={value}" for value in self.values)
        return (
            f"no row with {self.condition} has a label, so test rows are cut from the others; "
            f"`iak predict` with {where} predicts those"
        )


def _dates(window: tuple[int, int], days: Sequence[date]) -> tuple[date, date]:
    first, last = (
        days[0] + timedelta(days=day) if day >= 0 else days[-1] + timedelta(days=day + 1)
        for day in window
    )
    return first, last


def without_part(sample: LogSample, column: str, parts: Parts) -> UnlabelledPart:
    """Return a log's test part, and the sample without its rows.

    Args:
        sample: sampled rows.
        column: says of which part a row is.
        parts: train, valid or test -> values of `column`.
    """
    others = without_rows(sample, column, parts["test"])
    has_own_files = column in sample.partition_keys
    return UnlabelledPart(
        column=column,
        values=parts["test"],
        labelled=tuple(value for part in ("train", "valid") for value in parts.get(part, ())),
        others=others,
        share=1.0 if has_own_files else len(others.rows) / len(sample.rows),
    )


def has_no_label(sample: LogSample, part: UnlabelledPart, labels: Sequence[LabelGuess]) -> bool:
    """Return whether no row of a part has any of these labels.

    Args:
        sample: sampled rows of the whole log.
        part: its test part.
        labels: labels of the other rows.
    """
    is_own = pc.is_in(sample.rows.column(part.column), pa.array(part.values, pa.string()))
    rows = sample.rows.filter(is_own)
    return bool(labels) and all(
        label.column not in rows.schema.names
        or rows.column(label.column).null_count == len(rows)
        or bool(np.isnan(label.of(rows)).all())
        for label in labels
    )
