"""`Case`: one scan, checked once when it is made."""

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

UNKNOWN_SPACING = (float("nan"),) * 3
"""`Case.spacing_mm` of a scan whose file does not say how large its voxels are."""


@dataclass(frozen=True, eq=False)
class Case:
    """One scan. `eq` is identity; arrays are read-only, copies unless memory-mapped.

    Attributes:
        case_id: Name of the scan, unique in a data set.
        image: `(D, H, W, S)` float32, finite, in the file's axis order; a read-only
            `np.memmap` stays on disk.
        mask: `(D, H, W)` label map, on disk likewise, or None for a scan without labels. uint8;
            int16 if some voxels are −1: nobody labelled them, so they count in no loss on labels
            and in no score.
        spacing_mm: Voxel size along D, H and W, in millimetres; three NaN where a file does not
            say it. Then there is Dice, and no distance in mm.
        sequences: Names of the S sequences ("T1", "FLAIR", ...).
        affine: `(4, 4)` voxel to scanner coordinates in mm, or None if unknown.
        regions: Names of R regions that may overlap ("whole tumour", "tumour core"); None where
            every voxel has one label. Then `mask` is `(D, H, W, R)`: 1 inside, 0 outside, −1 where
            nobody labelled that region. `to_regions` makes them of labels.

    Raises:
        ValueError: If shapes, dtypes or values do not fit; the message names the case.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> image = np.random.default_rng(0).normal(size=(4, 32, 28, 1))
        >>> mask = image[..., 0] > 2
        >>> case = kdcore.Case("patient1", image, mask, (3.0, 1.0, 1.0), sequences=("T1",))
        >>> case.image.dtype, case.mask.dtype
        (dtype('float32'), dtype('uint8'))
    """

    case_id: str
    image: np.ndarray
    mask: np.ndarray | None
    spacing_mm: tuple[float, ...]
    sequences: tuple[str, ...] = ("MRI",)
    affine: np.ndarray | None = None
    regions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.case_id in ("", ".", "..") or Path(self.case_id).name != self.case_id:
            raise ValueError(f"case_id {self.case_id!r} must do as a file name.")
        if isinstance(self.sequences, str) or np.ndim(self.spacing_mm) != 1:
            raise ValueError(
                f"{self.case_id}: sequences must be a tuple of names and spacing_mm of 3 sizes. "
                f"Received: {self.sequences!r} and {self.spacing_mm!r}."
            )
        if self.affine is not None and not _is_affine(np.asarray(self.affine)):
            raise ValueError(
                f"{self.case_id}: affine must be (4, 4), finite, and keep three directions apart. "
                f"Received: {np.asarray(self.affine).tolist()}."
            )
        image = _frozen(self.image, np.float32)
        spacing = tuple(float(size) for size in self.spacing_mm)
        _check_image(self.case_id, image, spacing, self.sequences)
        object.__setattr__(self, "image", image)
        object.__setattr__(self, "spacing_mm", spacing)
        object.__setattr__(self, "sequences", tuple(self.sequences))
        if self.regions is not None:
            object.__setattr__(self, "regions", _region_names(self.case_id, self.regions))
        if self.mask is not None:
            mask = self.mask
            if not _on_disk(mask, np.uint8):
                checked = integer_mask(np.asarray(mask), self.case_id)
                mask = mask if _on_disk(mask, checked.dtype) else checked
            _check_mask(self.case_id, mask, image.shape[:3], self.regions)
            object.__setattr__(self, "mask", _frozen(mask, mask.dtype))

    @property
    def has_spacing(self) -> bool:
        """Whether the voxels' size is known."""
        return bool(np.isfinite(self.spacing_mm).all())

    def select(self, sequences: Sequence[str]) -> "Case":
        """The same scan with only these sequences, in this order."""
        sequences = tuple(sequences)
        if sequences == self.sequences:
            return self
        missing = [name for name in sequences if name not in self.sequences]
        if missing or not sequences:
            raise ValueError(
                f"{self.case_id} has the sequences {self.sequences}. Received: {sequences}."
            )
        index = [self.sequences.index(name) for name in sequences]
        return replace(self, image=self.image[..., index], sequences=sequences)


