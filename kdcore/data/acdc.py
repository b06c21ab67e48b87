"""Disk -> `Case`: ACDC, short-axis cine-MRI of the heart, and the field's few-label split.

100 patients (and 50 for the challenge's test) at end-diastole and end-systole. Labels: 1 right
ventricle, 2 myocardium, 3 left ventricle. Licence of the data: CC BY-NC-SA 4.0, and so of figures
and weights made from them.

Left out on purpose: the whole cine (`patient001_4d.nii.gz`), the scribbles.
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kdcore.data.cases import UNKNOWN_SPACING, Case, integer_mask
from kdcore.data.nifti import MOST_VOXELS, check_grid, read_nifti
from kdcore.data.splits import Split

LABELS = {"1": "right ventricle", "2": "myocardium", "3": "left ventricle"}
SEQUENCES = ("cine",)

# By patient, as in the lists of SSL4MIS and UniMatch. 1, 3 and 7 labelled ones are usual, the first
# ones in this order.
_LABELLED = (99, 38, 50, 100, 58, 21, 49)
_VALIDATION = (28, 85, 82, 87, 19, 30, 78, 45, 2, 39)
_TEST = (11, 13, 84, 33, 93, 22, 68, 24, 83, 81, 80, 1, 7, 66, 8, 65, 75, 64, 59, 52)
_PATIENTS = range(1, 101)

_VOLUME = re.compile(r"(patient\d{3})_frame\d{2}\.h5")
_CASE = re.compile(r"(patient\d{3})_frame\d{2}")
_DEEPEST = 3  # folders between the one that is passed and a patient's, as in database/training


def read_acdc(folder: str | Path) -> list[Case]:
    """All frames of ACDC, sorted by case id; two a patient, of either layout.

    The 200 frames of the 100 patients take 0.5 GB of memory.

    Args:
        folder: The challenge's folder, or one above it, with a folder for each patient: in
            `patient001`, `Info.cfg` and, of the two frames that it names, `patient001_frame01`
            and `patient001_frame01_gt`, `.nii.gz` or `.nii`. Or the pre-processed volumes that
            `acdc_folder` downloads: `patient001_frame01.h5` with `image` and `label`, both
            (slices, height, width) of any type of number.

    Returns:
        Cases named `patient001_frame01`, with `image` (slices, height, width, 1) and `mask` 0
        background, 1 right ventricle, 2 myocardium, 3 left ventricle. The HDF5 volumes do not
        say how large voxels are: `spacing_mm` is NaN and `evaluate` gives Dice, no distances. A
        NIfTI file has the slices last; its axes are turned round (k, j, i), and the affine with
        them, so that both layouts lie alike.

    Raises:
        FileNotFoundError: If there are no patients, or a patient lacks `Info.cfg`, a frame or
            a mask.
        ValueError: If a patient is there twice or has another number of frames than two, or a
            file is damaged or does not fit. The message names it.

    Examples:
        >>> import kdcore.data
        >>> cases = kdcore.data.read_acdc("data/ACDC")
        >>> cases[0].case_id, cases[0].image.ndim
        ('patient001_frame01', 4)

    Reference: Bernard et al. 2018, https://doi.org/10.1109/TMI.2018.2837502 (data: CC BY-NC-SA
    4.0)
    """
    folder = Path(folder)
    volumes, patients = _volumes(folder), _patients(folder)
    if volumes and patients:
        raise ValueError(
            f"{folder} holds HDF5 volumes ({volumes[0]}) and the challenge's folders "
            f"({patients[0]}). Pass one of them."
        )
    if volumes:
        return [_read_volume(path) for path in _progress(volumes)]
    frames = [frame for patient in patients for frame in _frames(patient)]  # before reading
    if not frames:
        raise FileNotFoundError(
            f"{folder} holds no patient of ACDC. Expected patient001/patient001_frame01.nii.gz "
            "and so on, or patient001_frame01.h5 and so on."
        )
    return [_read_frame(path, mask) for path, mask in _progress(frames)]


def acdc_info(folder: str | Path) -> dict[str, dict[str, Any]]:
    """What `Info.cfg` says of each patient; empty for the HDF5 volumes, which come without.

    Returns:
        `{"patient001": {"ED": 1, "ES": 12, "Group": "DCM", "Height": 184.0, "NbFrame": 30,
        "Weight": 95.0}}`: the numbers of the frames at end-diastole and end-systole, the group of
        disease, cm and kg.

    Raises:
        FileNotFoundError, ValueError: As `read_acdc`.

    Examples:
        >>> import kdcore.data
        >>> kdcore.data.acdc_info("data/ACDC")["patient001"]["Group"]
        'DCM'
    """
    return {patient.name: _info(patient) for patient in _patients(Path(folder))}


def acdc_patient(case: Case | str) -> str:
    """Whose scan it is, for `split_cases(groups=...)`.

    Examples:
        >>> import kdcore.data
        >>> kdcore.data.acdc_patient("patient001_frame12")
        'patient001'
    """
    case_id = case.case_id if isinstance(case, Case) else case
    match = _CASE.fullmatch(case_id)
    if match is None:
        raise ValueError(f"{case_id} is no case of ACDC. Expected a name as patient001_frame01.")
    return match[1]


def acdc_split(cases: Iterable[Case | str], num_labelled: int = 7) -> Split:
    """The split by patient that the field compares few labels on.

    10 patients for validation, 20 for the test, 70 for training; both frames of a patient are
    on one side. Patients beyond the 100 of the challenge's training set are left out.

    Args:
        cases: Cases or ids that hold the 100 patients.
        num_labelled: Patients whose masks are used: 1, 3 and 7 have published results. 70 is
            all of them, which shows the ceiling.

    Raises:
        ValueError: If a patient is missing, or the number is neither 1 … 7 nor 70.

    Examples:
        >>> import kdcore.data
        >>> ids = [f"patient{p:03d}_frame{f:02d}" for p in range(1, 101) for f in (1, 12)]
        >>> kdcore.data.acdc_split(ids, 1).labelled
        ('patient099_frame01', 'patient099_frame12')

    Reference: the lists of https://github.com/HiLab-git/SSL4MIS, which also
    https://arxiv.org/abs/2208.09910 (UniMatch) reports on.
    """
    ids: dict[int, list[str]] = {number: [] for number in _PATIENTS}
    for case in cases:
        number = int(acdc_patient(case).removeprefix("patient"))
        ids.get(number, []).append(case.case_id if isinstance(case, Case) else case)
    missing = [number for number in _PATIENTS if not ids[number]]
    if missing:
        raise ValueError(
            f"{len(missing)} of the 100 patients are not there, among them patient"
            f"{missing[0]:03d}. "
            "The standard split needs them all; use split_cases(groups=acdc_patient) for others."
        )
    held_out = {*_VALIDATION, *_TEST}
    training = [*_LABELLED, *(n for n in _PATIENTS if n not in {*held_out, *_LABELLED})]
    if num_labelled not in (*range(1, len(_LABELLED) + 1), len(training)):
        raise ValueError(
            f"The standard split has 1 to {len(_LABELLED)} labelled patients, or all "
            f"{len(training)}. Received: {num_labelled}. For other numbers use split_cases."
        )

    def both(numbers: Iterable[int]) -> tuple[str, ...]:
        return tuple(sorted(case_id for number in numbers for case_id in ids[number]))

    labelled, unlabelled = training[:num_labelled], training[num_labelled:]
    return Split(both(labelled), both(unlabelled), both(_VALIDATION), both(_TEST))


def holds_acdc(folder: Path) -> bool:
    """Whether `read_acdc` would find patients there."""
    return bool(_volumes(folder) or _patients(folder))


def _progress(files: list[Any]) -> Iterable[Any]:
    return tqdm(files, "reading", unit="frame", disable=len(files) < 4)


def _below(folder: Path, pattern: str) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    return sorted(p for depth in range(_DEEPEST + 1) for p in folder.glob("*/" * depth + pattern))


def _patients(folder: Path) -> list[Path]:
    """The challenge's folders, by patient; they hold NIfTI files or `Info.cfg`."""
    found: dict[str, Path] = {}
    for path in _below(folder, "patient[0-9][0-9][0-9]"):
        if not path.is_dir() or not (any(path.glob("*.nii*")) or any(path.glob("Info.cfg"))):
            continue
        if path.name in found:
            raise ValueError(
                f"{path.name} is there twice: {found[path.name]} and {path}. Remove one."
            )
        found[path.name] = path
    return [found[name] for name in sorted(found)]


