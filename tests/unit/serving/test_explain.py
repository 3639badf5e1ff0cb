"""Each row's explanation is that of its prediction, whatever rows are explained beside it."""

import math

import pyarrow as pa
import pytest

from iak.pipeline.data import parquet
from iak.pipeline.data.pieces import pieces_of
from iak.pipeline.publish.bundle import bundle_name, read_manifest
from iak.pipeline.serving.encode import encode_to_score
from iak.pipeline.serving.explain import explain
from iak.schemas.log import SCORED
from tests.unit.serving.conftest import scorer_of
from tests.unit.serving.shop import BUNDLES, score_work


@pytest.fixture(scope="module")
def encoded(place, base, nights):
    assert nights, "the bundles are written"
    work = score_work(place, base, None, place / "nothing")
    return pa.Table.from_batches(
        [
            encode_to_score(
                raw.rows, raw.identity, catalog=work.view.catalog, encoding=base.encoding, counts={}
            )
            for piece in pieces_of(work.view.selections[SCORED], rank=0, world=1)
            for raw in [parquet.read_piece(work.view.selections[SCORED], piece, work.view.catalog)]
            if len(raw.rows)
        ]
    ).unify_dictionaries()


def explained(place, base, rows, seed=0):
    folder = place / f"night-{seed}" / "bundles"
    return explain(scorer_of(base, folder), rows.combine_chunks(), folder)


def test_probabilities_and_kernels_are_those_of_predict_to_the_last_bit(
    place, base, nights, encoded
):
    for seed, (_, scores) in zip((0, 50), nights, strict=True):
        found = explained(place, base, encoded, seed)
        assert len(found) == len(scores)
        for explanation, score in zip(found, scores, strict=True):
            assert explanation.kernel == score["kernel"]
            assert explanation.version == score["version"]
            assert explanation.reason == score["reason"]
            served = {f"p.{name}": p for name, p in explanation.probabilities.items()}
            assert served == {
                n: p for n, p in score.items() if n.startswith("p.") and p is not None
            }


def test_base_and_parts_sum_to_the_logit_of_the_served_probability(place, base, encoded):
    found = [e for e in explained(place, base, encoded) if e.kernel]
    ways = ("through_h", "through_adapters", "through_skip")
    for explanation in found:
        for task in explanation.tasks:
            total = task.base_logit + sum(getattr(task, way) for way in ways)
            assert total == pytest.approx(task.logit, abs=1e-6)
            served = explanation.probabilities[task.task]
            # The served probability comes from the bank, the parts from one kernel by itself.
            assert 1 / (1 + math.exp(-total)) == pytest.approx(served, abs=1e-5)
    for way in ways:
        assert max(abs(getattr(t, way)) for e in found for t in e.tasks) > 0.01


def test_a_row_is_explained_alike_alone(place, base, encoded):
    whole = explained(place, base, encoded)
    for index in (0, 5, 200):
        (alone,) = explained(place, base, encoded.slice(index, 1))
        assert alone.probabilities == whole[index].probabilities
        for one, other in zip(alone.tasks, whole[index].tasks, strict=True):
            assert one.logit == pytest.approx(other.logit, abs=1e-5)


def test_the_manifest_says_when_the_kernel_was_made(place, base, encoded):
    folder = place / "night-0" / "bundles"
    for explanation in explained(place, base, encoded):
        if explanation.kernel:
            domain, _ = BUNDLES[explanation.kernel]
            manifest = read_manifest(folder / bundle_name(domain))
            assert explanation.created_at == manifest.created_at
            assert explanation.rate_nats > 0


def test_the_base_alone_adds_nothing(place, base, encoded):
    scorer = scorer_of(base, None)
    found = explain(scorer, encoded.slice(0, 40).combine_chunks(), place / "night-0" / "bundles")
    served = [e for e in found if e.kernel]
    assert served
    for explanation in served:
        assert (explanation.kernel, explanation.rate_nats) == ("base", None)
        assert explanation.reason == "no bundles were given"
        for task in explanation.tasks:
            assert task.base_logit == task.logit
            assert task.base_probability == pytest.approx(
                explanation.probabilities[task.task], abs=1e-7
            )


def test_a_row_that_breaks_the_contract_has_its_breach_and_no_parts(place, base, encoded):
    broken = [e for e in explained(place, base, encoded) if e.kernel is None]
    assert broken
    assert {(e.reason, e.tasks) for e in broken} == {("null domain key in scene", ())}
