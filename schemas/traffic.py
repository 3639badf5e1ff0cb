"""Define what went between machines: objects of object stores, and files of workers."""

from pydantic import NonNegativeInt

from iak.schemas.base import Spec


class Carried(Spec):
    """Files that went one way, and their bytes."""

    files: NonNegativeInt = 0
    bytes: NonNegativeInt = 0

    def __add__(self, other: "Carried") -> "Carried":
        """Return both together."""
        return Carried(files=self.files + other.files, bytes=self.bytes + other.bytes)


class StoreTraffic(Spec):
    """Objects that went between processes and object stores."""

    read: Carried = Carried()
    written: Carried = Carried()

    def __add__(self, other: "StoreTraffic") -> "StoreTraffic":
        """Return both together."""
        return StoreTraffic(read=self.read + other.read, written=self.written + other.written)


class NightTraffic(Spec):
    """What went between machines in a night, in all of its attempts.

    Rows of a log on an object store are not counted, nor is the last second of a killed worker.
    """

    from_stores: Carried = Carried()
    """Objects that the driver and the workers read from object stores: base, bundles, registry,
    records, activations."""
    to_stores: Carried = Carried()
    """Objects that they wrote there, until the record was written last."""
    to_workers: Carried = Carried()
    """Files of the run folder that workers of other machines fetched from the driver's machine."""
    from_workers: Carried = Carried()
    """Files that they sent there."""

    def __add__(self, other: "NightTraffic") -> "NightTraffic":
        """Return both together."""
        return NightTraffic(
            from_stores=self.from_stores + other.from_stores,
            to_stores=self.to_stores + other.to_stores,
            to_workers=self.to_workers + other.to_workers,
            from_workers=self.from_workers + other.from_workers,
        )

    def by_way(self) -> dict[str, Carried]:
        """Return what went each way, by field; a way that no file went is absent."""
        return {
            name: carried
            for name in type(self).model_fields
            if (carried := getattr(self, name)).files
        }
