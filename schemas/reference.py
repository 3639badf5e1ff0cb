"""Write the reference of every catalogue key, from the types, docstrings and bounds of documents.

python -m iak.schemas.reference > schemas/README.md
"""

import re
import sys
import types
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from iak.schemas.feature import CategoricalSpec, CrossSpec, ListSpec, NumericSpec, TableSpec
from iak.schemas.fresh import CoOccurrenceSpec, CountsSpec
from iak.schemas.given_base import GivenBaseSpec, ModuleBaseSpec
from iak.schemas.log import Catalog, LogSpec, SplitName, SplitSpec
from iak.schemas.task import DomainSpec, TaskSpec

SECTIONS: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("[log]", "Where the rows are, and which columns are what.", LogSpec),
    ("[domain]", "What a kernel is tuned for.", DomainSpec),
    (
        '[base] of kind "columns"',
        "A recommender that runs elsewhere, by its columns (`pipeline/base/README.md`); absent "
        "where one is trained.",
        GivenBaseSpec,
    ),
    (
        '[base] of kind "torch"',
        "A torch module that was trained elsewhere, run here unchanged.",
        ModuleBaseSpec,
    ),
    ('[[features]] of kind "categorical"', "A column with one id in each row.", CategoricalSpec),
    (
        '[[features]] of kind "list"',
        "A column with many ids in each row, pooled by their mean.",
        ListSpec,
    ),
    ('[[features]] of kind "numeric"', "A number, as it is or in buckets.", NumericSpec),
    ('[[features]] of kind "cross"', "The combination of columns as one id.", CrossSpec),
    (
        "[tables.NAME]",
        "An embedding table that needs more than the defaults; a feature that names no table reads "
        "one of its own name.",
        TableSpec,
    ),
    ("[[tasks]]", "What is predicted.", TaskSpec),
    (
        '[[fresh]] of kind "counts"',
        "Counts of earlier rows, which kernels read beside the frozen base.",
        CountsSpec,
    ),
    (
        '[[fresh]] of kind "co_occurrence"',
        "How often the row's item met the items of its history.",
        CoOccurrenceSpec,
    ),
    ("[splits.NAME]", "", SplitSpec),
)
EXAMPLES: dict[tuple[type[BaseModel], str], str] = {
    (LogSpec, "name"): '"shop"',
    (LogSpec, "path"): '"events"',
    (LogSpec, "truth"): '"truth"',
    (LogSpec, "partition_keys"): '["region", "dt"]',
    (LogSpec, "date_key"): '"dt"',
    (LogSpec, "date_unit"): '"d"',
    (LogSpec, "folder_names"): '"value"',
    (LogSpec, "time_keys"): '["hour"]',
    (LogSpec, "event_time"): '"event_time"',
    (LogSpec, "event_time_unit"): '"ms"',
    (LogSpec, "event_time_format"): '"%Y-%m-%d %H:%M:%S"',
    (LogSpec, "time_zone"): '"Asia/Shanghai"',
    (LogSpec, "row_id"): '"event_id"',
    (LogSpec, "slice_by"): '"request_id"',
    (LogSpec, "user"): '"user_id"',
    (LogSpec, "leak_columns"): '["rating"]',
    (LogSpec, "negatives_kept"): "0.1",
    (DomainSpec, "keys"): '["region", "daypart"]',
    (DomainSpec, "parent"): '["region"]',
    (DomainSpec, "min_rows"): "300",
    (DomainSpec, "values"): '[["north", "noon"], ["north", "night"]]',
    (DomainSpec, "inherits"): '[[["north-east", "noon"], ["north", "noon"]]]',
    (GivenBaseSpec, "kind"): '"columns"',
    (GivenBaseSpec, "logits"): '{ ctr = "logit_ctr", cvr = "logit_cvr" }',
    (GivenBaseSpec, "h"): '"h"',
    (GivenBaseSpec, "units"): "64",
    (GivenBaseSpec, "towers"): "[32]",
    (GivenBaseSpec, "version"): '"ranker 41"',
    (ModuleBaseSpec, "kind"): '"torch"',
    (ModuleBaseSpec, "factory"): '"shop_model:build"',
    (ModuleBaseSpec, "config"): '"pipeline.config"',
    (ModuleBaseSpec, "source"): f'"{"3f7a" * 16}"',
    (ModuleBaseSpec, "names"): '{ "model." = "" }',
    (ModuleBaseSpec, "ignore"): '["optim.", "step"]',
    (CategoricalSpec, "name"): '"item_id"',
    (CategoricalSpec, "column"): '"itemId"',
    (CategoricalSpec, "table"): '"item_id"',
    (ListSpec, "name"): '"history"',
    (ListSpec, "column"): '"hist_item_ids"',
    (ListSpec, "table"): '"item_id"',
    (ListSpec, "last"): "20",
    (ListSpec, "padding"): "0",
    (ListSpec, "separator"): '"|"',
    (ListSpec, "whole"): "true",
    (CrossSpec, "name"): '"region_x_category"',
    (CrossSpec, "columns"): '["region", "category"]',
    (CrossSpec, "table"): '"region_x_category"',
    (NumericSpec, "name"): '"price"',
    (NumericSpec, "column"): '"price_cents"',
    (NumericSpec, "log"): "true",
    (NumericSpec, "standardise"): "false",
    (NumericSpec, "clip"): "5.0",
    (NumericSpec, "buckets"): "20",
    (NumericSpec, "boundaries"): "[1.0, 10.0, 100.0]",
    (NumericSpec, "in_text"): "true",
    (Catalog, "as_of"): "2026-10-12",
    (TableSpec, "encoding"): '"hash"',
    (TableSpec, "rows"): "1_000_000",
    (TableSpec, "min_count"): "5",
    (TableSpec, "width"): "32",
    (TaskSpec, "name"): '"cart"',
    (TaskSpec, "label"): '"label_click"',
    (TaskSpec, "at_least"): "4",
    (TaskSpec, "positive"): '["cart", "buy"]',
    (TaskSpec, "has_value"): "true",
    (TaskSpec, "missing"): "[-1]",
    (TaskSpec, "kind"): '"click"',
    (TaskSpec, "weight"): "0.3",
    (TaskSpec, "matures_after"): '"P7D"',
    (CountsSpec, "keys"): '["item_id"]',
    (CountsSpec, "windows"): '["P1D", "P7D", "all"]',
    (CountsSpec, "tasks"): '["ctr", "ctcvr"]',
    (CoOccurrenceSpec, "pair"): '["item_id", "hist_item_ids"]',
    (CoOccurrenceSpec, "task"): '"ctr"',
    (SplitSpec, "dates"): "[2026-10-01, 2026-10-07]",
    (SplitSpec, "days"): "[0, -9]",
    (SplitSpec, "where"): '{ split = ["train"] }',
    (SplitSpec, "slice"): "[0.0, 0.95]",
}
"""What a person would write, by document and field; other fields show their default."""
EXAMPLE = """\
[log]
name = "shop"
path = "events"
partition_keys = ["region", "dt"]
date_key = "dt"
event_time = "event_time"
time_zone = "Asia/Shanghai"
row_id = "event_id"
user = "user_id"

[domain]
keys = ["region"]
min_rows = 300

[[features]]
kind = "categorical"
name = "item_id"

[[features]]
kind = "categorical"
name = "region"

[[features]]
kind = "list"
name = "history"
column = "hist_item_ids"
table = "item_id"
last = 20

[[features]]
kind = "numeric"
name = "price"
log = true

[[tasks]]
label = "label_click"
kind = "click"

[[tasks]]
label = "label_order"
kind = "conversion"
matures_after = "P7D"

[splits.pretrain]
days = [0, -9]
slice = [0.0, 0.95]
[splits.pretrain_valid]
days = [0, -9]
slice = [0.95, 1.0]
[splits.tune]
days = [-8, -3]
slice = [0.0, 0.8]
[splits.valid]
days = [-8, -3]
slice = [0.8, 0.9]
[splits.gate]
days = [-8, -3]
slice = [0.9, 1.0]
[splits.test]
days = [-2, -1]

[presets.pretrain]
"optim.table_lr" = 0.1
"""
HEAD = """\
# The catalogue

One TOML file declares a log; nothing else is edited to onboard one. `iak init LOG` writes a first
one from a Parquet folder, and `iak check catalog=FILE data_root=FOLDER` checks and profiles a log
against it. A key that is not listed here is refused. This page is generated from the documents' own
types (`python -m iak.schemas.reference > schemas/README.md`).

A catalogue has the sections `[log]`, `[domain]`, `[base]`, `[[features]]`, `[tables.NAME]`,
`[[tasks]]`, `[splits.NAME]` and `[presets.VERB]`, and one key of its own:
"""
_BOUNDS = ((Ge, "ge", "at least"), (Gt, "gt", "above"), (Le, "le", "at most"), (Lt, "lt", "below"))
_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def reference() -> str:
    """Return the whole page as Markdown."""
    parts = [HEAD, *_table(Catalog, only=("as_of",))]
    for title, summary, document in SECTIONS:
        parts += ["", f"## `{title}`", ""]
        if summary:
            parts += [summary, ""]
        if document is SplitSpec:
            parts += [_splits(), ""]
        parts += _table(document)
    parts += ["", "## `[presets.VERB]`", "", _presets(), ""]
    parts += ["## A small whole one", "", "```toml", EXAMPLE.strip(), "```"]
    return "\n".join(parts) + "\n"


