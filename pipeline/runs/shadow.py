"""Predict chosen rows by live and candidate kernels, and compare the changes with limits."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data import parquet
from iak.pipeline.data.domains import BASE
from iak.pipeline.data.pieces import Piece
from iak.pipeline.data.reader import Reader
from iak.pipeline.errors import BadRequest
from iak.pipeline.events import Report, silent
from iak.pipeline.runs.chosen_rows import ChosenRows, open_chosen_rows
from iak.pipeline.runs.predict import to_score
from iak.pipeline.serving.encode import encode_to_score
from iak.pipeline.serving.scorer import Scorer
from iak.pipeline.serving.shadow import (
    CANDIDATE,
    LIVE,
    Replay,
    most_moved,
    predicted,
    score_changes,
)
from iak.schemas.log import SCORED, Catalog
from iak.schemas.paths import reference_text
from iak.schemas.registry import bundle_digest
from iak.schemas.shadow import Exceeded, ScoreChange, ShadowDocument, ShadowLimits, ShadowSpec


def shadow(spec: ShadowSpec, catalog: Catalog, report: Report = silent) -> ShadowDocument:
    """Return how the candidate's predictions differ from the live ones, and which limits fail.

    All predictions are in memory at once: about 100 bytes for each row and task.

    Args:
        spec: settings of `iak shadow`.
        catalog: the log's catalogue; with labels=false the log may lack their columns.
        report: gets the files and rows of the log.

    Raises:
        BadRequest: no row can be predicted, or the catalogue has no such split.
        PipelineError: base, bundles or log cannot be used.
    """
    bundles = {LIVE: spec.live, CANDIDATE: spec.candidate}
    scored = _to_replay(spec, catalog)
    with open_chosen_rows(
        spec, catalog, scored, bundles, report, with_labels=spec.labels
    ) as chosen:
        replay = Replay({side: opened.scorer for side, opened in chosen.scorers.items()})
        for rows, labels in _encoded(chosen, scored):
            for start in range(0, len(rows), spec.batch_rows):
                replay.add(
                    rows.slice(start, spec.batch_rows),
                    {n: values.slice(start, spec.batch_rows) for n, values in labels.items()},
                )
        tasks = replay.scorers[LIVE].tasks
    whole = replay.whole()
    table = predicted(whole)
    if not len(table):
        raise BadRequest(
            f"all {len(whole):,} chosen rows of {chosen.view.snapshot.uri} break the log's "
            "contract, so that none is predicted. See them by `iak check`, or choose other rows"
        )
    changes = score_changes(table, tasks, labels=spec.labels)
    is_other = pc.not_equal(table.column(f"{LIVE}_kernel"), table.column(f"{CANDIDATE}_kernel"))
    return ShadowDocument(
        base_fingerprint=chosen.base.manifest.fingerprint,
        live=reference_text(spec.live) if spec.live else BASE,
        candidate=reference_text(spec.candidate),
        rows=len(table),
        not_predicted=len(whole) - len(table),
        other_kernel=pc.sum(is_other).as_py(),
        latency=replay.latency,
        changes=tuple(changes),
        moved=tuple(most_moved(table, tasks, most=spec.moved)),
        exceeded=tuple(exceeded_limits(changes, replay.latency, spec.limits)),
        limits=spec.limits,
        kernels=_digests(replay.scorers[CANDIDATE]),
    )


def _digests(scorer: Scorer) -> dict[str, str]:
    """Return the digest of each published kernel, by its domain."""
    bundles = scorer.routes.bundles
    assert bundles is not None, "a candidate has kernels"
    return {
        name: bundle_digest(manifest)
        for name, manifest in zip(bundles.names, bundles.manifests, strict=True)
        if manifest.verdict.publish
    }


def _to_replay(spec: ShadowSpec, catalog: Catalog) -> Catalog:
    """Return the catalogue without labels, and with the rows that are replayed as its split."""
    if spec.split is None:
        return to_score(spec, catalog, share=spec.share)
    if spec.split not in catalog.splits:
        raise BadRequest(
            f"split={spec.split}: the catalogue of log '{catalog.log.name}' declares "
            f"{', '.join(catalog.splits) or 'no split'}. Name one of them, or choose rows by dates="
        )
    return catalog.to_score(catalog.splits[spec.split])


def _encoded(
    chosen: ChosenRows, scored: Catalog
) -> Iterator[tuple[pa.Table, Mapping[str, pa.Array]]]:
    """Yield the encoded rows of each row group, and their labels."""
    selection = chosen.view.selections[SCORED]
    reader = Reader(
        selection=selection,
        catalog=chosen.view.catalog,
        encoding=chosen.base.encoding,
        rank=0,
        world=1,
        as_of=chosen.view.as_of,
    )
    for piece in reader.pieces():
        raw = parquet.read_piece(selection, piece, scored)
        encoded = encode_to_score(
            raw.rows, raw.identity, catalog=scored, encoding=chosen.base.encoding, counts=Counter()
        )
        yield pa.Table.from_batches([encoded]), _labels(reader, piece)


def _labels(reader: Reader, piece: Piece) -> dict[str, pa.Array]:
    """Return the labels of a piece that are known and ripe; nothing where none are read."""
    if not reader.catalog.tasks:
        return {}
    rows = reader.encoded(piece)
    return {name: rows.column(name) for name in rows.schema.names if name.startswith("y.")}


def exceeded_limits(
    changes: Sequence[ScoreChange], latency: float, limits: ShadowLimits
) -> list[Exceeded]:
    """Return the limits that do not hold, those of all rows together among them.

    Args:
        changes: of every task in each domain.
        latency: time of the candidate's pass over the live one's.
        limits: those that are absent always hold.
    """
    exceeded = [limit for change in changes for limit in _exceeded_by(change, limits)]
    if limits.latency is not None and latency > limits.latency:
        exceeded.append(
            Exceeded(limit="latency", domain=None, task=None, seen=latency, allowed=limits.latency)
        )
    return exceeded


def _exceeded_by(change: ScoreChange, limits: ShadowLimits) -> Iterator[Exceeded]:
    """Yield the limits that one task in one domain exceeds."""
    auc_loss = None if change.delta_auc is None else -change.delta_auc
    seen_calibration = change.candidate_calibration
    distance = None if seen_calibration is None else abs(seen_calibration - 1)
    # Limit, value, sign: 1 where a larger value is worse, -1 where a smaller one is.
    for name, seen, sign, rows in (
        ("mean_change", abs(change.mean), 1, change.rows),
        ("rank_correlation", change.rank_correlation, -1, change.rows),
        ("auc_loss", auc_loss, 1, change.labelled),
        ("calibration", distance, 1, change.labelled),
    ):
        allowed = getattr(limits, name)
        if allowed is None or seen is None or rows < limits.min_rows:
            continue
        if sign * seen > sign * allowed:
            yield Exceeded(
                limit=name, domain=change.domain, task=change.task, seen=seen, allowed=allowed
            )
