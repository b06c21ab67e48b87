"""Hard losses: integer masks and raw logits in, a scalar out; −1 marks what does not count."""

from typing import Any

import keras
from keras import ops

from kdcore.fused import one_kernel
from kdcore.voxels import (
    Tensor,
    combine_weights,
    dice_per_class,
    log_probabilities,
    per_replica,
    split_ignored,
    sum_per_class,
    to_float,
    weighted_mean,
)


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
class DiceCrossEntropy(keras.losses.Loss):
    """`dice_cross_entropy` for `compile(loss=...)`: integer masks, raw logits.

    Regional: under several replicas each one computes the Dice of its own part of the
    batch, and the parts are averaged. The cross-entropy alone (`dice_weight=0`) gives
    the same update on 1 and on 2 replicas that see equally many labelled voxels.
    """

    def __init__(
        self,
        dice_weight: float = 0.5,
        label_smoothing: float = 0.0,
        name: str = "dice_cross_entropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        for key, value in {
            "dice_weight": dice_weight,
            "label_smoothing": label_smoothing,
        }.items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{key} must lie in [0, 1]. Received: {value}.")
        self.dice_weight, self.label_smoothing = dice_weight, label_smoothing

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
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
