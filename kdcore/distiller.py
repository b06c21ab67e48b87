"""`Distiller`: trains a student on hard labels and a teacher's soft targets.

Left out on purpose: a training loop of our own (Keras' `fit` does it), probability
heads, a teacher that learns along.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kdcore._files import replacing
from kdcore._kernels import fuse_normalization, is_fused, over_replicas
from kdcore.heads import check_head, check_takes, received
from kdcore.hints import Hints
from kdcore.losses import (
    IGNORE,
    DiceBinaryCrossEntropy,
    DiceCrossEntropy,
    SoftLoss,
    Tensor,
    check_labels,
    check_region_labels,
    check_temperature,
    cross_entropy,
    dice_binary_cross_entropy,
    dice_cross_entropy,
    expand_weight,
    labelled_regions,
    labelled_voxels,
    mean_region_logits,
    mean_teacher_logits,
    per_replica,
    regional_kd_loss,
)
from kdcore.unet import check_sizes, size_multiple

_NO_TEACHER = (
    "There is no teacher and y brings no soft targets. Pass "
    '`teacher=` to Distiller, or y = {"mask": ..., "soft_targets": ...}.'
)
_TWO_TEACHERS = (
    "There is a teacher, and y brings soft targets: only one of them can be imitated. Leave out "
    "`teacher=` of Distiller, or the soft targets (`soft_targets=` of Batches)."
)


@keras.saving.register_keras_serializable("kdcore")
class Distiller(keras.Model):
    """Trains `student` with L = (1 − alpha) · L_hard + alpha · L_soft.

    By default L_hard is ½ soft Dice + ½ cross-entropy, and L_soft is T² · KL + soft Dice.
    Regularizers and `add_loss` terms of the student are added as they are. `fit` takes
    `y` as an integer mask `(B, ...)` with −1 where a voxel has no label, or as
    `{"mask": ..., "soft_targets": ...}` with log-probabilities `(B, ..., C)` in place of
    a teacher. Voxels without a label carry no hard term; `sample_weight`, one an image or
    one a voxel, weighs both terms. With `{"student": ..., "teacher": ...}` as `x` the two
    see different inputs.

    Regions that may overlap, a sigmoid each, are distilled with
    `soft_loss=kdcore.regional_bernoulli_kd_loss`: then masks are `(B, ..., R)` of 1, 0 and −1,
    soft targets are logits, and the hard loss is `DiceBinaryCrossEntropy`.

    `evaluate` and validation report the student's own `loss` (hard loss and
    regularizers) and metrics; the teacher is not run. Keras' own metrics that should leave
    voxels without a label out belong into `weighted_metrics`. `predict` is the student's.

    On several devices of JAX (`keras.distribution.DataParallel`), and under several replicas of
    TensorFlow (`tf.distribute.MirroredStrategy`), kdcore's losses are those of the whole batch.
    Only batch normalization and hints see each replica's part by itself.

    Args:
        student: Model with raw logits `(B, ..., C)` as output; `distiller.student` is
            this very model, so save or export that one.
        teacher: Model, or several (their mean probability is the soft target). Frozen by
            setting `trainable = False`, always run in inference mode. Where `y` brings soft
            targets they are used, and a teacher is for hints alone.
        temperature: T > 0, divides both logits in the soft loss.
        alpha: Weight of the **soft** loss in [0, 1]; Keras' `student_loss_weight` is
            1 − alpha. With 0 and without hints the teacher is not run and training is plain
            `student.fit`.
        soft_loss: `(teacher_logits, student_logits, temperature, sample_weight)` ->
            scalar. Default `kdcore.regional_kd_loss`; `kdcore.kd_loss` is the KL alone. Of regions
            `kdcore.regional_bernoulli_kd_loss` or `kdcore.bernoulli_kd_loss`.
        hints: `{student's layer: teacher's layer}` whose features shall agree, too, through a
            1×1 projector (see `kdcore.hints`). Needs one functional teacher, run along.
        hint_weight: Of the hint loss, which is added to L.
        known_classes: The student's classes that the teacher knows, in the order of its channels
            if it has no others: `(0, 1)` of a liver teacher for a student of liver and tumour.
            The soft loss compares these alone, what both say of a voxel if it is one of them, so
            the others are learned from labels and not taught away. None means all, or what
            `SoftTargets.known_classes` of the `Batches` says.

    Raises:
        ValueError: For an impossible temperature or alpha, a teacher that is the
            student, another number of classes, or a softmax or sigmoid head.

    Examples:
        >>> import keras, kdcore
        >>> cases = kdcore.simulate_cases(2, seed=0, simulation=kdcore.Simulation(spacing_mm=6.0))
        >>> batches = kdcore.Batches(cases, shape=(32, 28), batch_size=4, num_batches=2)
        >>> teacher = kdcore.unet((32, 28, 4), num_classes=3, filters=4, depth=1)
        >>> student = kdcore.unet((32, 28, 4), num_classes=3, filters=2, depth=1)
        >>> distiller = kdcore.Distiller(student, teacher, temperature=2.0, alpha=0.5)
        >>> distiller.compile(keras.optimizers.Adam(1e-2))
        >>> student = kdcore.fit(distiller, batches, epochs=1, folder="runs/student", verbose=0)

    Reference: Hinton et al. 2015, section 2, https://arxiv.org/abs/1503.02531
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model | Sequence[keras.Model] | None = None,
        temperature: float = 2.0,
        alpha: float = 0.5,
        soft_loss: SoftLoss = regional_kd_loss,
        hints: Mapping[str, str] | None = None,
        hint_weight: float = 1.0,
        known_classes: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_settings(temperature, alpha)
        teachers = _as_list(teacher)
        known = None if known_classes is None else tuple(map(int, known_classes))
        _check_networks(student, teachers, known)
        for model in teachers:
            model.trainable = False
        self.student, self.teachers = student, teachers
        self.temperature, self.alpha = float(temperature), float(alpha)
        self.soft_loss = soft_loss
        self._of_regions = getattr(soft_loss, "of_regions", False)
        self.known_classes, self._compared = known, known
        self.hints = None
        if hints:
            _check_hints(teachers, hint_weight)
            self.hints = Hints(student, teachers[0], hints, hint_weight)
        self._hard_tracker = keras.metrics.Mean(name="hard_loss")
        self._soft_tracker = keras.metrics.Mean(name="soft_loss")
        self._evaluating = False
        self.built = student.built

    def compile(self, optimizer: Any = "adam", loss: Any = None, **kwargs: Any) -> None:
        """As in Keras; `loss` is the hard loss, by default Dice and cross-entropy.

        One of your own gives a number for each voxel. Of one number for the whole batch, as
        `keras.losses.Dice` gives it, voxels without a label cannot be left out; training on such
        voxels then stops.
        """
        if loss is None:
            loss = DiceBinaryCrossEntropy() if self._of_regions else DiceCrossEntropy()
        # Keras gives a function no weights, so that voxels of −1 would count as background.
        if loss is cross_entropy:
            loss = DiceCrossEntropy(dice_weight=0.0)
        elif loss is dice_cross_entropy:
            loss = DiceCrossEntropy()
        elif loss is dice_binary_cross_entropy:
            loss = DiceBinaryCrossEntropy()
        self._one_number: bool | None = None
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        # Variables that TensorFlow makes while it traces cost it seconds.
        if self.built and self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))

    def build(self, input_shape: Any = None) -> None:
        if not self.student.built:
            self.student.build(input_shape)
        self.built = True

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        image = input_of("student", x)
        try:
            if self.hints is None or not training:
                return self.student(image, training=training)
            logits, loss = self.hints(image, input_of("teacher", x))
        except Exception:
            check_sizes(image.shape[1:-1], size_multiple(self.student) or 1)
            raise
        self.add_loss(loss)
        return logits

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        mask, soft_targets = split_targets(y)
        hard_weight, soft_weight = split_weights(sample_weight)
        labels, weight = self._hard_targets(mask, y_pred, hard_weight)
        # Keras adds the regularizers to the hard loss: h + r. What is wanted is
        # (1 − α)·h + α·s + r, which is (1 − α)·(h + r) + α·(s + r).
        hard = super().compute_loss(x, labels, y_pred, weight, training)
        if self._one_number is None:  # asked once: PyTorch has no graph to leave it out of
            self._one_number = _is_one_number(self.loss, labels, y_pred)
        if self._one_number:
            hard = hard + _nan_if_unlabelled(mask)
        extra = per_replica(total_of(self.losses))
        share = per_replica(ops.ones(()))  # 1 / replicas
        self._track(self._hard_tracker, (hard - extra) / share, _labelled_images(mask))
        if not training or self.alpha == 0:
            return hard
        teacher_logits = self._teacher_logits(x, soft_targets, y_pred.shape[-1])
        both = _of_classes(self._compared, teacher_logits, y_pred)
        soft = self.soft_loss(*both, self.temperature, soft_weight)
        if soft_targets is not None and not self._of_regions:
            soft = soft + _nan_above_0(soft_targets, soft.dtype)
        self._track(self._soft_tracker, soft, ops.shape(y_pred)[0])
        return (1.0 - self.alpha) * hard + self.alpha * (per_replica(soft) + extra)

    def compute_metrics(
        self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> dict[str, Any]:
        mask, _ = split_targets(y)
        _, weight = self._hard_targets(mask, y_pred, split_weights(sample_weight)[0])
        return super().compute_metrics(x, mask, y_pred, weight)

    def get_metrics_result(self) -> dict[str, Any]:
        """All metrics; without `soft_loss` where it is not computed."""
        results = super().get_metrics_result()
        if self._evaluating or self.alpha == 0:
            results.pop("soft_loss", None)
        return results

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As in Keras; one `sample_weight` array also serves a `y` with soft targets."""
        if kwargs.get("class_weight") is not None:
            raise ValueError(
                "class_weight of fit is for one label an image; here every voxel has one. Pass it "
                "to kdcore.Batches, or with arrays a weight a voxel: sample_weight=weights[mask], "
                "weights an array of one number a class."
            )
        # Before anything is run: in JAX a model that fails within `fit` has lost its weights.
        channels = self.student.output_shape[-1] if self.student.built else None
        rank = len(self.student.output_shape) if self.student.built else None
        check_arrays(y, channels, rank, self._of_regions)
        self._check_regions(x)
        self._check_images(x)
        if channels:
            check_labels(np.array(getattr(x, "labels", ())), channels)  # of `Batches`
        first = first_targets(x, y)
        check_shapes(first, channels, self.known_classes)
        self._compare(self.known_classes or getattr(x, "known_classes", None))
        if self.alpha and first is not None:
            brought = split_targets(first)[1] is not None
            if not self.teachers and not brought:
                raise ValueError(_NO_TEACHER)
            if self.teachers and brought and self.hints is None:
                raise ValueError(_TWO_TEACHERS)
        weight = kwargs.get("sample_weight")
        if isinstance(y, dict) and weight is not None and not isinstance(weight, dict):
            kwargs["sample_weight"] = dict.fromkeys(y, weight)
        if not isinstance(kwargs.get("callbacks"), keras.callbacks.CallbackList):
            kwargs["callbacks"] = [_FirstStep(), *_as_list(kwargs.get("callbacks"))]
        return super().fit(x, y, *args, **kwargs)

    def _check_images(self, x: Any) -> None:
        """Of arrays and `Batches`: that the networks take them."""
        for role, models in {"student": [self.student], "teacher": self.teachers}.items():
            image = input_of(role, x) if role == "student" or self.alpha else None
            shape = getattr(image, "image_shape", None)
            if isinstance(image, np.ndarray):
                shape = image.shape[1:]
            if shape is not None:
                for model in models:
                    check_takes(model, shape, role)

    def _check_regions(self, batches: Any) -> None:
        """Of `Batches`: overlapping regions and a softmax are no pair, nor the other way round."""
        regions = getattr(batches, "regions", None)
        if regions is not None and not self._of_regions:
            raise ValueError(
                f"The cases have the regions {regions}, which may overlap, but the soft loss is of "
                "classes that exclude each other. Pass soft_loss=kdcore.regional_bernoulli_kd_loss."
            )
        if regions is None and self._of_regions and hasattr(batches, "case_ids"):
            raise ValueError(
                "The soft loss is of regions that may overlap, but each voxel of the cases has one "
                "label. Make regions of them, kdcore.data.to_regions(case, {name: labels}), or "
                "leave soft_loss out."
            )

    def _compare(self, classes: tuple[int, ...] | None) -> None:
        """Which classes the soft loss is of, from here on."""
        if classes != self._compared:
            self._compared = classes
            self.train_function = None  # was traced with the others

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """The student's hard loss and metrics. Changes no weight, runs no teacher."""
        self._evaluating = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._evaluating = False

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "student": serialize(self.student),
            "fused": is_fused(self.student),
            "teacher": [serialize(model) for model in self.teachers],
            "temperature": self.temperature,
            "alpha": self.alpha,
            "soft_loss": serialize(self.soft_loss),
            "hints": None if self.hints is None else self.hints.pairs,
            "hint_weight": 1.0 if self.hints is None else self.hints.weight,
            "known_classes": self.known_classes,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Distiller":
        deserialize = keras.saving.deserialize_keras_object
        config = dict(config)
        config["student"] = deserialize(config["student"], custom_objects)
        if config.pop("fused", False):
            fuse_normalization(config["student"])
        config["teacher"] = [deserialize(m, custom_objects) for m in config["teacher"]]
        config["soft_loss"] = deserialize(config["soft_loss"], custom_objects)
        return cls(**config)

    def _teacher_logits(self, x: Tensor, soft_targets: Tensor | None, channels: int) -> Tensor:
        if soft_targets is not None:
            return soft_targets if self._of_regions else logits_of(soft_targets, channels)
        if not self.teachers:
            raise ValueError(_NO_TEACHER)
        image = input_of("teacher", x)
        mean = mean_region_logits if self._of_regions else mean_teacher_logits
        return mean([m(image, training=False) for m in self.teachers])

    def _hard_targets(
        self, mask: Tensor, y_pred: Tensor, sample_weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if not self._of_regions:
            return hard_weights(_nan_if_overlapping(mask, y_pred), y_pred, sample_weight)
        if isinstance(self.loss, DiceBinaryCrossEntropy):
            return hard_weights(mask, y_pred, sample_weight)
        return region_weights(mask, y_pred, sample_weight)

    def _track(self, tracker: keras.metrics.Mean, value: Tensor, images: Tensor) -> None:
        mean = over_replicas(ops.stop_gradient(value)) / over_replicas(ops.ones(()))
        tracker.update_state(mean, sample_weight=ops.cast(images, "float32"))


class _FirstStep(keras.callbacks.Callback):
    """Says what a NaN after the first step means: within a graph nothing can be raised."""

    async_safe = True  # the steps need not wait for it

    def on_train_begin(self, logs: Any = None) -> None:
        self.looked = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        names = () if self.looked else ("hard_loss", "soft_loss")
        self.looked = True
        if lost := [name for name in names if np.isnan(float((logs or {}).get(name, 0.0)))]:
            raise ValueError(
                f"After the first step, {' and '.join(lost)} is NaN. Of a data set that cannot be "
                "looked into before, that becomes of labels outside 0 … classes − 1 (−1 is for "
                "voxels that do not count), of one-hot masks that do not sum to 1 (regions that "
                "overlap need soft_loss=kdcore.regional_bernoulli_kd_loss), of soft targets above "
                "0 (they are log-probabilities: pass np.log of probabilities, or log_softmax of "
                "logits), of a hard loss of one number for the whole batch (it cannot leave out "
                "voxels without a label: give one a voxel, or take kdcore.DiceCrossEntropy), and "
                "of NaN in the images. The student has learned NaN: build it again."
            )


class StudentCheckpoint(keras.callbacks.ModelCheckpoint):
    """`keras.callbacks.ModelCheckpoint` that saves `distiller.student` alone, whole or not at all.

    Examples:
        >>> import keras, kdcore
        >>> student = kdcore.unet((32, 28, 4), num_classes=3, filters=2, depth=1)
        >>> distiller = kdcore.Distiller(student)
        >>> best = kdcore.StudentCheckpoint("best.keras", monitor="val_loss", save_best_only=True)
        >>> best.set_model(distiller)  # as `fit(..., callbacks=[best])` does, and after an epoch
        >>> best.on_epoch_end(0, {"val_loss": 0.25})
        >>> keras.saving.load_model("best.keras").count_params() == student.count_params()
        True
    """

    def set_model(self, model: Distiller) -> None:
        super().set_model(_SavedWhole(model.student))


class _SavedWhole:
    """A model whose files are never half written."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def save(self, path: Any, **kwargs: Any) -> None:
        with replacing(path) as temporary:
            self._model.save(temporary, **kwargs)

    def save_weights(self, path: Any, **kwargs: Any) -> None:
        with replacing(path) as temporary:
            self._model.save_weights(temporary, **kwargs)


def _labelled_images(mask: Tensor) -> Tensor:
    """How many images have a label somewhere: a batch without any has no hard loss."""
    axes = tuple(range(1, len(mask.shape)))
    return ops.sum(ops.cast(ops.any(mask != IGNORE, axis=axes), "float32"))


def _as_list(one_or_several: Any) -> list[Any]:
    if isinstance(one_or_several, list | tuple):
        return list(one_or_several)
    return [] if one_or_several is None else [one_or_several]


def _check_settings(temperature: float, alpha: float) -> None:
    check_temperature(temperature)
    if not 0.0 <= float(alpha) <= 1.0:  # also refuses NaN
        raise ValueError(
            f"alpha must lie in [0, 1]. Received: {alpha}. It weighs the soft loss: "
            "0 is training without a teacher, 1 is without labels."
        )


def _check_hints(teachers: list[keras.Model], weight: float) -> None:
    if len(teachers) != 1:
        raise ValueError(
            f"Hints need exactly one teacher that runs along. Received: {len(teachers)}."
        )
    if not 0 < float(weight) < float("inf"):
        raise ValueError(f"hint_weight must be a positive number. Received: {weight}.")


def _check_networks(
    student: keras.Model, teachers: list[keras.Model], known: tuple[int, ...] | None
) -> None:
    if not isinstance(student, keras.Model):
        raise ValueError(f"student must be a keras.Model. {received(student)}")
    for role, model in [("student", student)] + [("teacher", t) for t in teachers]:
        if not isinstance(model, keras.Model):
            raise ValueError(
                f"{role} must be a keras.Model. {received(model)} For any other "
                "source of probabilities write them with kdcore.SoftTargets."
            )
        check_head(model, role)
    if not student.trainable or (student.built and not student.trainable_variables):
        raise ValueError("The student has nothing to train. Set student.trainable = True.")
    for model in teachers:
        if model is student:
            raise ValueError("Teacher and student are the same model. Build two.")
        ranks = [len(getattr(m, "output_shape", None) or ()) for m in (model, student)]
        if all(ranks) and ranks[0] != ranks[1]:
            raise ValueError(
                f"The teacher's maps are {ranks[0] - 2}-D, the student's {ranks[1] - 2}-D, so it "
                "cannot run along. Write its soft targets with kdcore.SoftTargets.write: "
                "kdcore.Batches cuts them together with the scans."
            )
        theirs: Any = getattr(model, "output_shape", (None,))[-1]
        ours: Any = getattr(student, "output_shape", (None,))[-1]
        if None not in (theirs, ours) and theirs not in (ours, len(known or ())):
            raise ValueError(
                f"The teacher has {theirs} output channels and the student {ours}. Both must have "
                "one logit a class, in the same order; of a teacher that knows some of the "
                f"student's classes, say which: known_classes={tuple(range(theirs))}."
            )
    channels = getattr(student, "output_shape", (None,))[-1]
    if known is not None and not (
        len(set(known)) == len(known) > 1 and min(known) >= 0 and max(known) < (channels or 256)
    ):
        raise ValueError(
            f"known_classes must be two or more of the student's {channels} classes, each once: "
            f"over one alone there is nothing to compare. Received: {known}."
        )


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
    """y, or what a data set says of its own; one that says nothing may not bear a look."""
    return x.targets() if y is None and hasattr(x, "targets") else y


def split_weights(sample_weight: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Keras hands one weight to each entry of y, so a dict comes back for a dict."""
    if isinstance(sample_weight, dict):
        return sample_weight.get("mask"), sample_weight.get("soft_targets")
    return sample_weight, sample_weight


def _of_classes(
    known: tuple[int, ...] | None, teacher_logits: Tensor, student_logits: Tensor
) -> tuple[Tensor, Tensor]:
    """The channels of the classes that both know."""
    if known is None:
        return teacher_logits, student_logits
    ours = ops.stack([student_logits[..., label] for label in known], axis=-1)
    if teacher_logits.shape[-1] != len(known):
        teacher_logits = ops.stack([teacher_logits[..., label] for label in known], axis=-1)
    return teacher_logits, ours


def _nan_if_overlapping(mask: Tensor, logits: Tensor) -> Tensor:
    """A one-hot mask, NaN if the classes of some voxel do not sum to 1; any other as it is."""
    if mask is None or len(mask.shape) != len(logits.shape) or mask.shape[-1] in (None, 1):
        return mask
    mask = ops.cast(mask, logits.dtype)
    apart = ops.max(ops.abs(ops.sum(mask, axis=-1) - 1)) > 0.01
    return mask + ops.cast(ops.where(apart, float("nan"), 0.0), mask.dtype)


def _is_one_number(loss: Any, labels: Tensor, logits: Tensor) -> bool:
    """Whether a loss that is not ours says nothing of single voxels."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if not callable(loss) or isinstance(loss, DiceCrossEntropy | DiceBinaryCrossEntropy):
        return False
    if isinstance(loss, keras.losses.Loss):
        loss = loss.call
    return len(loss(labels, logits).shape) == 0


def _nan_if_unlabelled(mask: Tensor) -> Tensor:
    return ops.where(ops.any(mask == IGNORE), float("nan"), 0.0)


def _nan_above_0(log_p: Tensor, dtype: Any) -> Tensor:
    """NaN if these are no log-probabilities, or else 0."""
    above = ops.max(log_p) > 0.01  # rounding
    return ops.cast(ops.where(above, float("nan"), 0.0), dtype)


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
    if len(mask.shape) == len(logits.shape) and mask.shape[-1] != 1:  # one-hot, or of regions
        return mask, sample_weight
    mask = ops.cast(mask, "int32")  # in uint8, −1 would be 255
    labelled = ops.cast(labelled_voxels(mask, logits), "float32")
    labels = ops.maximum(mask, 0)
    if len(mask.shape) == len(logits.shape):
        labelled = ops.squeeze(labelled, axis=-1)
    weight = labelled * _for_a_mean_over(labelled)
    if sample_weight is not None:
        weight = weight * expand_weight(ops.cast(sample_weight, "float32"), weight)
    return labels, weight


def _for_a_mean_over(labelled: Tensor) -> Tensor:
    """By which the mean over all voxels becomes one over the labelled ones."""
    size = over_replicas(ops.cast(ops.size(labelled), "float32"))
    return ops.divide_no_nan(size, over_replicas(ops.sum(labelled)))


def region_weights(
    mask: Tensor, logits: Tensor, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`hard_weights` of regions for Keras' own losses, which know no −1 and weigh voxels.

    A voxel counts if all its regions are labelled; `DiceBinaryCrossEntropy` knows each.
    """
    mask = ops.cast(mask, "int32")
    labelled = ops.cast(ops.min(labelled_regions(mask, logits), axis=-1), "float32")
    weight = labelled * _for_a_mean_over(labelled)
    if sample_weight is not None:
        weight = weight * expand_weight(ops.cast(sample_weight, "float32"), weight)
    return ops.maximum(mask, 0), weight


def total_of(losses: list[Tensor]) -> Tensor:
    """Sum of the regularizers and `add_loss` terms; 0 if there is none."""
    total = ops.zeros(())
    for loss in losses:
        total = total + ops.sum(ops.cast(loss, "float32"))
    return total


def check_arrays(
    y: Tensor, channels: int | None, rank: int | None = None, of_regions: bool = False
) -> None:
    """Refuse impossible labels and soft targets before training, where y is an array."""
    mask = y.get("mask") if isinstance(y, dict) else y
    soft_targets = y.get("soft_targets") if isinstance(y, dict) else None
    if isinstance(mask, np.ndarray) and channels:
        if of_regions:
            _check_mask_of_regions(mask, channels)
        else:
            _check_mask(mask, channels, one_hot=mask.ndim == rank and mask.shape[-1] > 1)
    if isinstance(soft_targets, np.ndarray):
        (_check_logits_of_regions if of_regions else _check_soft_targets)(soft_targets)


def check_shapes(
    y: Tensor, channels: int | None, known_classes: Sequence[int] | None = None
) -> None:
    """Refuse soft targets of other classes than the student's or other voxels than the mask's."""
    mask, soft_targets = split_targets(y)
    if not isinstance(soft_targets, np.ndarray):
        return
    *voxels, classes = soft_targets.shape
    fitting = (1, 2) if channels == 1 else (channels, len(known_classes or ()))
    if channels and classes not in fitting:
        raise ValueError(
            f"The soft targets have {classes} classes, the student {channels}. Both must have one "
            "entry a class, in the same order; of a teacher that knows some of the student's "
            "classes, say which: Distiller(..., known_classes=...)."
        )
    if isinstance(mask, np.ndarray) and list(mask.shape[: len(voxels)]) != voxels:
        raise ValueError(
            f"The soft targets are of shape {soft_targets.shape}, the mask of {mask.shape}. "
            "Expected those of the mask's voxels, with one entry a class."
        )


def _check_mask(mask: np.ndarray, channels: int, one_hot: bool) -> None:
    """Whole numbers, or shares of the classes that sum to 1."""
    whole = np.equal(np.trunc(mask), mask)  # NaN is not
    if whole.all():
        check_labels(mask, channels)
        if one_hot and not (mask.sum(axis=-1) == 1).all():
            raise ValueError(
                f"The mask of shape {mask.shape} looks one-hot, but some voxels have several "
                "classes or none. If these are regions that may overlap, pass "
                "soft_loss=kdcore.regional_bernoulli_kd_loss; otherwise give each voxel one class, "
                "or −1 in an integer mask."
            )
    elif mask.shape[-1] != channels or not np.allclose(mask.sum(axis=-1), 1.0, atol=1e-3):
        raise ValueError(
            "A mask holds one whole number a voxel, or a share of each class that sum to 1. "
            f"Received: {mask[~whole].flat[0]:.3g} among the values."
        )


def _check_mask_of_regions(mask: np.ndarray, channels: int) -> None:
    if mask.ndim < 2 or mask.shape[-1] != channels:
        raise ValueError(
            f"A mask of regions has a channel for each, (B, ..., {channels}) for this student. "
            f"Received: {mask.shape}."
        )
    check_region_labels(mask)


def _check_logits_of_regions(logits: np.ndarray) -> None:
    low, high = float(logits.min()), float(logits.max())
    if logits.size >= 4 and 0 <= low < high <= 1:
        raise ValueError(
            f"Soft targets of regions are logits; these run from {low:.3g} to {high:.3g}, as "
            "probabilities do. Pass np.log(p) - np.log1p(-p), of p within 1e-7 and 1 - 1e-7."
        )
    if not np.isfinite(logits).all() or (logits.size >= 4 and low < high <= 0):
        raise ValueError(
            f"Soft targets of regions are logits, log p - log(1 - p); these run from {low:.3g} to "
            f"{high:.3g}. Log-probabilities are never above 0, and of p = 0 or 1 no logit is "
            "finite: pass np.log(p) - np.log1p(-p), of p within 1e-7 and 1 - 1e-7."
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
