"""Run nights one after the other: those of a range of dates, or those of the schedule.

Both do one night after the other in this process, oldest first, because each starts from the
kernels that the night before promoted.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from iak.jobs.progress import console
from iak.jobs.tables import show_table
from iak.pipeline.errors import (
    NOTHING_TO_DO,
    OK,
    SOME_FAILED,
    SOME_HELD,
    BadRequest,
    PipelineError,
)
from iak.pipeline.nightly.schedule import Tick, missed_ticks, next_tick, nights_between
from iak.pipeline.runs.load import load_nightly
from iak.pipeline.runs.nightly_records import read_nights
from iak.schemas.nightly import NightlySpec
from iak.schemas.nightly_job import NightlyBackfillSpec, NightlyWatchSpec

RunNight = Callable[[date], int]
"""Run the night of a date, and return its exit code."""
_ORDINARY = (SOME_FAILED, SOME_HELD, OK, NOTHING_TO_DO)
"""Exit codes of a night that ended without an error, the most serious first."""
_MAX_SLEEP_S = 60.0
"""Seconds after which the clock is read again. After the machine slept or its clock was set, a
night starts at most this much too late."""
_RETRY_AFTER = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock and a way to wait, which tests replace."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep


def backfill(spec: NightlyBackfillSpec, run_night: RunNight) -> int:
    """Run the nights of a range of dates, and return the worst of their exit codes.

    A night that fails as a whole ends the range: the nights after it start from its kernels.
    """
    nights = nights_between(load_nightly(spec.file).schedule, spec.first, spec.last)
    if not nights:
        raise BadRequest(f"nights={spec.nights}: the schedule has no night between these dates")
    codes: dict[date, int] = {}
    for night in nights:
        codes[night] = _code_of(run_night, night)
        if codes[night] not in _ORDINARY:
            break
    show_table(
        f"nights of {spec.nights}",
        ("night", "exit code"),
        [(str(night), str(codes.get(night, "not run"))) for night in nights],
        ends_in_number=True,
    )
    return worst_code(codes.values())


def worst_code(codes: Iterable[int]) -> int:
    """Return the exit code of several nights: the most serious of theirs."""
    codes = list(codes)
    broken = [code for code in codes if code not in _ORDINARY]
    return max(broken) if broken else next((c for c in _ORDINARY if c in codes), OK)


def watch(
    spec: NightlyWatchSpec,
    run_night: RunNight,
    clock: Clock | None = None,
    goes_on: Callable[[], bool] = lambda: True,
) -> None:
    """Run the night of every tick of the schedule, those that were missed first.

    The file is read again before each night. A night that fails is tried again after ten minutes,
    `deploy.retries` times, then the schedule goes on.

    Args:
        spec: the file.
        run_night: runs one night.
        clock: the machine's when absent.
        goes_on: returns whether to wait for another tick; called before each one.
    """
    clock = clock or Clock()
    nights = load_nightly(spec.file)
    last = _last_night(nights, clock.now())
    while goes_on():
        nights = _read_again(spec, nights)
        due = missed_ticks(nights.schedule, last, clock.now())
        for tick in due:
            _run_with_retries(tick, nights, run_night, clock)
            last = tick.night
        if not due:
            _wait_for(next_tick(nights.schedule, clock.now()), clock)


def _last_night(nights: NightlySpec, now: datetime) -> date:
    """Return the newest night that is done; before the first one, the one before the next tick."""
    done = [r.night for r in read_nights(nights.nights).records if r.status == "finished"]
    return max(done) if done else next_tick(nights.schedule, now).night - timedelta(days=1)


def _read_again(spec: NightlyWatchSpec, before: NightlySpec) -> NightlySpec:
    """Return the file's settings; the last ones where the file cannot be read now."""
    try:
        return load_nightly(spec.file)
    except PipelineError as error:
        console.print(
            f"{spec.file} cannot be read, so its last settings are used: {error}",
            markup=False,
            style="yellow",
        )
        return before


def _run_with_retries(tick: Tick, nights: NightlySpec, run_night: RunNight, clock: Clock) -> None:
    for left in range(nights.deploy.retries, -1, -1):
        code = _code_of(run_night, tick.night)
        if code in _ORDINARY:
            return
        if left:
            console.print(
                f"the night of {tick.night} ended with {code}; it is tried again in "
                f"{_RETRY_AFTER.total_seconds() / 60:.0f} minutes, {left} more times at most",
                markup=False,
            )
            _sleep_until(clock.now() + _RETRY_AFTER, clock)


def _wait_for(tick: Tick, clock: Clock) -> None:
    console.print(
        f"next: the night of {tick.night}, at {tick.instant:%Y-%m-%d %H:%M} UTC", markup=False
    )
    _sleep_until(tick.instant, clock)


def _sleep_until(instant: datetime, clock: Clock) -> None:
    while (left := (instant - clock.now()).total_seconds()) > 0:
        clock.sleep(min(left, _MAX_SLEEP_S))


def _code_of(run_night: RunNight, night: date) -> int:
    """Return a night's exit code. An error is shown, and its code is returned."""
    try:
        return run_night(night)
    except PipelineError as error:
        console.print(f"night of {night}: {error}", markup=False, style="yellow")
        return error.exit_code
