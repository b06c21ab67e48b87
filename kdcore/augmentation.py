"""Random changes of a slice or patch; image, mask and soft target move together."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from kdcore.voxels import IGNORE

_SPACING = 16  # of the elastic deformation's control points, in voxels


@dataclass(frozen=True)
class Augmentation:
    """Flip, affine, elastic, gamma and noise, each drawn anew for every sample.

    Intensity changes touch the image alone. Geometric changes use one set of coordinates:
    linear interpolation for the image and for log-probabilities, nearest neighbour for
    the mask; beyond the border the border's value goes on.

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
        image: np.ndarray,
        mask: np.ndarray,
        soft_target: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Augment one sample.

        Args:
            rng: Source of all randomness.
            image: `(..., S)` float32.
            mask: `(...)` integers, −1 where unlabelled.
            soft_target: `(..., C)` log-probabilities, or None.

        Returns:
            All three. A soft target that was moved holds logits: log-probabilities up to a
            constant in each voxel, which the losses' softmax takes away.
        """
        for axis in self.flip_axes:
            if rng.random() < 0.5:
                image, mask = np.flip(image, axis), np.flip(mask, axis)
                soft_target = None if soft_target is None else np.flip(soft_target, axis)
        moves = self.rotate_deg or self.scale or self.shift or self.elastic
        if moves and rng.random() < self.geometric_share:
            coordinates = self._coordinates(rng, mask.shape)
            image = _sample(image, coordinates)
            if mask.flat[0] != IGNORE or (mask != IGNORE).any():
                mask = ndimage.map_coordinates(mask, coordinates, order=0, mode="nearest")
            if soft_target is not None:
                soft_target = _sample_logits(soft_target, coordinates)
        return self._intensity(rng, image), mask, soft_target

    def _coordinates(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Where each output voxel comes from: (rank, *shape)."""
        rank = len(shape)
        matrix = np.eye(rank) / (1 + rng.uniform(-self.scale, self.scale))
        for i in range(rank):
            for j in range(i):
                angle = np.deg2rad(rng.uniform(-self.rotate_deg, self.rotate_deg))
                turn = np.eye(rank)
                turn[i, i] = turn[j, j] = np.cos(angle)
                turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
                matrix = matrix @ turn
        center = (np.array(shape) - 1) / 2
        origin = center - matrix @ center + rng.uniform(-self.shift, self.shift, rank)
        moved = np.tensordot(matrix.astype(np.float32), _grid(shape), axes=1)
        moved += origin.astype(np.float32).reshape(-1, *[1] * rank)
        if self.elastic:
            moved += self._displacement(rng, shape)
        return moved

    def _displacement(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Smooth random displacement, spline-interpolated from a coarse grid of points."""
        points = [max(2, -(-size // _SPACING) + 1) for size in shape]
        field = rng.normal(0, self.elastic, (len(shape), *points)).astype(np.float32)
        for axis, (size, count) in enumerate(zip(shape, points, strict=True), start=1):
            stretched = np.tensordot(_stretch(size, count), field, axes=(1, axis))
            field = np.moveaxis(stretched, 0, axis)
        return field

    def _intensity(self, rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
        if self.gamma:
            power = np.exp(rng.uniform(-self.gamma, self.gamma))
            image = np.sign(image) * np.abs(image) ** np.float32(power)
        if self.noise:
            sigma = rng.uniform(0, self.noise)
            image = image + sigma * rng.standard_normal(image.shape, dtype=np.float32)
        return image.astype(np.float32, copy=False)


@cache
def _grid(shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(np.float32)


@cache
def _stretch(size: int, count: int) -> np.ndarray:
    """Spline interpolation from `count` points to `size`, as a matrix: it is linear."""
    identity = np.eye(count, dtype=np.float32)
    return np.asarray(ndimage.zoom(identity, (size / count, 1), order=2, mode="nearest"))


def _sample(channels: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    out = np.empty(channels.shape, np.float32)
    for channel in range(channels.shape[-1]):
        ndimage.map_coordinates(
            channels[..., channel],
            coordinates,
            output=out[..., channel],
            order=1,
            mode="nearest",
        )
    return out


def _sample_logits(logits: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """Only differences to the first channel matter to a softmax, so it need not be sampled."""
    out = np.zeros(logits.shape, np.float32)
    out[..., 1:] = _sample(logits[..., 1:] - logits[..., :1], coordinates)
    return out