def relabel(case: Case, labels: Mapping[int, int]) -> Case:
    """The same scan with other numbers for some labels; those not named stay.

    Args:
        case: With a mask.
        labels: `{old: new}`; −1 is for voxels that do not count, which many data sets mark
            by 255.

    Raises:
        ValueError: If the case has no mask, or a new label is not in −1 … 255.

    Examples:
        >>> import kdcore.data
        >>> import numpy as np
        >>> mask = np.array([[[0, 41, 255]]])
        >>> case = kdcore.data.Case("a", np.zeros((1, 1, 3, 1)), mask, (1.0, 1.0, 1.0))
        >>> kdcore.data.relabel(case, {41: 1, 255: -1}).mask.tolist()
        [[[0, 1, -1]]]
    """
    if case.mask is None:
        raise ValueError(f"{case.case_id} has no mask, so it has no labels to change.")
    _refuse_regions(case)
    new = np.array(case.mask, np.int64)
    for old, label in labels.items():
        new[case.mask == old] = label
    return replace(case, mask=new)


def to_regions(case: Case, regions: Mapping[str, Sequence[int]]) -> Case:
    """The same scan with regions that may overlap in place of its labels.

    Args:
        case: With one label a voxel, or without a mask.
        regions: Labels that make up each region, such as `{"whole tumour": (1, 2, 3), "tumour
            core": (2, 3)}`; of an nnU-Net data set `label_regions` gives them.

    Returns:
        A case whose `mask` is `(D, H, W, R)`; where the label was −1 all regions are −1.

    Raises:
        ValueError: If the case has regions already, or a region no labels of 1 or more.

    Examples:
        >>> import kdcore.data
        >>> import numpy as np
        >>> mask = np.array([[[0, 1, 2]]])
        >>> case = kdcore.data.Case("a", np.zeros((1, 1, 3, 1)), mask, (1.0, 1.0, 1.0))
        >>> case = kdcore.data.to_regions(case, {"whole": (1, 2), "core": (2,)})
        >>> case.regions, case.mask.tolist()
        (('whole', 'core'), [[[[0, 0], [1, 0], [1, 1]]]])
    """
    _refuse_regions(case)
    for name, labels in regions.items():
        if not labels or min(labels) < 1:
            raise ValueError(f"A region has labels of 1 or more. Received: {name!r}: {labels}.")
    mask = None
    if case.mask is not None:
        inside = np.stack([np.isin(case.mask, labels) for labels in regions.values()], axis=-1)
        mask = np.where(case.mask[..., None] < 0, -1, inside)
    return replace(case, mask=mask, regions=tuple(regions))


def _refuse_regions(case: Case) -> None:
    if case.regions is not None:
        raise ValueError(
            f"{case.case_id} has the regions {case.regions}, which overlap, and no labels. Pass it "
            "as it was before to_regions."
        )


def _region_names(case_id: str, names: Sequence[str]) -> tuple[str, ...]:
    texts = not isinstance(names, str) and all(isinstance(name, str) for name in names)
    if not (texts and 0 < len(set(names)) == len(names)) or any(n in ("", "all") for n in names):
        raise ValueError(
            f'{case_id}: regions must be different names, such as ("whole tumour", "core"). '
            f"Received: {names!r}."
        )
    if any(name.isdigit() for name in names):
        raise ValueError(
            f"{case_id}: a region's name is no number, as labels are. Received: {names!r}."
        )
    return tuple(names)


def _check_mask(
    case_id: str, mask: np.ndarray, space: tuple[int, ...], regions: tuple[str, ...] | None
) -> None:
    if regions is not None:
        if mask.shape != (*space, len(regions)):
            raise ValueError(
                f"{case_id}: mask of shape {mask.shape}. Expected {(*space, len(regions))}: a "
                f"channel for each of the regions {regions}."
            )
        if mask.size and mask.max() > 1:
            raise ValueError(
                f"{case_id}: the mask of a region holds {mask.max()}; expected 1 inside, 0 outside "
                "and -1 where nobody labelled it. Of labels kdcore.data.to_regions makes regions."
            )
    elif mask.shape != space:
        overlapping = mask.ndim == 4 and mask.shape[:3] == space
        raise ValueError(
            f"{case_id}: mask of shape {mask.shape}, image of shape {space}. "
            + (
                f"If its {mask.shape[3]} channels are regions that may overlap, name them: "
                "Case(..., regions=(...)); if each voxel has one, mask.argmax(axis=-1)."
                if overlapping
                else "A mask needs one label for every voxel."
            )
        )


