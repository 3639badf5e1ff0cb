"""Days, decisions and records of nights, made to order."""

from datetime import UTC, date, datetime, timedelta

from iak.pipeline.data.partition_days import PartitionFiles
from iak.pipeline.nightly.partitions import Clock
from iak.schemas.domain import Domain
from iak.schemas.night import Decision, DomainNight, NightRecord, PartitionDay
from iak.schemas.nightly import ReadySpec
from iak.schemas.verdict import Verdict

NIGHT = date(2026, 10, 28)
NOW = datetime(2026, 10, 29, 2, 30, tzinfo=UTC)
A, B = (("region", "a"),), (("region", "b"),)
POOLED, IN_A, IN_B = Domain(), Domain(A), Domain(B)
BASE = "b" * 64


def day(back=0):
    return NIGHT - timedelta(days=back)


def files(partition=A, back=0, *, rows=100, content=None, marker=True, hours=1.0, unreadable=()):
    """One day of a partition, `back` days before the night, written `hours` ago."""
    return PartitionFiles(
        day=day(back),
        partition=partition,
        files=1,
        unreadable=tuple(unreadable),
        rows=rows,
        content=content or f"{partition}{back}{rows}",
        has_marker=marker,
        newest=NOW - timedelta(hours=hours),
    )


def clock(**ready):
    return Clock(now=NOW, ready=ReadySpec(**ready))


def seen(partition=A, back=0, *, state="complete", content=None, rows=100, holds=False):
    """The same as an earlier night saw it."""
    return PartitionDay(
        partition=list(partition),
        day=day(back),
        state=state,
        files=1,
        rows=rows,
        content=content or f"{partition}{back}{rows}",
        holds=holds,
        reason="as it was seen" if holds else "",
    )


def verdict(gain=0.01, *, publish=True):
    return Verdict(publish=publish, reason="as judged", gain=gain, rows=100)


def domain_night(domain, *, choice="train", outcome="promoted", gain=0.01):
    decision = Decision(
        domain=list(domain.pairs),
        level="domain" if domain.pairs else "pooled",
        choice=choice,
        reason="as decided",
    )
    return DomainNight(
        decision=decision,
        outcome=outcome,
        sentence="as it went",
        served_by="own",
        verdict=verdict(gain) if choice == "train" and outcome != "failed" else None,
    )


def record(back, *, days=(), domains=(), base=BASE, **fields):
    """A finished night, `back` days before the one that looks back on it."""
    changes = {"status": "finished", "run_dir": "tune", **fields}
    return NightRecord(
        id=f"{day(back).toordinal():016x}",
        name="shop",
        night=day(back),
        started_at=NOW - timedelta(days=back),
        base_fingerprint=base,
        base="R1",
        registry="registry",
        days=list(days),
        domains=list(domains),
        **changes,
    )
