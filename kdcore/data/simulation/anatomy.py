"""The MNI152 anatomy and its smooth invertible deformations; see `simulate`.

Arrays are (D, H, W) = (inferior to superior, anterior to posterior, left to right).
Deformations live on a grid of nodes that is the same for every voxel size, so a subject
has one anatomy at any resolution.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage

FIELD_OF_VIEW_MM = (168, 192, 168)
NODES_MM = 6
NODES = tuple(size // NODES_MM + 1 for size in FIELD_OF_VIEW_MM)
BRAIN_CENTER_MM = (5.0, -16.5, 0.0)
"""Middle of the template's brain, (superior, anterior, right) in MNI152 coordinates."""

_BRAIN_BOX = (slice(0, 162), slice(18, 212), slice(20, 177))
"""Voxels of the template outside of which there is none of its brain, with 5 mm to spare."""

_SQUARINGS = 6


@lru_cache(maxsize=4)
def template(spacing_mm: float) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Tissue maps of the MNI152 template that comes with nilearn, at 1 mm.

    Args:
        spacing_mm: The maps are averaged over voxels of this size.

    Returns:
        Shares of white matter, grey matter and brain, each `(D, H, W)` float32, cut to
        `_BRAIN_BOX`; the array position `(3,)` of `BRAIN_CENTER_MM` before that.

    Reference: Fonov et al. 2011, https://doi.org/10.1016/j.neuroimage.2010.07.033
    """
    import nibabel
    from nilearn import datasets

    head = nibabel.load(datasets.MNI152_FILE_PATH)
    brain = _averaged(head, spacing_mm, threshold=0.2)  # as nilearn's brain mask
    white = _averaged(nibabel.load(datasets.WM_MNI152_FILE_PATH), spacing_mm)
    grey = _averaged(nibabel.load(datasets.GM_MNI152_FILE_PATH), spacing_mm)
    np.maximum(brain, white + grey, out=brain)
    x, y, z = np.linalg.inv(head.affine)[:3] @ [*BRAIN_CENTER_MM[::-1], 1.0]
    return (white, grey, brain), np.array([z, head.shape[1] - 1 - y, x])


def _averaged(image: Any, spacing_mm: float, threshold: float | None = None) -> np.ndarray:
    """A template's `_BRAIN_BOX`, scaled to 0 … 1, perhaps cut in two, and averaged."""
    # nilearn's loaders give the same numbers and take four times the memory.
    voxels = np.asarray(image.dataobj).T[:, ::-1]
    box = voxels[_BRAIN_BOX].astype(np.float32)
    box /= voxels.max()
    if threshold is not None:
        np.greater(box, threshold, out=box)
    return ndimage.uniform_filter(box, spacing_mm, output=box, mode="constant")


def nodes() -> np.ndarray:
    """`(3, *NODES)` positions of the nodes in mm from the middle of the field of view."""
    axes = [
        np.arange(n) * NODES_MM - size / 2 for n, size in zip(NODES, FIELD_OF_VIEW_MM, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def smooth_noise(rng: np.random.Generator, correlation_mm: float, count: int) -> np.ndarray:
    """`(count, *NODES)` Gaussian noise, smoothed, of mean square 1."""
    sigma = (0, *[correlation_mm / NODES_MM] * 3)
    noise = ndimage.gaussian_filter(rng.normal(size=(count, *NODES)), sigma, mode="wrap")
    return noise / np.sqrt(np.mean(noise**2))


def upsample(field: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """`(..., *NODES)` -> `(..., *shape)` voxels of the same field of view, by cubic splines."""
    for axis, (size, count) in enumerate(zip(shape, NODES, strict=True)):
        matrix = _spline_matrix(count, size)
        field = np.moveaxis(
            np.tensordot(matrix, field, (1, field.ndim - 3 + axis)), 0, field.ndim - 3 + axis
        )
    return field


@lru_cache(maxsize=16)
def _spline_matrix(count: int, size: int) -> np.ndarray:
    from scipy.interpolate import make_interp_spline

    positions = (np.arange(size) + 0.5) * (count - 1) / size
    return np.asarray(make_interp_spline(np.arange(count), np.eye(count), k=3)(positions))


def exponential(velocity: np.ndarray) -> np.ndarray:
    """Displacement in mm after flowing along a constant velocity field for one unit of time.

    Args:
        velocity: `(3, *NODES)` in mm.

    Returns:
        `(3, *NODES)`; the map x -> x + displacement is invertible, its inverse the
        exponential of −velocity. By scaling and squaring.

    Reference: Arsigny et al. 2006, https://doi.org/10.1007/11866565_113
    """
    displacement = velocity / (2**_SQUARINGS)
    for _ in range(_SQUARINGS):
        displacement = displacement + sample_nodes(displacement, nodes() + displacement)
    return displacement


def sample_nodes(field: np.ndarray, positions_mm: np.ndarray) -> np.ndarray:
    """`(n, *NODES)` at `(3, ...)` positions in mm -> `(n, ...)`, linearly interpolated."""
    half = np.array(FIELD_OF_VIEW_MM).reshape(3, *[1] * (positions_mm.ndim - 1)) / 2
    index = (positions_mm + half) / NODES_MM
    return np.stack([ndimage.map_coordinates(f, index, order=1, mode="nearest") for f in field])


def affine(scale: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """`(3, 3)`: scale along the axes, then rotation about each (radians)."""
    matrix = np.diag(scale)
    for axis, angle in enumerate(angles):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def push(
    positions_mm: np.ndarray, center: np.ndarray, radius: float, distance: float
) -> np.ndarray:
    """Where tissue at `positions_mm` was before a mass grew at `center`, all in mm.

    Radial: the farthest shift, `distance`, is at `radius`, and fades beyond. Invertible,
    since the old distance from the centre grows with the new one while
    `distance < 0.6 radius`.
    """
    if not 0 <= distance < 0.6 * radius:
        raise ValueError(
            f"A shift of {distance} mm folds the tissue around a radius of {radius} mm; "
            "it must be less than 0.6 of it."
        )
    offset = positions_mm - center.reshape(3, *[1] * (positions_mm.ndim - 1))
    ratio = np.sum(offset**2, axis=0) / radius**2
    return positions_mm - offset * (distance / radius) * np.exp(0.5 - 0.5 * ratio)


def jacobian(positions: np.ndarray, spacing: float) -> np.ndarray:
    """Determinant of the derivative of a map given on a regular grid, `(3, ...)` -> `(...)`.

    1 keeps the volume, 2 doubles it, 0 or less folds.
    """
    derivative = np.stack([np.stack(np.gradient(p, spacing)) for p in positions])
    return np.linalg.det(np.moveaxis(derivative, (0, 1), (-2, -1)))


def tissues(positions_mm: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Shares of white matter, grey matter and fluid, `(3, D, H, W)`.

    Args:
        positions_mm: `(3, D, H, W)` template positions in mm from the brain's centre.
        spacing_mm: Voxel size that the template is averaged over.
    """
    maps, center = template(spacing_mm)
    start = np.array([axis.start for axis in _BRAIN_BOX])
    shares = np.empty(positions_mm.shape)
    for plane in range(positions_mm.shape[1]):  # one by one, for the memory
        index = positions_mm[:, plane] + center.reshape(3, 1, 1) - start.reshape(3, 1, 1)
        for share, tissue in zip(shares, maps, strict=True):
            ndimage.map_coordinates(tissue, index, share[plane], order=1)
    white, grey, fluid = shares  # the last still holds the whole brain
    fluid -= white
    fluid -= grey
    np.maximum(fluid, 0.0, out=fluid)
    return shares
