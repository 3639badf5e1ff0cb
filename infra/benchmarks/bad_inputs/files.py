"""Make files that are damaged or odd: settings, catalogues, plans, records and Parquet."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.benchmarks.bad_inputs.catalogs import Change, document, set_key, text_of
from infra.benchmarks.bad_inputs.items import BadInput
from infra.benchmarks.bad_inputs.settings import HUGE, NEEDED

DAYS = ("2026-10-01", "2026-10-02", "2026-10-03", "2026-10-04", "2026-10-05")
FIRST_S = 1_790_812_800
"""2026-10-01 00:00 UTC."""
_ROWS = 60
"""Rows of a day."""
Damage = Callable[[bytes], bytes]
Rewrite = Callable[[pa.Table], pa.Table]


def bad_files() -> Iterator[BadInput]:
    """Yield damaged files of every kind that a setting names."""
    yield from _damaged_documents()
    yield from _other_documents()
    yield from _damaged_parquet()
    yield from _odd_parquet()
    yield from _odd_folders()


# ---------------------------------------------------------------- TOML and JSON

_TEXT: dict[str, Damage] = {
    "with a BOM": lambda b: b"\xef\xbb\xbf" + b,
    "in UTF-16": lambda b: b.decode().encode("utf-16"),
    "in Latin-1": lambda b: b + "\n# é\n".encode("latin-1"),
    "with a NUL": lambda b: b + b"\n\0\n",
    "cut in the middle": lambda b: b[: len(b) // 2] + b"[",
    "of brackets": lambda _: b"[" * 20_000,
    "of Parquet": lambda _: b"PAR1" + bytes(range(256)) + b"PAR1",
}
_TOML: dict[str, Damage] = {
    "with a key twice": lambda b: b"colour = 1\ncolour = 2\n" + b,
    "with text without quotes": lambda b: b"colour = red\n" + b,
    "with a deep key": lambda b: b".".join([b"a"] * 300) + b" = 1\n" + b,
    "with a long number": lambda b: b"colour = " + b"9" * 5_000 + b"\n" + b,
    "with a 30th of February": lambda b: b"colour = 2026-02-30\n" + b,
    "with a key of no name": lambda b: b"= 5\n" + b,
    "that is JSON": lambda _: b'{"colour": 1}\n',
    "with an unknown key": lambda b: b"colour = 1\n" + b,
}
_JSON: dict[str, Damage] = {
    "that is empty": lambda _: b"",
    "that is a list": lambda _: b"[1, 2]",
    "that is a number": lambda _: b"7",
    "that is null": lambda _: b"null",
    "with NaN": lambda _: b'{"format": NaN}',
    "of a newer format": lambda _: b'{"format": 999}',
    "of a format that is text": lambda _: b'{"format": "new"}',
    "of a negative format": lambda _: b'{"format": -1}',
    "of nothing": lambda _: b"{}",
    "with an unknown key": lambda _: b'{"format": 1, "colour": "red"}',
    "with a huge number": lambda _: b'{"format": ' + HUGE.encode() + b"}",
    "with a key twice": lambda _: b'{"format": 1, "format": 1}',
    "with brackets within brackets": lambda _: b"[" * 50 + b"]" * 50,
}


def _words(verb: str, **changes: str) -> tuple[str, ...]:
    settings = {"catalog": "{folder}/c.toml"} if "catalog" in NEEDED.get(verb, {}) else {}
    settings = NEEDED.get(verb, {}) | settings | changes
    return (verb, *(f"{name}={value}" for name, value in settings.items()))


_SETTINGS = b"seed = 1\n"
_PLANNED = {"placement.plan": "{folder}/plan.json"}
_CLUSTER = b'name = "mine"\n'
_TARGETS: tuple[tuple[str, bytes, tuple[str, ...], dict[str, Damage]], ...] = (
    ("c.toml", text_of(document()).encode(), _words("check"), _TOML),
    ("s.toml", _SETTINGS, (*_words("pretrain"), "--config={folder}/s.toml"), {
        name: damage for name, damage in _TOML.items() if name != "with an unknown key"
    }),
    ("cl.toml", _CLUSTER, _words("plan", catalog="planted", cluster="{folder}/cl.toml"), _TOML),
    ("job.toml", _SETTINGS, _words("plan", catalog="planted", settings="{folder}/job.toml"), {
        name: damage for name, damage in _TOML.items() if name != "with an unknown key"
    }),
    ("knobs.toml", b"rows = 90000\n",
     ("demo", "run_dir={folder}/demo", "synth={folder}/knobs.toml"), _TOML),
    ("plan.json", b'{"format": 1}', _words("pretrain", **_PLANNED), _JSON),
    ("base/manifest.json", b'{"format": 1}', _words("finetune", base="{folder}/base"), _JSON),
    ("run/record.json", b'{"format": 1}', _words("pretrain"), _JSON),
    ("folder/manifest.json", b'{"kind": "iak-base"}', _words("show"), {
        name: _JSON[name]
        for name in ("that is empty", "that is a list", "that is null", "with brackets")
        if name in _JSON
    }),
)  # fmt: skip
"""A document, its sound content, the command that reads it, and its damages."""


def _damaged_documents() -> Iterator[BadInput]:
    for file, sound, words, own in _TARGETS:
        for what, damage in (_TEXT | own).items():
            if words[0] == "show" and what in ("with a BOM", "in UTF-16"):
                continue  # `iak show` shows any JSON object, so this is not a bad input
            yield _document(f"{words[0]} with {file} {what}", file, damage(sound), words)


def _document(name: str, file: str, content: bytes, words: tuple[str, ...]) -> BadInput:
    """Return a command that reads one file; a sound catalogue lies beside it."""

    def make(folder: Path) -> None:
        (folder / "c.toml").write_text(text_of(document()))
        (folder / "folder").mkdir()
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(content)

    return BadInput(
        kind="files", name=name, words=words, must_name=(f"{{folder}}/{file}",), make=make,
        reaches_job=True,
    )  # fmt: skip


def _other_documents() -> Iterator[BadInput]:
    """Yield documents whose content belongs to something else."""
    plan: dict[str, Any] = {"format": 1, "job": "finetune", "world": 2, "tables": [
        {"table": "item", "type": "row_wise", "rows": 9, "width": 4, "shards": [
            {"rank": 0, "row": 0, "rows": 9, "col": 0, "cols": 4},
        ]},
    ]}  # fmt: skip
    for name, change in (
        ("of another job", {}),
        ("of no workers", {"job": "pretrain", "world": 0}),
        ("of a negative world", {"job": "pretrain", "world": -1}),
        ("of no tables", {"job": "pretrain", "tables": []}),
        ("of ranks beyond its world", {"job": "pretrain", "world": 1, "tables": [
            plan["tables"][0] | {"shards": [{"rank": 7, "row": 0, "rows": 9, "col": 0, "cols": 4}]},
        ]}),
        ("of a job that does not exist", {"job": "prune"}),
    ):  # fmt: skip
        content = json.dumps(plan | change).encode()
        words = _words("pretrain", **_PLANNED)
        yield _document(f"a plan {name}", "plan.json", content, words)


# ---------------------------------------------------------------- Parquet


def rows_of(day: int) -> pa.Table:
    """Return the rows of a day of the sound log."""
    draw = np.random.default_rng(day)
    first = day * _ROWS
    click = draw.integers(0, 2, _ROWS)
    return pa.table({
        "event_id": np.arange(first, first + _ROWS),
        "event_time": FIRST_S + day * 86_400 + draw.integers(0, 86_400, _ROWS),
        "user_id": [f"u{i}" for i in draw.integers(0, 30, _ROWS)],
        "item_id": draw.integers(0, 12, _ROWS),
        "hist": pa.array([[int(i), int(i) + 1] for i in draw.integers(0, 9, _ROWS)]),
        "scene": draw.choice(["feed", "search"], _ROWS),
        "city": draw.choice(["a", "b"], _ROWS),
        "price": draw.gamma(2, 9, _ROWS),
        "click": click.astype(np.int8),
        "order": (click * draw.integers(0, 2, _ROWS)).astype(np.int8),
    })  # fmt: skip


def write_log(folder: Path) -> None:
    """Write the sound log of five days, and its catalogue."""
    (folder / "c.toml").write_text(text_of(document()))
    for number, day in enumerate(DAYS):
        partition = folder / "events" / f"dt={day}"
        partition.mkdir(parents=True)
        pq.write_table(rows_of(number), partition / "part.parquet")


def damaged_file(folder: Path) -> Path:
    """Return the file that is damaged: the log's second day, which a base would learn from."""
    return folder / "events" / f"dt={DAYS[1]}" / "part.parquet"


