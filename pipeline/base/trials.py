"""Define the sets of settings that a pre-training tries, and choose those of a run.

No one set suits every log: on validation rows each set won on some log, and lost elsewhere
(`trials.md` has the numbers). So a run trains with each set, and publishes the base with the best
validation loss.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from iak.schemas.job import BaseOptimSpec, ModelSpec, PretrainOptimSpec, PretrainSpec

SETS: Mapping[str, Mapping[str, float]] = {
    "plain": {},
    # Row-wise Adagrad divides by the size of a row's own gradients: an id that was seen once moves
    # as far by a negative row, whose gradient is small where positives are rare, as by a positive
    # one. An epsilon of the size of a positive row's gradient keeps the two apart.
    "damped": {
        "optim.table_eps": 4e-4,
        "optim.decay_share": 1.0,
    },
    "penalty": {
        "model.dropout": 0.1,
        "optim.table_lr": 0.2,
        "optim.table_eps": 1e-5,
        "optim.table_penalty": 0.3,
        "optim.decay_share": 1.0,
    },
    # Wider embeddings tell more of ids that have rows enough, if dropout and a penalty keep them
    # from memorising rows.
    "wide": {
        "model.width": 32,
        "model.init_scale": 0.05,
        "model.dropout": 0.2,
        "optim.table_lr": 0.3,
        "optim.table_eps": 1e-5,
        "optim.table_penalty": 0.3,
        "optim.decay_share": 1.0,
    },
}
"""Name of a set -> the settings in which it differs from the defaults, most useful sets first."""
WIDE_ROWS = 500_000
"""Training rows from which `wide` is tried. On the logs of fewer rows in `trials.md` it was never
the best."""
_SHAPE = frozenset({"model.width", "model.init_scale"})
"""Settings of embeddings, which only `wide` varies. Where the user gives one, it is not tried."""
FORMER = frozenset({"optim.table_decay"})
"""Settings of sets that earlier versions tried. Bases of theirs may have been chosen with them."""
VARIED = sorted(FORMER.union(*SETS.values()))
"""Settings in which the sets differ, now or formerly."""
_LENGTH = ("batch_rows", "epochs", "patience", "validations_per_epoch")
"""Settings of the run's length. Where the user gives one of them, the run trains once."""
MAX_ROWS = 4_000_000
"""Training rows above which a run trains once: it reads so many rows once, and hardly overfits."""
MAX_TABLE_BYTES = 2**30
"""Bytes of all tables above which a run trains once: each trial keeps its own tables on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One set of settings, as a run trains with it."""

    name: str
    settings: Mapping[str, float]
    """The settings in which it differs from the run's own."""
    model: ModelSpec
    optim: BaseOptimSpec


def trials_of(
    spec: PretrainSpec,
    optim: BaseOptimSpec,
    *,
    rows: int,
    table_bytes: int,
    continues: bool,
    has_plan: bool = False,
) -> tuple[Trial, ...]:
    """Return what a run tries; empty where it trains once, with its own settings.

    A setting that the user gave is the same in all trials.

    Args:
        spec: the user's settings.
        optim: the optimisers' settings, with those that were left open filled in.
        rows: training rows.
        table_bytes: bytes of all tables in fp32.
        continues: whether a base is continued, which is trained as it was before.
        has_plan: whether a plan places the tables, which are then as wide as in the plan.
    """
    given = given_settings(spec)
    wanted, tries_wide = spec.trials, not (has_plan or given & _SHAPE)
    if wanted is None:
        is_small = rows <= MAX_ROWS and table_bytes <= MAX_TABLE_BYTES
        is_open = given <= _SHAPE and all(getattr(spec, name) is None for name in _LENGTH)
        wanted = len(SETS) if is_small and is_open else 1
        # Its tables have twice the bytes.
        tries_wide &= rows >= WIDE_ROWS and 2 * table_bytes <= MAX_TABLE_BYTES
    if wanted == 1 or continues:
        return ()
    names = [name for name in SETS if name != "wide" or tries_wide]
    open_sets = {
        name: {key: value for key, value in SETS[name].items() if key not in given}
        for name in names[:wanted]
    }
    trials = tuple(_distinct(open_sets, spec.model, optim))
    return trials if len(trials) > 1 else ()


def given_settings(spec: PretrainSpec) -> frozenset[str]:
    """Return the settings in which the sets differ, and which the user gave other values."""
    defaults = {"model": ModelSpec(), "optim": PretrainOptimSpec()}
    return frozenset(
        name
        for name in VARIED
        for part, key in [name.split(".")]
        if getattr(getattr(spec, part), key) != getattr(defaults[part], key)
    )


def _distinct(
    sets: Mapping[str, Mapping[str, float]], model: ModelSpec, optim: BaseOptimSpec
) -> Iterator[Trial]:
    """Yield a trial for each set that differs from all sets before it."""
    seen: list[Mapping[str, float]] = []
    for name, settings in sets.items():
        if settings in seen:
            continue
        seen.append(settings)
        yield Trial(
            name=name,
            settings=settings,
            model=model.model_copy(update=part_of(settings, "model")),
            optim=optim.model_copy(update=part_of(settings, "optim")),
        )


def part_of(
    settings: Mapping[str, float], part: str, *, without: Collection[str] = ()
) -> dict[str, float]:
    """Return the settings of one part of the spec, by their names in it.

    Args:
        settings: dotted name -> value.
        part: `model` or `optim`.
        without: dotted names to leave out.
    """
    return {
        name.removeprefix(f"{part}."): value
        for name, value in settings.items()
        if name.startswith(f"{part}.") and name not in without
    }
