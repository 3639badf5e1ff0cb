"""Check every path among a job's settings before the job starts."""

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from iak.pipeline.errors import BadRequest
from iak.schemas.base import shortened
from iak.schemas.paths import Role, bucket_uri, in_registry


def check_paths(spec: BaseModel) -> None:
    """Refuse a path that cannot be what its setting needs; nothing is made or changed.

    Raises:
        BadRequest: names the setting, the path and what it is.
    """
    for setting, path, role in paths_of(spec):
        try:
            problem = _problem(path, role)
        except OSError as error:  # a name too long, links in a circle, a folder one may not enter
            problem = f": {error.strerror or error}"
        if problem:
            raise BadRequest(f"{setting}={shortened(str(path))}{problem}")


def _problem(path: Path, role: Role) -> str | None:
    """Return the reason why a path cannot be what its setting needs; None where it can."""
    if bucket_uri(path):
        return f" is on an object store; expected {_wanted(role)} of this machine"
    if in_registry(path):
        return f" is a reference into a registry; expected {_wanted(role)} of this machine"
    return _written(path, role) if role.is_written else _read(path, role)


def _wanted(role: Role) -> str:
    """Return what a path is expected to be, in words."""
    if role.is_folder is None:
        return "a file or a folder"
    return "a folder" if role.is_folder else "a file"


def setting_of(spec: BaseModel | None, file: str | bytes) -> str:
    """Return the setting that a file belongs to, as `run_dir=/runs: `; empty where none does.

    A file belongs to a setting whose path is the file's, or lies above or below it.
    """
    here = Path(os.fsdecode(file)).absolute()
    for setting, path, _ in paths_of(spec) if spec else ():
        there = path.absolute()
        if there == here or there in here.parents or here in there.parents:
            return f"{setting}={shortened(str(path))}: "
    return ""


def paths_of(spec: BaseModel, below: str = "") -> Iterator[tuple[str, Path, Role]]:
    """Yield every path of a spec that has a role, with the name of its setting."""
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        setting = f"{below}{field.alias or name}"
        if isinstance(value, BaseModel):
            yield from paths_of(value, f"{setting}.")
        for role in roles_of(field.metadata, field.annotation):
            if (path := _local(value, role)) is not None:
                yield setting, path, role


def _local(value: object, role: Role) -> Path | None:
    """Return the path that a setting names on this machine; None where it names none.

    A URI of an object store is no such path. A setting that is text, as a registry's, may always be
    such a URI.
    """
    if isinstance(value, Path) and role.may_be_in_registry and (reference := in_registry(value)):
        value = reference[0]
    if isinstance(value, str):
        return None if bucket_uri(value) else Path(value)
    if not isinstance(value, Path):
        return None
    return None if role.may_be_in_bucket and bucket_uri(value) else value


def roles_of(metadata: list[object], annotation: object) -> Iterator[Role]:
    """Yield the roles of a field. The role of an optional path stands inside a union."""
    inner = [m for a in getattr(annotation, "__args__", ()) for m in getattr(a, "__metadata__", ())]
    yield from (entry for entry in [*metadata, *inner] if isinstance(entry, Role))


def _read(path: Path, role: Role) -> str | None:
    """Return the reason why a path cannot be read; None where it can."""
    wanted = _wanted(role)
    if not path.exists():
        if path.is_symlink():
            return f" is a link to {path.readlink()}, which does not exist; expected {wanted}"
        return f" does not exist; expected {wanted}"
    if role.is_folder is not None and path.is_dir() != role.is_folder:
        return f" is {'a folder' if path.is_dir() else 'a file'}, expected {wanted}"
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        return f" may not be read by this user; expected {wanted} that may"
    return None


def _written(path: Path, role: Role) -> str | None:
    """Return the reason why a path cannot be written or made; None where it can."""
    if path.is_symlink() and not path.exists():
        return f" is a link to {path.readlink()}, which does not exist"
    if path.exists():
        if path.is_dir() != role.is_folder:
            return f" is {'a folder' if path.is_dir() else 'a file'}, expected {_wanted(role)}"
        folder = path if role.is_folder else path.parent
    else:
        folder = next(above for above in path.absolute().parents if above.exists())
        if not folder.is_dir():
            return f" lies below {folder}, which is a file"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f": {folder} may not be written to by this user, or lies on a read-only disk"
    return None