_BYTES: dict[str, Damage] = {
    "that is empty": lambda _: b"",
    "of four bytes": lambda b: b[:4],
    "without its footer": lambda b: b[: len(b) // 2],
    "without its last byte": lambda b: b[:-1],
    "without its first bytes": lambda b: b[4:],
    "with another magic": lambda b: b[:-4] + b"PARX",
    "that is encrypted": lambda b: b[:-4] + b"PARE",
    "with a footer of no length": lambda b: b[:-8] + bytes(4) + b[-4:],
    "with a footer longer than itself": lambda b: b[:-8] + b"\xff\xff\xff\x7f" + b[-4:],
    "with a broken footer": lambda b: b[:-40] + b"\xff" * 32 + b[-8:],
    "of text": lambda _: b"event_id,click\n1,0\n",
    "of zeros": lambda b: bytes(len(b)),
    "twice in one": lambda b: b + b[:-12],
    "packed once more": lambda b: b"\x1f\x8b" + b,
    "without its pages": lambda b: b[:4] + bytes(len(b) // 3) + b[4 + len(b) // 3 :],
}


def _damaged_parquet() -> Iterator[BadInput]:
    for what, damage in _BYTES.items():

        def make(folder: Path, damage: Damage = damage) -> None:
            write_log(folder)
            path = damaged_file(folder)
            path.write_bytes(damage(path.read_bytes()))

        yield _trained(f"a Parquet file {what}", make, f"dt={DAYS[1]}")


def _replaced(name: str, values: object) -> Rewrite:
    """Return a rewrite that gives a column other values."""
    return lambda t: t.set_column(t.schema.get_field_index(name), name, values)


def _renamed(name: str, other: str) -> Rewrite:
    return lambda t: t.rename_columns([other if n == name else n for n in t.schema.names])


def _texts(name: str) -> Rewrite:
    return _replaced(name, pa.array([f"x{i}" for i in range(_ROWS)]))


def _structs(name: str) -> Rewrite:
    return _replaced(name, pa.array([{"a": i} for i in range(_ROWS)]))


_COLUMNS = ("event_id", "event_time", "user_id", "item_id", "hist", "scene", "city", "price",
            "click", "order")  # fmt: skip
_REWRITES: dict[str, tuple[str, Rewrite]] = {
    **{f"without {c}": (c, lambda t, c=c: t.drop_columns([c])) for c in _COLUMNS},  # type: ignore[misc]
    **{f"with {c} twice": (c, lambda t, c=c: t.append_column(c, t.column(c))) for c in _COLUMNS},  # type: ignore[misc]
    **{f"with a struct as {c}": (c, _structs(c)) for c in _COLUMNS},
    **{f"with {c} in capitals": (c, _renamed(c, c.upper())) for c in _COLUMNS},
    **{f"with text as {c}": (c, _texts(c)) for c in ("price", "click", "order", "event_time")},
    **{f"with a fraction as {c}": (c, _replaced(c, pa.array([0.5 + i for i in range(_ROWS)])))
       for c in ("event_id", "item_id")},
    "with a list as item_id": ("item_id", lambda t: _replaced("item_id", t.column("hist"))(t)),
    "with one value as hist": ("hist", lambda t: _replaced("hist", t.column("item_id"))(t)),
    "with bytes that are not text": ("scene", _replaced(
        "scene", pa.array([b"\xff\xfe"] * _ROWS, pa.binary()),
    )),
    "with one row id": ("event_id", _replaced("event_id", pa.array([7] * _ROWS))),
    "with times in milliseconds": ("event_time", lambda t: _replaced(
        "event_time", pa.array([v * 1000 for v in t.column("event_time").to_pylist()]),
    )(t)),
    "with clicks of two": ("click", _replaced("click", pa.array([2] * _ROWS, pa.int8()))),
    "with clicks of minus one": ("click", _replaced("click", pa.array([-1] * _ROWS, pa.int8()))),
    "without a city": ("city", _replaced("city", pa.nulls(_ROWS, pa.string()))),
    "without a user": ("user_id", _replaced("user_id", pa.nulls(_ROWS, pa.string()))),
}  # fmt: skip
_WARNED = ("with one row id", "with clicks of two", "with clicks of minus one", "without a city",
           "without a user")  # fmt: skip
"""A day of these is quarantined; all days of them are refused."""


def _odd_parquet() -> Iterator[BadInput]:
    for what, (column, rewrite) in _REWRITES.items():
        days = DAYS if what in _WARNED or "milliseconds" in what else DAYS[1:2]

        def make(folder: Path, rewrite: Rewrite = rewrite, days: tuple[str, ...] = days) -> None:
            write_log(folder)
            for day in days:
                path = folder / "events" / f"dt={day}" / "part.parquet"
                pq.write_table(rewrite(pq.read_table(path, partitioning=None)), path)

        finder = _log if len(days) > 1 else _trained
        yield finder(f"a log {what}", make, column)


_PLAN = {"format": 1, "job": "pretrain", "world": 2, "tables": [
    {"table": "nothing", "type": "row_wise", "rows": 9, "width": 4, "shards": [
        {"rank": 0, "row": 0, "rows": 9, "col": 0, "cols": 4},
    ]},
]}  # fmt: skip
"""A plan of other tables: it ends a run whose log was accepted, before any worker starts."""


def _trained(name: str, make: Callable[[Path], None], must_name: str) -> BadInput:
    """Return a pre-training on a log, whose plan is for other tables."""

    def make_all(folder: Path) -> None:
        make(folder)
        (folder / "plan.json").write_text(json.dumps(_PLAN))

    settings = {"catalog": "{folder}/c.toml", "data_root": "{folder}", "run_dir": "{folder}/run"}
    settings |= {"today": "2026-12-01", **_PLANNED}
    return BadInput(
        kind="files",
        name=name,
        words=("pretrain", *(f"{key}={value}" for key, value in settings.items())),
        must_name=(must_name,),
        make=make_all,
        reaches_job=True,
    )


def _log(name: str, make: Callable[[Path], None], must_name: str, **changes: str) -> BadInput:
    settings = {"catalog": "{folder}/c.toml", "data_root": "{folder}", "today": "2026-12-01"}
    settings |= {"profile": "false"} | changes
    return BadInput(
        kind="files",
        name=name,
        words=("check", *(f"{key}={value}" for key, value in settings.items())),
        must_name=(must_name,),
        make=make,
        reaches_job=True,
    )


def _changed_log(change: Change) -> Callable[[Path], None]:
    """Return a function that writes the sound log with a catalogue that does not fit it."""

    def make(folder: Path) -> None:
        write_log(folder)
        catalog = document()
        change(catalog)
        (folder / "c.toml").write_text(text_of(catalog))

    return make


def _odd_folders() -> Iterator[BadInput]:
    """Yield logs whose folders are not what the catalogue says, and catalogues that do not fit."""
    for name, must_name, change in (
        ("a column that no file has", "prize", set_key("features.3.column", "prize")),
        ("a label that no file has", "clicked", set_key("tasks.0.label", "clicked")),
        ("a domain that no file has", "town", set_key("domain.keys", ["town"])),
        ("a folder that is not there", "events2", set_key("log.path", "events2")),
        ("a folder key that is not there", "day", _key("day")),
        ("a version of a plain folder", "log.version", set_key("log.version", 3)),
        ("another unit of time", "event_time", set_key("log.event_time_unit", "ms")),
        ("whole numbers in a text", "scene", _identity),
        ("numbers in a text", "scene", set_key("features.3.column", "scene")),
        ("ids in numbers", "price", set_key("features.0.column", "price")),
    ):
        yield _log(f"a catalogue with {name}", _changed_log(change), must_name)
    for name, must_name, change in (
        ("days that the log does not have", "pretrain", set_key("splits.pretrain.days", [9, 9])),
        ("a value that no row has", "scene", set_key("splits.pretrain.where", {"scene": ["x"]})),
        ("a label that is always null", "order", set_key("tasks.1.matures_after", "P999D")),
    ):
        yield _trained(f"a catalogue with {name}", _changed_log(change), must_name)
    for name, change_folder, must_name in (
        ("no file", _emptied, "events"),
        ("a folder without a date", lambda e: _move(e, "dt=someday"), "dt"),
        ("no folder at all", shutil.rmtree, "events"),
        ("a file in its place", _file_instead, "events"),
        ("a link to itself in its place", _circle_instead, "events"),
    ):  # fmt: skip

        def make(folder: Path, change: Callable[[Path], Any] = change_folder) -> None:
            write_log(folder)
            change(folder / "events")

        yield _log(f"a log with {name}", make, must_name)
    for uri in ("nope://bucket/x", "s3:/bucket", "hdfs://", "{folder}/c.toml", "s3://", "gs://"):
        yield _log(f"data_root={uri}", write_log, "data_root", data_root=uri)


def _identity(catalog: dict[str, Any]) -> None:
    catalog["tables"]["hashed"] = {"encoding": "identity", "rows": 9}


def _key(name: str) -> Change:
    def change(catalog: dict[str, Any]) -> None:
        catalog["log"] |= {"partition_keys": [name], "date_key": name}

    return change


def _emptied(events: Path) -> None:
    for path in events.rglob("*.parquet"):
        path.unlink()


def _move(events: Path, name: str) -> None:
    for number, day in enumerate(DAYS):
        (events / f"dt={day}").rename(events / f"{name}{number}")


def _file_instead(events: Path) -> None:
    shutil.rmtree(events)
    events.write_text("rows\n")


def _circle_instead(events: Path) -> None:
    shutil.rmtree(events)
    events.symlink_to(events)
