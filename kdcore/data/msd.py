"""Disk -> cases: the Medical Segmentation Decathlon's folder layout."""

import os
import warnings
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from kdcore._files import read_json
from kdcore.data.cases import Case
from kdcore.data.nifti import case_id_of, read_case


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

    Example:
        >>> import kdcore
        >>> cases = kdcore.read_msd("data/Task04_Hippocampus")
        >>> cases[0].image.ndim, cases[0].mask.ndim
        (4, 3)

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

    Example:
        >>> import kdcore.data
        >>> kdcore.data.label_names("data/Task04_Hippocampus")
        {'0': 'background', '1': 'Anterior', '2': 'Posterior'}
    """
    folder = Path(folder)
    return _label_names(_read_description(folder), folder / "dataset.json")


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
        if "\\" in relative and not path.exists():  # as Windows writes paths
            path = folder / relative.replace("\\", "/")
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
