"""Read TOML and JSON files that a person wrote, or refuse them in one sentence.

Every file that a setting names is read here. So a byte order mark, a NUL, a broken character or an
open bracket gives a message and no traceback.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iak.pipeline.errors import BadRequest
from iak.schemas.base import JsonObject

MAX_BYTES = 64 * 2**20
"""Bytes of the largest file that is read: no person writes a larger one."""
MAX_DEPTH = 32
"""Tables inside each other at most. Documents of this project have less than a quarter of it."""
_BOM = b"\xef\xbb\xbf"


def read_toml(path: Path, *, setting: str) -> JsonObject:
    """Return the document in a TOML file.

    Args:
        path: path of the file.
        setting: setting that names the file, for messages: `catalog`, `--config`.

    Raises:
        BadRequest: there is no such file, or it is not TOML.
    """
    text = read_text(path, setting=setting)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(f"{setting} {path} is not TOML: {error}{_hint(str(error))}") from error
    except RecursionError as error:
        raise BadRequest(_too_deep(setting, path)) from error
    except ValueError as error:  # a number of thousands of digits, a 31st of February
        raise BadRequest(f"{setting} {path} is not TOML: {error}") from error
    _refuse_deep(document, setting, path)
    return document


def read_json(path: Path, *, setting: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value in a JSON file, whose objects name each key once.

    Args:
        path: path of the file.
        setting: setting that names the file, for messages.

    Raises:
        BadRequest: there is no such file, or it is not JSON.
    """
    text = read_text(path, setting=setting)
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise BadRequest(_too_deep(setting, path)) from error
    except ValueError as error:
        raise BadRequest(f"{setting} {path} is not JSON: {error}") from error
    _refuse_deep(value, setting, path)
    return value


def read_text(path: Path, *, setting: str) -> str:
    """Return a file's text.

    Raises:
        BadRequest: the file is missing, not a plain file, too large, or not plain UTF-8.
    """
    try:
        if path.is_dir():
            raise BadRequest(f"{setting} {path} is a folder, expected a file")
        if path.exists() and not path.is_file():
            raise BadRequest(f"{setting} {path} is not a plain file")
        if path.stat().st_size > MAX_BYTES:
            raise BadRequest(
                f"{setting} {path} has {path.stat().st_size / 2**20:,.0f} MiB; that is not a "
                "document of this kind"
            )
        content = path.read_bytes()
    except OSError as error:
        raise BadRequest(f"{setting} {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise BadRequest(f"{setting} {str(path)!r} is not a path: {error}") from error
    if content.startswith(_BOM):
        raise BadRequest(
            f"{setting} {path} begins with a byte order mark (BOM); save it as UTF-8 without one"
        )
    if b"\0" in content:
        raise BadRequest(
            f"{setting} {path} has a NUL at byte {content.index(0):,}, so it is not text in "
            "UTF-8; save it as UTF-8"
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadRequest(
            f"{setting} {path} is not UTF-8: byte {error.start:,}, in line {line:,}, is "
            f"0x{content[error.start]:02x}; save it as UTF-8"
        ) from error


def _refuse_deep(value: object, setting: str, path: Path) -> None:
    """Refuse a value that is nested too deeply. It walks level by level: recursion has a limit."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        inner: list[object] = []
        for one in level:
            if isinstance(one, Mapping):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        level = inner
    if level:
        raise BadRequest(_too_deep(setting, path))


def _too_deep(setting: str, path: Path) -> str:
    return f"{setting} {path} is nested deeper than {MAX_DEPTH} levels; no document needs that"


def _unique(pairs: list[tuple[str, Any]]) -> JsonObject:
    values: JsonObject = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key!r} occurs twice")
        values[key] = value
    return values


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not a number")


def _hint(problem: str) -> str:
    """Return a hint for the most common errors in a catalogue's TOML; empty for others."""
    if "twice" in problem or "overwrite" in problem:
        return (
            ". A section or a key may occur only once. Features and tasks are lists, whose entries "
            "each begin with [[features]] or [[tasks]], in two brackets"
        )
    return ". Text stands in quotes" if "Invalid value" in problem else ""
