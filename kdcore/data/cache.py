"""Scans that stay on disk: unpacked once into a folder, then read from there slice by slice."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdcore._files import digest, open_array, read_json, replacing, write_json
from kdcore.data.cases import Case, forget


def kept(
    cache: str | Path | None,
    case_id: str,
    files: Sequence[Path | None],
    settings: Sequence[Any],
    read: Callable[[], Case],
) -> Case:
    """What `read` returns, in memory; or with a cache the same case as memory maps.

    Args:
        cache: A folder for `<case_id>.json`, `-image.npy` and `-mask.npy`; None keeps nothing.
        case_id: Of the case.
        files: It is read from; where one changed in place, size or date, it is read again.
        settings: What else decides it.
        read: Reads it.
    """
    if cache is None:
        return read()
    path = Path(cache) / f"{case_id}.json"
    made_of = digest([_state(file) for file in files if file is not None], list(settings))
    if path.is_file() and (about := read_json(path, sealed=True)).get("made_of") == made_of:
        return _opened(path, about)
    case = read()
    for name, array in {"image": case.image, "mask": case.mask}.items():
        if array is not None:
            with replacing(_array(path, name)) as temporary:
                np.save(temporary, array, allow_pickle=False)
    about = {
        "case_id": case.case_id,
        "spacing_mm": case.spacing_mm,
        "sequences": case.sequences,
        "affine": case.affine,
        "labelled": case.mask is not None,
        "made_of": made_of,
    }
    write_json(path, about, sealed=True)
    return _opened(path, about)


def _opened(path: Path, about: dict[str, Any]) -> Case:
    case = Case(
        about["case_id"],
        open_array(_array(path, "image")),
        open_array(_array(path, "mask")) if about["labelled"] else None,
        tuple(np.nan if size is None else size for size in about["spacing_mm"]),
        tuple(about["sequences"]),
        None if about["affine"] is None else np.array(about["affine"]),
    )
    forget(case.image, case.mask)
    return case


def _array(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}-{name}.npy")


def _state(file: Path) -> list[Any]:
    found = file.stat()
    return [str(file.resolve()), found.st_size, found.st_mtime_ns]
