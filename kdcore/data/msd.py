"""Disk -> cases: the Medical Segmentation Decathlon's folder layout, and nnU-Net's raw data sets.

Both have a `dataset.json`. The Decathlon's lists the files; nnU-Net's names channels, labels and
the files' ending, and the files are found by their names.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from kdcore._files import read_json
from kdcore.data.cache import kept
from kdcore.data.cases import Case, relabel
from kdcore.data.nifti import case_id_of, read_case

_IGNORE = "ignore"  # nnU-Net's name for voxels that nobody labelled


def read_msd(
    folder: str | Path, *, labelled_only: bool = False, cache: str | Path | None = None
) -> list[Case]:
    """All cases of a folder in the Decathlon's layout, sorted by case id.

    Args:
        folder: Holds `dataset.json`, `imagesTr`, `labelsTr` and, if there are any,
            `imagesTs`. macOS' `._*` files are ignored.
        labelled_only: Leave scans without a mask out; they need not be there.
        cache: A folder of yours in which scans are kept unpacked, as float32. They then stay on
            disk and take next to no memory, and the next call need not unpack them. None keeps
            them in memory.

    Returns:
        The training cases with their masks, and the test cases with `mask=None`. Voxels of a label
        called "ignore" are −1. A raw data set of nnU-Net is read by `read_nnunet`.

    Raises:
        FileNotFoundError: If the folder, `dataset.json`, an image or a mask is missing.
        ValueError: If a file cannot be read or does not fit; the message names it.

    Examples:
        >>> import kdcore
        >>> cases = kdcore.read_msd("data/Task04_Hippocampus")
        >>> cases[0].image.ndim, cases[0].mask.ndim
        (4, 3)

    Reference: Antonelli et al. 2022, https://doi.org/10.1038/s41467-022-30695-9
    """
    folder = Path(folder)
    description = _read_description(folder)
    if _is_nnunet(description):
        return read_nnunet(folder, labelled_only=labelled_only, cache=cache)
    sequences = _names(description, "modality", "channel_names", path=folder) or ("MRI",)
    known = _label_values(description, folder / "dataset.json")
    cases = {}
    for image_path, mask_path in _entries(folder, description, labelled_only):
        case_id = case_id_of(mask_path or image_path)
        if f"{case_id}_0000" != case_id_of(image_path):  # nnU-Net's name of a first sequence
            case_id = case_id_of(image_path)
        if case_id in cases:
            raise ValueError(f"{folder / 'dataset.json'} lists {case_id} twice.")
        cases[case_id] = _read(image_path, mask_path, sequences, known, case_id, description, cache)
    if not cases:
        raise ValueError(
            f"{folder} has no cases. Expected images under imagesTr that "
            "dataset.json lists in `training`."
        )
    return [cases[case_id] for case_id in sorted(cases)]


def read_nnunet(
    folder: str | Path, *, labelled_only: bool = False, cache: str | Path | None = None
) -> list[Case]:
    """All cases of a raw data set of nnU-Net, sorted by case id.

    Args:
        folder: `DatasetXXX_Name` (version 2) or `TaskXXX_Name` (version 1): `dataset.json`, images
            `imagesTr/<case>_0000.nii.gz`, `_0001` and so on, one a channel, masks
            `labelsTr/<case>.nii.gz`, and perhaps `imagesTs`.
        labelled_only: Leave scans without a mask out.
        cache: As for `read_msd`.

    Returns:
        Cases named as nnU-Net names them, so that `NNUNetProbabilities` finds their maps.
        Voxels of the label "ignore" are −1. Regions are no labels: the masks are read as they
        are, and `label_regions` gives what `evaluate(regions=...)` takes.

    Raises:
        FileNotFoundError: If the folder, `dataset.json`, an image or a channel is missing.
        ValueError: If a file cannot be read or does not fit; the message names it.

    Examples:
        >>> import kdcore.data
        >>> cases = kdcore.data.read_nnunet("data/Dataset001_Brain")
        >>> cases[0].case_id, cases[0].sequences, cases[0].mask is None
        ('BRAIN_001', ('T1', 'FLAIR'), False)

    Reference: https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
    """
    folder = Path(folder)
    description = _read_description(folder)
    path, ending = folder / "dataset.json", description.get("file_ending", ".nii.gz")
    if ending not in (".nii", ".nii.gz"):
        raise ValueError(f"{path}: files end in {ending!r}; .nii and .nii.gz can be read.")
    sequences = _names(description, "channel_names", "modality", path=folder) or ("MRI",)
    known = _label_values(description, path)
    cases, unlabelled = [], []
    for part in ("imagesTr", "imagesTs"):
        for images in _channels(folder / part, ending, len(sequences)):
            case_id = images[0].name.removesuffix(f"_0000{ending}")
            mask = folder / "labelsTr" / f"{case_id}{ending}"
            there = part == "imagesTr" and mask.is_file()
            if part == "imagesTr" and not there:
                unlabelled.append(case_id)
            if there or not labelled_only:
                told = mask if there else None
                cases.append(_read(images, told, sequences, known, case_id, description, cache))
    _check_masks(folder, ending, cases)
    if unlabelled and not labelled_only:
        warnings.warn(
            f"{len(unlabelled)} scans of {folder / 'imagesTr'} have no mask in labelsTr and are "
            f"read as unlabelled, among them {unlabelled[0]}.",
            stacklevel=2,
        )
    if not cases:
        raise ValueError(
            f"{folder} has no cases. Expected images imagesTr/<case>_0000{ending}, and masks "
            f"labelsTr/<case>{ending}."
        )
    return sorted(cases, key=lambda case: case.case_id)


def _read(
    images: Path | Sequence[Path],
    mask: Path | None,
    sequences: Sequence[str],
    known: set[int] | None,
    case_id: str,
    description: Mapping[str, Any],
    cache: str | Path | None,
) -> Case:
    names = _label_names(description, Path("dataset.json"))
    ignored = {int(number): -1 for number, name in names.items() if name == _IGNORE}

    def read() -> Case:
        case = read_case(images, mask, sequences, known, case_id=case_id)
        return relabel(case, ignored) if ignored and case.mask is not None else case

    files = [images] if isinstance(images, Path) else list(images)
    settings = [list(sequences), sorted(known or ()), sorted(ignored)]
    return kept(cache, case_id, [*files, mask], settings, read)


def _is_nnunet(description: Mapping[str, Any]) -> bool:
    return "training" not in description and bool(
        {"channel_names", "file_ending", "numTraining"} & set(description)
    )


def _channels(folder: Path, ending: str, count: int) -> list[list[Path]]:
    """The images of every case of a folder, one a channel."""
    first = sorted(
        path for path in folder.glob(f"*_0000{ending}") if not path.name.startswith("._")
    )
    found = []
    for path in first:
        stem = path.name.removesuffix(f"_0000{ending}")
        images = [folder / f"{stem}_{channel:04d}{ending}" for channel in range(count)]
        missing = [image for image in images if not image.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{missing[0]} does not exist, but dataset.json names {count} channels."
            )
        more = folder / f"{stem}_{count:04d}{ending}"
        if more.is_file():
            raise ValueError(f"{more} is there, but dataset.json names {count} channels alone.")
        found.append(images)
    return found


def _check_masks(folder: Path, ending: str, cases: Sequence[Case]) -> None:
    """Raise if a mask has no image."""
    read = {case.case_id for case in cases}
    for mask in sorted((folder / "labelsTr").glob(f"*{ending}")):
        name = mask.name.removesuffix(ending)
        if not name.startswith("._") and name not in read:
            raise FileNotFoundError(
                f"{mask} has no image: {folder / 'imagesTr' / name}_0000{ending} does not exist."
            )


def label_regions(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """What `dataset.json` calls regions, for `evaluate(regions=...)`; empty if there are none.

    nnU-Net trains regions that overlap ("whole tumour" holds "tumour core"). Here labels are
    trained, which do not, and regions are scored.

    Examples:
        >>> import kdcore.data
        >>> kdcore.data.label_regions("data/Dataset001_Brain")
        {'whole tumour': (1, 2), 'tumour core': (2,)}
    """
    description = _read_description(Path(folder))
    labels = description.get("labels") or {}
    return {
        str(name): tuple(int(number) for number in numbers)
        for name, numbers in (labels.items() if isinstance(labels, dict) else ())
        if isinstance(numbers, list)
    }


def label_names(folder: str | Path) -> dict[str, str]:
    """What `dataset.json` calls the labels, {"1": "Anterior", ...}; empty if it names none.

    Raises:
        FileNotFoundError, ValueError: As `read_msd`.

    Examples:
        >>> import kdcore.data
        >>> kdcore.data.label_names("data/Task04_Hippocampus")
        {'0': 'background', '1': 'Anterior', '2': 'Posterior'}
    """
    folder = Path(folder)
    names = _label_names(_read_description(folder), folder / "dataset.json")
    return {number: name for number, name in names.items() if name != _IGNORE}


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
    listed = isinstance(description, dict) and isinstance(description.get("training"), list)
    if not listed and not (isinstance(description, dict) and _is_nnunet(description)):
        raise ValueError(
            f"{path} has no list `training`, nor nnU-Net's `channel_names` and `file_ending`."
        )
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
        names: dict[str, str] = {}
        # A label within regions has the name of the smallest one.
        regions = [(number, name) for number, name in pairs if isinstance(number, list)]
        for numbers, name in sorted(regions, key=lambda region: -len(region[0])):
            names |= {str(int(number)): str(name) for number in numbers}
        plain = [(number, name) for number, name in pairs if not isinstance(number, list)]
        names |= {str(int(number)): str(name) for number, name in plain}
        if regions and "0" not in names:
            raise ValueError("regions, and no background")
        return dict(sorted(names.items(), key=lambda item: int(item[0])))
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
        raise ValueError(
            f"{listed} points out of its folder: {relative!r}. Expected a path within it, such as "
            f"imagesTr/{relative.replace(chr(92), '/').split('/')[-1]}."
        )
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
