"""Pack what `iak submit` sends to a cluster: the code, and the files that `include` names.

Only files of listed kinds are sent. So a key, a `.env` or a log in the checkout is not sent, even
if its name is in no list of secrets.
"""

import fnmatch
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from iak.pipeline.errors import BadRequest

PACKAGE = Path("infra/package/iak")
"""The package as it stands in a checkout: its own file, and links to the source folders."""
SOURCE_FOLDERS = ("pipeline", "jobs", "schemas")
SOURCE_FILES = ("*.py", "*.toml", "py.typed", "*.j2", "*.css", "*.js")
ALWAYS = ("pyproject.toml", f"{PACKAGE}/__init__.py")
SECRETS = (".*", "*.pem", "*.key", "*.p12", "*.pfx", "*.crt", "id_*", "*credential*", "*secret*")
"""Patterns of names that are never sent: left out of a folder that `include` names, and refused
where `include` names such a file itself."""


def pack(
    project: Path,
    include: Sequence[str],
    target: Path,
    *,
    files: Mapping[str, Path] | None = None,
) -> dict[str, list[Path]]:
    """Copy the files to send into an empty folder.

    Args:
        project: folder of the checkout.
        include: further files and folders, relative to it.
        target: empty folder.
        files: name in the target -> a file from anywhere, such as a `nightly.toml`.

    Returns:
        The files that were copied, relative to the project, by the entry that named them.

    Raises:
        BadRequest: an included path leaves the project, is not there, or looks like a secret.
    """
    packed: dict[str, list[Path]] = {}
    for entry in (*ALWAYS, *SOURCE_FOLDERS, *include):
        copied = sorted(_included(project, entry) if entry in include else _sources(project, entry))
        for path in copied:
            copy = target / _sent_as(path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(project / path, copy)
        packed[entry] = copied
    for name, file in (files or {}).items():
        shutil.copy2(file, target / name)
        packed[name] = [file.absolute()]
    return packed


def _sent_as(path: Path) -> Path:
    """Return the path of a checkout's file in the package that is sent."""
    if path.parts[0] in SOURCE_FOLDERS:
        return PACKAGE.name / path
    return path.relative_to(PACKAGE.parent) if path.is_relative_to(PACKAGE) else path


def digest_of(folder: Path) -> str:
    """Return a digest of all that was packed: names and content."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(folder)} {content}\n".encode())
    return total.hexdigest()[:16]


def summary(packed: dict[str, list[Path]], project: Path) -> str:
    """Return a line that names what was packed, with the number of files and their size."""
    files = {path for paths in packed.values() for path in paths}
    size = sum((project / path).stat().st_size for path in files)
    entries = ", ".join(f"{entry} ({len(paths)})" for entry, paths in packed.items())
    return f"sending {len(files)} files, {size / 2**20:.1f} MiB: {entries}"


def _sources(project: Path, entry: str) -> Iterator[Path]:
    """Yield the source files of a file or folder that is always sent."""
    path = project / entry
    if path.is_file():
        yield Path(entry)
    for file in path.rglob("*"):
        relative = file.relative_to(project)
        is_source = any(fnmatch.fnmatch(file.name, pattern) for pattern in SOURCE_FILES)
        if file.is_file() and is_source and not any(map(_is_secret, relative.parts)):
            yield relative


def _included(project: Path, entry: str) -> Iterator[Path]:
    """Yield the files that an `include` entry names."""
    path = (project / entry).resolve()
    if not path.is_relative_to(project) or not path.exists():
        raise BadRequest(
            f"include={entry!r} is not a file or folder below {project}. Name a file by "
            "its path in the checkout; data belongs on storage that the cluster sees"
        )
    if any(map(_is_secret, path.relative_to(project).parts)):
        raise BadRequest(
            f"include={entry!r} has the name of a secret or a hidden file ({', '.join(SECRETS)}), "
            "and these are never sent. Store secrets on the cluster itself"
        )
    if path.is_file():
        yield path.relative_to(project)
    for file in path.rglob("*"):
        relative = file.relative_to(project)
        if file.is_file() and not file.is_symlink() and not any(map(_is_secret, relative.parts)):
            yield relative


def _is_secret(name: str) -> bool:
    """Return whether a file or folder of this name is never sent."""
    return any(fnmatch.fnmatch(name.lower(), pattern) for pattern in SECRETS)
