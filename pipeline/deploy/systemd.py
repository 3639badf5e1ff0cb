"""Describe the nights as a systemd service and its timer, for one machine without a scheduler."""

import shlex
from datetime import datetime
from pathlib import PurePath

from cronsim import CronSim

from iak.pipeline.deploy.command import dns_name, night_command
from iak.pipeline.deploy.kubernetes import seconds_of_a_night
from iak.schemas.nightly import NightlySpec, ScheduleSpec

_WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_WHOLE = {"minutes": 60, "hours": 24, "days": 31, "months": 12}


def units(spec: NightlySpec, file: PurePath, iak: str) -> dict[str, str]:
    """Return the service and the timer by file name.

    Args:
        spec: the nights.
        file: nightly.toml on that machine, as an absolute path.
        iak: the program, as an absolute path.
    """
    name = dns_name(spec)
    return {f"{name}.service": _service(spec, file, iak), f"{name}.timer": _timer(spec)}


def calendar_events(schedule: ScheduleSpec) -> list[str]:
    """Return a crontab line as systemd's calendar events, which together mean the same.

    crontab joins day of month and day of week by *or* where both are given, and systemd by *and*,
    so such a line becomes two events.
    """
    fields = CronSim(schedule.cron, datetime(2000, 1, 1))
    weekdays = {day % 7 for day in fields.weekdays if isinstance(day, int)}  # 7 is Sunday too
    days = {day for day in fields.days if isinstance(day, int)}
    dates = f"*-{_numbers(fields.months, 'months')}"
    clock = f"{_numbers(fields.hours, 'hours')}:{_numbers(fields.minutes, 'minutes')}:00"
    at = f"{clock} {schedule.time_zone}"
    by_date = f"{dates}-{_numbers(days, 'days')} {at}"
    is_every_weekday = len(weekdays) == len(_WEEKDAYS)
    names = "" if is_every_weekday else f"{','.join(_WEEKDAYS[day] for day in sorted(weekdays))} "
    if fields.day_and:  # one of the two is a star, and the other one decides
        return [names + by_date]
    return [by_date, f"{names}{dates}-* {at}"]


def _numbers(numbers: set[int], field: str) -> str:
    if len(numbers) == _WHOLE[field]:
        return "*"
    return ",".join(f"{number:02d}" for number in sorted(numbers))


def _service(spec: NightlySpec, file: PurePath, iak: str) -> str:
    codes = " ".join(str(code) for code in spec.deploy.ok_codes if code)
    command = _escaped(shlex.join(night_command(file, iak)))
    return f"""\
[Unit]
Description=Night of {spec.name}
Wants=network-online.target
After=network-online.target
# A night that fails is started again, so many times a day.
StartLimitIntervalSec=1d
StartLimitBurst={spec.deploy.retries + 1}

[Service]
Type=oneshot
WorkingDirectory={_escaped(str(file.parent))}
ExecStart={command}
SuccessExitStatus={codes}
TimeoutStartSec={seconds_of_a_night(spec)}
Environment=OMP_NUM_THREADS=1
# Keys of object stores and the webhook's address; systemd reads the file before it drops rights.
EnvironmentFile=-/etc/iak/{dns_name(spec)}.env
Restart=on-failure
RestartSec=600
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full
"""


def _escaped(text: str) -> str:
    """Return a text in which systemd expands nothing."""
    return text.replace("%", "%%").replace("$", "$$")


def _timer(spec: NightlySpec) -> str:
    events = "\n".join(f"OnCalendar={event}" for event in calendar_events(spec.schedule))
    return f"""\
[Unit]
Description=Nights of {spec.name}, crontab {spec.schedule.cron} in {spec.schedule.time_zone}

[Timer]
{events}
# A machine that was off runs the newest night when it starts.
Persistent=true
AccuracySec=1s

[Install]
WantedBy=timers.target
"""
