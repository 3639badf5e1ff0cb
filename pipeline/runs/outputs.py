"""List the results of a run with their digests when it ends, and verify them later.

What is read depends on the kind of result:

- a file: all of it;
- a folder of bundles: the index, every manifest and every weight;
- a base: the manifest, the encoding, the dense part, and the size of every file. Its tables are
  read up to `TABLE_BYTES`; of larger tables evenly spread files are read.

Loading a base compares each file with the manifest again (rectangles.py). So no file is used
without a check.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from iak.pipeline.base import published_base
from iak.pipeline.errors import BadRequest, Corrupt, PipelineError
from iak.pipeline.files import sha256_of_file
from iak.pipeline.publish.bundle import verified_weights
from iak.pipeline.publish.bundle_index import read_index
from iak.pipeline.sharding import rectangles
from iak.schemas.manifest import FileEntry
from iak.schemas.record import Output

TABLE_BYTES = 8 * 2**30
"""Bytes of a base's tables that are read again, which takes some seconds."""


def file_output(path: Path) -> Output:
    """Return a file as an output."""
    return Output(kind="file", sha256=sha256_of_file(path), bytes=path.stat().st_size)


def base_output(folder: Path) -> Output:
    """Return a published base as an output, by its manifest."""
    manifest = published_base.open_base(folder).manifest
    digest = hashlib.sha256((folder / published_base.MANIFEST).read_bytes()).hexdigest()
    return Output(kind="base", sha256=digest, bytes=sum(entry.bytes for entry in manifest.files))


def bundles_output(folder: Path) -> Output:
    """Return a folder of bundles as an output, after every byte of it was verified.

    Raises:
        BadRequest: it holds no bundle, or no index.
        Corrupt: a file is not what the index or its manifest says.
    """
    index = read_index(folder)  # with every manifest
    for entry in index.bundles:
        verified_weights(folder / entry.folder, entry.weights_sha256)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Output(kind="bundles", sha256=index.sha256, bytes=size)


def verify_outputs(run_dir: Path, outputs: Mapping[str, Output]) -> None:
    """Compare the results of a finished run with the digests in its record.

    Raises:
        BadRequest: this user may not read one of them.
        Corrupt: one is missing, empty or changed; all of them are named.
    """
    problems = [
        line for name, output in outputs.items() for line in _problems(run_dir / name, output)
    ]
    if problems:
        listing = "\n".join(f"  {problem}" for problem in problems)
        raise Corrupt(
            f"{run_dir} is recorded as finished, but its results are not those that it wrote:\n"
            f"{listing}\nRestore them from a copy, or remove {run_dir} to make them again"
        )


def _problems(path: Path, written: Output) -> Iterator[str]:
    """Yield the problems of one result."""
    describe = {"file": file_output, "base": base_output, "bundles": bundles_output}
    if not path.exists():
        yield f"{path} is missing"
        return
    if path.is_dir() and not any(path.iterdir()):
        yield f"{path} is empty"
        return
    try:
        actual = describe[written.kind](path)
    except PermissionError as error:
        raise BadRequest(f"{path} cannot be read: {error}. Ask its owner for access") from error
    except (PipelineError, OSError) as error:
        yield _first_line(error)
        return
    if actual.sha256 != written.sha256:
        yield (
            f"{path} was changed: SHA-256 {written.sha256[:12]} ({written.bytes:,} bytes) was "
            f"written, {actual.sha256[:12]} ({actual.bytes:,} bytes) is there"
        )
    elif written.kind == "base":
        yield from _problems_of_base(path)


def _problems_of_base(folder: Path) -> Iterator[str]:
    """Yield the files of a base that are missing or differ from its manifest."""
    manifest = published_base.open_base(folder).manifest
    has_state = (folder / published_base.OPTIMIZER).is_dir()  # a person may remove it to save space
    entries = [*manifest.files, *(manifest.optimizer if has_state else [])]
    is_read = {entry.path for entry in _read_again(entries)}
    for entry in entries:
        path = folder / entry.path
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            yield f"{path} is missing"
        elif size != entry.bytes:
            yield f"{path} has {size:,} bytes, its manifest says {entry.bytes:,}"
        elif entry.path in is_read:
            try:
                rectangles.verify_file(folder, rectangles.FileEntry(**entry.model_dump()))
            except Corrupt as error:
                yield _first_line(error)


def _read_again(entries: Sequence[FileEntry]) -> list[FileEntry]:
    """Return the files of a base whose content is read: all, or the dense part and a sample."""
    tables = [entry for entry in entries if entry.table is not None]
    step = -(-sum(entry.bytes for entry in tables) // TABLE_BYTES) or 1
    return [entry for entry in entries if entry.table is None] + tables[::step]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
