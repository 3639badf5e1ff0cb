"""systemd's units: the calendar means what the crontab line means, as systemd itself counts."""

import re
import shutil
import subprocess
from datetime import UTC, datetime
from itertools import islice
from pathlib import PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.deploy.systemd import calendar_events, units
from iak.pipeline.nightly.schedule import ticks_after
from iak.schemas.nightly import ScheduleSpec
from tests.unit.deploy.nights import nights

needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)
START = datetime(2026, 1, 31, 12, tzinfo=UTC)


def _elapses(event, count):
    """Return the next instants of an event, as systemd counts them."""
    command = [
        "systemd-analyze",
        "calendar",
        f"--iterations={count}",
        f"--base-time={START:%F %T} UTC",
    ]
    text = subprocess.run([*command, event], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"(?:Next elapse|Iter. #\d+): \w+ (\S+ \S+) UTC", text)
    return [datetime.strptime(one, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) for one in found]


@st.composite
def _lines(draw):
    days = draw(st.sampled_from(["*", "1", "13,27", "*/9", "2-5"]))
    weekdays = draw(st.sampled_from(["*", "0", "7", "1-5", "SAT,SUN", "0-7", "*/3"]))
    months = draw(st.sampled_from(["*", "2,8", "JAN-MAR"]))
    minutes = draw(st.sampled_from(["0", "*/20", "5,35"]))
    hours = draw(st.sampled_from(["2", "*/11", "22-23"]))
    return f"{minutes} {hours} {days} {months} {weekdays}"


@needs_systemd
@given(_lines(), st.sampled_from(["UTC", "Asia/Shanghai"]))
@settings(max_examples=40)
def test_systemd_fires_when_crontab_does(line, zone):
    """Zones without a changed clock: there systemd skips what crontab shifts."""
    schedule = ScheduleSpec(cron=line, time_zone=zone)
    expected = [tick.instant for tick in islice(ticks_after(schedule, START), 6)]
    fired = {one for event in calendar_events(schedule) for one in _elapses(event, 6)}
    assert sorted(fired)[:6] == expected


def test_a_line_with_both_kinds_of_day_is_two_events():
    events = calendar_events(ScheduleSpec(cron="30 2 1 * 1"))
    assert events == ["*-*-01 02:30:00 UTC", "Mon *-*-* 02:30:00 UTC"]


@needs_systemd
def test_systemd_accepts_the_units(tmp_path):
    program = tmp_path / "iak"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    written = units(nights(), PurePath(tmp_path / "50 % of it" / "nightly.toml"), str(program))
    assert sorted(written) == ["iak-shop-eu.service", "iak-shop-eu.timer"]
    for name, text in written.items():
        (tmp_path / name).write_text(text)
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", *map(str, tmp_path.glob("iak-*"))],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in checked.stderr.splitlines() if str(tmp_path) in line]
    assert complaints == []


def test_the_service_takes_ordinary_codes_for_success():
    service = units(nights(), PurePath("/srv/nightly.toml"), "/opt/iak")["iak-shop-eu.service"]
    assert "SuccessExitStatus=4 6" in service.splitlines()
    assert "ExecStart=/opt/iak nightly run /srv/nightly.toml" in service.splitlines()
