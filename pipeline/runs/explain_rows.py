"""Explain the predictions of some rows, by the bundles of one setting or of two."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data import parquet
from iak.pipeline.data.pieces import pieces_of
from iak.pipeline.data.reader import as_text
from iak.pipeline.errors import BadRequest
from iak.pipeline.events import Report, silent
from iak.pipeline.runs.chosen_rows import ChosenRows, open_chosen_rows
from iak.pipeline.runs.predict import to_score
from iak.pipeline.serving.encode import ID, encode_to_score
from iak.pipeline.serving.explain import explain
from iak.schemas.explaining import ExplainedRow, ExplainSpec, ExplanationsDocument
from iak.schemas.log import SCORED, Catalog
from iak.schemas.paths import reference_text

_NAMED = 5
"""Ids named in an error at most."""


def explain_rows(
    spec: ExplainSpec, catalog: Catalog, report: Report = silent
) -> ExplanationsDocument:
    """Return the explanation of each chosen row.

    Args:
        spec: settings of `iak explain`.
        catalog: the log's catalogue; the log may lack the columns of its labels.
        report: gets the files and rows of the log.

    Raises:
        BadRequest: an id has no row, or the log declares no `row_id` to find it by.
        PipelineError: base, bundles or log cannot be used.
    """
    if spec.ids and not catalog.log.row_id:
        raise BadRequest(
            f"ids={spec.ids[0]}: the catalogue of log '{catalog.log.name}' declares no log.row_id "
            "to find rows by. Declare it, or choose rows by dates= and where="
        )
    bundles = {"bundles": spec.bundles} | ({"against": spec.against} if spec.against else {})
    scored = to_score(spec, catalog)
    with open_chosen_rows(spec, catalog, scored, bundles, report) as chosen:
        rows = _first_rows(spec, chosen)
        by_setting = {
            setting: explain(opened.scorer, rows, opened.bundles)
            for setting, opened in chosen.scorers.items()
            if opened.bundles is not None  # each setting names some
        }
    return ExplanationsDocument(
        base_fingerprint=chosen.base.manifest.fingerprint,
        bundles=reference_text(spec.bundles),
        against=_text(spec.against),
        rows=tuple(
            ExplainedRow.model_validate(
                _identity(rows, index) | {s: rows_of[index] for s, rows_of in by_setting.items()}
            )
            for index in range(len(rows))
        ),
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else reference_text(path)


def _identity(rows: pa.Table, index: int) -> dict[str, int | str | None]:
    """Return a row's key, its id, and its domain: the name at the last level."""
    levels = [name for name in rows.schema.names if name.startswith("l.")]
    has_id = ID in rows.schema.names
    return {
        "row": rows.column("row")[index].as_py(),
        "id": rows.column(ID)[index].as_py() if has_id else None,
        "domain": rows.column(levels[-1])[index].as_py(),
    }


def _first_rows(spec: ExplainSpec, chosen: ChosenRows) -> pa.Table:
    """Return the first rows of the log that were chosen, encoded; `spec.rows` of them at most."""
    parts: list[pa.RecordBatch] = []
    rows = 0
    for part in _encoded(spec.ids, chosen, most=spec.rows):
        parts.append(part.slice(0, spec.rows - rows))
        rows += len(parts[-1])
        if rows == spec.rows:
            break
    if not rows:
        raise BadRequest(
            f"no chosen row of {chosen.view.snapshot.uri} has one of ids="
            f"{', '.join(spec.ids[:_NAMED])}. Check them against column "
            f"'{chosen.view.catalog.log.row_id}', and dates= and where="
        )
    table = pa.Table.from_batches(parts).unify_dictionaries().combine_chunks()
    _refuse_missing(spec, table, chosen)
    return table


def _refuse_missing(spec: ExplainSpec, table: pa.Table, chosen: ChosenRows) -> None:
    """Refuse ids without a row, unless rows were left out because there are too many."""
    if not spec.ids or len(table) == spec.rows:
        return
    missing = sorted(set(spec.ids) - set(table.column(ID).to_pylist()))
    if missing:
        raise BadRequest(
            f"{len(missing):,} of {len(spec.ids):,} ids have no chosen row in "
            f"{chosen.view.snapshot.uri}: {', '.join(missing[:_NAMED])}. Check them against column "
            f"'{chosen.view.catalog.log.row_id}', and dates= and where="
        )


def _encoded(ids: Sequence[str], chosen: ChosenRows, *, most: int) -> Iterator[pa.RecordBatch]:
    """Yield encoded rows in the log's order, at most `most` of each row group."""
    catalog, selection = chosen.view.catalog, chosen.view.selections[SCORED]
    for piece in pieces_of(selection, rank=0, world=1):
        raw = parquet.read_piece(selection, piece, catalog)
        index = np.arange(len(raw.rows))
        if ids:
            text = as_text(raw.rows.column(str(catalog.log.row_id)))
            is_asked = pc.is_in(text, value_set=pa.array(ids, text.type))
            index = np.flatnonzero(is_asked.to_numpy(zero_copy_only=False))
        index = index[:most]
        if len(index):
            yield encode_to_score(
                parquet.take_rows(raw.rows, index),
                raw.identity[index],
                catalog=catalog,
                encoding=chosen.base.encoding,
                counts=Counter(),
            )
