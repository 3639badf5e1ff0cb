"""Put files and folders in place: whole and durable, or not at all.

Everything that this project writes under a name that others read comes through here:

    write       under a hidden name beside the target, `.NAME.PID.part`
    sync        the bytes, then the name, to the disk
    rename      at once; a reader sees the old content or the new, never a part

A process that dies leaves a hidden part file that nobody reads. Files have the mode that the user's
umask gives them, also where a library made them for the user alone (safetensors 0.8 makes 0600).
"""

import ctypes
import glob
import hashlib
import os
import pwd
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from iak.pipeline.errors import NotPermitted

PART = ".part"
MANY_FILES = 64
"""Files from which a folder is made durable by one call for its disk."""
_EXCHANGE = 2  # renameat2's RENAME_EXCHANGE
_HERE = -100  # AT_FDCWD


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, which are read a little at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put_file(path: Path, content: bytes | str) -> None:
    """Replace a file's content at once.

    Args:
        path: path of the file; its folder exists.
        content: bytes, or text that is written as UTF-8.
    """
    with putting_file(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def put_output(path: Path, content: bytes | str) -> None:
    """Write a file that a person named, and make its folder.

    Args:
        path: path of the file.
        content: bytes, or text that is written as UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    put_file(path, content)


@contextmanager
def putting_file(path: Path, *, is_durable: bool = True) -> Iterator[Path]:
    """Yield a path to write to. The file written there becomes `path` when the block ends.

    Nothing changes when the block raises, or when it writes nothing.

    Args:
        path: path of the file; its folder exists.
        is_durable: wait for the disk. Without it, a machine that stops may leave an empty file. So
            False is for files that are verified when they are read, and can be made again.
    """
    part = _beside(path)
    try:
        with _errors_name(path):
            yield part
            if part.exists():
                part.chmod(0o666 & ~_umask())
                if is_durable:
                    sync_file(part)
                part.replace(path)
                if is_durable:
                    sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Let errors of the block name a file, so that `disk full` says where.

    A write that fails raises an OSError without a file name (Python 3.11), and safetensors 0.8 an
    error of its own whose text ends with the system's number.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        code = int(number.group(1))
        raise OSError(code, os.strerror(code), str(path)) from error


def put_new_file(path: Path, content: bytes) -> None:
    """Write a file under a name that must still be free. Of several writers only one succeeds.

    Args:
        path: path of the file; its folder exists.
        content: its bytes.

    Raises:
        FileExistsError: the name is taken; nothing changed.
        OSError: the file system makes no hard links; nothing changed.
    """
    part = _beside(path)
    try:
        with _errors_name(path):
            part.write_bytes(content)
            part.chmod(0o666 & ~_umask())
            sync_file(part)
        try:
            # link() refuses a name that is taken; rename() would replace the file there.
            os.link(part, path)
        except FileExistsError:
            # NFS may repeat a request whose answer was lost. The second one finds our own link.
            if part.stat().st_nlink == 1:
                raise
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_hidden(path: Path, content: bytes) -> None:
    """Write a file into a folder that readers do not know yet, and wait for its bytes alone.

    `put_folder` makes its name durable, with all names of the folder at once. Where the folder lies
    in another hidden one, of `syncs_files`, that one's bytes are waited for together.

    Args:
        path: path of the file; its folder exists, below one of `putting_folder`.
        content: its bytes.
    """
    with _errors_name(path):
        path.write_bytes(content)
        if not is_part(path.parent.parent):
            sync_file(path)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a finished file a second name by a hard link, or copy it where links are impossible.

    Args:
        source: path of the file.
        target: a name that is free, in a folder that readers do not know yet.
    """
    try:
        os.link(source, target)
    except OSError:  # another disk, no hard links, or another user's file (protected_hardlinks)
        put_file(target, source.read_bytes())


def remove_folder(path: Path) -> None:
    """Remove a folder at once, so that readers see all of it or nothing."""
    part = _beside(path)
    path.rename(part)
    sync_folder(path.parent)
    shutil.rmtree(part)


@contextmanager
def putting_folder(path: Path, *, syncs_files: bool = False) -> Iterator[Path]:
    """Yield a new hidden folder. When the block ends it becomes `path`, and an old one is removed.

    Nothing changes when the block raises. Inside another hidden folder `path` itself is yielded: no
    reader knows it, and names are synced when the outer folder is put in place.

    Args:
        path: path of the folder.
        syncs_files: wait for the bytes of all files at the end. Without it, files are synced by
            whoever writes them.
    """
    if is_part(path.parent) and not path.exists():
        path.mkdir()
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(path)
    part.mkdir()
    try:
        with _errors_name(path):
            yield part
            put_folder(part, path, syncs_files=syncs_files)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # the unfinished folder, or the replaced one


def put_folder(built: Path, path: Path, *, syncs_files: bool = False) -> None:
    """Move a finished folder to its name. An old folder of that name is left at `built`.

    Args:
        built: the finished folder, hidden from readers, on the same file system.
        path: the name that readers know. It changes from the old folder to the new one at once.
        syncs_files: wait for the bytes of its files, too.
    """
    _sync_below(built, with_files=syncs_files)
    if not path.exists():
        built.rename(path)
    elif not _exchange(built, path):
        rename_both(built, path)
    sync_folder(path.parent)


def replace_folder(built: Path, path: Path) -> None:
    """Move a finished folder to its name, and remove the folder that it replaces."""
    put_folder(built, path)
    shutil.rmtree(built, ignore_errors=True)


def empty_folder(path: Path) -> None:
    """Make a folder, and remove what it has, where it exists."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)


def remove_path(path: Path) -> None:
    """Remove a file or a folder, where there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until a folder's names are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_below(folder: Path, *, with_files: bool) -> None:
    """Wait for the names in a folder and in all folders below it, and for their files' bytes.

    Of many files the whole disk is synced: one call takes less than thousands of small ones.
    """
    folders = [(Path(name), files) for name, _, files in os.walk(folder)]
    paths = [name / file for name, files in folders for file in files] if with_files else []
    if len(paths) > MANY_FILES and sync_disk(folder):
        return
    for path in paths:
        sync_file(path)
    for name, _ in folders:
        sync_folder(name)


def sync_disk(folder: Path) -> bool:
    """Wait for all that the folder's file system has to write; return False where none can.

    Raises:
        OSError: it could not be written. Linux reports this since 5.8.
    """
    sync = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if sync is None:
        return False
    handle = os.open(folder, os.O_RDONLY)
    try:
        if sync(handle) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(handle)
    return True


def is_part(path: Path) -> bool:
    """Return whether a path is one that was never put in place."""
    return path.name.startswith(".") and path.name.endswith(PART)


def remove_parts(path: Path) -> None:
    """Remove the part files that processes left which died while they wrote `path`.

    Args:
        path: path of a file or folder whose only writer is the caller.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{PART}"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def not_permitted(path: Path, error: PermissionError) -> NotPermitted:
    """Return the error to raise for a path that this user may not read or write.

    Args:
        path: the file or folder.
        error: error of the system.
    """
    return NotPermitted(
        f"{path}: {error.strerror or error}. It belongs to {_owner_of(path)}, this process runs as "
        f"{_name_of(os.geteuid())}. Ask its owner for access (chmod -R g+rX lets the group read "
        "it), or give a folder of your own"
    )


def _owner_of(path: Path) -> str:
    """Return the name of a path's owner, as far as this user may see it."""
    for above in (path, *path.parents):
        try:
            return _name_of(above.stat().st_uid)
        except OSError:
            continue
    return "another user"


def _name_of(user: int) -> str:
    try:
        return f"user {pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"user {user}"


def _beside(path: Path) -> Path:
    """Return a hidden name beside `path` that no other process or thread takes."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{PART}")


def _umask() -> int:
    """Return the process's umask: the mode bits that new files lack.

    Linux shows it in /proc. Elsewhere it must be set and put back, which is not safe while another
    thread makes files.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1], 8) for line in lines if line.startswith("Umask:"))
    except (OSError, StopIteration):
        mask = os.umask(0o077)
        os.umask(mask)
        return mask


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step of the kernel; return False where the system cannot."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    if swap is None:
        return False
    return bool(swap(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)


def rename_both(built: Path, path: Path) -> None:
    """Swap two folders by three renames, and undo the first if the second fails."""
    aside = _beside(path)
    path.rename(aside)
    try:
        built.rename(path)
    except OSError:
        aside.rename(path)
        raise
    aside.rename(built)
