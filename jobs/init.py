"""`iak init LOG`: read a sample of a Parquet folder and write a starting catalogue for it.

The file has every guess with its reason, for a person who reads and corrects it.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from iak.jobs.progress import announce, console
from iak.jobs.tables import show_facts
from iak.pipeline.data.guess_catalog import CatalogGuess, guess_catalog
from iak.pipeline.data.guess_features import HISTORY, FeatureGuess
from iak.pipeline.data.guess_fresh import FreshGuess
from iak.pipeline.data.log_sample import LogSample, read_sample
from iak.pipeline.errors import BadRequest, PipelineError
from iak.pipeline.files import put_output
from iak.pipeline.runs.explain import explain
from iak.schemas.feature import CategoricalSpec, ListSpec
from iak.schemas.fresh import CoOccurrenceSpec
from iak.schemas.job import InitSpec
from iak.schemas.log import Catalog

_NAME_LENGTH = 64
_AS_DAYS = "each number counts as a day, and 0 stands as 1970-01-01"


def main(spec: InitSpec) -> int:
    """Write a commented starting catalogue for a log, every guess marked with its reason."""
    with announce("reading footers and a sample", spec.log):
        sample = read_sample(_absolute(spec.log), rows=spec.sample_rows)
    data_root, _, path = sample.uri.rstrip("/").rpartition("/")
    name = _identifier(spec.name or log_name(data_root, path))
    out = spec.out or Path(f"{name}.toml")
    if out.exists() and not spec.overwrite:
        raise BadRequest(
            f"{out} exists and is left as it is; give out=OTHER.toml, or overwrite=true"
        )
    with announce("describing", f"{len(sample.rows):,} sampled rows"):
        guess = guess_catalog(sample)
    text = catalog_text(guess, sample, name=name, path=path)
    _refuse_contradictions(text)
    put_output(out, text)
    _show(guess, sample, out, data_root or "/")
    return 0


def _refuse_contradictions(text: str) -> None:
    """Refuse to write a catalogue that `iak check` would not load.

    Raises:
        PipelineError: the guesses contradict each other; it names them.
    """
    try:
        Catalog.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise PipelineError(
            f"the guesses contradict each other: {explain(error)}\nNothing was written. Write the "
            "catalogue by hand (schemas/README.md), and report this as a bug of iak init, with the "
            "log's columns"
        ) from error


def _absolute(path: str) -> str:
    # normpath takes the ".." out as a shell does; resolve() would follow links as well.
    return path if "://" in path else os.path.normpath(Path(path).absolute())


def log_name(data_root: str, path: str) -> str:
    """Return the folder's name; its parent's where the folder has a general name."""
    is_general = path.lower() in ("events", "data", "log", "logs", "parquet", "part", "train")
    return data_root.rpartition("/")[2] if is_general and data_root else path


def _identifier(name: str) -> str:
    """Return a name that a catalogue accepts: letters, digits and underscores, a letter first."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "x"
    return (plain if plain[0].isalpha() else f"c_{plain}")[:_NAME_LENGTH]


def catalog_text(guess: CatalogGuess, sample: LogSample, *, name: str, path: str) -> str:
    """Return the catalogue as commented TOML.

    Args:
        guess: guessed description of the log.
        sample: rows that the guesses were made from.
        name: name of the log.
        path: folder of the log below data_root.
    """
    sections = (
        _head(sample),
        _log(sample, guess, name, path),
        _domain(guess),
        _features(guess),
        _tasks(guess),
        _fresh(guess),
        _splits(guess),
    )
    return "\n".join(line for section in sections for line in section) + "\n"


def _head(sample: LogSample) -> Iterator[str]:
    snapshot = sample.snapshot
    yield "# A starting catalogue, written by `iak init`: every `guessed:` is one, with its reason."
    size = f"{len(snapshot.files):,} files, {snapshot.rows:,} rows"
    yield f"# Seen: {size}; {len(sample.rows):,} rows were looked at."
    yield "# Read it once, correct what is wrong, then run `iak check`."
    yield "# Every key is explained in schemas/README.md."
    yield ""


