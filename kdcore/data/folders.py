"""Disk -> cases: a folder of plain images and masks, found by patterns of their names.

NIfTI files are volumes; PNG and TIFF files are scans of one slice.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from kdcore.data.cache import kept
from kdcore.data.cases import UNKNOWN_SPACING, Case, integer_mask
from kdcore.data.nifti import read_case

_FLAT = (".png", ".tif", ".tiff")


def read_folder(
    folder: str | Path,
    images: str | Mapping[str, str],
    masks: str | None = None,
    *,
    cache: str | Path | None = None,
) -> list[Case]:
    """All cases of a folder whose names tell what belongs together, sorted by case id.

    Args:
        folder: Where the patterns begin.
        images: A pattern such as `"images/*.nii.gz"`, or one a sequence: `{"T1": "*/*_T1.nii.gz",
            "FLAIR": "*/*_FLAIR.nii.gz"}`. What stands for the stars, each different part once
            and joined by `_`, is the case id; files with the same one belong together.
        masks: Likewise, for label maps; a case without one gets `mask=None`.
        cache: As for `kdcore.read_msd`.

    Returns:
        Cases. NIfTI: on the files' grid. PNG and TIFF: one slice, voxels of unknown size; the
        channels of one file are sequences called `T1_0`, `T1_1` and so on.

    Raises:
        FileNotFoundError: If nothing fits a pattern, or a case lacks a sequence or its image.
        ValueError: If a file cannot be read, or two files have one case id.

    Examples:
        >>> import kdcore.data
        >>> images = {"T1": "*/*_t1.nii.gz", "FLAIR": "*/*_flair.nii.gz"}
        >>> cases = kdcore.data.read_folder("data/BraTS2021", images, "*/*_seg.nii.gz")
        >>> cases[0].case_id, cases[0].sequences
        ('BraTS2021_00000', ('T1', 'FLAIR'))
    """
    folder = Path(folder)
    patterns = {"MRI": images} if isinstance(images, str) else dict(images)
    if not patterns:
        raise ValueError("images must be a pattern, or a pattern a sequence. Received none.")
    found = {name: _matches(folder, pattern) for name, pattern in patterns.items()}
    drawn = {} if masks is None else _matches(folder, masks)
    case_ids: list[str] = sorted({case_id for files in found.values() for case_id in files})
    for name, pattern in patterns.items():
        lacking = [case_id for case_id in case_ids if case_id not in found[name]]
        if lacking:
            raise FileNotFoundError(
                f"{len(lacking)} of {len(case_ids)} cases have no {name}, among them {lacking[0]}: "
                f"nothing in {folder} fits {pattern} for it."
            )
    alone = sorted(set(drawn) - set(case_ids))
    if alone:
        raise FileNotFoundError(
            f"{drawn[alone[0]]} has no image: its case id by {masks} is {alone[0]}, and the images "
            f"give {', '.join(case_ids[:3])}. Stars must stand for the same parts in both."
        )
    cases = []
    for case_id in case_ids:
        files, mask = [each[case_id] for each in found.values()], drawn.get(case_id)
        read = partial(_read, files, mask, [*found], case_id)
        cases.append(kept(cache, case_id, [*files, mask], [*found], read))
    return cases


def _matches(folder: Path, pattern: str) -> dict[str, Path]:
    """Files by case id."""
    parts = [re.escape(part) for part in pattern.split("*")]
    if len(parts) == 1:
        raise ValueError(f"{pattern!r} has no star, so it says nothing of the case's name.")
    expression = re.compile("([^/]+)".join(parts))
    matches: dict[str, Path] = {}
    for path in sorted(folder.glob(pattern)):
        match = expression.fullmatch(path.relative_to(folder).as_posix())
        if match is None or path.name.startswith("._") or not path.is_file():
            continue
        case_id = "_".join(dict.fromkeys(match.groups()))
        if case_id in matches:
            raise ValueError(
                f"{matches[case_id]} and {path} both have the case id {case_id}. Tell them apart "
                f"by another pattern than {pattern!r}."
            )
        matches[case_id] = path
    if not matches:
        raise FileNotFoundError(f"Nothing in {folder} fits {pattern!r}.")
    return matches


def _read(images: list[Path], mask: Path | None, sequences: list[str], case_id: str) -> Case:
    if images[0].suffix.lower() not in _FLAT:
        return read_case(images, mask, sequences, case_id=case_id)
    planes = [_read_flat(path) for path in images]
    for path, plane in zip(images, planes, strict=True):
        if plane.shape[:2] != planes[0].shape[:2]:
            raise ValueError(
                f"{path} has {plane.shape[:2]} pixels, {images[0].name} {planes[0].shape[:2]}."
            )
    names = [
        name if plane.shape[-1] == 1 else f"{name}_{channel}"
        for name, plane in zip(sequences, planes, strict=True)
        for channel in range(plane.shape[-1])
    ]
    labels = None if mask is None else _read_labels(mask)
    image = np.concatenate(planes, axis=-1)[None]
    return Case(case_id, image, labels, UNKNOWN_SPACING, tuple(names))


def _read_flat(path: Path) -> np.ndarray:
    """`(H, W, channels)`."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            array = np.asarray(file)
    except Exception as error:  # Pillow raises whatever its parts raise
        raise ValueError(f"{path} is no readable image: {error}.") from error
    if array.ndim not in (2, 3) or array.dtype.kind not in "iufb":
        raise ValueError(f"{path} has shape {array.shape}; expected one image.")
    return array[..., None] if array.ndim == 2 else array


def _read_labels(path: Path) -> np.ndarray:
    array = _read_flat(path)
    if array.shape[-1] != 1:
        raise ValueError(
            f"{path} has {array.shape[-1]} channels. A mask has one, with a label a pixel; colours "
            "must be turned into labels first."
        )
    return integer_mask(array[..., 0], path)[None]
