"""Alert rules and dashboard: on metrics that a night writes, and right by promtool's own tests."""

import json
import re
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from iak.pipeline.deploy.alerts import alert_rules, longest_pause
from iak.pipeline.deploy.dashboard import dashboard
from iak.pipeline.report.metrics import metrics_text
from tests.nights import a_night
from tests.tools import debian_program
from tests.unit.deploy.nights import nights

METRIC = re.compile(r"\biak_[a-z_]+")


@pytest.fixture(scope="module")
def written():
    """Return the names of the metrics that a night writes."""
    started = datetime(2026, 10, 29, 2, 30, tzinfo=UTC)
    record = a_night(domains=2).model_copy(
        update={"deadline": started + timedelta(hours=3), "unseen": {"item_id": 0.1}}
    )
    return set(METRIC.findall(metrics_text(record).decode()))


def test_every_metric_of_rules_and_dashboard_is_written(written):
    asked = set(METRIC.findall(alert_rules(nights()) + dashboard(nights())))
    assert asked - written == set()


def test_the_pause_follows_the_schedule():
    assert longest_pause(nights()) == timedelta(hours=25)  # a day on which the clock goes back
    weekly = nights(schedule={"cron": "30 2 * * 1"})
    assert longest_pause(weekly) == timedelta(days=7)


def test_panels_do_not_lie_on_each_other():
    panels = json.loads(dashboard(nights()))["panels"]
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def _series(name, values, **labels):
    """Return a series of promtool's notation."""
    inside = ",".join(f'{key}="{value}"' for key, value in {**SERVICE, **labels}.items())
    return {"series": f"{name}{{{inside}}}", "values": values}


SERVICE = {"service": "Shop_EU"}
DAY = 24 * 60
# A good day and one on which everything goes wrong: rule, metric, its values, labels, what is said.
WRONG = [
    ("IakNightFailed", "night_finished", f"1x{DAY} 0x{DAY}", {}, "The newest night broke."),
    ("IakNightPastDeadline", "night_ended_timestamp_seconds", f"100x{DAY} 980x{DAY}", {}, "8m 0s"),
    ("IakKernelsFailed", "night_kernels", f"0x{DAY} 2x{DAY}", {"outcome": "failed"}, "2 kernels"),
    ("IakNothingPromoted", "night_kernels", f"5 0x{DAY * 6}", {"outcome": "promoted"}, "3 nights"),
    ("IakKernelOld", "domain_kernel_age_days", f"3x{DAY} 30x{DAY}", {"domain": "a"}, "30 days old"),
    ("IakBaseDoesNotKnowIds", "night_unseen_share", f".1x{DAY} .5x{DAY}", {"table": "t"}, "50%"),
    ("IakInputMoved", "night_drift", f".1x{DAY} .5x{DAY}", {"input": "i"}, "i has moved"),
    ("IakMiscalibrated", "domain_calibration", f"1.1x{DAY} .5x{DAY}", {"domain": "a"}, "by 50%"),
]


def _summary(rule, labels, value):
    """Return a rule's summary with its labels and value filled in, as Prometheus would."""
    text = rule["annotations"]["summary"]
    for name, label in labels.items():
        text = text.replace(f"{{{{ $labels.{name} }}}}", label)
    return re.sub(r"\{\{ \$value.*?\}\}", value, text)


@pytest.mark.slow
def test_promtool_sees_each_rule_fire_and_stay_quiet(tmp_path):
    promtool = debian_program("prometheus", "usr/bin/promtool")
    (tmp_path / "rules.yaml").write_text(alert_rules(nights()))
    rules = {
        rule["alert"]: rule for rule in yaml.safe_load(alert_rules(nights()))["groups"][0]["rules"]
    }
    values = {"IakNightPastDeadline": "8m 0s", "IakKernelsFailed": "2", "IakKernelOld": "30"}
    values |= {"IakBaseDoesNotKnowIds": "50%", "IakInputMoved": "0.5", "IakMiscalibrated": "50%"}
    expected = []
    for alert, _, _, labels, words in WRONG:
        summary = _summary(rules[alert], labels, values.get(alert, ""))
        assert words in summary
        fired = {
            "exp_labels": {"severity": rules[alert]["labels"]["severity"], **SERVICE, **labels},
            "exp_annotations": {"summary": summary},
        }
        late = "119h" if alert == "IakNothingPromoted" else "47h"
        expected += [
            {"eval_time": "23h", "alertname": alert, "exp_alerts": []},
            {"eval_time": late, "alertname": alert, "exp_alerts": [fired]},
        ]
    series = [_series(f"iak_{name}", shown, **labels) for _, name, shown, labels, _ in WRONG]
    deadline = _series("iak_night_deadline_timestamp_seconds", f"500x{2 * DAY}")
    tests = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "5m",
        "tests": [
            {"interval": "1m", "input_series": [*series, deadline], "alert_rule_test": expected}
        ],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    assert "9 rules found" in _promtool(promtool, "check", "rules", tmp_path / "rules.yaml")
    _promtool(promtool, "test", "rules", tmp_path / "tests.yaml")


@pytest.mark.slow
def test_a_night_that_does_not_come_is_overdue(tmp_path):
    promtool = debian_program("prometheus", "usr/bin/promtool")
    (tmp_path / "rules.yaml").write_text(alert_rules(nights()))
    ended = _series("iak_night_ended_timestamp_seconds", f"3600x{3 * DAY}")
    quiet = {"eval_time": "28h", "alertname": "IakNightOverdue", "exp_alerts": []}
    fired = {
        "exp_labels": {"severity": "page", **SERVICE},
        "exp_annotations": {"summary": "No night has ended for 1d 6h 0m 0s."},
    }
    overdue = {"eval_time": "31h", "alertname": "IakNightOverdue", "exp_alerts": [fired]}
    tests = {
        "rule_files": ["rules.yaml"],
        "tests": [{"interval": "1m", "input_series": [ended], "alert_rule_test": [quiet, overdue]}],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    _promtool(promtool, "test", "rules", tmp_path / "tests.yaml")


def _promtool(promtool, *words):
    command = [str(promtool), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
