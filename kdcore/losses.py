"""Hard and soft losses of a segmentation: logits in, a scalar out.

A hard loss takes an integer mask, where −1 marks voxels that do not count; a soft loss a
teacher's logits. Everything is computed in log space and in float32 (or wider), also under
mixed precision, and reduced to a *mean over the voxels that count*, so a temperature or an
`alpha` means the same at any image size.

Left out on purpose: a loss registry, probability inputs, sums over voxels.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import keras
import numpy as np
from keras import ops

from kdcore._kernels import one_kernel, over_replicas
from kdcore.heads import is_marked, looks_like_probabilities

Tensor = Any
"""A tensor of the active Keras backend, or a NumPy array."""

IGNORE = -1
"""Mask value of a voxel without a label (unlabelled or to be ignored)."""

SoftLoss = Callable[..., Tensor]
"""`(teacher_logits, student_logits, temperature, sample_weight) -> scalar`."""

Function = TypeVar("Function", bound=Callable[..., Any])

HIGHEST_TEMPERATURE = 1000.0
# Below this total of squared probabilities a class is as good as absent.
_EPSILON = 1e-6
_LEAST = -1e3  # log-probability of what is impossible, whose exponential is 0


def of_regions(loss: Function) -> Function:
    """Mark a soft loss whose channels are regions, each with a sigmoid of its own."""
    loss.__dict__["of_regions"] = True
    return loss


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
    sigmoid(z_t / T) and sigmoid(z_s / T). Once T is large against the logits, T² keeps the
    gradient at one size.

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
        ValueError: If shapes differ, the temperature does not lie in (0, 1000], or the values
            are evidently probabilities.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> teacher_logits = np.array([[[2.0, 0.0], [0.0, 4.0]]])
        >>> student_logits = np.array([[[0.0, 0.0], [0.0, 4.0]]])
        >>> round(float(kdcore.kd_loss(teacher_logits, student_logits, temperature=2.0)), 3)
        0.222

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

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> logits = np.array([[[2.0, 0.0], [0.0, 4.0]]])
        >>> round(float(kdcore.channel_wise_loss(logits, logits + 1.0, temperature=4.0)), 4)
        0.0

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

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> soft = np.array([[[0.5], [0.9], [0.0]]])
        >>> round(float(kdcore.soft_dice_loss(soft, soft)), 4)
        0.0

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
    T = 1, weighs a class by its own size. Both are smallest at the teacher's output, if the
    student can match it; where it cannot, the Dice leans towards foreground.

    Args: as for `kd_loss`.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> logits = np.array([[[2.0, 0.0], [0.0, 4.0]]])
        >>> round(float(kdcore.regional_kd_loss(logits, logits, temperature=2.0)), 4)
        0.0
    """
    teacher_logits, student_logits = check_logits(teacher_logits, student_logits)
    teacher_prob, student_prob = foreground(teacher_logits), foreground(student_logits)
    dice = ops.mean(dice_per_class(teacher_prob, student_prob, sample_weight))
    return kd_loss(teacher_logits, student_logits, temperature, sample_weight) + dice


def mean_region_logits(logits: Sequence[Tensor]) -> Tensor:
    """`mean_teacher_logits` of each channel on its own: the logit of the mean sigmoid."""
    return mean_teacher_logits([z[..., None] for z in logits])[..., 0]


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


