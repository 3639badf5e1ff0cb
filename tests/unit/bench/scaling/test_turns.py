"""Groups of workers compute one after the other."""

import threading

import pytest

from iak.pipeline.bench.scaling.turns import Turns
from iak.pipeline.process import run_on_workers


def write_in_turn(worker, turns, group, place, fails):
    for number in range(3):
        with turns.turn(group, worker):
            if fails and number == 1:
                raise OSError("the disk is full")
            if worker.rank == 0:
                with place.open("a") as file:
                    file.write(f"{group}")
    return worker.rank


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_groups_take_turns_and_none_waits_for_one_that_failed(fails, tmp_path):
    place, turns, errors = tmp_path / "order", Turns(2), []

    def run(group, world):
        try:
            run_on_workers(write_in_turn, world, turns, group, place, fails and group == 1)
        except (OSError, RuntimeError) as error:
            errors.append(error)
            turns.stop()

    threads = [threading.Thread(target=run, args=(g, w)) for g, w in ((0, 1), (1, 2))]
    for thread in threads:
        thread.start()
    turns.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    if fails:
        assert isinstance(errors[0], OSError)
        assert "another group" in str(errors[1])
    else:
        assert place.read_text() == "010101"
        assert not errors