def _log(sample: LogSample, guess: CatalogGuess, name: str, path: str) -> Iterator[str]:
    yield "[log]"
    yield _pair("name", name)
    yield _pair("path", path)
    if guess.partition_keys:
        yield _pair("partition_keys", guess.partition_keys, "the folders' names")
    if sample.folder_names == "value":
        yield _pair("folder_names", sample.folder_names, "folders or files are values without keys")
    if guess.date_key:
        yield _pair("date_key", guess.date_key.column, guess.date_key.why)
    if guess.date_unit:
        yield _pair("date_unit", guess.date_unit, _AS_DAYS)
    if guess.time_keys:
        yield _pair("time_keys", guess.time_keys, "their names are parts of a time")
    if guess.time:
        yield from _time(guess)
    for key, column in (
        ("row_id", guess.row_id), ("slice_by", guess.slice_by), ("user", guess.user)
    ):  # fmt: skip
        if column:
            yield _pair(key, column.column, column.why)
    if guess.row_id is None:
        yield '# row_id = "..."   # no column was unique: a row is its position in its file'
    if guess.leaks:
        yield "leak_columns = ["
        for leak in guess.leaks:
            yield f"    {toml_value(leak.column)},  # guessed: {toml_comment(leak.why)}"
        yield "]"
    yield "# negatives_kept = 0.1   # set it where negatives were sampled down before this log"
    yield ""


def _time(guess: CatalogGuess) -> Iterator[str]:
    time = guess.time
    if time is None:
        return
    yield _pair("event_time", time.column, time.why)
    if time.format:
        yield _pair("event_time_format", time.format, "every sampled value reads so")
    if time.unit not in ("s", "timestamp", "written"):
        yield _pair("event_time_unit", time.unit, _AS_DAYS if time.unit == "d" else "their size")
    yield _pair("time_zone", time.time_zone, time.zone_why)


def _domain(guess: CatalogGuess) -> Iterator[str]:
    yield "[domain]"
    yield _pair("keys", guess.domain_keys, guess.domain.why)
    if guess.domain_parent:
        yield _pair("parent", guess.domain_parent, "the outermost key")
    yield _pair("min_rows", guess.min_rows, "half the tuning rows of a median domain, 50 to 500")
    yield ""


def _features(guess: CatalogGuess) -> Iterator[str]:
    names = unique_names([feature.column for feature in guess.features])
    for feature in guess.features:
        yield from _feature(feature, names)
    if guess.left_out:
        yield "# Left out:"
        for left in guess.left_out:
            yield f"#   {toml_comment(left.column)}: {toml_comment(left.why)}"
        yield ""


def unique_names(columns: Sequence[str]) -> dict[str, str]:
    """Return column -> feature name. Columns that differ only in punctuation are numbered."""
    names: dict[str, str] = {}
    for column in columns:
        name, number = _identifier(column), 2
        while name in names.values():
            name, number = f"{_identifier(column)[: _NAME_LENGTH - 4]}_{number}", number + 1
        names[column] = name
    return names


def _feature(feature: FeatureGuess, names: Mapping[str, str]) -> Iterator[str]:
    name = names[feature.column]
    yield "[[features]]"
    yield _pair("kind", feature.kind, feature.why)
    yield _pair("name", name)
    if name != feature.column:
        yield _pair("column", feature.column)
    if feature.table_of:
        yield _pair("table", names[feature.table_of])
    if feature.kind == "list":
        yield _pair("last", HISTORY)
    if feature.padding is not None and "padding" in ListSpec.model_fields:
        yield _pair("padding", feature.padding)
    if feature.separator is not None:
        yield _pair("separator", feature.separator)
    if feature.whole:
        yield _pair("whole", True)
    if feature.in_text:
        yield _pair("in_text", True)
    if feature.log:
        yield _pair("log", True)
    if feature.is_optional and "optional" in CategoricalSpec.model_fields:
        yield _pair("optional", True)
    yield ""


