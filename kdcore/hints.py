"""Hints: the student's inner features learn from the teacher's (FitNets)."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import layers, ops

from kdcore.losses import Tensor, to_float


@keras.saving.register_keras_serializable("kdcore")
class Hints(layers.Layer):
    """Mean squared error between projected features of the student and the teacher's.

    A 1×1 projector without bias makes as many channels of the student's features as the
    teacher's have; it is trained along and left behind. Both features are divided by the
    standard deviation of the teacher's, so that the weight means the same for any layer.
    Student and teacher run once each: the same pass gives logits and features.

    Args:
        student, teacher: Functional models, as `kdcore.unet` makes them.
        pairs: `{name of a student's layer: name of a teacher's layer}`; their outputs must
            have the same sizes in space.
        weight: Of the hint loss, beside the distillation loss.

    Raises:
        ValueError: For a layer that is not there, models that are not functional, or features
            of different sizes.

    Reference: Romero et al. 2015, section 2.2, https://arxiv.org/abs/1412.6550
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        pairs: Mapping[str, str],
        weight: float = 1.0,
    ) -> None:
        super().__init__(name="hints")
        self.pairs, self.weight = dict(pairs), float(weight)
        self._student = _with_features("student", student, list(self.pairs))
        self._teacher = _with_features("teacher", teacher, list(self.pairs.values()))
        self.projectors = []
        for ours, theirs in self.pairs.items():
            narrow, wide = student.get_layer(ours).output, teacher.get_layer(theirs).output
            _check_space(ours, narrow.shape, theirs, wide.shape)
            projector = layers.Dense(wide.shape[-1], use_bias=False, name=f"project_{ours}")
            projector.build(narrow.shape)
            self.projectors.append(projector)
        self.built = True

    def call(self, image: Tensor, teacher_image: Tensor) -> tuple[Tensor, Tensor]:
        """The student's logits, in training, and the weighted hint loss."""
        logits, *features = self._student(image, training=True)
        _, *wanted = self._teacher(teacher_image, training=False)
        loss = ops.zeros(())
        for projector, narrow, wide in zip(self.projectors, features, wanted, strict=True):
            wide = ops.stop_gradient(to_float(wide))
            error = to_float(projector(narrow)) - wide
            variance = ops.var(wide)
            loss = loss + ops.mean(ops.square(error)) / ops.maximum(variance, 1e-6)
        return logits, self.weight * loss / len(self.pairs)


def _with_features(role: str, model: keras.Model, names: list[str]) -> keras.Model:
    known = [layer.name for layer in model.layers]
    missing = [name for name in names if name not in known]
    if missing or not names:
        raise ValueError(f"The {role} has no layer {missing}. It has: {', '.join(known)}.")
    try:
        outputs = [model.get_layer(name).output for name in names]
        return keras.Model(model.inputs, [model.outputs[0], *outputs], name=f"{role}_features")
    except (AttributeError, TypeError, IndexError) as error:
        raise ValueError(
            f"Hints need a functional {role}, whose layers' outputs are known; {model.name} is "
            f"a {type(model).__name__}."
        ) from error


def _check_space(ours: str, narrow: tuple[Any, ...], theirs: str, wide: tuple[Any, ...]) -> None:
    if narrow[:-1] != wide[:-1]:
        raise ValueError(
            f"Student's {ours} has features of shape {narrow}, teacher's {theirs} {wide}. A hint "
            "needs the same sizes in space; take layers of the same level."
        )
