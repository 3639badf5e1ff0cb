"""Make bad catalogues: keys with values that they cannot take, and contradictions."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from iak.schemas.base import JsonObject
from iak.schemas.feature import CategoricalSpec, CrossSpec, ListSpec, NumericSpec, TableSpec
from iak.schemas.log import Catalog, LogSpec, SplitSpec
from iak.schemas.task import DomainSpec, TaskSpec
from infra.benchmarks.bad_inputs.items import BadInput
from infra.benchmarks.bad_inputs.settings import Leaf, bad_literals, leaves, plain_type

Change = Callable[[JsonObject], None]


class Raw(str):
    """Text that is written into a TOML file unchanged."""


def document() -> JsonObject:
    """Return a sound catalogue, of the log that `_bad_files` writes."""
    return {
        "log": {
            "name": "small",
            "path": "events",
            "partition_keys": ["dt"],
            "date_key": "dt",
            "event_time": "event_time",
            "row_id": "event_id",
            "user": "user_id",
        },
        "domain": {"keys": ["city"], "min_rows": 5},
        "features": [
            {"kind": "categorical", "name": "item", "column": "item_id"},
            {"kind": "list", "name": "hist", "table": "item", "last": 5},
            {"kind": "cross", "name": "both", "columns": ["item_id", "scene"]},
            {"kind": "numeric", "name": "price"},
            {"kind": "categorical", "name": "scene", "table": "hashed"},
        ],
        "tables": {"hashed": {"encoding": "hash", "rows": 50}},
        "tasks": [
            {"label": "click", "kind": "click"},
            {"label": "order", "kind": "conversion", "matures_after": "P1D"},
        ],
        "splits": {
            "pretrain": {"days": [0, 1]},
            "tune": {"days": [2, 2], "slice": [0.0, 0.5]},
            "valid": {"days": [2, 2], "slice": [0.5, 1.0]},
            "gate": {"days": [3, 3]},
            "test": {"days": [4, 4], "where": {"scene": ["feed", "search"]}},
        },
    }


def toml(value: object) -> str:
    """Return a value in TOML, on one line."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


def text_of(catalog: JsonObject) -> str:
    """Return the text of a catalogue's file, a line for each section."""
    return "".join(f"{key} = {toml(value)}\n" for key, value in catalog.items())


SECTIONS: tuple[tuple[str, type[BaseModel], Callable[[JsonObject], JsonObject]], ...] = (
    ("log", LogSpec, lambda d: d["log"]),
    ("domain", DomainSpec, lambda d: d["domain"]),
    ("features.0", CategoricalSpec, lambda d: d["features"][0]),
    ("features.1", ListSpec, lambda d: d["features"][1]),
    ("features.2", CrossSpec, lambda d: d["features"][2]),
    ("features.3", NumericSpec, lambda d: d["features"][3]),
    ("tables.hashed", TableSpec, lambda d: d["tables"]["hashed"]),
    ("tasks.1", TaskSpec, lambda d: d["tasks"][1]),
    ("splits.test", SplitSpec, lambda d: d["splits"]["test"]),
)
_TIMES: dict[Any, tuple[str, ...]] = {
    date: ("true", '"tomorrow"', "[1]", "nan", "2026-01-01T00:00:01"),
    timedelta: ("7", "true", '"a week"', '"-P7D"', '"P99999D"', "nan", "[1]"),
}


def bad_catalogs() -> Iterator[BadInput]:
    """Yield catalogues that are refused before any log is opened."""
    for section, kind, part in SECTIONS:
        for leaf in leaves(kind):
            for literal in _literals(leaf):
                yield _with_literal(section, part, leaf.name, literal)
            if leaf.is_required:
                yield _without(section, part, leaf.name)
        yield _unknown(section, part)
    for key, field in Catalog.model_fields.items():
        for literal in ("1", '"text"', "[1]", "{ a = 1 }", "nan"):
            yield _at_top(key, literal)
        if field.is_required():
            yield _at_top(key, None)
    for name, must_name, change in CONTRADICTIONS:
        yield item(f"a catalogue with {name}", change, must_name)


def item(name: str, change: Change, must_name: str) -> BadInput:
    """Return a catalogue that was sound before a change."""

    def make(folder: Path) -> None:
        catalog = document()
        change(catalog)
        (folder / "c.toml").write_text(text_of(catalog))

    return BadInput(
        kind="catalogues",
        name=name,
        words=("check", "catalog={folder}/c.toml", "data_root={folder}/nowhere"),
        must_name=(must_name,),
        make=make,
        reaches_job=True,
    )


def _literals(leaf: Leaf) -> tuple[str, ...]:
    catalog = plain_type(leaf.annotation)
    if catalog in _TIMES:
        return _TIMES[catalog]
    return tuple(bad_literals(leaf))


