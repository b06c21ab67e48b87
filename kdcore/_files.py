"""Files that are either whole or not there, and digests that say what they hold."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

SEAL = "kdcore_sha256"


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path of the same name in a temporary folder beside `path`; it takes its place.

    Readers see the old file or the new one, never a part; after an error (a full disk, a
    key interrupt) the old one is untouched and the temporary folder is gone. Where a process
    was killed it stays, as `.part-*`, and no search for files by their ending finds its content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as folder:
        temporary = Path(folder) / path.name
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except Exception as error:  # of a full disk, NumPy's and HDF5's do not name the file
            error.add_note(f"{path} was not written; what was there before is untouched.")
            raise


def lock(path: str | Path) -> AbstractContextManager[Any]:
    """Hold `<path>.lock` against other processes; the system lets go when a process dies.

    One and the same lock may be entered again while it is held. In a read-only folder there is
    nothing to guard, so that finished runs can be shown from one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        return nullcontext()
    return FileLock(f"{path}.lock")


def write_json(
    path: str | Path, content: Any, indent: int | None = 1, *, sealed: bool = False
) -> None:
    """Write JSON; NaN and infinities become null.

    A sealed dict carries a digest of itself, so that `read_json` notices a changed number.
    """
    content = plain(content)
    if sealed:
        content = {**content, SEAL: digest(content)}
    text = json.dumps(content, allow_nan=False, indent=indent, sort_keys=True)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def open_array(path: str | Path) -> np.ndarray:
    """A `.npy` file as a read-only memory map, which stays on disk.

    Each map keeps a file open. Where the system's usual limit is reached (1024, or 256 on a
    Mac) it is raised as far as the system allows.
    """
    try:
        return _map(path)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    if _allow_more_files():
        return _map(path)
    raise OSError(
        errno.EMFILE,
        f"{path} cannot be opened: each memory-mapped file keeps one open, and the system allows "
        "no more. Allow more (`ulimit -n`), or pass fewer cases at a time",
    )


def _map(path: str | Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy raises whatever its parser raises
        raise ValueError(f"{path} is no readable .npy file: {error}. Make it again.") from error
    if not isinstance(array, np.memmap):
        raise ValueError(f"{path} is no .npy file but a {type(array).__name__}. Make it again.")
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


def read_json(path: str | Path, *, sealed: bool = False) -> Any:
    """Read JSON; a file cut short, or sealed and changed, gets an error that names it.

    Args:
        path: The file.
        sealed: Whether one without a digest is refused, too.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a BOM
        seal = content.pop(SEAL, None) if isinstance(content, dict) else None
        whole = seal == digest(content) if seal is not None else not sealed
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}). It may be cut short: delete it to make it "
            "again, or restore it."
        ) from error
    if not whole:
        how = "its digest changed" if seal is not None else f"it lacks its digest, {SEAL}"
        raise ValueError(
            f"{path} is not as it was written: {how}. Restore it, or delete it to make it again."
        )
    return content


def read_sealed(path: str | Path, kind: type[ValueError] = ValueError) -> Any:
    """Read JSON that must carry its digest; what is wrong with it is raised as `kind`."""
    try:
        return read_json(path, sealed=True)
    except ValueError as error:
        raise kind(str(error)) from error


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
            sha.update(part.tobytes())  # bfloat16 has no buffer
        else:
            sha.update(json.dumps(plain(part), sort_keys=True).encode())
    return sha.hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
