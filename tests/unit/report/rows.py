"""Rows of metrics, made to order."""

from iak.pipeline.stats.metrics import MetricRow


def metric(method, domain, *, rows=100, task="ctr", auc=0.7, delta=None, reasons=None, **changes):
    """One row; `delta` gives value, low and high of the AUC's difference to the base."""
    value, low, high = delta or (None, None, None)
    fields = {
        "method": method,
        "domain": domain,
        "task": task,
        "rows": rows,
        "positives": rows // 10,
        "auc": auc,
        "gauc": None,
        "logloss": 0.2,
        "ne": None,
        "calibration": 1.05,
        "delta_auc": value,
        "delta_auc_low": low,
        "delta_auc_high": high,
        "reasons": reasons or {},
    }
    return MetricRow(**fields | changes)