def _info(patient: Path) -> dict[str, Any]:
    """`Key: value` lines of a patient's `Info.cfg`."""
    path = patient / "Info.cfg"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist. It says which frames are end-diastole and end-systole; "
            "fetch it from the challenge's archive."
        )
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    info = {key.strip(): _value(value) for key, _, value in (line.partition(":") for line in lines)}
    ed, es = info.get("ED"), info.get("ES")
    if not (isinstance(ed, int) and isinstance(es, int) and ed != es and min(ed, es) > 0):
        raise ValueError(
            f"{path} names no two frames. Expected lines such as `ED: 1` and `ES: 12`. "
            f"Received: ED {ed}, ES {es}."
        )
    return {key: value for key, value in info.items() if key}


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text.strip()


def _frames(patient: Path) -> list[tuple[Path, Path]]:
    """(image, mask) of the two frames that a patient's `Info.cfg` names, in order of time."""
    info, pairs = _info(patient), []
    for frame in sorted((info["ED"], info["ES"])):
        stem = f"{patient.name}_frame{frame:02d}"
        image = _either(patient / f"{stem}.nii.gz")
        if image is None:
            raise FileNotFoundError(
                f"{patient} lacks a frame: {patient / 'Info.cfg'} names {frame}, but there is no "
                f"{stem}.nii.gz. Fetch it, or leave the patient out."
            )
        mask = _either(patient / f"{stem}_gt.nii.gz")
        if mask is None:
            raise FileNotFoundError(
                f"{image} has no mask: {stem}_gt.nii.gz does not exist. Fetch it, or leave the "
                "patient out."
            )
        pairs.append((image, mask))
    return pairs


