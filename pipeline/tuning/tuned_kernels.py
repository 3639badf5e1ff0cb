"""Define the result of tuning a level: its kernels at their best, with their losses and epochs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from iak.pipeline.iak.bank import Bank
from iak.pipeline.tuning.information import InformationPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedNumbers:
    """Losses and epochs of kernels, without their weights: all that a checkpoint needs of them."""

    start_loss: tuple[float, ...]
    best_loss: tuple[float, ...]
    best_epoch: tuple[int, ...]
    epochs: int
    stopped_at_cap: tuple[str, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    path: Mapping[str, tuple[InformationPoint, ...]] = field(default_factory=dict)
    own_share: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Tuned:
    """Kernels at their best, with losses and epochs: one number for each slot tuned so far."""

    bank: Bank
    start_loss: list[float]
    best_loss: list[float]
    best_epoch: list[int]
    epochs: int
    """Epochs of the kernel that took most."""
    stopped_at_cap: list[str]
    """Domains whose last epoch was their best. They may improve with more epochs."""
    failed: dict[str, str] = field(default_factory=dict)
    """Domain whose kernel diverged and is as it started -> a sentence with the loss."""
    path: dict[str, tuple[InformationPoint, ...]] = field(default_factory=dict)
    """Domain -> a point of the information plane for each of its epochs, in order."""
    own_share: dict[str, float] = field(default_factory=dict)
    """Domain that borrows from its parent -> the share of its own change that it keeps."""

    @classmethod
    def nothing(cls, start: Bank) -> "Tuned":
        """Return a level of which no kernel is tuned yet, in memory that is not yet written."""
        return cls(
            bank=start.like(),
            start_loss=[],
            best_loss=[],
            best_epoch=[],
            epochs=0,
            stopped_at_cap=[],
        )

    @property
    def kernels(self) -> int:
        """Return the number of tuned kernels."""
        return len(self.best_epoch)

    def reached(self) -> "Tuned":
        """Return the level without the kernels that were not begun before a deadline."""
        return replace(self, bank=self.bank.part(slice(0, self.kernels)))

    def take(self, following: "Tuned") -> None:
        """Add the kernels of the next cohort, which follow these in the order of slots."""
        done = self.kernels
        self.bank.flat_KN[done : done + following.kernels] = following.bank.flat_KN
        self.start_loss += following.start_loss
        self.best_loss += following.best_loss
        self.best_epoch += following.best_epoch
        self.epochs = max(self.epochs, following.epochs)
        self.stopped_at_cap += following.stopped_at_cap
        self.failed |= following.failed
        self.path |= following.path

    def numbers(self) -> TunedNumbers:
        """Return all fields except the weights."""
        return TunedNumbers(
            start_loss=tuple(self.start_loss),
            best_loss=tuple(self.best_loss),
            best_epoch=tuple(self.best_epoch),
            epochs=self.epochs,
            stopped_at_cap=tuple(self.stopped_at_cap),
            failed=dict(self.failed),
            path=dict(self.path),
            own_share=dict(self.own_share),
        )

    @classmethod
    def of(cls, bank: Bank, numbers: TunedNumbers) -> "Tuned":
        """Return kernels with these weights and numbers."""
        return cls(
            bank=bank,
            start_loss=list(numbers.start_loss),
            best_loss=list(numbers.best_loss),
            best_epoch=list(numbers.best_epoch),
            epochs=numbers.epochs,
            stopped_at_cap=list(numbers.stopped_at_cap),
            failed=dict(numbers.failed),
            path={name: tuple(points) for name, points in numbers.path.items()},
            own_share=dict(numbers.own_share),
        )