def _is_affine(affine: np.ndarray) -> bool:
    fits = affine.shape == (4, 4) and np.isfinite(affine).all()
    return bool(fits and np.linalg.matrix_rank(affine[:3, :3]) == 3)


def _on_disk(array: Any, dtype: Any) -> bool:
    return isinstance(array, np.memmap) and array.mode == "r" and array.dtype == dtype


def _frozen(array: Any, dtype: Any) -> np.ndarray:
    if _on_disk(array, dtype):
        return array
    copy = np.array(array, dtype=dtype)
    copy.flags.writeable = False
    return copy


def forget(*arrays: np.ndarray | None) -> None:
    """Let go of the memory that reading a memory-mapped array took; it stays on disk.

    Only arrays that are kept open need it: a map that is closed takes none.
    """
    for array in arrays:
        file: object = array
        while isinstance(file, np.ndarray):
            file = file.base
        if isinstance(file, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            file.madvise(mmap.MADV_DONTNEED)


def _check_image(
    case_id: str, image: np.ndarray, spacing: tuple[float, ...], sequences: Sequence[str]
) -> None:
    if image.ndim != 4 or 0 in image.shape:
        raise ValueError(f"{case_id}: image of shape {image.shape}. Expected (D, H, W, sequences).")
    if len(sequences) != image.shape[-1]:
        raise ValueError(
            f"{case_id}: {image.shape[-1]} sequences in the image, {len(sequences)} names: "
            f"{tuple(sequences)}."
        )
    planes = image.T if image.flags.f_contiguous else image  # as they lie in memory or the file
    bad = sum(plane.size - np.count_nonzero(np.isfinite(plane)) for plane in planes)
    if bad:
        raise ValueError(
            f"{case_id}: {bad} voxels are NaN or infinite. Repair the scan or leave it out."
        )
    forget(image)
    known = all(np.isfinite(size) and size > 0 for size in spacing)
    if len(spacing) != 3 or not (known or np.isnan(spacing).all()):
        raise ValueError(
            f"{case_id}: spacing_mm must be 3 sizes > 0 mm, or UNKNOWN_SPACING. "
            f"Received: {spacing}."
        )


def labels_in(mask: np.ndarray) -> list[int]:
    """The labels of a mask, sorted; counted, which is faster than sorting all voxels."""
    counts = np.bincount(mask.ravel(order="K").astype(np.int64) + 1)
    return [int(label) - 1 for label in np.flatnonzero(counts)]


_ROUNDING = 1e-3  # of labels that a file holds as integers times a slope


def integer_mask(mask: np.ndarray, name: str | Path) -> np.ndarray:
    """The mask as uint8, if its labels are whole numbers in 0 … 255; int16 with −1, too."""
    if mask.dtype.kind == "f":
        whole = np.round(mask)
        off = ~(np.abs(mask - whole) <= _ROUNDING)  # NaN, too
        if off.any():
            raise ValueError(
                f"{name}: labels such as {mask[off].flat[0]} are not whole "
                "numbers. A mask holds class numbers; was it resampled with interpolation?"
            )
        mask = whole
    elif mask.dtype.kind not in "iub":
        raise ValueError(f"{name}: mask of dtype {mask.dtype}; expected whole numbers.")
    low, high = (mask.min(), mask.max()) if mask.size else (0, 0)
    if low < -1 or high > 255:
        raise ValueError(
            f"{name}: labels run from {low} to {high}; 0 … 255 fit, and −1 for voxels that nobody "
            "labelled."
        )
    return mask.astype(np.uint8 if low >= 0 else np.int16)
