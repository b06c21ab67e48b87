"""Disk -> `Case`: NIfTI files and the Medical Segmentation Decathlon's folder layout.

Voxels are read as they lie in the file; `resampling` moves a case to another grid.
Left out on purpose: DICOM (convert it with dcm2niix).
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np

from kdcore.cases import Case, integer_mask
from kdcore.files import read_json
from kdcore.nifti import read_nifti

_AFFINE_TOLERANCE_MM = 1e-3


def read_msd(folder: str | Path, *, labelled_only: bool = False) -> list[Case]:
    """All cases of a folder in the Decathlon's layout, sorted by case id.

    Args:
        folder: Holds `dataset.json`, `imagesTr`, `labelsTr` and, if there are any,
            `imagesTs`. macOS' `._*` files are ignored.
        labelled_only: Leave scans without a mask out; they need not be there.

    Returns:
        The training cases with their masks, and the test cases with `mask=None`.

    Raises:
        FileNotFoundError: If the folder, `dataset.json`, an image or a mask is missing.
        ValueError: If a file cannot be read or does not fit; the message names it.

    Reference: Antonelli et al. 2022, https://doi.org/10.1038/s41467-022-30695-9
    """
    folder = Path(folder)
    description = _read_description(folder)
    sequences = _names(description, "modality", "channel_names", path=folder) or ("MRI",)
    known = _label_values(description, folder / "dataset.json")
    cases = {}
    for image_path, mask_path in _entries(folder, description, labelled_only):
        case = read_case(image_path, mask_path, sequences, known)
        if case.case_id in cases:
            raise ValueError(f"{folder / 'dataset.json'} lists {case.case_id} twice.")
        cases[case.case_id] = case
    if not cases:
        raise ValueError(
            f"{folder} has no cases. Expected images under imagesTr that "
            "dataset.json lists in `training`."
        )
    return [cases[case_id] for case_id in sorted(cases)]


def label_names(folder: str | Path) -> dict[str, str]:
    """What `dataset.json` calls the labels, {"1": "Anterior", ...}; empty if it names none.

    Raises:
        FileNotFoundError, ValueError: As `read_msd`.
    """
    folder = Path(folder)
    return _label_names(_read_description(folder), folder / "dataset.json")


def read_case(
    image_path: str | Path,
    mask_path: str | Path | None = None,
    sequences: Sequence[str] = ("MRI",),
    labels: set[int] | None = None,
) -> Case:
    """One case from NIfTI files.

    Args:
        image_path: 3-D for one sequence, 4-D with the sequences last for several.
        mask_path: Label map on the same grid, or None.
        sequences: Names of the sequences in the image file.
        labels: Label values that the mask may hold; None allows 0 … 255.

    Raises:
        FileNotFoundError, PermissionError: As the operating system says.
        ValueError: If a file is damaged, or image and mask do not fit together.
    """
    image_path = Path(image_path)
    voxels, spacing, affine = read_nifti(image_path)
    image = _with_sequences(voxels, sequences, image_path)
    if np.isfinite(image).all() and float(np.ptp(image)) == 0:
        raise ValueError(
            f"{image_path}: every voxel is {image.flat[0]}. The scan is empty; leave it out."
        )
    mask = None
    if mask_path is not None:
        mask = _read_mask(Path(mask_path), image_path, image.shape[:3], affine, labels)
        if image.shape[-1] == 1 and np.array_equal(image[..., 0], mask):
            raise ValueError(f"{image_path} holds what its mask holds: labels, no scan.")
    try:
        return Case(case_id_of(image_path), image, mask, spacing, tuple(sequences), affine)
    except ValueError as error:
        raise ValueError(f"{image_path}: {error}") from error


def save_mask(path: str | Path, mask: np.ndarray, case: Case) -> Path:
    """Write a `(D, H, W)` label map on the grid of `case` as NIfTI."""
    import nibabel

    if mask.shape != case.image.shape[:3]:
        raise ValueError(
            f"{case.case_id}: mask of shape {mask.shape}, case of {case.image.shape[:3]}."
        )
    affine = np.diag([*case.spacing_mm, 1.0]) if case.affine is None else case.affine
    nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), affine), path)
    return Path(path)


def case_id_of(path: str | Path) -> str:
    """`hippocampus_001` for `.../hippocampus_001.nii.gz`."""
    return Path(path).name.removesuffix(".gz").removesuffix(".nii")


def _with_sequences(voxels: np.ndarray, sequences: Sequence[str], path: Path) -> np.ndarray:
    if voxels.ndim == 3 and len(sequences) == 1:
        voxels = voxels[..., None]
    if voxels.ndim != 4 or voxels.shape[-1] != len(sequences):
        raise ValueError(
            f"{path} has shape {voxels.shape}. Expected a 3-D scan, or 4-D with "
            f"{len(sequences)} sequences {tuple(sequences)} last."
        )
    return voxels.astype(np.float32)


def _read_mask(
    path: Path,
    image_path: Path,
    shape: tuple[int, ...],
    affine: np.ndarray,
    labels: set[int] | None,
) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{image_path} has no mask: {path} does not exist.")
    voxels, _, mask_affine = read_nifti(path)
    check_grid(path, (voxels.shape, mask_affine), image_path, (shape, affine))
    mask = integer_mask(voxels, path)
    unknown = set(np.unique(mask).tolist()) - labels if labels else set()
    if unknown:
        raise ValueError(
            f"{path} holds the labels {sorted(unknown)}, which dataset.json does not name "
            f"(it names {sorted(labels or ())})."
        )
    return mask


def check_grid(
    path: Path,
    grid: tuple[tuple[int, ...], np.ndarray],
    image_path: Path,
    image_grid: tuple[tuple[int, ...], np.ndarray],
) -> None:
    """Raise if a file's (shape, affine) are not those of the image it belongs to."""
    (shape, affine), (image_shape, image_affine) = grid, image_grid
    if shape != image_shape:
        raise ValueError(
            f"{path} has shape {shape}, but {image_path.name} has {image_shape}. "
            "All files of a case must lie on one grid."
        )
    if not np.allclose(affine, image_affine, atol=_AFFINE_TOLERANCE_MM):
        raise ValueError(
            f"{path} and {image_path.name} have different affines, so they lie in different "
            "places of the scanner. Resample one to the other."
        )


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist. Expected the Decathlon's layout: dataset.json, "
            "imagesTr, labelsTr."
        )
    description = read_json(path)
    if not isinstance(description, dict) or not isinstance(description.get("training"), list):
        raise ValueError(f"{path} has no list `training`.")
    if not isinstance(description.get("test") or [], list):
        raise ValueError(f"{path}: `test` must be a list of images.")
    return description