@keras.saving.register_keras_serializable("kdcore")
@one_kernel
def cross_entropy(mask: Tensor, logits: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    """Mean over labelled voxels of −log p(label), in nats.

    Args:
        mask: `(B, ...)` integers in 0 … C−1; −1 marks voxels that do not count.
        logits: `(B, ..., C)`; one channel means Bernoulli with labels 0 and 1.
        sample_weight: `(B,)`, or any leading part of `(B, ...)`.

    Returns:
        A scalar; 0 if no voxel counts.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> mask = np.array([[0, 1, -1]])  # the last voxel has no label
        >>> logits = np.array([[[0.0, 0.0], [0.0, 0.0], [9.0, 0.0]]])
        >>> round(float(kdcore.cross_entropy(mask, logits)), 4)
        0.6931
    """
    logits = to_float(logits)
    mask, labelled = split_ignored(mask, logits)
    weight = combine_weights(labelled, sample_weight)
    log_p = log_probabilities(logits)
    target = ops.one_hot(mask, log_p.shape[-1], dtype=log_p.dtype)
    return weighted_mean(-ops.sum(target * log_p, axis=-1), weight)


@keras.saving.register_keras_serializable("kdcore")
@one_kernel
def dice_cross_entropy(
    mask: Tensor,
    logits: Tensor,
    sample_weight: Tensor | None = None,
    *,
    dice_weight: float = 0.5,
    label_smoothing: float = 0.0,
) -> Tensor:
    """`dice_weight` · soft Dice + (1 − `dice_weight`) · cross-entropy on hard labels.

    The Dice runs over the foreground classes *that the labelled voxels of the batch
    contain*. An absent class has no overlap to improve, and counting it would only push
    its probability to zero: with few labelled slices in a batch that is how a network
    collapses to background (see "Why the student collapsed" in `docs/design.md`). The
    cross-entropy still punishes false foreground.

    Args:
        mask: `(B, ...)` integers in 0 … C−1; −1 marks voxels that do not count.
        logits: `(B, ..., C)`; one channel means Bernoulli with labels 0 and 1.
        sample_weight: `(B,)`, or any leading part of `(B, ...)`.
        dice_weight: 1 is the soft-Dice-only loss of the 2020 recipe, 0 cross-entropy.
        label_smoothing: ε; the cross-entropy's target is (1 − ε)·one-hot + ε / C.

    Returns:
        A scalar; 0 if no voxel counts.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> mask = np.array([[0, 1, -1]])  # the last voxel has no label
        >>> logits = np.array([[[9.0, -9.0], [-9.0, 9.0], [0.0, 0.0]]])
        >>> round(float(kdcore.dice_cross_entropy(mask, logits)), 4)
        0.0
    """
    logits = to_float(logits)
    mask, labelled = split_ignored(mask, logits)
    weight = combine_weights(labelled, sample_weight)
    log_p = log_probabilities(logits)  # (B, ..., C), C >= 2
    target = ops.one_hot(mask, log_p.shape[-1], dtype=log_p.dtype)
    smooth = (1.0 - label_smoothing) * target + label_smoothing / log_p.shape[-1]
    entropy = weighted_mean(-ops.sum(smooth * log_p, axis=-1), weight)
    if dice_weight == 0:
        return entropy
    foreground, probability = target[..., 1:], ops.exp(log_p[..., 1:])
    present = sum_per_class(foreground * weight[..., None]) > 0
    dice = weighted_mean(dice_per_class(foreground, probability, weight), present)
    return dice_weight * dice + (1.0 - dice_weight) * entropy


@keras.saving.register_keras_serializable("kdcore")
def pseudo_label_loss(
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float = 1.0,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """`dice_cross_entropy` on the teacher's most probable class: hard pseudo-labels.

    What is left of distillation without the softness. As a `Distiller`'s `soft_loss` it is the
    control that says what the softness adds: same teacher, scans, batches and steps.

    Args: as for `kd_loss`; the temperature has no effect, since it moves no maximum.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> teacher_logits = np.array([[[2.0, 1.0], [0.0, 0.1]]])  # classes 0 and 1
        >>> sure = np.array([[[9.0, -9.0], [-9.0, 9.0]]])
        >>> round(float(kdcore.pseudo_label_loss(teacher_logits, sure)), 4)
        0.0

    Reference: Lee 2013, in the ICML workshop on challenges in representation learning; with a
    teacher of its own Xie et al. 2020, section 2, https://arxiv.org/abs/1911.04252
    """
    teacher_logits, student_logits = check_logits(teacher_logits, student_logits)
    if teacher_logits.shape[-1] == 1:
        labels = ops.cast(teacher_logits[..., 0] > 0, "int32")
    else:
        labels = ops.cast(ops.argmax(teacher_logits, axis=-1), "int32")
    return dice_cross_entropy(labels, student_logits, sample_weight)


@keras.saving.register_keras_serializable("kdcore")
@of_regions
@one_kernel
def bernoulli_kd_loss(
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """`kd_loss` of each channel on its own, for regions that may overlap; in nats.

    T² · mean over voxels and channels of KL( Bernoulli(σ(z_t / T)) ‖ Bernoulli(σ(z_s / T)) ): a
    channel is a question of its own with the answers yes and no, as a sigmoid has it.

    Args:
        teacher_logits: `(B, ..., R)`, before sigmoid.
        student_logits: Same shape.
        temperature: T > 0.
        sample_weight: `(B,)`, or any leading part of `(B, ...)`; of all regions alike.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> teacher_logits = np.array([[[2.0, 0.0]]])  # of one voxel and two regions
        >>> student_logits = np.array([[[0.0, 0.0]]])
        >>> round(float(kdcore.bernoulli_kd_loss(teacher_logits, student_logits, 2.0)), 3)
        0.222

    Reference: Hinton et al. 2015, section 2, https://arxiv.org/abs/1503.02531
    """
    teacher_logits, student_logits = check_region_logits(teacher_logits, student_logits)
    return kd_loss(teacher_logits[..., None], student_logits[..., None], temperature, sample_weight)


@keras.saving.register_keras_serializable("kdcore")
@of_regions
@one_kernel
def regional_bernoulli_kd_loss(
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """`bernoulli_kd_loss` + soft Dice of each region: `regional_kd_loss` where regions overlap.

    Args: as for `bernoulli_kd_loss`.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> logits = np.array([[[2.0, 0.0], [0.0, 4.0]]])
        >>> round(float(kdcore.regional_bernoulli_kd_loss(logits, logits, temperature=2.0)), 4)
        0.0
    """
    teacher_logits, student_logits = check_region_logits(teacher_logits, student_logits)
    probabilities = ops.sigmoid(teacher_logits), ops.sigmoid(student_logits)
    dice = ops.mean(dice_per_class(*probabilities, sample_weight))
    return bernoulli_kd_loss(teacher_logits, student_logits, temperature, sample_weight) + dice


@keras.saving.register_keras_serializable("kdcore")
@one_kernel
def dice_binary_cross_entropy(
    mask: Tensor,
    logits: Tensor,
    sample_weight: Tensor | None = None,
    *,
    dice_weight: float = 0.5,
) -> Tensor:
    """`dice_weight` · soft Dice + (1 − `dice_weight`) · binary cross-entropy, a channel a region.

    The Dice is the mean over the regions that the labelled voxels of the batch contain, as in
    `dice_cross_entropy`; the cross-entropy the mean over voxels and regions that count.

    Args:
        mask: `(B, ..., R)`, 1 inside a region, 0 outside, −1 where nobody labelled that region.
        logits: `(B, ..., R)`, before sigmoid.
        sample_weight: `(B,)`, or any leading part of `(B, ...)`; of all regions alike.
        dice_weight: 0 is binary cross-entropy alone.

    Returns:
        A scalar; 0 if nothing counts.

    Examples:
        >>> import numpy as np
        >>> from kdcore.losses import dice_binary_cross_entropy
        >>> mask = np.array([[[1, 1], [1, 0], [0, -1]]])  # three voxels, two regions
        >>> logits = np.array([[[9.0, 9.0], [9.0, -9.0], [-9.0, 9.0]]])
        >>> round(float(dice_binary_cross_entropy(mask, logits)), 3)
        0.0
    """
    logits = to_float(logits)
    mask = ops.cast(as_shape_of(logits, to_float(mask), "The mask of regions", "logits"), "int32")
    check_region_labels(concrete(mask))
    counts = labelled_regions(mask, logits)  # (B, ..., R)
    inside = ops.cast(ops.maximum(mask, 0), logits.dtype)
    weight = counts
    if sample_weight is not None:
        voxel = expand_weight(ops.cast(sample_weight, logits.dtype), logits[..., 0])
        weight = counts * voxel[..., None]
    entropy = weighted_mean(ops.softplus(logits) - inside * logits, weight)
    if dice_weight == 0:
        return entropy
    present = sum_per_class(inside * weight) > 0
    pair = inside * counts, ops.sigmoid(logits) * counts
    dice = weighted_mean(dice_per_class(*pair, sample_weight), present)
    return dice_weight * dice + (1.0 - dice_weight) * entropy


@keras.saving.register_keras_serializable("kdcore")
class DiceCrossEntropy(keras.losses.Loss):
    """`dice_cross_entropy` for `compile(loss=...)`: integer masks, raw logits.

    Of the whole batch, also where several devices or replicas share it.

    Examples:
        >>> import keras, kdcore
        >>> model = kdcore.unet((16, 16, 1), num_classes=3, filters=2, depth=1)
        >>> model.compile(keras.optimizers.Adam(1e-3), loss=kdcore.DiceCrossEntropy())
    """

    def __init__(
        self,
        dice_weight: float = 0.5,
        label_smoothing: float = 0.0,
        name: str = "dice_cross_entropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        check_share("dice_weight", dice_weight)
        check_share("label_smoothing", label_smoothing)
        self.dice_weight, self.label_smoothing = dice_weight, label_smoothing

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        _refuse_marked(y_pred, "DiceCrossEntropy")
        return per_replica(
            dice_cross_entropy(
                y_true,
                y_pred,
                sample_weight,
                dice_weight=self.dice_weight,
                label_smoothing=self.label_smoothing,
            )
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "dice_weight": self.dice_weight,
            "label_smoothing": self.label_smoothing,
        }


@keras.saving.register_keras_serializable("kdcore")
class DiceBinaryCrossEntropy(keras.losses.Loss):
    """`dice_binary_cross_entropy` for `compile(loss=...)`: regions that may overlap, raw logits.

    The default hard loss of a `Distiller` whose soft loss is of regions. Masks are `(B, ..., R)`
    with 1 inside, 0 outside, and −1 where nobody labelled that region.

    Examples:
        >>> import keras, kdcore
        >>> model = kdcore.unet((16, 16, 4), num_classes=3, filters=2, depth=1)  # three regions
        >>> model.compile(keras.optimizers.Adam(1e-3), loss=kdcore.DiceBinaryCrossEntropy())
    """

    def __init__(
        self, dice_weight: float = 0.5, name: str = "dice_binary_cross_entropy", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        check_share("dice_weight", dice_weight)
        self.dice_weight = dice_weight

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        _refuse_marked(y_pred, "DiceBinaryCrossEntropy")
        return per_replica(
            dice_binary_cross_entropy(y_true, y_pred, sample_weight, dice_weight=self.dice_weight)
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dice_weight": self.dice_weight}


def _refuse_marked(output: Tensor, loss: str) -> None:
    if is_marked(output):
        raise ValueError(
            f"{loss} got the output of a softmax or sigmoid; it expects logits. Build "
            "the network's last layer with activation=None, or wrap it: kdcore.to_logits."
        )


def check_share(name: str, share: float) -> None:
    """Raise unless it lies from 0 to 1."""
    if not 0 <= share <= 1:
        raise ValueError(f"{name} must lie in [0, 1]. Received: {share}.")


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
    teacher_logits, student_logits = check_region_logits(teacher_logits, student_logits)
    for name, logits in {"teacher": teacher_logits, "student": student_logits}.items():
        values = concrete(logits)  # only where they are at hand, not while a graph is traced
        if values is not None and looks_like_probabilities(values):
            raise ValueError(
                f"Expected raw logits, but the {name}'s values lie in [0, 1] and sum to "
                "1 over the last axis: these are probabilities, and a second softmax "
                "would flatten them. Pass the output before softmax, or log(p)."
            )
    return teacher_logits, student_logits


def check_region_logits(teacher_logits: Tensor, student_logits: Tensor) -> tuple[Tensor, Tensor]:
    """`check_logits` where channels are regions, which sum to nothing."""
    teacher_logits = ops.stop_gradient(to_float(teacher_logits))
    student_logits = to_float(student_logits)
    if len(student_logits.shape) < 2:
        raise ValueError(
            "Logits need (batch, ..., classes). "
            f"Received: shape {tuple(student_logits.shape)}. Add a batch axis."
        )
    names = "teacher_logits", "student_logits"
    return as_shape_of(student_logits, teacher_logits, *names), student_logits


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
    x = ops.cast(x, reference.dtype)
    if None in expected or None in received:  # in a graph nothing can be raised
        sizes = (ops.cast(ops.stack(ops.shape(one)), "int32") for one in (x, reference))
        same = ops.all(ops.equal(*sizes))
        x = ops.reshape(x, ops.shape(reference)) + ops.where(same, 0.0, float("nan"))
    return x


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
    total = over_replicas(ops.sum(values * weight))
    return ops.divide_no_nan(total, over_replicas(ops.sum(weight)))


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
    """(B, ..., C) -> (C,), over the whole batch, however many replicas share it."""
    return over_replicas(ops.sum(x, axis=tuple(range(len(x.shape) - 1))))


def dice_per_class(y: Tensor, p: Tensor, sample_weight: Tensor | None) -> Tensor:
    """(B, ..., C) twice -> (C,), as Σ (y − p)² / (Σ y² + Σ p²): no cancellation."""
    error, size = ops.square(y - p), ops.square(y) + ops.square(p)
    if sample_weight is not None:
        weight = expand_weight(ops.cast(sample_weight, y.dtype), y[..., 0])[..., None]
        weight = ops.divide_no_nan(weight, over_replicas(ops.max(weight)))  # knows no scale
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
            f"shape {tuple(logits.shape)}. Received: {received}. One number a channel, for "
            "regions that may overlap, is for DiceBinaryCrossEntropy."
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


def labelled_regions(mask: Tensor, logits: Tensor) -> Tensor:
    """1 where a region is labelled, 0 where it is not, NaN for what is neither 1, 0 nor −1."""
    impossible = ops.logical_or(mask < IGNORE, mask > 1)
    labelled = ops.cast(mask != IGNORE, "float32")
    return ops.cast(ops.where(impossible, float("nan"), labelled), logits.dtype)


def check_region_labels(values: np.ndarray | None) -> None:
    """Raise if values of a mask of regions are not 1, 0 or −1; None is not at hand."""
    if values is None or not values.size:
        return
    others = values[~np.isin(values, (0, 1, IGNORE))]
    if others.size:
        raise ValueError(
            "A mask of regions, (B, ..., regions), holds 1 inside a region, 0 outside, and -1 "
            f"where nobody labelled it. Received: {others.flat[0]}. Of labels "
            "kdcore.data.to_regions makes regions."
        )


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
            f"0 … {num_classes - 1} are possible, and −1 for voxels that do not count; "
            "kdcore.data.relabel gives a case other labels."
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
