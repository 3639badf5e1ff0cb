"""Look up when earlier nights tuned each domain, on what, and how its kernel was judged."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from iak.pipeline.nightly.partitions import Key
from iak.schemas.domain import Domain
from iak.schemas.night import DomainNight, NightRecord, PartitionDay


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierTuning:
    """One tuning of a domain's kernel."""

    night: date
    outcome: DomainNight
    read: Mapping[Key, str]
    """Content of every partition's day that the night read."""


class History:
    """Finished nights, oldest first."""

    def __init__(self, records: Sequence[NightRecord], *, until: date) -> None:
        """Take the nights that a night may look back on.

        Args:
            records: records of one platform's nights, in any order.
            until: nominal date of the night that looks back; nights of later dates are left out.
        """
        kept = [r for r in records if r.status == "finished" and r.night <= until]
        self.records = sorted(kept, key=lambda record: (record.night, record.started_at))

    def partition_days(self) -> dict[Key, PartitionDay]:
        """Return what the newest night that looked at a partition's day saw of it."""
        days: dict[Key, PartitionDay] = {}
        for record in self.records:
            days |= {(tuple(day.partition), day.day): day for day in record.days}
        return days

    def tunings(self, domain: Domain, base: str) -> Iterator[EarlierTuning]:
        """Yield the tunings of a domain on a base, the newest first; those that failed included.

        Args:
            domain: the domain whose tunings are sought.
            base: fingerprint of the base.
        """
        for record in reversed(self.records):
            if record.base_fingerprint != base:
                continue
            for night in record.domains:
                if (
                    tuple(night.decision.domain) == domain.pairs
                    and night.decision.choice == "train"
                ):
                    yield EarlierTuning(night=record.night, outcome=night, read=_read(record))

    @property
    def rows_a_second(self) -> float | None:
        """Return the tuning rows a second of the newest night that tuned; None without one."""
        for record in reversed(self.records):
            seconds = record.timings_s.get("tune", 0.0)
            if record.rows_tuned and seconds:
                return record.rows_tuned / seconds
        return None

    def nights_since_scratch(self) -> int:
        """Count the nights that tuned since kernels were last tuned from scratch as well."""
        count = 0
        for record in reversed(self.records):
            if record.is_scratch_night:
                break
            count += record.run_dir is not None
        return count


def _read(record: NightRecord) -> dict[Key, str]:
    """Return the partitions' days that a night read: those of held partitions are left out."""
    held = {tuple(day.partition) for day in record.days if day.holds}
    return {
        (tuple(day.partition), day.day): day.content
        for day in record.days
        if tuple(day.partition) not in held
    }
