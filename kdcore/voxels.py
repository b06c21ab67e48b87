"""What all losses share: shapes that never broadcast, float32, means over what counts."""

from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any
"""A tensor of the active Keras backend, or a NumPy array."""

IGNORE = -1
"""Mask value of a voxel without a label (unlabelled or to be ignored)."""

HIGHEST_TEMPERATURE = 1000.0
# Below this total of squared probabilities a class is as good as absent.
_EPSILON = 1e-6


def check_temperature(temperature: float) -> float:
    """The temperature as a float, if it lies above 0 and is at most 1000."""
    value = float(temperature)
    if not 0 < value <= HIGHEST_TEMPERATURE:
        raise ValueError(
            f"temperature must be a positive finite number, at most {HIGHEST_TEMPERATURE:g} "
            f"(beyond, float32 rounds the differences away). Received: {temperature}. "
            "T = 1 is the teacher's own softmax; 2 to 4 are usual."
        )
    return value


def check_logits(teacher_logits: Tensor, student_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 or wider, of one shape, gradient stopped at the teacher."""
    teacher_logits = ops.stop_gradient(to_float(teacher_logits))
    student_logits = to_float(student_logits)
    if len(student_logits.shape) < 2:
        raise ValueError(
            "Logits need (batch, ..., classes). "
            f"Received: shape {tuple(student_logits.shape)}. Add a batch axis."
        )
    teacher_logits = as_shape_of(student_logits, teacher_logits, "teacher_logits", "student_logits")
    for name, logits in {"teacher": teacher_logits, "student": student_logits}.items():
        if _looks_like_probabilities(logits):
            raise ValueError(
                f"Expected raw logits, but the {name}'s values lie in [0, 1] and sum to "
                "1 over the last axis: these are probabilities, and a second softmax "
                "would flatten them. Pass the output before softmax, or log(p)."
            )
    return teacher_logits, student_logits


def to_float(x: Tensor) -> Tensor:
    """A float32 tensor; float64 stays."""
    x = ops.convert_to_tensor(x)
    wide = keras.backend.standardize_dtype(x.dtype) in ("float32", "float64")
    return x if wide else ops.cast(x, "float32")


def as_shape_of(reference: Tensor, x: Tensor, x_name: str, reference_name: str) -> Tensor:
    """`x` as it is if shapes agree; never broadcast, not even when sizes are unknown."""
    expected, received = tuple(reference.shape), tuple(x.shape)
    if len(expected) != len(received) or any(
        None not in (e, r) and e != r for e, r in zip(expected, received, strict=True)
    ):
        raise ValueError(
            f"{x_name} and {reference_name} must have the same shape. "
            f"Received: {received} and {expected}. "
            "Give both networks the same output size and number of classes."
        )
    if None in expected or None in received:  # checked when the sizes are known
        x = ops.reshape(x, ops.shape(reference))
    return ops.cast(x, reference.dtype)


def _looks_like_probabilities(logits: Tensor) -> bool:
    """Only for values that are at hand (not while a graph is being traced)."""
    values = concrete(logits) if logits.shape[-1] > 1 else None
    if values is None:
        return False
    voxels = values.reshape(-1, values.shape[-1])
    return bool(
        len(voxels) >= 4
        and voxels.min() >= 0
        and np.allclose(voxels.sum(-1), 1.0, atol=5e-3)  # half precision, too
        and not np.array_equal(voxels, voxels.round())
        and np.ptp(voxels) > 0
    )


def log_probabilities(logits: Tensor) -> Tensor:
    """(B, ..., C) -> log p; one Bernoulli channel becomes [log(1 − p), log p]."""
    if logits.shape[-1] > 1:
        return ops.log_softmax(logits, axis=-1)
    return ops.concatenate([-ops.softplus(logits), -ops.softplus(-logits)], axis=-1)


def foreground(logits: Tensor) -> Tensor:
    """Probabilities of all classes but the background: (B, ..., C − 1), or C = 1 as it is."""
    if logits.shape[-1] == 1:
        return ops.sigmoid(logits)
    return ops.softmax(logits, axis=-1)[..., 1:]


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Σ w v / Σ w; 0 if no weight is left."""
    if weight is None:
        return ops.mean(values)
    weight = expand_weight(ops.cast(weight, values.dtype), values) * ops.ones_like(values)
    return ops.divide_no_nan(ops.sum(values * weight), ops.sum(weight))


def expand_weight(weight: Tensor, values: Tensor) -> Tensor:
    """Trailing axes of size 1, so that (B,) weighs (B, ...); a wrong shape raises."""
    received, expected = tuple(weight.shape), tuple(values.shape)
    if len(received) == len(expected) + 1 and received[-1] == 1:
        weight, received = ops.squeeze(weight, axis=-1), received[:-1]
    if len(received) > len(expected) or any(
        None not in (r, e) and r not in (1, e) for r, e in zip(received, expected, strict=False)
    ):
        raise ValueError(
            f"sample_weight of shape {received} does not fit values of shape {expected}. "
            "Pass one weight an image, (B,), or one a voxel, (B, ...)."
        )
    missing = len(expected) - len(received)
    return ops.reshape(weight, (*ops.shape(weight), *[1] * missing)) if missing else weight


def sum_per_class(x: Tensor) -> Tensor:
    """(B, ..., C) -> (C,)."""
    return ops.sum(x, axis=tuple(range(len(x.shape) - 1)))


def dice_per_class(y: Tensor, p: Tensor, sample_weight: Tensor | None) -> Tensor:
    """(B, ..., C) twice -> (C,), as Σ (y − p)² / (Σ y² + Σ p²): no cancellation."""
    error, size = ops.square(y - p), ops.square(y) + ops.square(p)
    if sample_weight is not None:
        weight = expand_weight(ops.cast(sample_weight, y.dtype), y[..., 0])[..., None]
        weight = ops.divide_no_nan(weight, ops.max(weight))  # a ratio knows no scale
        error, size = error * weight, size * weight
    return sum_per_class(error) / (sum_per_class(size) + _EPSILON)


def split_ignored(mask: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mask with −1 replaced by 0, and 1.0 where a voxel is labelled."""
    mask = ops.convert_to_tensor(mask)
    if len(mask.shape) == len(logits.shape) and mask.shape[-1] == 1:
        mask = ops.squeeze(mask, axis=-1)
    expected, received = tuple(logits.shape)[:-1], tuple(mask.shape)
    if len(expected) != len(received) or any(
        None not in (e, r) and e != r for e, r in zip(expected, received, strict=True)
    ):
        raise ValueError(
            f"The mask must hold one integer a voxel, shape {expected} for logits of "
            f"shape {tuple(logits.shape)}. Received: {received}."
        )
    mask = ops.cast(mask, "int32")
    check_labels(mask, logits.shape[-1])
    return ops.maximum(mask, 0), labelled_voxels(mask, logits)


def labelled_voxels(mask: Tensor, logits: Tensor) -> Tensor:
    """1 where a voxel has a label, 0 where it has none, NaN for a label that cannot be.

    In a graph nothing can be raised; a loss that is NaN from the first step is seen.
    """
    impossible = ops.logical_or(mask < IGNORE, mask >= max(logits.shape[-1], 2))
    labelled = ops.cast(mask != IGNORE, "float32")
    return ops.cast(ops.where(impossible, float("nan"), labelled), logits.dtype)


def check_labels(mask: Tensor, channels: int) -> None:
    """Raise if a label lies outside 0 … C−1 and is not −1, where values are at hand."""
    values = concrete(mask)
    if values is None or not values.size:
        return
    num_classes = max(channels, 2)
    low, high = values.min(), values.max()
    if low < IGNORE or high >= num_classes:
        raise ValueError(
            f"The mask holds labels from {low} to {high}. With {channels} output channels "
            f"0 … {num_classes - 1} are possible, and −1 for voxels that do not count."
        )


def concrete(x: Tensor) -> np.ndarray | None:
    """The values as an array, or None while a graph is being traced."""
    if isinstance(x, keras.KerasTensor):
        return None
    try:
        return np.asarray(ops.convert_to_numpy(x))
    except Exception:  # symbolic: each backend raises its own kind of error
        return None


def combine_weights(labelled: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Weight of each voxel, 0 where it has no label."""
    if sample_weight is None:
        return labelled
    return labelled * expand_weight(ops.cast(sample_weight, labelled.dtype), labelled)


class _Scalar(keras.losses.Loss):
    """Passes a computed scalar through Keras' reduction."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return ops.reshape(y_pred, (1,))


def per_replica(value: Tensor) -> Tensor:
    """Divide a scalar loss by the number of replicas, as Keras does with its own."""
    dtype = keras.backend.standardize_dtype(value.dtype)
    return _Scalar(name="per_replica", dtype=dtype)(value, value)
