"""What a published base and a model do not have in common, entry by entry; nothing passes unnamed.

An entry is a table, or a tensor of the dense part. It can differ in six ways, each with one rule:

    missing      the model has it, the base does not     it starts fresh
    unexpected   the base has it, the model does not     it is left behind
    grown        a longer table, and a rule for its      all that it was is kept
                 rows; or a tensor that reads more of x
    relaid       a tensor that reads another x           what belongs to inputs of both is kept
    changed      it has another shape otherwise          it starts fresh
    dtype        it is of another type                   its values are converted

A difference is let through where an *allowance* names it: `table:item:grown`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from iak.pipeline.data.growth import RowOrigin
from iak.pipeline.errors import BadRequest

Part = Literal["table", "dense"]
Kind = Literal["missing", "unexpected", "grown", "relaid", "changed", "dtype"]
FRESH = frozenset[Kind]({"missing", "changed"})
"""Kinds of which nothing is read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A table or a dense tensor, as far as loading must know it."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        """`101 x 8 float32`."""
        return f"{' x '.join(map(str, self.shape)) or 'one number'} {self.dtype}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One difference; `published` or `model` is None on the side that lacks the entry."""

    part: Part
    name: str
    kind: Kind
    published: Entry | None
    model: Entry | None
    note: str = ""

    @property
    def allowance(self) -> str:
        """The words that let it through."""
        return f"{self.part}:{self.name}:{self.kind}"

    def __str__(self) -> str:
        """The same, and both entries."""
        told = f" ({self.note})" if self.note else ""
        return (
            f"{self.allowance}: published {self.published or 'nothing'}, "
            f"model {self.model or 'nothing'}{told}"
        )


def tables(
    published: Mapping[str, Entry],
    model: Mapping[str, Entry],
    *,
    origins: Mapping[str, RowOrigin | str],
) -> Iterator[Finding]:
    """What differs between tables.

    Args:
        published: tables of the base, by name.
        model: tables of the model, by name.
        origins: where the rows of longer tables come from, or why they come from nowhere.
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
    """What differs between the dense parts.

    Args:
        published: tensors of the base, by name.
        model: tensors of the model, by name.
        relaid: tensors whose values can be carried over to other inputs, and as what that counts.
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
        findings: what differs.
        allow: allowances.
        broken: what is wrong beyond any allowance, a line each.
        names: every table and dense tensor that the base or the model has.
        where: the base, as the error calls it.

    Returns:
        The differences that were let through, a line each, and allowances that met none.

    Raises:
        BadRequest: a difference is not named, an allowance is about nothing there is, or something
            is broken.
    """
    unnamed = [finding for finding in findings if finding.allowance not in allow]
    strange = [word for word in allow if _is_strange(word, names)]
    problems = [*broken, *map(str, unnamed)]
    problems += [f"allowance {word!r}: neither the base nor the model has that" for word in strange]
    if problems:
        raise BadRequest(_story(problems, unnamed, strange, where))
    met = {finding.allowance for finding in findings}
    return [str(finding) for finding in findings] + [
        f"{word}: allowed, and not met" for word in allow if word not in met
    ]


def _story(
    problems: Sequence[str], unnamed: Sequence[Finding], strange: Sequence[str], where: str
) -> str:
    """The error: each problem, then what to do about it."""
    story = f"the base at {where} is not of this model's shape:\n  " + "\n  ".join(problems)
    if unnamed:
        words = " ".join(f"allow={finding.allowance}" for finding in unnamed)
        story += (
            "\n  Use the catalogue and model the base was published with, or, where all of this is "
            f"meant, pre-train from= it with {words}"
        )
    if strange:
        story += "\n  Name a table (table:NAME:KIND) or a tensor (dense:NAME:KIND) that is there."
    return story


def _is_strange(word: str, names: Mapping[Part, Collection[str]]) -> bool:
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
    """The findings of one entry: what became of its shape, then of its type."""
    kinds: list[Kind] = []
    if before is None or now is None:
        kinds.append("missing" if before is None else "unexpected")
    else:
        kinds += [kind] if kind else []
        kinds += ["dtype"] if before.dtype != now.dtype and kind not in FRESH else []
    for found in kinds:
        yield Finding(part=part, name=name, kind=found, published=before, model=now, note=note)