def _splits() -> str:
    names = ", ".join(f"`{name}`" for name in get_args(SplitName))
    return (
        f"Which rows a job reads. NAME is one of {names}. Jobs need `pretrain` and "
        "`pretrain_valid` (or `valid`) to train a base, "
        "`tune`, `valid` and `gate` to tune kernels, "
        "`test` to evaluate. No two splits share rows, except `pretrain` and `tune`. Every "
        "condition that is given must hold."
    )


def _presets() -> str:
    text = " ".join((Catalog.model_fields["presets"].description or "").split())
    return (
        f'{text} A key is a dotted name in quotes: `"optim.table_lr" = 0.1`. `iak VERB --help` '
        "lists the settings of a verb."
    )


def _table(document: type[BaseModel], *, only: tuple[str, ...] = ()) -> Iterator[str]:
    yield "| key | type | default | meaning | example |"
    yield "|---|---|---|---|---|"
    for name, field in document.model_fields.items():
        if not only or name in only:
            yield _row(document, name, field)


def _row(document: type[BaseModel], name: str, field: FieldInfo) -> str:
    key = field.alias or name
    bounds = _bounds(field.metadata) + _inner_bounds(field.annotation)
    meaning = " ".join((field.description or _fallback(document, name)).split())
    meaning += f" ({'; '.join(dict.fromkeys(bounds))})" if bounds else ""
    example = f"`{key} = {_example(document, name, field)}`"
    cells = (f"`{key}`", type_name(field.annotation), _default(field), meaning, example)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _fallback(document: type[BaseModel], name: str) -> str:
    """Return the meaning of the few fields that have no docstring."""
    if (document, name) == (LogSpec, "name"):
        return "Name of the log in messages and records."
    return {
        "kind": "Which kind of feature this is.",
        "name": "The feature's name; a table of its own has it too.",
        "column": "Column of the log; `name` when absent.",
        "table": "Table the ids read; a table of the feature's own name when absent.",
    }.get(name, "")


