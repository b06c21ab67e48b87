"""A `Case` on another grid: axial slices first, voxels or slices of another size.

Left out on purpose: registration, and growing or cutting the field of view.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import ndimage

from kdcore.data.cases import Case
from kdcore.data.nifti import MOST_VOXELS

_SHIFT = 0.01  # old voxels


def resample(case: Case, spacing_mm: float | Sequence[float]) -> Case:
    """The same scan with voxels of another size, around the same centre.

    Image: blurred along axes that become coarser by a factor f > 1, with a Gaussian of
    (f − 1) / 2 voxels, then interpolated linearly. Mask: each label's indicator the same
    way, then the label of the largest share; of equal shares the lower label. Rounding of
    convex structures costs volume: from 1 to 2 mm a ball of 3 cm³ loses 4 %, of 14 cm³ 1 %.

    Args:
        case: `image` (D, H, W, S), `mask` (D, H, W) or None.
        spacing_mm: Edge of the new voxels in mm; one number for cubes, three for D, H and W.

    Returns:
        A case of about `shape · case.spacing_mm / spacing_mm` voxels; its affine, if the
        case has one, places them where they were.

    Raises:
        ValueError: If `spacing_mm` is no positive number or three, or so small that nothing
            could hold the result, or the case does not know its own.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> case = kdcore.Case("a", np.ones((4, 32, 32, 1)), None, spacing_mm=(4.0, 1.0, 1.0))
        >>> coarse = kdcore.resample(case, spacing_mm=2.0)
        >>> coarse.image.shape, coarse.spacing_mm
        ((8, 16, 16, 1), (2.0, 2.0, 2.0))
    """
    edges = np.asarray(spacing_mm, float)
    if edges.shape not in ((), (3,)) or not (np.isfinite(edges) & (edges > 0)).all():
        raise ValueError(f"spacing_mm must be one size > 0 mm, or three. Received: {spacing_mm}.")
    spacing = tuple(float(edge) for edge in np.broadcast_to(edges, 3))
    if not case.has_spacing:
        raise ValueError(
            f"{case.case_id}: the size of its voxels is not known, so it cannot be resampled. Set "
            "it: dataclasses.replace(case, spacing_mm=(D, H, W))."
        )
    old = np.array(case.image.shape[:3])
    factor = np.array(spacing) / np.array(case.spacing_mm)  # old voxels in a new one
    size = np.maximum(np.rint(old / factor), 1)
    if not size.prod() <= MOST_VOXELS:
        raise ValueError(
            f"{case.case_id}: at {spacing} mm it would have {size.prod():.2g} voxels, "
            f"more than {MOST_VOXELS}. Its own are of {case.spacing_mm} mm: are these lengths "
            "right?"
        )
    return _on_grid(case, size.astype(int), factor, spacing)


def resize(case: Case, shape: tuple[int, int]) -> Case:
    """The same scan with every slice brought to one size, whatever its voxels are.

    What networks are given where scans do not say how large their voxels are. Interpolated as by
    `resample`, within each slice; slices of another aspect ratio are stretched.

    Args:
        case: `image` (D, H, W, S), `mask` (D, H, W) or None.
        shape: `(height, width)` of the new slices.

    Raises:
        ValueError: If `shape` is no height and width of 1 or more.

    Examples:
        >>> import kdcore.data
        >>> import numpy as np
        >>> case = kdcore.data.Case("a", np.ones((9, 256, 216, 1)), None, (10.0, 1.5, 1.5))
        >>> kdcore.data.resize(case, (128, 128)).image.shape
        (9, 128, 128, 1)
    """
    if len(shape) != 2 or not all(isinstance(n, int | np.integer) and n >= 1 for n in shape):
        raise ValueError(f"shape must be (height, width), each 1 or more. Received: {shape}.")
    old = np.array(case.image.shape[:3])
    new = np.array([old[0], *shape])
    factor = old / new
    return _on_grid(case, new, factor, tuple(np.array(case.spacing_mm) * factor))


def resize_map(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Probabilities of resized slices on slices of another size, as those the scan had.

    Args:
        probabilities: `(D, H, W, C)`.
        shape: `(height, width)` of the new slices.

    Returns:
        `(D, *shape, C)` float32; where they summed to 1, they still do.

    Examples:
        >>> import kdcore.data
        >>> import numpy as np
        >>> kdcore.data.resize_map(np.full((9, 128, 128, 4), 0.25), (256, 216)).shape
        (9, 256, 216, 4)
    """
    old = np.array(probabilities.shape[:3])
    new = np.array([old[0], *shape])
    factor = old / new
    offset = _offset(old, new, factor)
    channels = np.moveaxis(np.asarray(probabilities, np.float32), -1, 0)
    return np.stack([_sample(one, new, factor, offset) for one in channels], axis=-1)