def _names(description: Mapping[str, Any], *keys: str, path: Path) -> tuple[str, ...]:
    """Names in numeric order of {"0": "T1", ...}."""
    for key in keys:
        names = description.get(key)
        if names:
            try:
                return tuple(str(names[k]) for k in sorted(names, key=int))
            except (TypeError, ValueError, OverflowError, LookupError) as error:
                raise ValueError(
                    f'{path / "dataset.json"}: `{key}` must be {{"0": name, ...}}.'
                ) from error
    return ()


def _label_values(description: Mapping[str, Any], path: Path) -> set[int] | None:
    return {int(number) for number in _label_names(description, path)} or None


def _label_names(description: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Of {"0": "background", ...}, or the other way round as nnU-Net writes it."""
    labels = description.get("labels") or {}
    try:
        pairs = [(k, v) if str(k).isdigit() else (v, k) for k, v in labels.items()]
        return {str(int(number)): str(name) for number, name in pairs}
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f'{path}: `labels` must be {{"0": "background", "1": name, ...}}. Received: {labels}.'
        ) from error


def _entries(
    folder: Path, description: Mapping[str, Any], labelled_only: bool
) -> list[tuple[Path, Path | None]]:
    """(image, mask or None) of every case that dataset.json lists."""
    listed: list[tuple[Path, Path | None]] = []
    for entry in description["training"]:
        image, label = (
            (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (entry, None)
        )
        misspelt = isinstance(entry, dict) and label is None and set(entry) - {"image", "label"}
        if not isinstance(image, str) or not isinstance(label, str | None) or misspelt:
            raise ValueError(f"{folder / 'dataset.json'}: unexpected entry {entry!r}.")
        listed.append((_inside(folder, image), None if label is None else _inside(folder, label)))
    for entry in description.get("test") or []:
        image = entry.get("image") if isinstance(entry, dict) else entry
        if not isinstance(image, str):
            raise ValueError(f"{folder / 'dataset.json'}: unexpected entry {entry!r}.")
        listed.append((_inside(folder, image), None))
    listed = [pair for pair in listed if not pair[0].name.startswith("._")]
    wanted = [pair for pair in listed if pair[1] is not None or not labelled_only]
    _check_listed(folder / "dataset.json", wanted, {case_id_of(image) for image, _ in listed})
    _warn_unlisted(folder, {image.name for image, _ in listed})
    return wanted


def _check_listed(
    path: Path, wanted: Sequence[tuple[Path, Path | None]], listed: AbstractSet[str]
) -> None:
    """Raise if an image is not there, or comes with the mask of another one that is listed."""
    for image, mask in wanted:
        if not os.path.isfile(image):  # noqa: PTH113 - for a name too long, pathlib raises
            raise FileNotFoundError(f"{image} does not exist, but {path} lists it.")
        name = case_id_of(mask or image)
        if name != case_id_of(image) and name in listed:
            raise ValueError(f"{path} gives {image.name} the mask {name}, which is another case's.")


def _inside(folder: Path, relative: str) -> Path:
    path, listed = folder / relative, folder / "dataset.json"
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, impossible names
        raise ValueError(f"{listed} names a file that cannot be: {relative!r} ({error})") from error
    if not inside:
        raise ValueError(f"{listed} points out of its folder: {relative!r}")
    if not relative.strip():
        raise ValueError(f"{listed} has an entry without a file name.")
    return path


def _warn_unlisted(folder: Path, listed: set[str]) -> None:
    present = {
        path.name
        for name in ("imagesTr", "imagesTs")
        for path in (folder / name).glob("*.nii*")
        if not path.name.startswith("._")
    }
    if present - listed:
        warnings.warn(
            f"{len(present - listed)} images in {folder} are not in dataset.json and are left "
            f"out, among them {sorted(present - listed)[0]}.",
            stacklevel=3,
        )
