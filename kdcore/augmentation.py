"""Random changes of a batch; images, masks and soft targets move together."""

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
from scipy import ndimage, sparse, special

_SPACING = 16  # of the elastic deformation's control points, in voxels


@dataclass(frozen=True)
class Augmentation:
    """Flip, affine, elastic, gamma and noise, each drawn anew for every sample.

    Intensity changes touch the images alone. Geometric changes use one set of coordinates:
    linear interpolation for images and for log-probabilities, nearest neighbour for
    masks; beyond the border the border's value goes on.

    Attributes:
        flip_axes: Spatial axes mirrored with probability ½; left out for anatomy that has
            a handedness.
        rotate_deg: Largest rotation about the centre, in each plane, in degrees.
        scale: Largest relative change of size.
        shift: Largest shift in voxels.
        elastic: Standard deviation of the elastic displacement in voxels, on a grid of
            control points 16 voxels apart.
        gamma: Largest change of log gamma, for images in [0, 1].
        noise: Largest standard deviation of Gaussian noise.
        geometric_share: Share of samples that are moved at all.

    Examples:
        >>> import kdcore
        >>> cases = kdcore.simulate_cases(2, seed=0, simulation=kdcore.Simulation(spacing_mm=6.0))
        >>> augmentation = kdcore.Augmentation(rotate_deg=10.0, elastic=0.0)
        >>> batches = kdcore.Batches(cases, (32, 28), augmentation=augmentation)
    """

    flip_axes: tuple[int, ...] = ()
    rotate_deg: float = 15.0
    scale: float = 0.15
    shift: float = 2.0
    elastic: float = 1.0
    gamma: float = 0.3
    noise: float = 0.05
    geometric_share: float = 0.8

    def __post_init__(self) -> None:
        for name in ("rotate_deg", "scale", "shift", "elastic", "gamma", "noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be ≥ 0. Received: {getattr(self, name)}.")
        if not (self.scale < 1 and 0 <= self.geometric_share <= 1):
            raise ValueError("scale must be below 1 and geometric_share in [0, 1].")

    def __call__(
        self,
        rng: np.random.Generator,
        images: np.ndarray,
        masks: np.ndarray,
        soft_targets: np.ndarray | None = None,
    ) -> None:
        """Augment a batch, in place: fresh memory would cost as much as the work.

        Args:
            rng: Source of all randomness.
            images: `(B, ..., S)` float32.
            masks: `(B, ...)` integers, −1 where unlabelled, or `(B, ..., R)` of regions.
            soft_targets: `(B, ..., C)` float32 log-probabilities, or None.

        Soft targets that were moved then hold logits: log-probabilities up to a constant
        in each voxel, which the losses' softmax takes away.
        """
        count, shape = len(images), images.shape[1:-1]
        floats = [images] if soft_targets is None else [images, soft_targets]
        for axis in self.flip_axes:
            chosen = rng.random(count) < 0.5
            for array in (masks, *floats):
                array[chosen] = np.flip(array[chosen], axis + 1)
        if self.rotate_deg or self.scale or self.shift or self.elastic:
            moved = np.flatnonzero(rng.random(count) < self.geometric_share)
            places = self._coordinates(rng, len(moved), shape)
            for i, coordinates in zip(moved, places, strict=True):
                _move(coordinates, masks[i], *(array[i] for array in floats))
        self._change_intensity(rng, images)

    def _coordinates(
        self, rng: np.random.Generator, count: int, shape: tuple[int, ...]
    ) -> np.ndarray:
        """Where each output voxel comes from: (count, rank, *shape) float32."""
        rank = len(shape)
        matrix = np.eye(rank) / (1 + rng.uniform(-self.scale, self.scale, (count, 1, 1)))
        for i, j in combinations(range(rank), 2):
            angle = np.deg2rad(rng.uniform(-self.rotate_deg, self.rotate_deg, count))
            turn = np.tile(np.eye(rank), (count, 1, 1))
            turn[:, i, i] = turn[:, j, j] = np.cos(angle)
            turn[:, i, j], turn[:, j, i] = np.sin(angle), -np.sin(angle)
            matrix = matrix @ turn
        center = (np.array(shape) - 1) / 2
        origin = center - matrix @ center + rng.uniform(-self.shift, self.shift, (count, rank))
        moved = matrix.astype(np.float32) @ _grid(shape) + origin.astype(np.float32)[..., None]
        moved = moved.reshape(count, rank, *shape)
        return moved + self._displacement(rng, count, shape) if self.elastic else moved

    def _displacement(
        self, rng: np.random.Generator, count: int, shape: tuple[int, ...]
    ) -> np.ndarray:
        """Smooth random displacement, spline-interpolated from a coarse grid of points."""
        points = [max(2, -(-size // _SPACING) + 1) for size in shape]
        field = rng.normal(0, self.elastic, (count, len(shape), *points)).astype(np.float32)
        for axis, (size, have) in enumerate(zip(shape, points, strict=True), start=2):
            stretched = np.tensordot(field, _stretch(size, have), axes=(axis, 1))
            field = np.moveaxis(stretched, -1, axis)
        return field

    def _change_intensity(self, rng: np.random.Generator, images: np.ndarray) -> None:
        """In place."""
        per_image = (len(images), *[1] * (images.ndim - 1))
        if self.gamma:
            power = np.exp(rng.uniform(-self.gamma, self.gamma, per_image)).astype(np.float32)
            np.copysign(np.abs(images) ** power, images, out=images)
        if self.noise:
            sigma = rng.uniform(0, self.noise, per_image).astype(np.float32)
            images += sigma * _gaussian(rng, images.shape)


def _move(coordinates: np.ndarray, mask: np.ndarray, *arrays: np.ndarray) -> None:
    """One sample as seen from the coordinates (rank, *shape), in place."""
    nearest = [
        np.clip(np.rint(x), 0, size - 1).astype(np.intp)
        for x, size in zip(coordinates, coordinates.shape[1:], strict=True)
    ]
    mask[:] = mask[tuple(nearest)]
    matrix = _linear(coordinates)
    for array in arrays:
        voxels = array.reshape(-1, array.shape[-1])
        voxels[:] = matrix @ voxels


def _linear(coordinates: np.ndarray) -> sparse.csr_array:
    """Linear interpolation at (rank, *shape) as a matrix: a point's neighbours in each row.

    One matrix serves all channels, and of a single sample it stays in the processor's cache.
    """
    shape = coordinates.shape[1:]
    index: Any = np.zeros(1, np.int32)
    weight: list[Any] = [np.float32(1)]
    steps = [0]
    for x, size in zip(coordinates, shape, strict=True):
        x = np.minimum(np.maximum(x.ravel(), 0), size - 1)
        cell = np.minimum(x.astype(np.int32), max(size - 2, 0))
        far = x - cell.astype(np.float32)
        index = index * np.int32(size) + cell
        weight = [w * part for w in weight for part in (1 - far, far)]
        # An axis of one voxel has no next one.
        steps = [s * size + step for s in steps for step in (0, min(1, size - 1))]
    weights = np.empty((len(index), len(steps)), np.float32)
    for column, values in enumerate(weight):
        weights[:, column] = values
    index = index[:, None] + np.array(steps, np.int32)
    rows = np.arange(0, index.size + 1, len(steps), dtype=np.int32)
    return sparse.csr_array((weights.ravel(), index.ravel(), rows), (len(index), len(index)))


def _gaussian(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers in 65,536 steps, five times as fast as exact ones."""
    return _quantiles()[rng.integers(0, 65536, shape, dtype=np.uint16)]


@cache
def _quantiles() -> np.ndarray:
    return np.asarray(special.ndtri((np.arange(65536) + 0.5) / 65536), np.float32)


@cache
def _grid(shape: tuple[int, ...]) -> np.ndarray:
    """(rank, voxels)."""
    return np.indices(shape, dtype=np.float32).reshape(len(shape), -1)


@cache
def _stretch(size: int, count: int) -> np.ndarray:
    """Spline interpolation from `count` points to `size`, as a matrix: it is linear."""
    identity = np.eye(count, dtype=np.float32)
    return np.asarray(ndimage.zoom(identity, (size / count, 1), order=2, mode="nearest"))
