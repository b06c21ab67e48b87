"""Soft losses: a teacher's logits and a student's in, a scalar out.

Everything is computed in log space and in float32 (or wider), also under mixed
precision, and reduced to a *mean over the voxels that count*, so a temperature or
an `alpha` means the same at any image size.

Left out on purpose: a loss registry, probability inputs, sums over voxels.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from kdcore.fused import one_kernel
from kdcore.voxels import (
    Tensor,
    as_shape_of,
    check_logits,
    check_temperature,
    dice_per_class,
    expand_weight,
    foreground,
    log_probabilities,
    to_float,
    weighted_mean,
)

_LEAST = -1e3  # log-probability of what is impossible, whose exponential is 0

SoftLoss = Callable[..., Tensor]
"""`(teacher_logits, student_logits, temperature, sample_weight) -> scalar`."""


@keras.saving.register_keras_serializable("kdcore")
@one_kernel
def kd_loss(
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """T² · mean over voxels of KL( softmax(z_t / T) ‖ softmax(z_s / T) ), in nats.

    With one channel the network is Bernoulli and the divergence is taken between
    sigmoid(z_t / T) and sigmoid(z_s / T). T² keeps the size of the gradient comparable
    across temperatures.

    Args:
        teacher_logits: `(B, ..., C)`, before softmax or sigmoid. Log-probabilities
            are logits too, since softmax(log p) = p.
        student_logits: Same shape.
        temperature: T > 0.
        sample_weight: `(B,)`, or any leading part of `(B, ...)`; weights of the mean.
            All zero gives 0.

    Returns:
        A scalar. No gradient flows to the teacher.

    Raises:
        ValueError: If shapes differ, the temperature is not a positive finite number,
            or the values are evidently probabilities.

    Reference: Hinton et al. 2015, section 2, https://arxiv.org/abs/1503.02531
    """
    temperature = check_temperature(temperature)
    teacher_logits, student_logits = check_logits(teacher_logits, student_logits)
    log_p = log_probabilities(teacher_logits / temperature)
    log_q = log_probabilities(student_logits / temperature)
    divergence = _divergence(log_p, log_q)
    return temperature**2 * weighted_mean(divergence, sample_weight)


@keras.saving.register_keras_serializable("kdcore")
@one_kernel
def channel_wise_loss(
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """T² · mean over images and channels of KL between *spatial* softmax maps.

    Each channel's logits are turned into a distribution over space, so the teacher says
    where a class is, not which class a voxel has. A constant added to a channel changes
    nothing, so the last bias learns from the hard loss alone: use it with labels (alpha < 1).

    Args:
        teacher_logits: `(B, ..., C)` with at least one spatial axis.
        student_logits: Same shape.
        temperature: T > 0; the paper uses 4 on logits.
        sample_weight: `(B,)` or `(B, ...)`. Weighs voxels inside the softmax, where a voxel of
            weight 0 is left out, and images by their largest weight.

    Returns:
        A scalar, in nats.

    Reference: Shu et al. 2021, section 3.2, https://arxiv.org/abs/2011.13256
    """
    temperature = check_temperature(temperature)
    teacher_logits, student_logits = check_logits(teacher_logits, student_logits)
    if len(teacher_logits.shape) < 3:
        raise ValueError(
            "channel_wise_loss needs (batch, space..., channels). "
            f"Received: shape {tuple(teacher_logits.shape)}. Use kd_loss for vectors."
        )
    teacher_map, student_map = teacher_logits / temperature, student_logits / temperature
    image_weight = None
    if sample_weight is not None:
        weight = ops.cast(sample_weight, student_map.dtype)
        weight = expand_weight(weight, student_map[..., 0])
        # A weighted softmax is a softmax of z + log(w); -1e9 stands for log(0).
        log_weight = ops.log(ops.maximum(weight, 1e-30))
        log_weight = ops.where(weight > 0, log_weight, -1e9)[..., None]
        teacher_map = _from_highest(teacher_map, log_weight) + log_weight
        student_map = _from_highest(student_map, log_weight) + log_weight
        image_weight = ops.max(weight, axis=tuple(range(1, len(weight.shape))))
    log_p = ops.log_softmax(_space_last(teacher_map))
    log_q = ops.log_softmax(_space_last(student_map))
    divergence = _divergence(log_p, log_q)
    return temperature**2 * weighted_mean(divergence, image_weight)


def soft_dice_loss(y_true: Tensor, y_prob: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    """Mean over classes of 1 − 2 Σ y p / (Σ y² + Σ p²), sums over batch and space.

    The squared denominator makes this Σ (y − p)² / (Σ y² + Σ p²): zero exactly at
    p = y, *also for soft targets*. The linear form, 1 − 2 Σ y p / (Σ y + Σ p), is not:
    for y = 0.5 it is smallest at p = 1.

    Args:
        y_true: `(B, ..., C)`, one-hot or soft. Leave the background out by passing
            `y_true[..., 1:]` and `y_prob[..., 1:]`.
        y_prob: Same shape, probabilities.
        sample_weight: `(B,)`, or any leading part of `(B, ...)`.

    Returns:
        A scalar in [0, 1]. A class that is in neither contributes 0.

    Reference: Milletari et al. 2016, section 3, https://arxiv.org/abs/1606.04797; for
    soft targets Wang et al. 2023, https://arxiv.org/abs/2303.16296
    """
    y_true, y_prob = to_float(y_true), to_float(y_prob)
    if len(y_true.shape) < 2:
        raise ValueError(
            "soft_dice_loss needs (batch, ..., classes). "
            f"Received: shape {tuple(y_true.shape)}. Add a batch and a class axis."
        )
    y_true = as_shape_of(y_prob, y_true, "y_true", "y_prob")
    return ops.mean(dice_per_class(y_true, y_prob, sample_weight))


@keras.saving.register_keras_serializable("kdcore")
@one_kernel
def regional_kd_loss(
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """`kd_loss` + soft Dice between the teacher's and the student's probabilities.

    The default soft loss of `Distiller`. In a scan with 5 % foreground the voxel mean
    of the KL is ruled by background; the Dice over the foreground channels, taken at
    T = 1, weighs a class by its own size. Both are smallest at the teacher's output.

    Args: as for `kd_loss`.
    """
    teacher_logits, student_logits = check_logits(teacher_logits, student_logits)
    teacher_prob, student_prob = foreground(teacher_logits), foreground(student_logits)
    dice = ops.mean(dice_per_class(teacher_prob, student_prob, sample_weight))
    return kd_loss(teacher_logits, student_logits, temperature, sample_weight) + dice


def mean_teacher_logits(logits: Sequence[Tensor]) -> Tensor:
    """Log of the mean probability of several teachers, each `(B, ..., C)` logits.

    At temperature 1 distilling the mean has the same gradient as the mean of the teachers'
    KL losses, since Σ_k KL(p_k ‖ q) = K · KL(p̄ ‖ q) + const. At another temperature the mean is
    softened, which is not the mean of the softened. With one channel the result is the logit
    of the mean sigmoid.
    """
    if len(logits) == 1:
        return logits[0]
    log_p = ops.stack([log_probabilities(to_float(z)) for z in logits])
    mean = ops.logsumexp(log_p, axis=0) - float(np.log(len(logits)))
    return mean if logits[0].shape[-1] > 1 else mean[..., 1:] - mean[..., :1]


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL over the last axis: (B, ..., C) -> (B, ...); 0 · log 0 is 0."""
    return ops.sum(ops.exp(log_p) * (ops.maximum(log_p, _LEAST) - log_q), axis=-1)


def _from_highest(z: Tensor, log_weight: Tensor) -> Tensor:
    """Less the highest voxel with weight, so that adding log(w) to a large logit rounds nothing."""
    within = ops.where(log_weight > -1e9, z, -1e9)
    space = tuple(range(1, len(z.shape) - 1))
    return z - ops.stop_gradient(ops.max(within, axis=space, keepdims=True))


def _space_last(x: Tensor) -> Tensor:
    """(B, ..., C) -> (B, C, voxels)."""
    x = ops.reshape(x, (ops.shape(x)[0], -1, x.shape[-1]))
    return ops.transpose(x, (0, 2, 1))