def _with_literal(
    section: str, part: Callable[[JsonObject], JsonObject], key: str, literal: str
) -> BadInput:
    shown = literal if len(literal) < 20 else f"{literal[:6]}..."
    return item(f"{section}.{key} = {shown}", lambda d: part(d).__setitem__(key, Raw(literal)), key)


def _without(section: str, part: Callable[[JsonObject], JsonObject], key: str) -> BadInput:
    return item(f"{section} without {key}", lambda d: part(d).pop(key), key)


def _unknown(section: str, part: Callable[[JsonObject], JsonObject]) -> BadInput:
    return item(f"{section}.colour = 1", lambda d: part(d).__setitem__("colour", 1), "colour")


def _at_top(key: str, literal: str | None) -> BadInput:
    if literal is None:
        return item(f"no {key}", lambda d: d.pop(key), key)
    return item(f"{key} = {literal}", lambda d: d.__setitem__(key, Raw(literal)), key)


def set_key(path: str, value: object) -> Change:
    """Return a change of one key, `log.user`, `features.0.name`."""

    def change(catalog: JsonObject) -> None:
        *outer, last = path.split(".")
        here: Any = catalog
        for step in outer:
            here = here[int(step)] if isinstance(here, list) else here.setdefault(step, {})
        if isinstance(here, list):
            here[int(last)] = value
        else:
            here[last] = value

    return change


def _both(*changes: Change) -> Change:
    def change(catalog: JsonObject) -> None:
        for one in changes:
            one(catalog)

    return change


def _added(section: str, *entries: JsonObject) -> Change:
    return lambda catalog: catalog[section].extend(entries)


