"""Compare a published base with a model, entry by entry, and refuse differences nobody allowed.

An entry is a table, or a tensor of the dense part. There are six kinds of difference:

    difference   meaning                                 what loading does
    missing      the model has it, the base does not     it starts fresh
    unexpected   the base has it, the model does not     it is not loaded
    grown        a longer table, and a rule for its      all values of the base are loaded
                 rows; or a tensor that reads more of x
    relaid       a tensor that reads another x           values of inputs that both have are loaded
    changed      any other difference of shape           it starts fresh
    dtype        it is of another type                   its values are converted

A difference is accepted where an *allowance* names it: `table:item:grown`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from iak.pipeline.data.growth import RowOrigin
from iak.pipeline.errors import BadRequest

Part = Literal["table", "dense"]
Kind = Literal["missing", "unexpected", "grown", "relaid", "changed", "dtype"]
FRESH = frozenset[Kind]({"missing", "changed"})
"""Differences for which no value of the entry is loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Shape and type of a table or of a dense tensor."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        """Return shape and type as in `101 x 8 float32`."""
        return f"{' x '.join(map(str, self.shape)) or 'one number'} {self.dtype}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One difference. `published` or `model` is None on the side that lacks the entry."""

    part: Part
    name: str
    kind: Kind
    published: Entry | None
    model: Entry | None
    note: str = ""
    """A reason, for the message; empty where there is none."""

    @property
    def allowance(self) -> str:
        """Return the allowance that accepts it."""
        return f"{self.part}:{self.name}:{self.kind}"

    def __str__(self) -> str:
        """Return the allowance and both entries."""
        note = f" ({self.note})" if self.note else ""
        return (
            f"{self.allowance}: published {self.published or 'nothing'}, "
            f"model {self.model or 'nothing'}{note}"
        )


def tables(
    published: Mapping[str, Entry],
    model: Mapping[str, Entry],
    *,
    origins: Mapping[str, RowOrigin | str],
) -> Iterator[Finding]:
    """Yield the differences between tables.

    Args:
        published: tables of the base, by name.
        model: tables of the model, by name.
        origins: the base's row of each row of a longer table, or the reason why there is none.
    """
    for name in sorted(published.keys() | model.keys()):
        before, now, origin = published.get(name), model.get(name), origins.get(name)
        is_other = before is not None and now is not None and before.shape != now.shape
        kind: Kind | None = "changed" if is_other else None
        if before is not None and now is not None and isinstance(origin, RowOrigin):
            expected = (origin.rows_before, *now.shape[1:])
            kind = "grown" if before.shape == expected else kind
        note = origin if isinstance(origin, str) else ""
        yield from _compared("table", name, before, now, kind, note)


def dense(
    published: Mapping[str, Entry], model: Mapping[str, Entry], *, relaid: Mapping[str, Kind]
) -> Iterator[Finding]:
    """Yield the differences between the dense parts.

    Args:
        published: tensors of the base, by name.
        model: tensors of the model, by name.
        relaid: tensors whose values can move to another layout of x, each `grown` or `relaid`.
    """
    for name in sorted(published.keys() | model.keys()):
        before, now = published.get(name), model.get(name)
        is_other = before is not None and now is not None and before.shape != now.shape
        kind: Kind | None = relaid.get(name, "changed" if is_other else None)
        yield from _compared("dense", name, before, now, kind)


def refuse_unnamed(
    findings: Sequence[Finding],
    allow: Collection[str],
    *,
    broken: Sequence[str] = (),
    names: Mapping[Part, Collection[str]],
    where: str,
) -> list[str]:
    """Refuse every difference that no allowance names, all of them in one error.

    Args:
        findings: all differences.
        allow: allowances.
        broken: problems that no allowance covers, a line each.
        names: every table and dense tensor of the base or the model.
        where: the base's folder, for the message.

    Returns:
        A line for each accepted difference, and for each allowance without one.

    Raises:
        BadRequest: no allowance names a difference, an allowance names nothing that exists, or
            something is broken.
    """
    unnamed = [finding for finding in findings if finding.allowance not in allow]
    strange = [word for word in allow if _is_strange(word, names)]
    problems = [*broken, *map(str, unnamed)]
    problems += [f"allowance {word!r}: neither the base nor the model has that" for word in strange]
    if problems:
        raise BadRequest(_message(problems, unnamed, strange, where))
    met = {finding.allowance for finding in findings}
    return [str(finding) for finding in findings] + [
        f"{word}: allowed, but there is no such difference" for word in allow if word not in met
    ]


def _message(
    problems: Sequence[str], unnamed: Sequence[Finding], strange: Sequence[str], where: str
) -> str:
    """Return the error's message: each problem, then what to do about it."""
    message = f"the base at {where} is not of this model's shape:\n  " + "\n  ".join(problems)
    if unnamed:
        words = " ".join(f"allow={finding.allowance}" for finding in unnamed)
        message += (
            "\n  Use the catalogue and model the base was published with, or, where all of this is "
            f"meant, pre-train from= it with {words}"
        )
    if strange:
        message += "\n  Name a table (table:NAME:KIND) or a tensor (dense:NAME:KIND) that is there."
    return message


def _is_strange(word: str, names: Mapping[Part, Collection[str]]) -> bool:
    """Return whether an allowance names something that neither base nor model has."""
    part, _, rest = word.partition(":")
    name = rest.rpartition(":")[0]
    return not any(part == known and name in there for known, there in names.items())


def _compared(
    part: Part,
    name: str,
    before: Entry | None,
    now: Entry | None,
    kind: Kind | None,
    note: str = "",
) -> Iterator[Finding]:
    """Yield the differences of one entry: that of its shape, then that of its type.

    Args:
        part: table or dense.
        name: name of the entry.
        before: the base's entry; None where it has none.
        now: the model's entry; None where it has none.
        kind: the difference of shape between two entries; None where there is none.
        note: a reason, for the message.
    """
    kinds: list[Kind] = []
    if before is None or now is None:
        kinds.append("missing" if before is None else "unexpected")
    else:
        kinds += [kind] if kind else []
        kinds += ["dtype"] if before.dtype != now.dtype and kind not in FRESH else []
    for each in kinds:
        yield Finding(part=part, name=name, kind=each, published=before, model=now, note=note)