def _either(path: Path) -> Path | None:
    """Packed or not."""
    return next((p for p in (path, path.with_suffix("")) if p.is_file()), None)


def _read_frame(path: Path, mask_path: Path) -> Case:
    # The challenge's affines hold directions without sizes, which only the header has.
    image, spacing, affine = read_nifti(path, directions_only=True)
    mask, _, mask_affine = read_nifti(mask_path, directions_only=True)
    if image.ndim != 3:
        raise ValueError(f"{path} has shape {image.shape}. Expected one frame, with slices last.")
    check_grid(mask_path, (mask.shape, mask_affine), path, (image.shape, affine))
    affine = affine[:, [2, 1, 0, 3]]
    return _case(path, image.T, mask.T, spacing[::-1], affine, mask_path)


def _volumes(folder: Path) -> list[Path]:
    """The HDF5 files, two a patient, by name."""
    found: dict[str, list[Path]] = {}
    for path in _below(folder, "patient*.h5"):
        match = _VOLUME.fullmatch(path.name)
        if match is not None:
            found.setdefault(match[1], []).append(path)
    for patient, paths in found.items():
        if len({path.parent for path in paths}) > 1:
            raise ValueError(
                f"{patient} is there twice: {paths[0]} and {paths[-1]}. Remove one, or pass the "
                "folder right above the other."
            )
        if len(paths) != 2:
            raise ValueError(
                f"{patient} has {len(paths)} frames in {paths[0].parent}, among them "
                f"{paths[0].name}. Expected two, end-diastole and end-systole: fetch the other "
                "one, or leave the patient out."
            )
    return [path for patient in sorted(found) for path in sorted(found[patient])]


def _read_volume(path: Path) -> Case:
    import h5py

    with open(path, "rb"):  # a missing permission is the system's own error
        pass
    try:
        with h5py.File(path, "r") as file:
            image, mask = (_dataset(file, key) for key in ("image", "label"))
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is no readable volume of ACDC: {error}. It may be cut short or another kind "
            "of file; fetch it again."
        ) from error
    if mask.shape != image.shape:
        raise ValueError(
            f"{path}: `label` has shape {mask.shape}, `image` {image.shape}. A mask needs one "
            "label for every voxel."
        )
    return _case(path, image, mask, UNKNOWN_SPACING)


def _dataset(file: Any, key: str) -> np.ndarray:
    """Three axes of numbers that lie in this very file."""
    import h5py

    data = file.get(key)
    if not isinstance(data, h5py.Dataset):
        raise ValueError(f"it has no array `{key}`, but {sorted(file)}")
    inside = isinstance(file.get(key, getlink=True), h5py.HardLink)
    if not inside or data.external or data.is_virtual:
        raise ValueError(f"its `{key}` lies in another file")
    if data.ndim != 3 or data.dtype.kind not in "biuf":
        raise ValueError(
            f"its `{key}` is {data.dtype} of shape {data.shape}; expected numbers, (slices, "
            "height, width)"
        )
    if not 0 < math.prod(data.shape) <= MOST_VOXELS:
        raise ValueError(f"its `{key}` has shape {data.shape}; 1 to {MOST_VOXELS} voxels are read")
    return np.asarray(data[()])


def _case(
    path: Path,
    image: np.ndarray,
    mask: np.ndarray,
    spacing: tuple[float, ...],
    affine: np.ndarray | None = None,
    mask_path: Path | None = None,
) -> Case:
    mask = integer_mask(mask, mask_path or path)
    unknown = sorted(set(np.unique(mask).tolist()) - {0, *map(int, LABELS)})
    if unknown:
        raise ValueError(
            f"{mask_path or path} holds the labels {unknown}. Expected ACDC's 0 background, "
            "1 right ventricle, 2 myocardium, 3 left ventricle."
        )
    if image.min() == image.max():
        raise ValueError(f"{path}: every voxel is {image.flat[0]}. The scan is empty; fetch it.")
    case_id = path.name.split(".")[0]
    try:
        return Case(case_id, image[..., None], mask, spacing, SEQUENCES, affine)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
