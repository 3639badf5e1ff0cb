from iak.pipeline.nightly.history import History
from tests.unit.nightly.nights import BASE, IN_A, NIGHT, A, B, day, domain_night, record, seen


def test_the_newest_night_that_looked_at_a_day_says_what_it_was():
    records = [record(1, days=[seen(A, 2, rows=7)]), record(2, days=[seen(A, 2), seen(B, 2)])]
    found = History(records, until=NIGHT).partition_days()
    assert found[A, day(2)].rows == 7
    assert found[B, day(2)].rows == 100


def test_nights_that_did_not_finish_say_nothing():
    records = [record(1, days=[seen()], status="failed"), record(2, days=[], status="interrupted")]
    assert not History(records, until=NIGHT).records


def test_a_tuning_did_not_read_partitions_that_were_held():
    night = record(
        1, days=[seen(A, 1), seen(B, 1), seen(B, 2, holds=True)], domains=[domain_night(IN_A)]
    )
    (tuned,) = History([night], until=NIGHT).tunings(IN_A, BASE)
    assert set(tuned.read) == {(A, day(1))}


def test_the_rate_is_that_of_the_newest_night_that_tuned():
    records = [
        record(1, rows_tuned=0),
        record(2, rows_tuned=100, timings_s={"tune": 10.0}),
        record(3, rows_tuned=100, timings_s={"tune": 1.0}),
    ]
    assert History(records, until=NIGHT).rows_a_second == 10.0
    assert History([], until=NIGHT).rows_a_second is None


def test_nights_are_counted_since_the_last_one_from_scratch():
    records = [record(1), record(2, run_dir=None), record(3), record(4, is_scratch_night=True)]
    assert History(records, until=NIGHT).nights_since_scratch() == 2
