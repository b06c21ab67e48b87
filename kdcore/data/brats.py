"""Disk -> `Case`: the BraTS challenge's folders of brain tumour scans.

Left out on purpose: download (the challenge asks for registration), more than two labels.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kdcore.data.cache import kept
from kdcore.data.cases import Case
from kdcore.data.grid import reorient, resample
from kdcore.data.nifti import case_id_of, read_case
from kdcore.data.simulation.mri import SEQUENCES, check_sequences

ENDINGS = {  # in small letters; of 2018–2021, from 2023 on, and of UCSF-PDGM
    "T1": ("_t1", "-t1n"),
    "T1c": ("_t1ce", "-t1c", "_t1c"),
    "T2": ("_t2", "-t2w"),
    "FLAIR": ("_flair", "-t2f"),
    "mask": ("_seg", "-seg", "_tumor_segmentation"),
}
BACKGROUND, OEDEMA, CORE = 0, 1, 2
# Necrotic or non-enhancing core is 1; enhancing tumour is 4 until 2021, 3 from 2023 on.
LABELS = {0: BACKGROUND, 1: CORE, 2: OEDEMA, 3: CORE, 4: CORE}
# Of children: enhancing, non-enhancing and cystic tumour are 1, 2 and 3, oedema is 4.
PAEDIATRIC = {0: BACKGROUND, 1: CORE, 2: CORE, 3: CORE, 4: OEDEMA}


def read_brats(
    folder: str | Path,
    *,
    spacing_mm: float | None = None,
    sequences: Sequence[str] = SEQUENCES,
    cache: str | Path | None = None,
) -> list[Case]:
    """All subjects of a folder in the BraTS challenge's layout, sorted by case id.

    At the challenge's 1 mm a subject takes 143 MB of memory, with `spacing_mm=2.0` 18 MB.

    Args:
        folder: Holds a folder for each subject, in it `X_t1`, `X_t1ce`, `X_t2`, `X_flair`
            and `X_seg` (2018–2021) or `X-t1n`, `X-t1c`, `X-t2w`, `X-t2f` and `X-seg` (from
            2023 on), each `.nii.gz` or `.nii`, in small or capital letters. macOS' `._*` files are
            ignored. Gliomas before treatment, of adults or (`BraTS-PED-...`) children: in other
            data sets the labels may mean other things.
        spacing_mm: Edge of cubic voxels in mm to `resample` to; None keeps the files'.
        sequences: Some of "T1", "T1c", "T2", "FLAIR"; only their files are needed.
        cache: As for `kdcore.read_msd`.

    Returns:
        Cases named after the subjects' folders, with `image` (D, H, W, S) in the order
        (inferior to superior, anterior to posterior, left to right); `mask` (D, H, W) 0
        background, 1 oedema, 2 tumour core, or None for a subject without a `seg` file.

    Raises:
        FileNotFoundError: If the folder, its subjects or a sequence's file is missing.
        ValueError: If a file cannot be read or does not fit, holds another label, or two
            files are there for one sequence; the message names them.

    Examples:
        >>> import kdcore
        >>> cases = kdcore.read_brats("data/BraTS2021", spacing_mm=4.0, sequences=["T1", "FLAIR"])
        >>> cases[0].sequences, cases[0].spacing_mm
        (('T1', 'FLAIR'), (4.0, 4.0, 4.0))

    Reference: Baid et al. 2021, https://arxiv.org/abs/2107.02314
    """
    sequences = check_sequences(sequences)
    subjects = _subjects(Path(folder))
    found = [(subject, _files(subject, sequences)) for subject in subjects]  # before reading
    cases = []
    for subject, files in tqdm(found, "reading", unit="scan", disable=len(found) < 4):
        settings = [list(sequences), spacing_mm]
        read = partial(_read_subject, subject.name, files, sequences, spacing_mm)
        cases.append(kept(cache, subject.name, list(files.values()), settings, read))
    return cases


def _subjects(folder: Path) -> list[Path]:
    """The sub-folders that hold a scan, by name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    subjects = sorted(p for p in folder.iterdir() if p.is_dir() and any(map(_kind, _scans(p))))
    if not subjects:
        raise FileNotFoundError(
            f"{folder} has no subjects. Expected a sub-folder for each, with files such as "
            "X_t1.nii.gz or X-t1n.nii.gz; pass the folder right above them (in some years "
            "that is HGG or LGG)."
        )
    return subjects


