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
    """One panel: what is asked of Prometheus, and how it is drawn."""

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
    """Return the panels from what a person looks at first to what explains it."""
    clock = "time() - iak_night_ended_timestamp_seconds"
    return [
        _Panel("Newest night ended", "stat", f"{clock}{of}", "ago", "s", 6, 4),
        _Panel("Finished", "stat", f"iak_night_finished{of}", "finished", "bool_yes_no", 3, 4),
        _Panel("Exit code", "stat", f"iak_night_exit_code{of}", "code", "none", 3, 4),
        _Panel("Domains that fall back", "stat", f"iak_night_fallbacks{of}", "", "none", 4, 4),
        _Panel("Age of the base", "stat", f"iak_night_base_age_days{of}", "days", "d", 4, 4),
        _Panel("Cost", "stat", f"iak_night_cost{of}", "cost", "none", 4, 4),
        _Panel(
            "Kernels by outcome",
            "timeseries",
            f"iak_night_kernels{of}",
            "{{outcome}}",
            "none",
            12,
            8,
        ),
        _Panel(
            "Gain over the base, nats a row",
            "timeseries",
            f"iak_domain_gain_nats{of}",
            "{{domain}}",
            "none",
            12,
            8,
        ),
        _Panel(
            "Seconds by phase",
            "timeseries",
            f"iak_night_phase_seconds{of}",
            "{{phase}}",
            "s",
            12,
            8,
        ),
        _Panel("Rows tuned", "timeseries", f"iak_night_rows_tuned{of}", "rows", "short", 12, 8),
        _Panel(
            "Ids that the base does not know",
            "bargauge",
            f"iak_night_unseen_share{of}",
            "{{table}}",
            "percentunit",
            8,
            8,
        ),
        _Panel("Drift of inputs", "bargauge", f"iak_night_drift{of}", "{{input}}", "none", 8, 8),
        _Panel(
            "Calibration, predicted over observed",
            "bargauge",
            f"iak_domain_calibration{of}",
            "{{domain}}",
            "none",
            8,
            8,
        ),
        _Panel(
            "Age of live kernels, days",
            "bargauge",
            f"iak_domain_kernel_age_days{of}",
            "{{domain}}",
            "none",
            12,
            8,
        ),
        _Panel(
            "Worker seconds by domain",
            "bargauge",
            f"iak_domain_worker_seconds{of}",
            "{{domain}}",
            "s",
            12,
            8,
        ),
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
