"""Describe Prometheus's alert rules on the metrics of a night (pipeline/report/metrics.py)."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import yaml

from iak.pipeline.deploy.command import dns_name
from iak.pipeline.deploy.kubernetes import seconds_of_a_night
from iak.pipeline.nightly.schedule import ticks_after
from iak.schemas.nightly import NightlySpec

_TICKS_LOOKED_AT = 400
"""Ticks in which the longest pause is searched: more than a year of a daily schedule."""
_UNSEEN_SHARE = 0.2
_HELD_NIGHTS = 3
_CALIBRATION = 0.2
_DRIFT = 0.25
"""Population stability index that is usually called a large change."""


def alert_rules(spec: NightlySpec) -> str:
    """Return the rules as a file that Prometheus loads."""
    groups = [{"name": dns_name(spec), "rules": [*_night_rules(spec), *_data_rules(spec)]}]
    return yaml.safe_dump({"groups": groups}, sort_keys=False, width=100)


def longest_pause(spec: NightlySpec) -> timedelta:
    """Return the longest time between two ticks of the schedule."""
    ticks = islice(ticks_after(spec.schedule, datetime(2026, 1, 1, tzinfo=UTC)), _TICKS_LOOKED_AT)
    return max(later.instant - earlier.instant for earlier, later in pairwise(ticks))


def _night_rules(spec: NightlySpec) -> list[dict[str, object]]:
    """Return the rules about nights as a whole, those that wake a person first."""
    of = f'{{service="{spec.name}"}}'
    overdue_s = int(longest_pause(spec).total_seconds()) + seconds_of_a_night(spec)
    held_for = f"{_HELD_NIGHTS * int(longest_pause(spec).total_seconds())}s"
    return [
        _rule(
            "IakNightOverdue",
            f"time() - iak_night_ended_timestamp_seconds{of} > {overdue_s}",
            "page",
            "No night has ended for {{ $value | humanizeDuration }}.",
        ),
        _rule(
            "IakNightFailed",
            f"iak_night_finished{of} == 0",
            "page",
            "The newest night broke. `iak nightly status` says why; the live kernels serve on.",
        ),
        _rule(
            "IakNightPastDeadline",
            f"iak_night_ended_timestamp_seconds{of} - iak_night_deadline_timestamp_seconds{of} > 0",
            "ticket",
            "The newest night ended {{ $value | humanizeDuration }} after its deadline.",
        ),
        _rule(
            "IakKernelsFailed",
            f'iak_night_kernels{{service="{spec.name}", outcome="failed"}} > 0',
            "ticket",
            "{{ $value }} kernels failed in the newest night.",
        ),
        _rule(
            "IakNothingPromoted",
            f'max_over_time(iak_night_kernels{{service="{spec.name}", outcome="promoted"}}'
            f"[{held_for}]) == 0",
            "ticket",
            f"No kernel was promoted in {_HELD_NIGHTS} nights.",
        ),
    ]


def _data_rules(spec: NightlySpec) -> list[dict[str, object]]:
    """Return the rules about old kernels, and about data that has drifted since the base."""
    of = f'{{service="{spec.name}"}}'
    old = 2 * spec.choice.max_age_days
    unseen = _UNSEEN_SHARE
    if spec.refresh and spec.refresh.unseen_share is not None:
        unseen = spec.refresh.unseen_share
    return [
        _rule(
            "IakKernelOld",
            f"iak_domain_kernel_age_days{of} > {old:g}",
            "ticket",
            "The kernel of {{ $labels.domain }} is {{ $value }} days old.",
        ),
        _rule(
            "IakBaseDoesNotKnowIds",
            f"iak_night_unseen_share{of} > {unseen:g}",
            "ticket",
            "{{ $value | humanizePercentage }} of the ids of {{ $labels.table }} are new to the "
            "base: it is due for a refresh.",
        ),
        _rule(
            "IakInputMoved",
            f"iak_night_drift{of} > {_DRIFT:g}",
            "ticket",
            "{{ $labels.input }} has moved since the base was trained, index {{ $value }}.",
        ),
        _rule(
            "IakMiscalibrated",
            f"abs(iak_domain_calibration{of} - 1) > {_CALIBRATION:g}",
            "ticket",
            "Predictions of {{ $labels.domain }} are off by {{ $value | humanizePercentage }}.",
        ),
    ]


def _rule(name: str, expression: str, severity: str, summary: str) -> dict[str, object]:
    return {
        "alert": name,
        "expr": expression,
        "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }
