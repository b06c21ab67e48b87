"""What `x`, `y` and `sample_weight` of `Distiller.fit` may be."""

from typing import Any

import numpy as np
from keras import ops

from kdcore.batches import Batches
from kdcore.voxels import Tensor, check_labels, expand_weight, labelled_voxels


def input_of(role: str, x: Tensor) -> Tensor:
    """The image of "student" or "teacher", if they see different ones."""
    if isinstance(x, dict) and set(x) <= {"student", "teacher"}:
        if role not in x:
            raise ValueError(f"x has no input for the {role}. Received keys: {sorted(x)}.")
        return x[role]
    return x


def split_targets(y: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mask and soft targets of y."""
    if not isinstance(y, dict):
        return y, None
    if "mask" not in y or set(y) - {"mask", "soft_targets"}:
        raise ValueError(
            'y must be a mask or {"mask": ..., "soft_targets": ...}. '
            f"Received keys: {sorted(y)}. Use a mask of −1 for images without labels."
        )
    return y["mask"], y.get("soft_targets")


def first_targets(x: Any, y: Tensor) -> Tensor:
    """y, or that of the first of `Batches`; another data set may not bear being looked at."""
    return x[0][1] if y is None and isinstance(x, Batches) else y


def split_weights(sample_weight: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Keras hands one weight to each entry of y, so a dict comes back for a dict."""
    if isinstance(sample_weight, dict):
        return sample_weight.get("mask"), sample_weight.get("soft_targets")
    return sample_weight, sample_weight


def logits_of(log_p: Tensor, channels: int) -> Tensor:
    """Log-probabilities are logits; for a Bernoulli student log p becomes log p/(1 − p)."""
    if channels > 1:
        return log_p
    log_p = ops.cast(log_p, "float32")
    if log_p.shape[-1] == 2:
        return log_p[..., 1:] - log_p[..., :1]
    log_p = ops.minimum(log_p, -1e-7)
    return log_p - ops.log(-ops.expm1(log_p))


def hard_weights(
    mask: Tensor, logits: Tensor, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The mask without −1, and weights that make a Keras mean one over labelled voxels."""
    if mask is None:
        raise ValueError("y is missing. Use a mask of −1 for images without labels.")
    if len(mask.shape) == len(logits.shape) and mask.shape[-1] != 1:  # one-hot
        return mask, sample_weight
    mask = ops.cast(mask, "int32")  # in uint8, −1 would be 255
    labelled = ops.cast(labelled_voxels(mask, logits), "float32")
    labels = ops.maximum(mask, 0)
    if len(mask.shape) == len(logits.shape):
        labelled = ops.squeeze(labelled, axis=-1)
    weight = labelled * ops.divide_no_nan(
        ops.cast(ops.size(labelled), "float32"), ops.sum(labelled)
    )
    if sample_weight is not None:
        weight = weight * expand_weight(ops.cast(sample_weight, "float32"), weight)
    return labels, weight


def total_of(losses: list[Tensor]) -> Tensor:
    """Sum of the regularizers and `add_loss` terms; 0 if there is none."""
    total = ops.zeros(())
    for loss in losses:
        total = total + ops.sum(ops.cast(loss, "float32"))
    return total


def check_arrays(y: Tensor, channels: int | None) -> None:
    """Refuse impossible labels and soft targets before training, where y is an array."""
    mask = y.get("mask") if isinstance(y, dict) else y
    soft_targets = y.get("soft_targets") if isinstance(y, dict) else None
    if isinstance(mask, np.ndarray) and channels:
        _check_mask(mask, channels)
    if isinstance(soft_targets, np.ndarray):
        _check_soft_targets(soft_targets)


def check_shapes(y: Tensor, channels: int | None) -> None:
    """Refuse soft targets of other classes than the student's or other voxels than the mask's."""
    mask, soft_targets = split_targets(y)
    if not isinstance(soft_targets, np.ndarray):
        return
    *voxels, classes = soft_targets.shape
    if channels and classes not in ((1, 2) if channels == 1 else (channels,)):
        raise ValueError(
            f"The soft targets have {classes} classes, the student {channels}. "
            "Both must have one entry a class, in the same order."
        )
    if isinstance(mask, np.ndarray) and list(mask.shape[: len(voxels)]) != voxels:
        raise ValueError(
            f"The soft targets are of shape {soft_targets.shape}, the mask of {mask.shape}. "
            "Expected those of the mask's voxels, with one entry a class."
        )


def _check_mask(mask: np.ndarray, channels: int) -> None:
    """Whole numbers, or shares of the classes that sum to 1."""
    whole = np.equal(np.trunc(mask), mask)  # NaN is not
    if whole.all():
        check_labels(mask, channels)
    elif mask.shape[-1] != channels or not np.allclose(mask.sum(axis=-1), 1.0, atol=1e-3):
        raise ValueError(
            "A mask holds one whole number a voxel, or a share of each class that sum to 1. "
            f"Received: {mask[~whole].flat[0]:.3g} among the values."
        )


def _check_soft_targets(log_p: np.ndarray) -> None:
    total = np.exp(log_p.astype(np.float32)).sum(axis=-1)
    one_channel = log_p.shape[-1] == 1
    fits = total <= 1.01 if one_channel else np.abs(total - 1) <= 0.01
    if not fits.all():  # NaN does not
        raise ValueError(
            "Soft targets are log-probabilities, at most 0, and the probabilities of a voxel sum "
            f"to 1. Received: a sum of {total[~fits].flat[0]:.3g}. Pass np.log of probabilities, "
            "or log_softmax of logits."
        )
