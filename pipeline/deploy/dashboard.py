"""Describe a Grafana dashboard over the metrics of the nights (pipeline/report/metrics.py)."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from iak.pipeline.deploy.command import dns_name
from iak.schemas.nightly import NightlySpec

Kind = Literal["stat", "timeseries", "bargauge", "table"]
_COLUMNS = 24
"""Width of Grafana's grid."""
_SOURCE = {"type": "prometheus", "uid": "${source}"}


@dataclass(frozen=True, slots=True)
class _Panel:
    """One panel: its query to Prometheus, and how it is drawn."""

    title: str
    kind: Kind
    query: str
    legend: str
    unit: str
    width: int
    height: int


def dashboard(spec: NightlySpec) -> str:
    """Return the dashboard as JSON that Grafana imports; it asks for the data source."""
    of = f'{{service="{spec.name}"}}'
    panels = _placed(_panels(of))
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    document = {
        "uid": dns_name(spec)[:40],
        "title": f"Nights of {spec.name}",
        "tags": ["iak"],
        "timezone": spec.schedule.time_zone,
        "schemaVersion": 39,
        "time": {"from": "now-30d", "to": "now"},
        "refresh": "5m",
        "templating": {"list": [source]},
        "panels": panels,
    }
    return json.dumps(document, indent=1) + "\n"


def _panels(of: str) -> list[_Panel]:
    """Return the panels: first the state of the newest night, then what explains it.

    Args:
        of: the labels that choose the service's metrics.
    """
    clock = "time() - iak_night_ended_timestamp_seconds"
    domain = "{{domain}}"
    shown: list[tuple[str, Kind, str, str, str, int, int]] = [
        ("Newest night ended", "stat", clock, "ago", "s", 6, 4),
        ("Finished", "stat", "iak_night_finished", "finished", "bool_yes_no", 3, 4),
        ("Exit code", "stat", "iak_night_exit_code", "code", "none", 3, 4),
        ("Domains that fall back", "stat", "iak_night_fallbacks", "domains", "none", 4, 4),
        ("Age of the base", "stat", "iak_night_base_age_days", "days", "d", 4, 4),
        ("Cost", "stat", "iak_night_cost", "cost", "none", 4, 4),
        ("Kernels by outcome", "timeseries", "iak_night_kernels", "{{outcome}}", "none", 12, 8),
        ("Gain, nats a row", "timeseries", "iak_domain_gain_nats", domain, "none", 12, 8),
        ("Seconds by phase", "timeseries", "iak_night_phase_seconds", "{{phase}}", "s", 12, 8),
        ("Rows tuned", "timeseries", "iak_night_rows_tuned", "rows", "short", 12, 8),
        ("Unseen ids", "bargauge", "iak_night_unseen_share", "{{table}}", "percentunit", 8, 8),
        ("Drift of inputs", "bargauge", "iak_night_drift", "{{input}}", "none", 8, 8),
        ("Predicted over observed", "bargauge", "iak_domain_calibration", domain, "none", 8, 8),
        ("Age of kernels, days", "bargauge", "iak_domain_kernel_age_days", domain, "none", 12, 8),
        ("Worker seconds", "bargauge", "iak_domain_worker_seconds", domain, "s", 12, 8),
    ]
    return [
        _Panel(title, kind, metric + of, legend, unit, width, height)
        for title, kind, metric, legend, unit, width, height in shown
    ]


def _placed(panels: list[_Panel]) -> list[dict[str, Any]]:
    """Return the panels in rows from left to right, each as Grafana describes it."""
    placed: list[dict[str, Any]] = []
    x, y = 0, 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > _COLUMNS:
            x, y = 0, y + placed[-1]["gridPos"]["h"]
        target = {
            "datasource": _SOURCE,
            "expr": panel.query,
            "legendFormat": panel.legend,
            "refId": "A",
            "instant": panel.kind != "timeseries",
        }
        placed.append(
            {
                "id": number,
                "title": panel.title,
                "type": panel.kind,
                "datasource": _SOURCE,
                "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
                "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
                "targets": [target],
            }
        )
        x += panel.width
    return placed