def _on_grid(
    case: Case, new: np.ndarray, factor: np.ndarray, spacing_mm: tuple[float, ...]
) -> Case:
    """With so many voxels, each `factor` old ones large, around the same centre."""
    offset = _offset(case.image.shape[:3], new, factor)
    image = np.empty((*new, len(case.sequences)), np.float32)
    for channel in range(len(case.sequences)):
        image[..., channel] = _sample(case.image[..., channel], new, factor, offset)
    mask, affine = None, None
    if case.mask is not None:
        mask = _sample_labels(case.mask, new, factor, offset)
    if case.affine is not None:
        step = np.diag([*factor, 1.0])
        step[:3, 3] = offset
        affine = case.affine @ step
    return replace(case, image=image, mask=mask, spacing_mm=spacing_mm, affine=affine)


def _offset(old: Any, new: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Index of the first new voxel among the old ones, around the same centre."""
    return (np.array(old) - 1) / 2 - factor * (new - 1) / 2


def orientation(case: Case) -> str:
    """Where the three axes run to: "RAS" is to the right, the front and the top.

    Of an oblique scan the nearest; empty where the case has no affine.

    Examples:
        >>> import kdcore.data
        >>> simulation = kdcore.data.Simulation(spacing_mm=6.0)
        >>> [case] = kdcore.data.simulate_cases(1, simulation=simulation)
        >>> kdcore.data.orientation(case)
        'SPR'
    """
    from nibabel import orientations

    return "" if case.affine is None else "".join(orientations.aff2axcodes(case.affine))


def reorient(case: Case, axes: str = "SPR") -> Case:
    """The same voxels with the axes running to other sides.

    Axes are swapped and turned round, nothing is interpolated: an oblique scan stays oblique.

    Args:
        case: With an affine.
        axes: Where the new axes run to, as `orientation` has it. By default slices along the
            first one are axial, as in `simulate_cases`.

    Raises:
        ValueError: If the case has no affine, or `axes` are no three axes.

    Examples:
        >>> import kdcore
        >>> [case] = kdcore.simulate_cases(1, simulation=kdcore.Simulation(spacing_mm=6.0))
        >>> turned = kdcore.reorient(case, "RAS")
        >>> turned.image.shape[:3] == case.image.shape[2::-1]
        True
    """
    from nibabel import orientations

    if case.affine is None:
        raise ValueError(f"{case.case_id} has no affine, so its orientation is not known.")
    if len(axes) != 3 or any(len(set(axes) & set(pair)) != 1 for pair in ("LR", "AP", "IS")):
        raise ValueError(
            f'axes must be one of L and R, of A and P, of I and S, such as "RAS". Received: {axes}.'
        )
    here = orientations.io_orientation(case.affine)
    turn = orientations.ornt_transform(here, orientations.axcodes2ornt(tuple(axes)))
    old = np.argsort(turn[:, 0])  # axis of each new one
    mask = case.mask
    return replace(
        case,
        image=orientations.apply_orientation(case.image, turn),
        mask=None if mask is None else orientations.apply_orientation(mask, turn),
        spacing_mm=tuple(case.spacing_mm[axis] for axis in old),
        affine=case.affine @ orientations.inv_ornt_aff(turn, case.image.shape[:3]),
    )


def _sample(
    array: np.ndarray, shape: np.ndarray, factor: np.ndarray, offset: np.ndarray
) -> np.ndarray:
    """`(D, H, W)` float32 at the old indices `offset + factor · new index`."""
    blurred = ndimage.gaussian_filter(array, np.maximum(factor - 1, 0) / 2, mode="nearest")
    return ndimage.affine_transform(
        blurred, np.diag(factor), offset, tuple(shape), order=1, mode="nearest"
    )


def _sample_labels(
    mask: np.ndarray, shape: np.ndarray, factor: np.ndarray, offset: np.ndarray
) -> np.ndarray:
    if mask.ndim == 4:  # of regions
        each = [_sample_labels(one, shape, factor, offset) for one in np.moveaxis(mask, -1, 0)]
        return np.stack(each, axis=-1)
    # Halfway between two voxels, as half of all are from 1 to 2 mm, shares would be equal
    # along every surface and all structures shrink; the image is not shifted, this is little.
    offset = offset + _SHIFT
    largest = np.zeros(shape, np.float32)
    labels = np.zeros(shape, mask.dtype)
    for label in np.unique(mask):  # one by one, for the memory
        share = _sample((mask == label).astype(np.float32), shape, factor, offset)
        labels[share > largest] = label
        np.maximum(largest, share, out=largest)
    return labels
