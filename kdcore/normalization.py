"""Intensities of a scan to comparable numbers, per case or fitted on training cases.

MRI has no unit: the same tissue is 100 in one file and 100,000 in the next. The
per-case methods need nothing but the scan and are the ones to use; the fitted min-max is
the 2020 recipe's, kept so that its failure can be shown.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from kdcore.data.cases import Case
from kdcore.data.splits import Split

METHODS = ("minmax", "zscore", "percentile")
PERCENTILES = (0.5, 99.5)

Normalization = str | Callable[[np.ndarray], np.ndarray] | None
"""A method's name, a fitted function, or None for images that are ready."""


def normalize(image: np.ndarray, method: str = "percentile") -> np.ndarray:
    """One case's image with each sequence on its own scale.

    Args:
        image: `(..., S)`; all axes but the last are one sequence's voxels.
        method: "minmax" maps the range to [0, 1]; "zscore" gives mean 0 and standard
            deviation 1; "percentile" maps the 0.5th to the 99.5th percentile to [0, 1]
            and clips, so that a few bright vessels do not darken all else.

    Returns:
        `(..., S)` float32. A constant sequence becomes zeros.

    Raises:
        ValueError: For another method, or voxels that are NaN or infinite.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> image = np.array([[100.0], [300.0], [500.0]])
        >>> kdcore.normalize(image, "minmax").ravel()
        array([0. , 0.5, 1. ], dtype=float32)
    """
    return fit_scale(image, method)(np.asarray(image))


@dataclass(frozen=True)
class Scale:
    """(I − low) · factor, perhaps clipped to [0, 1]; what a method found in one case.

    Attributes:
        low, factor: One a sequence. A constant sequence has the factor 0.
        clip: Whether to clip.
    """

    low: np.ndarray
    factor: np.ndarray
    clip: bool

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Any part of the case, `(..., S)`, as float32."""
        scaled = (image - self.low) * self.factor
        return (scaled.clip(0.0, 1.0) if self.clip else scaled).astype(np.float32)


def fit_scale(image: np.ndarray, method: str = "percentile") -> Scale:
    """The `Scale` with which `normalize` maps this image; arguments and errors are the same."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}. Received: {method!r}.")
    image = np.asarray(image, dtype=np.float64)
    if image.ndim < 2 or image.size == 0:
        raise ValueError(f"Expected (..., sequences). Received: shape {image.shape}.")
    if not np.isfinite(image).all():
        raise ValueError("The image holds NaN or infinite voxels. Repair it first.")
    voxels = image.reshape(-1, image.shape[-1])
    if method == "zscore":
        low, width = voxels.mean(axis=0), voxels.std(axis=0)
    elif method == "minmax":
        low, width = voxels.min(axis=0), np.ptp(voxels, axis=0)
    else:
        low, high = np.percentile(voxels, PERCENTILES, axis=0)
        # A sparse sequence, all but a few voxels alike, is scaled by its whole range.
        low = np.where(high > low, low, voxels.min(axis=0))
        high = np.where(high > low, high, voxels.max(axis=0))
        width = high - low
    constant = (np.ptp(voxels, axis=0) == 0) | (width <= 0)
    factor = np.where(constant, 0.0, 1 / np.where(constant, 1.0, width))
    return Scale(low, factor, clip=method == "percentile")


@dataclass(frozen=True)
class FittedMinMax:
    """(I − min) / (max − min) with one minimum and maximum for all cases.

    Attributes:
        minimum: One a sequence, over all voxels of the cases it was fitted on.
        maximum: Likewise.
        case_ids: The cases it was fitted on.
    """

    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    case_ids: tuple[str, ...]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """`(..., S)` -> float32; a sequence that was constant becomes zeros."""
        low, high = np.array(self.minimum), np.array(self.maximum)
        width = np.where(high > low, high - low, 1.0)
        return np.where(high > low, (image - low) / width, 0.0).astype(np.float32)


def fit_minmax(cases: Iterable[Case], split: Split) -> FittedMinMax:
    """Minimum and maximum of each sequence over training cases.

    Args:
        cases: Labelled or unlabelled training cases of `split`.
        split: Says which those are.

    Raises:
        LeakageError: If a case is one of validation or test.

    Examples:
        >>> import kdcore
        >>> cases = kdcore.simulate_cases(4, seed=0, simulation=kdcore.Simulation(spacing_mm=6.0))
        >>> split = kdcore.split_cases(cases, num_labelled=2, num_validation=1, num_test=1)
        >>> fitted = kdcore.fit_minmax(split.take(cases, "labelled"), split)
        >>> batches = kdcore.Batches(cases, shape=(32, 28), normalization=fitted)
    """
    cases = list(cases)
    split.require([case.case_id for case in cases], ("labelled", "unlabelled"), "fit_minmax")
    if not cases:
        raise ValueError("fit_minmax needs at least one case.")
    low = np.min([case.image.min(axis=(0, 1, 2)) for case in cases], axis=0)
    high = np.max([case.image.max(axis=(0, 1, 2)) for case in cases], axis=0)
    return FittedMinMax(
        tuple(map(float, low)), tuple(map(float, high)), tuple(c.case_id for c in cases)
    )


def apply_normalization(image: np.ndarray, normalization: Normalization) -> np.ndarray:
    """`image` by a method's name, a fitted function, or as it is."""
    if normalization is None:
        return np.asarray(image, dtype=np.float32)
    if callable(normalization):
        return np.asarray(normalization(image), dtype=np.float32)
    return normalize(image, normalization)


def prepare(
    image: np.ndarray, normalization: Normalization
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """An image, and what is still to be done to each part of it that is looked at.

    The per-case methods leave the image where it is, perhaps on disk; a function may need
    the whole of it, so its result is kept.
    """
    if isinstance(normalization, str):
        return image, fit_scale(image, normalization)
    return apply_normalization(image, normalization), np.asarray


def describe_normalization(normalization: Normalization) -> str:
    """A string that changes whenever the normalization does, for manifests."""
    if normalization is None or isinstance(normalization, str):
        return str(normalization)
    if isinstance(normalization, FittedMinMax):
        return repr(normalization)
    module = getattr(normalization, "__module__", "")
    return f"{module}.{getattr(normalization, '__qualname__', type(normalization).__name__)}"