def _scans(subject: Path) -> list[Path]:
    names = sorted(p for p in subject.iterdir() if p.name.lower().endswith((".nii", ".nii.gz")))
    return [_inner(path) for path in names if not path.name.startswith("._")]


def _inner(path: Path) -> Path:
    """The file, or the only one in a folder of a file's name, as Kaggle unpacks some."""
    if not path.is_dir():
        return path
    files = [p for p in path.iterdir() if p.is_file() and not p.name.startswith("._")]
    if len(files) != 1:
        raise ValueError(
            f"{path} is a folder of {len(files)} files. Expected a file, or one in it."
        )
    return path / files[0].name


def _kind(path: Path) -> str | None:
    """The sequence in a file, "mask", or None."""
    for kind, endings in ENDINGS.items():
        if case_id_of(path).lower().endswith(endings):
            return kind
    return None


def _files(subject: Path, sequences: Sequence[str]) -> dict[str, Path]:
    """A subject's file for each asked-for sequence, and "mask" if there is one."""
    files: dict[str, Path] = {}
    for path in _scans(subject):
        kind = _kind(path)
        if kind is None:
            warnings.warn(
                f"{path} is neither a sequence nor a mask by its name and is left out. If it is "
                "one, rename it: a mask ends in _seg or -seg.",
                stacklevel=3,
            )
        elif kind in files:
            raise ValueError(
                f"{subject} has two files for {kind}: {files[kind].name} and {path.name}. "
                "Remove one."
            )
        else:
            files[kind] = path
    for name in sequences:
        if name not in files:
            expected = " or ".join(f"*{ending}.nii[.gz]" for ending in ENDINGS[name])
            raise FileNotFoundError(
                f"{subject.name} has no {name}: no file {expected} in {subject}. Leave the "
                "subject out, or ask for other `sequences`."
            )
    return files


def _read_subject(
    case_id: str, files: dict[str, Path], sequences: Sequence[str], spacing_mm: float | None
) -> Case:
    """One case, turned, and on the grid of its files or of another voxel size."""
    paths = [files[name] for name in sequences]
    case = read_case(paths, files.get("mask"), sequences, case_id=case_id)
    mask = None if case.mask is None else _our_labels(case.mask, files["mask"])
    case = reorient(replace(case, mask=mask))
    return case if spacing_mm is None else resample(case, spacing_mm)


def _our_labels(mask: np.ndarray, path: Path) -> np.ndarray:
    """BraTS' numbers -> 0 background, 1 oedema, 2 tumour core."""
    received = {int(label) for label in np.unique(mask)}
    if received - set(LABELS):
        raise ValueError(
            f"{path} holds the labels {sorted(received - set(LABELS))}. Expected BraTS' 0, 1, "
            "2, and 3 or 4. Other labels: kdcore.data.read_folder reads them as they are, and "
            "kdcore.data.relabel gives them other numbers."
        )
    of_children = path.name.upper().startswith("BRATS-PED")
    if 4 in received and case_id_of(path).endswith("-seg") and not of_children:
        raise ValueError(
            f"{path} holds the label 4. With names of this style, that is the resection cavity "
            "of the post-treatment data (2024), neither oedema nor tumour. Expected 0, 1, 2, 3: "
            "use the data from before treatment, or decide on the cavity and relabel it."
        )
    numbers = PAEDIATRIC if of_children else LABELS
    table = np.zeros(256, np.uint8)
    table[list(numbers)] = list(numbers.values())
    return table[mask]
