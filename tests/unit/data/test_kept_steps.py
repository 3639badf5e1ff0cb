"""Rows that are read again and again are decoded once, where they are few."""

from itertools import islice

import pytest

from iak.pipeline.data import parquet
from iak.pipeline.data.kept_steps import KeptSteps
from tests.builders import DAYS, small_catalog, small_reader, write_log
from tests.unit.data.test_reader import ENCODING

CATALOG = small_catalog()


@pytest.fixture
def log(tmp_path):
    write_log(tmp_path, [("ningbo", DAYS[0], [9, 4]), ("hefei", DAYS[0], [7])])
    return small_reader(tmp_path, CATALOG, encoding=ENCODING)


@pytest.fixture
def decoded(monkeypatch):
    """The pieces that were decoded so far."""
    pieces, real = [], parquet.read_piece

    def read_piece(selection, piece, *args, **settings):
        pieces.append(piece)
        return real(selection, piece, *args, **settings)

    monkeypatch.setattr(parquet, "read_piece", read_piece)
    return pieces


def rows_in(steps):
    return [table.to_pylist() for table in steps]


@pytest.mark.parametrize("batch_rows", [1, 6, 64])
def test_every_pass_has_the_readers_steps_and_only_the_first_decodes(log, decoded, batch_rows):
    expected = rows_in(log.in_step(batch_rows))
    pieces = len(decoded)
    kept = KeptSteps(log)
    for _ in range(3):
        assert rows_in(kept.in_step(batch_rows)) == expected
    assert len(expected) == kept.steps(batch_rows)
    assert len(decoded) == 2 * pieces


def test_a_caller_that_takes_exactly_the_steps_of_a_pass_has_read_all(log, decoded):
    kept = KeptSteps(log)
    for _ in range(2):
        assert len(list(islice(kept.in_step(6), kept.steps(6)))) == kept.steps(6)
    assert len(decoded) == len(log.pieces())


def test_a_pass_that_is_broken_off_keeps_nothing(log):
    kept = KeptSteps(log)
    next(kept.in_step(6))
    assert rows_in(kept.in_step(6)) == rows_in(log.in_step(6))


def test_rows_beyond_the_bytes_are_read_again(log, decoded):
    kept = KeptSteps(log, most_bytes=sum(table.nbytes for table in log.in_step(6)) - 1)
    decoded.clear()
    passes = [rows_in(kept.in_step(6)) for _ in range(2)]
    assert passes == [rows_in(log.in_step(6))] * 2
    assert len(decoded) == 3 * len(log.pieces())


def test_steps_of_another_size_are_read_from_the_log(log):
    kept = KeptSteps(log)
    for batch_rows in (6, 5, 6):
        assert rows_in(kept.in_step(batch_rows)) == rows_in(log.in_step(batch_rows))