def type_name(annotation: Any) -> str:  # noqa: ANN401 - any annotation
    """Return a type in words: `list of text`, `"s" or "ms"`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(inner[0])
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(one) for one in inner if one is not type(None))
    if origin is tuple:
        return _tuple_name(inner)
    if origin is dict:
        return f"table of {type_name(inner[1])}"
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    name: str = annotation.__name__
    return {"timedelta": "ISO 8601 duration"}.get(name, name)


def _tuple_name(inner: tuple[Any, ...]) -> str:
    if inner[-1] is Ellipsis:
        return f"list of {type_name(inner[0]).replace('list of', 'lists of')}"
    return f"[{', '.join(type_name(one) for one in inner)}]"


def _bounds(metadata: list[Any]) -> list[str]:
    """Return the bounds of a value in words."""
    bounds: list[str] = []
    for entry in metadata:
        for kind, attribute, word in _BOUNDS:
            if isinstance(entry, kind):
                bounds.append(f"{word} {_bound(getattr(entry, attribute))}")
        if isinstance(entry, MinLen):
            bounds.append(f"at least {entry.min_length} of them")
        if isinstance(entry, MaxLen):
            bounds.append(f"at most {entry.max_length} characters")
        pattern = getattr(entry, "pattern", None)
        if pattern:
            bounds.append(f"matches `{pattern}`")
    return bounds


def _bound(value: float | timedelta) -> str:
    return f"{value.days:,} days" if isinstance(value, timedelta) else f"{value:,}"


def _inner_bounds(annotation: Any) -> list[str]:  # noqa: ANN401
    """Return the bounds inside a union or a tuple: `Annotated[int, Field(ge=2)] | None`."""
    bounds: list[str] = []
    for inner in get_args(annotation):
        if get_origin(inner) is Annotated:
            for entry in get_args(inner)[1:]:
                metadata = entry.metadata if isinstance(entry, FieldInfo) else [entry]
                bounds += _bounds(list(metadata))
    return bounds


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None or value is PydanticUndefined else f"`{toml_value(value)}`"


def _example(document: type[BaseModel], name: str, field: FieldInfo) -> str:
    if (document, name) in EXAMPLES:
        return EXAMPLES[document, name]
    if name == "kind":
        return toml_value(str(get_args(field.annotation)[0]))
    value = field.get_default(call_default_factory=True)
    if isinstance(value, bool):
        return toml_value(not value)
    return "1" if value is None or value is PydanticUndefined else toml_value(value)


def toml_value(value: object) -> str:
    """Return a default as TOML spells it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        return "{}" if not value else str(value)
    return re.sub(r"(\d)\.0$", r"\1.0", str(value))


if __name__ == "__main__":
    sys.stdout.write(reference())
