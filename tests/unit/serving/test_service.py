"""Requests get what files get, to the last bit, alone or together, while kernels are swapped."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.errors import BadRequest
from iak.pipeline.serving.service import Service


@pytest.fixture
def service(nights):
    running = Service(nights[0][0], batch_rows=64, wait_s=0.002)
    yield running
    running.close()


def batch(rows, first, count):
    return rows.slice(first, count).combine_chunks().to_batches()[0]


@given(cuts=st.lists(st.integers(0, 508), min_size=1, max_size=12))
@settings(max_examples=10)
def test_requests_of_any_size_get_what_files_get(nights, rows, cuts):
    scorer, expected = nights[0]
    service = Service(scorer, batch_rows=64, wait_s=0.002)
    ends = sorted({0, *cuts, len(rows)})
    parts = list(itertools.pairwise(ends))
    with ThreadPoolExecutor(4) as clients:
        answers = list(
            clients.map(lambda p: service.submit(batch(rows, p[0], p[1] - p[0])).result(), parts)
        )
    service.close()
    assert pa.concat_tables(answers).to_pylist() == expected


def test_a_swap_under_load_fails_no_request_and_no_answer_is_a_mixture(service, nights, rows):
    before, after = nights[0][1], nights[1][1]
    assert before != after
    seen = set()

    def ask(number):
        first = 31 * number % 450
        service.swap(nights[number // 8 % 2][0])
        answer = service.submit(batch(rows, first, 40)).result().to_pylist()
        is_old = answer == before[first : first + 40]
        assert is_old or answer == after[first : first + 40]
        seen.add(is_old)

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(ask, range(200)))
    assert seen == {True, False}


def test_a_request_that_cannot_be_read_fails_alone(nights, rows):
    service = Service(nights[0][0], batch_rows=10_000, wait_s=0.2)
    good = service.submit(batch(rows, 0, 5))
    bad = service.submit(batch(rows.drop_columns(["price"]), 0, 5))
    assert good.result().to_pylist() == nights[0][1][:5]
    with pytest.raises(BadRequest, match="missing columns: price"):
        bad.result()
    service.close()


def test_what_waits_is_answered_before_the_end(nights, rows):
    service = Service(nights[0][0], batch_rows=16, wait_s=0.0)
    answers = [service.submit(batch(rows, first, 20)) for first in range(0, 400, 20)]
    service.close()
    assert [a.result().to_pylist() for a in answers] == [
        nights[0][1][first : first + 20] for first in range(0, 400, 20)
    ]


def test_an_error_of_the_scorer_is_every_request_s_answer_and_the_next_one_is_answered(
    service, nights, rows
):
    class Broken:
        catalog, base = nights[0][0].catalog, nights[0][0].base

        def score(self, _):
            raise MemoryError("no more")

    service.swap(Broken())
    with pytest.raises(MemoryError):
        service.submit(batch(rows, 0, 3)).result()
    service.swap(nights[0][0])
    assert service.submit(batch(rows, 0, 3)).result().to_pylist() == nights[0][1][:3]
