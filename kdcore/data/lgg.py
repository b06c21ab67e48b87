"""Disk -> `Case`: lower-grade gliomas of The Cancer Genome Atlas, by Buda et al.

110 patients with T1, FLAIR and T1 after contrast, and masks of what is abnormal in FLAIR. Licence
of the data: CC BY-NC-SA 4.0 (the scans alone CC BY 3.0), and so of figures and weights made from
them.

Left out on purpose: download (Kaggle asks for an account), the genomic table `data.csv`.
"""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kdcore.data.cases import UNKNOWN_SPACING, Case

LABELS = {"1": "FLAIR abnormality"}
SEQUENCES = ("T1", "FLAIR", "T1c")
SITES = ("CS", "DU", "EZ", "FG", "HT")

_PATIENT = re.compile(r"(TCGA_([A-Z]{2})_[A-Z0-9]{4})_\d{8}")
_FLAIR = SEQUENCES.index("FLAIR")


def read_lgg(folder: str | Path) -> list[Case]:
    """All patients whose three sequences are there, sorted by case id.

    Ten of the 110 lack T1, T1c or both, and the files hold a copy of FLAIR in its place. They
    are found by comparing the channels and left out with a warning, so that a network that must
    not see FLAIR does not. Most slices show no tumour: average over patients, not over slices.
    The published slices of 256 × 256 take 3 GB of memory, of 128 × 128 a quarter.

    Args:
        folder: `kaggle_3m`, or the one above it: a folder `TCGA_XX_NNNN_DATE` for each patient
            with slices `TCGA_XX_NNNN_DATE_1.tif` (8 bits, RGB: T1, FLAIR, T1c) and masks
            `TCGA_XX_NNNN_DATE_1_mask.tif` (0 or 255).

    Returns:
        Cases named after the folders, with `image` (slices, H, W, 3) in 0 … 255, sequences
        ("T1", "FLAIR", "T1c"), and `mask` 0 or 1. The files do not say how large voxels are:
        `spacing_mm` is NaN and `evaluate` gives Dice, no distances.

    Raises:
        FileNotFoundError: If there are no patients, or a slice lacks its mask or the other way
            round.
        ValueError: If a patient is there twice, a number is missing, or a file is damaged or
            of another kind, size or content. The message names it.

    Examples:
        >>> import kdcore.data
        >>> cases = kdcore.data.read_lgg("data/kaggle_3m")
        >>> cases[0].sequences
        ('T1', 'FLAIR', 'T1c')

    Reference: Buda et al. 2019, https://doi.org/10.1016/j.compbiomed.2019.05.002; Mazurowski et
    al. 2017, https://doi.org/10.1007/s11060-017-2420-1 (data: CC BY-NC-SA 4.0)
    """
    found = [(patient, _slices(patient)) for patient in _patients(Path(folder))]  # before reading
    cases, incomplete = [], []
    for patient, slices in tqdm(found, "reading", unit="patient", disable=len(found) < 4):
        case = _read_patient(patient.name, slices)
        copies = list(_copies_of_flair(case.image))
        if copies:
            incomplete.append(f"{case.case_id} ({', '.join(copies)})")
        else:
            cases.append(case)
    if incomplete:
        warnings.warn(
            f"{len(incomplete)} of {len(found)} patients are left out, since the sequences named "
            f"here are a copy of FLAIR: {'; '.join(incomplete)}.",
            stacklevel=2,
        )
    if not cases:
        raise ValueError(f"{folder} has no patient with all of {SEQUENCES}.")
    return cases


def lgg_site(case: Case | str) -> str:
    """The hospital's code: CS, DU, EZ, FG or HT; for `split_cases(stratify=...)`.

    Examples:
        >>> import kdcore.data
        >>> kdcore.data.lgg_site("TCGA_DU_5849_19950405")
        'DU'
    """
    case_id = case.case_id if isinstance(case, Case) else case
    match = _PATIENT.fullmatch(case_id)
    if match is None or match[2] not in SITES:
        raise ValueError(
            f"{case_id} is no case of this set. Expected a name as TCGA_DU_5849_19950405, of the "
            f"sites {SITES}."
        )
    return match[2]


def holds_lgg(folder: Path) -> bool:
    """Whether `read_lgg` would find patients there."""
    return bool(_folders(folder))