_LEAK = set_key("log.leak_columns", ["leak"])
_NAMING: dict[str, Callable[[str], Change]] = {
    "domain.keys": lambda c: set_key("domain.keys", ["city", c]),
    "domain.parent": lambda c: set_key("domain.parent", [c]),
    "log.slice_by": lambda c: set_key("log.slice_by", c),
    "log.event_time": lambda c: set_key("log.event_time", c),
    "splits.test.where": lambda c: set_key("splits.test.where", {c: ["1"]}),
    "feature 'item'": lambda c: set_key("features.0.column", c),
    "feature 'both'": lambda c: set_key("features.2.columns", ["scene", c]),
}
"""Settings that may name neither a label nor a leak column."""
_NAMING_NO_LABEL: dict[str, Callable[[str], Change]] = {
    "log.user": lambda c: set_key("log.user", c),
    "log.row_id": lambda c: set_key("log.row_id", c),
    "log.partition_keys": lambda c: set_key("log.partition_keys", ["dt", c]),
    "log.leak_columns": lambda c: set_key("log.leak_columns", [c]),
}
_CLICK_AGAIN = {"label": "order", "kind": "click"}
CONTRADICTIONS: tuple[tuple[str, str, Change], ...] = (
    *((f"{s} naming a label", s, n("click")) for s, n in (_NAMING | _NAMING_NO_LABEL).items()),
    *((f"{s} naming a leak", s, _both(_LEAK, n("leak"))) for s, n in _NAMING.items()),
    *((f"{s} naming a list", s, n("hist")) for s, n in list(_NAMING.items())[:4]),
    ("a domain a row", "domain.keys", set_key("domain.keys", ["event_id"])),
    ("a domain a second", "domain.keys", set_key("domain.keys", ["event_time"])),
    ("a parent that is its domain", "domain.parent", set_key("domain.parent", ["city"])),
    ("a parent too fine", "domain.parent", set_key("domain.parent", ["scene", "city"])),
    ("a domain key twice", "domain.keys", set_key("domain.keys", ["city", "city"])),
    ("a domain without keys", "domain.keys", set_key("domain.keys", [])),
    ("a declared domain twice", "domain.values", set_key("domain.values", [["a"], ["a"]])),
    ("an heir of two", "domain", set_key("domain.inherits", [[["a"], ["b"]], [["a"], ["c"]]])),
    ("an heir of itself", "domain", set_key("domain.inherits", [[["a"], ["a"]]])),
    ("a declared domain too long", "values", set_key("domain.values", [["a", "b"]])),
    ("a partition key twice", "log.partition_keys", set_key("log.partition_keys", ["dt", "dt"])),
    ("a leak column twice", "log.leak_columns", set_key("log.leak_columns", ["a", "a"])),
    ("a date key that is not a folder", "date_key", set_key("log.date_key", "day")),
    ("a time key that is not a folder", "time_keys", set_key("log.time_keys", ["hour"])),
    ("slices by a folder", "slice_by", set_key("log.slice_by", "dt")),
    ("a row id that is a folder", "row_id", set_key("log.row_id", "dt")),
    ("event times in folders' names", "event_time", set_key("log.event_time", "dt")),
    ("an empty column", "log.user", set_key("log.user", "")),
    ("a column with a NUL", "log.user", set_key("log.user", "a\0b")),
    ("a column with a line's end", "domain.keys", set_key("domain.keys", ["a\nb"])),
    ("a time zone on Mars", "time_zone", set_key("log.time_zone", "Mars/Base")),
    ("a feature twice", "price", _added("features", {"kind": "numeric", "name": "price"})),
    ("a feature of no kind", "kind", set_key("features.0", {"name": "item"})),
    ("a feature of another kind", "image", set_key("features.0.kind", "image")),
    ("a feature without a name", "name", set_key("features.0.name", "")),
    ("a feature named by a number", "9lives", set_key("features.0.name", "9lives")),
    ("a feature named by a path", "../x", set_key("features.0.name", "../x")),
    ("a list read as one value", "hist", set_key("features.0.column", "hist")),
    ("a cross of one column", "columns", set_key("features.2.columns", ["item_id"])),
    ("a cross of one column twice", "columns", set_key("features.2.columns", ["scene", "scene"])),
    ("boundaries that fall", "boundaries", set_key("features.3.boundaries", [2.0, 1.0])),
    ("boundaries with NaN", "boundaries", set_key("features.3.boundaries", [1.0, Raw("nan")])),
    ("endless boundaries", "boundaries", set_key("features.3.boundaries", [1.0, Raw("inf")])),
    ("a boundary twice", "boundaries", set_key("features.3.boundaries", [1.0, 1.0])),
    ("buckets and boundaries", "buckets", _both(
        set_key("features.3.buckets", 4), set_key("features.3.boundaries", [1.0]),
    )),
    ("buckets that share a table", "price", _both(
        set_key("features.3.buckets", 4), set_key("features.0.table", "price"),
    )),
    ("a table that nobody reads", "ghost", set_key("tables.ghost", {"min_count": 1})),
    ("a hash without rows", "rows", set_key("tables.hashed", {"encoding": "hash"})),
    ("a trillion rows", "rows", set_key("tables.hashed.rows", 10**12)),
    ("a billion columns", "width", set_key("tables.hashed.width", 10**9)),
    ("a cross on whole numbers", "both", _both(
        set_key("features.2.table", "hashed"), set_key("tables.hashed.encoding", "identity"),
    )),
    ("two clicks", "click", set_key("tasks.1", _CLICK_AGAIN | {"name": "other"})),
    ("a label of two tasks", "click", set_key("tasks.1", {"label": "click", "name": "again"})),
    ("a task twice", "again", _both(
        set_key("tasks.0.name", "again"), set_key("tasks.1", {"label": "order", "name": "again"}),
    )),
    ("a label that is read in two ways", "at_least",
        set_key("tasks.1", {"label": "order", "positive": ["buy"], "at_least": 1})),
    ("a label that is its value and its presence", "has_value",
        set_key("tasks.1", {"label": "order", "positive": ["buy"], "has_value": True})),
    ("a value that is a 1 and no label", "missing",
        set_key("tasks.1", {"label": "order", "positive": ["buy"], "missing": ["buy"]})),
    ("two tasks of the same events", "click", _both(
        set_key("tasks.0.positive", ["buy"]),
        set_key("tasks.1", {"label": "click", "positive": ["buy"], "name": "again"}),
    )),
    ("no tasks", "tasks", set_key("tasks", [])),
    ("no features", "features", set_key("features", [])),
    ("a split of no name", "splits", set_key("splits.holdout", {})),
    ("days that run backwards", "days", set_key("splits.test.days", [-1, -3])),
    ("days beyond all calendars", "days", set_key("splits.test.days", [0, 10**9])),
    ("dates that run backwards", "dates", set_key(
        "splits.gate", {"dates": [Raw("2026-10-03"), Raw("2026-10-01")]},
    )),
    ("days and dates", "days", set_key(
        "splits.gate", {"days": [3, 3], "dates": [Raw("2026-10-03"), Raw("2026-10-03")]},
    )),
    ("an empty slice", "slice", set_key("splits.tune.slice", [0.5, 0.5])),
    ("a slice beyond one", "slice", set_key("splits.tune.slice", [0.5, 1.5])),
    ("splits that share rows", "tune", set_key("splits.tune.slice", [0.0, 0.8])),
    ("a condition without values", "where", set_key("splits.test.where", {"scene": []})),
    ("a dated split of an undated log", "date_key", _both(
        lambda d: d["log"].pop("date_key"), lambda d: d["log"].pop("event_time"),
    )),
    ("presets of an unknown verb", "pretrian", set_key("presets", {"pretrian": {"seed": 1}})),
    ("a preset that does not exist", "sead", set_key("presets", {"pretrain": {"sead": 1}})),
    ("a preset that is a table", "presets", set_key("presets", {"pretrain": {"model": {"x": 1}}})),
)  # fmt: skip
