"""Decide whether the base is due for a refresh: further training on the days since its own."""

from collections.abc import Mapping
from datetime import date
from statistics import median

from iak.pipeline.nightly.history import History
from iak.schemas.nightly import RefreshSpec


def refresh_reason(
    spec: RefreshSpec | None,
    *,
    night: date,
    base_age_days: int | None,
    unseen: Mapping[str, float],
    history: History,
    base: str,
) -> str | None:
    """Return why the base is due for a refresh; None where it is not.

    Args:
        spec: settings of the refresh; None never refreshes.
        night: nominal date.
        base_age_days: days between the last day that the base learned from and the night; None
            where that is not known.
        unseen: table -> share of the window's ids that the base does not know.
        history: earlier nights.
        base: fingerprint of the base.
    """
    if spec is None or base_age_days == 0:  # there is no day that it has not seen
        return None
    if night in spec.dates:
        return f"refresh.dates names {night}"
    if spec.age_days is not None and base_age_days is not None and base_age_days >= spec.age_days:
        return f"the base is {base_age_days} days old; {spec.age_days:g} are allowed"
    if spec.unseen_share is not None and unseen:
        table = max(unseen, key=lambda name: unseen[name])
        if unseen[table] >= spec.unseen_share:
            return (
                f"{unseen[table]:.1%} of the ids of {table} are unknown to the base; "
                f"{spec.unseen_share:.1%} are allowed"
            )
    return _small_gain(spec, history, base)


def _small_gain(spec: RefreshSpec, history: History, base: str) -> str | None:
    """Return a reason where the kernels of the newest night gained too little over the base."""
    of_base = [r for r in history.records if r.base_fingerprint == base and r.run_dir]
    verdicts = [domain.verdict for domain in of_base[-1].domains] if of_base else []
    gains = [v.gain for v in verdicts if v is not None and v.gain is not None]
    if spec.gain_below is None or not gains or median(gains) >= spec.gain_below:
        return None
    return (
        f"the kernels of {of_base[-1].night} gained {median(gains):.5f} nats a row over the base "
        f"in the median; {spec.gain_below:g} are wanted"
    )