def _tasks(guess: CatalogGuess) -> Iterator[str]:
    conversions = [task.column for task in guess.tasks if task.kind == "conversion"]
    names = unique_names([task.name for task in guess.tasks if task.name])
    for task in guess.tasks:
        yield "[[tasks]]"
        rate = task.positives / max(task.rows, 1)
        yield _pair("label", task.column, f"{task.why}; {task.positives:,} positives ({rate:.2%})")
        if task.at_least is not None:
            is_whole = task.at_least.is_integer()
            bound = int(task.at_least) if is_whole else task.at_least
            yield _pair("at_least", bound, task.reading)
        if task.positive:
            yield _pair("positive", task.positive, task.reading)
        if task.has_value:
            yield _pair("has_value", True, task.reading)
        if task.missing:
            yield _pair("missing", task.missing, task.reading)
        yield _pair("kind", task.kind)
        if task.name:
            yield _pair("name", names[task.name])
        if len(conversions) > 1 and task.kind == "conversion":
            yield _pair("name", _task_name(task.column, conversions))
        yield '# matures_after = "P7D"   # set it where a label may still turn from 0 to 1'
        yield ""


def _task_name(column: str, conversions: Sequence[str]) -> str:
    short = {c: _identifier(re.sub(r"^(label|is|has|y)_", "", c.lower())) for c in conversions}
    is_short_unique = list(short.values()).count(short[column]) == 1
    return short[column] if is_short_unique else unique_names(conversions)[column]


def _fresh(guess: CatalogGuess) -> Iterator[str]:
    if guess.fresh:
        yield "# Kernels read these numbers of earlier rows; the base does not."
    for statistics in guess.fresh:
        spec = statistics.spec
        yield "[[fresh]]"
        if isinstance(spec, CoOccurrenceSpec):
            yield _pair("kind", spec.kind)
            yield _pair("pair", spec.pair, statistics.why)
        else:
            yield _pair("keys", spec.keys, statistics.why)
            if not spec.cross_domain:
                yield _pair("cross_domain", False)
        yield ""


def _splits(guess: CatalogGuess) -> Iterator[str]:
    yield f"# guessed: {toml_comment(guess.splits_why)}"
    for name, cut in guess.splits.items():
        yield f"[splits.{name}]"
        if cut.days:
            yield _pair("days", cut.days)
        if cut.dates:
            yield _pair("dates", cut.dates)
        if cut.where:
            pairs = ", ".join(f"{toml_value(c)} = {toml_value(v)}" for c, v in cut.where.items())
            yield f"where = {{ {pairs} }}"
        if cut.slice:
            yield _pair("slice", cut.slice)
        yield ""


def _pair(key: str, value: object, why: str = "") -> str:
    line = f"{key} = {toml_value(value)}"
    return f"{line:<40} # guessed: {toml_comment(why)}" if why else line


def toml_value(value: object) -> str:
    """Return a value as TOML spells it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for the delete character, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml_value, value))}]"
    return repr(value)


def toml_comment(text: str) -> str:
    """Return a text that can stand in a comment: one line, no control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def _fresh_name(statistics: FreshGuess) -> str:
    spec = statistics.spec
    return " with ".join(spec.pair) if isinstance(spec, CoOccurrenceSpec) else "+".join(spec.keys)


def _show(guess: CatalogGuess, sample: LogSample, out: Path, data_root: str) -> None:
    """Show the guesses, what to look at, and what to run next."""
    time = guess.time
    facts: dict[str, Any] = {
        "files": f"{len(sample.snapshot.files):,} with {sample.snapshot.rows:,} rows",
        "partition keys": ", ".join(guess.partition_keys) or "none",
        "dates": guess.date_key.column if guess.date_key else (time.column if time else "none"),
        "event time": f"{time.column} ({time.unit})" if time else "none",
        "row id": guess.row_id.column if guess.row_id else "its position in its file",
        "user": guess.user.column if guess.user else "none",
        "labels": ", ".join(f"{t.shown} ({t.kind})" for t in guess.tasks),
        "leak columns": ", ".join(g.column for g in guess.leaks) or "none suspected",
        "domains": " x ".join(guess.domain_keys),
        "splits": guess.splits_why,
        "features": f"{len(guess.features)} of {len(sample.rows.schema.names)} columns",
        "fresh statistics": ", ".join(map(_fresh_name, guess.fresh)) or "none",
    }
    show_facts(f"wrote {out}", facts)
    for note in guess.notes:
        console.print(f"  look at: {note}", markup=False)
    console.print(
        f"next: iak check catalog={out} data_root={data_root}", markup=False, soft_wrap=True
    )
