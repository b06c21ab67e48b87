"""Files that are either whole or not there, and digests that say what they hold."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

_UMASK = os.umask(0)
os.umask(_UMASK)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place if the block succeeds.

    Readers see the old file or the new one, never a part; after an error (a full disk, a
    key interrupt) the old one is untouched and the temporary file is gone.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_UMASK)  # mkstemp's files are for the owner alone
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def lock(path: str | Path, wait: bool = True) -> Iterator[None]:
    """Hold `<path>.lock` against other processes; the system lets go when a process dies.

    Raises:
        filelock.Timeout: If another process holds it and `wait` is False.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=-1 if wait else 0):
        yield


def write_json(path: str | Path, content: Any, indent: int | None = 1) -> None:
    """Write JSON; NaN and infinities become null."""
    text = json.dumps(plain(content), allow_nan=False, indent=indent, sort_keys=True)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def open_array(path: str | Path) -> np.ndarray:
    """A `.npy` file as a read-only memory map, which stays on disk.

    Each map keeps a file open. Where the system's usual limit is reached (1024, or 256 on a
    Mac) it is raised as far as the system allows.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        if error.errno != errno.EMFILE or not _allow_more_files():
            raise
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _allow_more_files() -> bool:
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return False
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(10_240, 4 * soft)
    if wanted <= soft:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return True


def read_json(path: str | Path) -> Any:
    """Read JSON; a file cut short gets an error that names it."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}). It may be cut short: delete it to make it "
            "again, or restore it."
        ) from error


def plain(value: Any) -> Any:
    """Numbers, strings, lists and dicts that JSON knows; undefined numbers as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, Path):
        return value.name
    return value


def digest(*parts: Any) -> str:
    """SHA-256 over arrays (dtype, shape and bytes) and JSON values."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(f"{part.dtype.str}{part.shape}".encode())
            sha.update(np.ascontiguousarray(part).data)
        else:
            sha.update(json.dumps(plain(part), sort_keys=True).encode())
    return sha.hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