def _folders(folder: Path) -> list[Path]:
    for place in (folder, folder / "kaggle_3m", folder / "LGG" / "kaggle_3m"):
        if found := sorted(path for path in place.glob("TCGA_*") if path.is_dir()):
            return found
    return []


def _patients(folder: Path) -> list[Path]:
    """The patients' folders, by name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    found = _folders(folder)
    if not found:
        raise FileNotFoundError(
            f"{folder} has no patients. Expected kaggle_3m with a folder for each, as "
            "TCGA_DU_5849_19950405."
        )
    seen: dict[str, Path] = {}
    for path in found:
        lgg_site(path.name)
        patient = path.name.rsplit("_", 1)[0]
        if patient in seen:
            raise ValueError(
                f"{patient} is there twice: {seen[patient]} and {path}. Remove one, or this "
                "patient could be on both sides of a split."
            )
        seen[patient] = path
    return found


def _slices(patient: Path) -> list[tuple[Path, Path]]:
    """(image, mask) of each slice, in order of their numbers."""
    name = re.compile(re.escape(patient.name) + r"_(\d+)(_mask)?\.tif")
    images: dict[int, Path] = {}
    masks: dict[int, Path] = {}
    for path in sorted(patient.glob("[!.]*.tif*")):
        match = name.fullmatch(path.name)
        if match is None:
            raise ValueError(
                f"{path} is not named as its folder. Expected {patient.name}_1.tif and "
                f"{patient.name}_1_mask.tif."
            )
        (masks if match[2] else images)[int(match[1])] = path
    if not images:
        raise FileNotFoundError(
            f"{patient} has no slices. Expected {patient.name}_1.tif and so on."
        )
    for number in sorted({*images, *masks, *range(1, max(images) + 1)}):
        for kind, paths, ending in (("slice", images, ""), ("mask", masks, "_mask")):
            if number not in paths:
                raise FileNotFoundError(
                    f"{patient} lacks a {kind}: {patient.name}_{number}{ending}.tif does not "
                    "exist. Fetch it, or leave the patient out."
                )
    return [(images[number], masks[number]) for number in sorted(images)]


def _read_patient(case_id: str, slices: list[tuple[Path, Path]]) -> Case:
    images: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    for path, mask_path in slices:
        images.append(_read_tiff(path, "RGB", images[0].shape[:2] if images else None))
        mask = _read_tiff(mask_path, "L", images[0].shape[:2])
        if not np.isin(mask, (0, 255)).all():
            raise ValueError(
                f"{mask_path} holds values such as {mask[~np.isin(mask, (0, 255))][0]}. A mask is "
                "0 or 255; was it resampled with interpolation, or saved with loss?"
            )
        masks.append(mask == 255)
    return Case(case_id, np.stack(images), np.stack(masks), UNKNOWN_SPACING, SEQUENCES)


def _read_tiff(path: Path, mode: str, size: tuple[int, ...] | None) -> np.ndarray:
    """8 bits, `(H, W, 3)` of mode "RGB" or `(H, W)` of "L"; of that size, if it is given."""
    from PIL import Image

    with open(path, "rb"):  # a missing permission is the system's own error
        pass
    try:
        with Image.open(path, formats=["TIFF"]) as image:
            received, shape = image.mode, image.size[::-1]
            fits = received == mode and size in (None, shape)
            values = np.asarray(image) if fits else None
    except Exception as error:  # Pillow raises whatever its parts raise
        raise ValueError(
            f"{path} is no readable TIFF file of 8 bits: {error}. It may be cut short or of "
            "another kind; fetch it again."
        ) from error
    if values is None:
        raise ValueError(
            f"{path} is of mode {received}, {shape[0]} × {shape[1]} pixels. Expected 8 bits, "
            f"{'three channels (RGB)' if mode == 'RGB' else 'one channel (L)'}"
            + (f", {size[0]} × {size[1]} as the first slice." if size else ".")
        )
    return values


def _copies_of_flair(image: np.ndarray) -> Iterator[str]:
    """The sequences that are FLAIR in every voxel."""
    for channel, name in enumerate(SEQUENCES):
        if channel != _FLAIR and np.array_equal(image[..., channel], image[..., _FLAIR]):
            yield name
