"""What a network puts out: one map of raw logits. Probabilities are refused at every door.

A second softmax over probabilities raises no error. It flattens what the teacher says, and a
sigmoid network's every voxel becomes foreground.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kdcore._kernels import layers_of

_LEAST = 1e-7
_ACTIVATIONS = ("softmax", "sigmoid")
# What leaves probabilities probabilities.
_PASSING = (
    "Identity",
    "Dropout",
    "Reshape",
    "Permute",
    "Cropping2D",
    "Cropping3D",
    "UpSampling2D",
    "UpSampling3D",
    "Resizing",
    "Cast",
)


def check_head(model: keras.Model, role: str = "network") -> None:
    """Refuse a network that puts out several maps, or probabilities, where its graph shows it."""
    network = getattr(model, "student", model)
    outputs = getattr(network, "outputs", None)
    if isinstance(getattr(network, "output", None), dict):
        raise ValueError(
            f"The {role} has outputs by name, a dict of {sorted(network.output)}; kdcore needs the "
            "logits themselves. Pass keras.Model(network.inputs, network.output[name])."
        )
    if outputs is not None and len(outputs) != 1:
        raise ValueError(
            f"The {role} has {len(outputs)} outputs; kdcore needs one, the logits. "
            "For deep supervision pass a model of the main output alone."
        )
    end = next((name for name in _endings(network) if name in _ACTIVATIONS), None)
    if end is not None:
        raise ValueError(f"The {role} ends in {end}, so it puts out probabilities; {_WAY_OUT}")


def check_input(model: keras.Model) -> None:
    """Refuse a network of several inputs where a case, one image, is all there is."""
    names = [tensor.name for tensor in getattr(model, "inputs", None) or ()]
    if len(names) > 1:
        raise ValueError(
            f"The network {model.name} has {len(names)} inputs, {names}; a case is one image of "
            "all sequences. Pass one that splits it: "
            f"image = keras.Input((None, None, {len(names)})), "
            "keras.Model(image, network([image[..., :1], image[..., 1:]])), or with a dict."
        )
    every = layers_of(model) if isinstance(model, keras.Model) else []  # an exported one has none
    layer = next((layer for layer in every if _channels_first(layer)), None)
    if layer is not None:
        raise ValueError(
            f"The network {model.name} takes channels first (its layer {layer.name} does); "
            "kdcore's images have them last. Build it once more with data_format='channels_last' "
            "and new.set_weights(old.get_weights()): the weights are the same."
        )


def check_takes(model: keras.Model, shape: Sequence[int | None], role: str) -> None:
    """Refuse a network that does not take images `(*space, S)`, before Keras does.

    Args:
        model: A network; one that does not say its input is not looked at.
        shape: Of one image.
        role: "student" or "teacher".
    """
    check_input(model)
    expected = getattr(model, "input_shape", None)
    if not isinstance(expected, tuple):
        return
    if len(expected) != len(shape) + 1:
        raise ValueError(
            f"The {role} {model.name} takes {len(expected) - 2}-D images {expected[1:]}; these "
            f"are {len(shape) - 1}-D, {tuple(shape)}. Give Batches a shape of "
            f"{len(expected) - 2} sizes, or pass a network for these."
        )
    if None not in (expected[-1], shape[-1]) and expected[-1] != shape[-1]:
        raise ValueError(
            f"The {role} {model.name} takes {expected[-1]} sequences, the images have "
            f"{shape[-1]}. Pass cases with just those (case.select), or where it was made for "
            "colour images, repeat the scan within the network: image = keras.Input((None, None, "
            f"{shape[-1]})), keras.Model(image, network(keras.layers.Concatenate()([image] * "
            f"{expected[-1]}))). A teacher that sees other sequences than the student writes its "
            "soft targets first: kdcore.SoftTargets.write."
        )


def received(value: Any) -> str:
    """What came in place of a network, and the way out."""
    name = type(value).__name__
    if callable(getattr(value, "state_dict", None)):
        return (
            f"Received: {name}, a PyTorch module. As a teacher, write a function of a case that "
            'gives its probabilities, for kdcore.SoftTargets.write (the how-to "Coming from" has '
            "the lines for MONAI)."
        )
    if isinstance(value, str | Path):
        return f"Received: a path. Load it first: keras.saving.load_model({str(value)!r})."
    return f"Received: {name}."


def _channels_first(layer: Any) -> bool:
    return getattr(layer, "data_format", None) == "channels_first"


def check_values(
    values: np.ndarray, network: keras.Model, case_id: str, regions: bool = False
) -> None:
    """Refuse `(..., C)` outputs of a network that are probabilities, of classes or of regions.

    Not where its graph shows a linear layer at the end: a network that is hardly trained may put
    out small positive logits.
    """
    if [*_endings(network)][-1:] == ["linear"]:
        return
    separate = regions or values.shape[-1] == 1
    if _like_sigmoid(values) if separate else looks_like_probabilities(values):
        raise ValueError(
            f"{case_id}: the network {network.name} puts out values in [0, 1]"
            + (" alone" if separate else " that sum to 1")
            + f": these are probabilities; {_WAY_OUT}"
        )


_WAY_OUT = (
    "kdcore needs logits. Build its last layer with activation=None, or wrap it: "
    "kdcore.to_logits(network)."
)


def looks_like_probabilities(values: np.ndarray) -> bool:
    """Whether several voxels' channels lie in [0, 1] and sum to 1."""
    if values.shape[-1] == 1:
        return False
    voxels = values.reshape(-1, values.shape[-1])
    return bool(
        len(voxels) >= 4
        and voxels.min() >= 0
        and np.allclose(voxels.sum(-1), 1.0, atol=5e-3)  # half precision, too
        and not np.array_equal(voxels, voxels.round())
        and np.ptp(voxels) > 0
    )


def is_marked(output: Any) -> bool:
    """Whether Keras marked a tensor as what softmax or sigmoid gave, in a graph too."""
    return hasattr(output, "_keras_logits")


def to_logits(model: keras.Model, regions: bool = False) -> keras.Model:
    """A network of probabilities as one of logits: their logarithm, which softmax undoes.

    Args:
        model: `(B, ..., S)` -> `(B, ..., C)` probabilities that sum to 1, or one channel
            between 0 and 1. Probabilities below 1e-7 count as that.
        regions: Whether each channel is a region of its own between 0 and 1, which may overlap
            (a sigmoid a channel), for cases with `regions`.

    Returns:
        A functional model of the same layers and weights, with log p, or log p/(1 − p) of one
        channel or of regions. Trained through it, the network learns as with logits.

    Raises:
        ValueError: If the model is not built or has several outputs, or if it ends in a sigmoid of
            several channels and nothing says that these are regions.

    Examples:
        >>> import keras, kdcore
        >>> inputs = keras.Input((None, None, 1))
        >>> network = keras.Model(inputs, keras.layers.Conv2D(3, 1, activation="softmax")(inputs))
        >>> teacher = kdcore.to_logits(network)  # for Distiller, SoftTargets.write, evaluate, ...
        >>> teacher.output_shape
        (None, None, None, 3)
    """
    if getattr(model, "outputs", None) is None or len(model.outputs) != 1:
        raise ValueError(
            f"{model.name} is not built, or has several outputs. Expected a model with one output: "
            "call it once on an image, or pass keras.Model(inputs, the output)."
        )
    end = next((name for name in _endings(model) if name in _ACTIVATIONS), None)
    channels = model.outputs[0].shape[-1]
    if end == "sigmoid" and channels != 1 and not regions:
        raise ValueError(
            f"{model.name} ends in a sigmoid of {channels} channels, so its labels may overlap and "
            "need not sum to 1. If they are regions: kdcore.to_logits(network, regions=True), and "
            "cases with regions (kdcore.data.to_regions). If each voxel has one class, build its "
            "last layer with activation=None."
        )
    if end == "softmax" and regions:
        raise ValueError(
            f"{model.name} ends in a softmax, so its channels sum to 1 and do not overlap. Leave "
            "regions=True out."
        )
    p = ops.clip(ops.cast(model.outputs[0], "float32"), _LEAST, 1 - _LEAST)
    logits = ops.log(p) - ops.log1p(-p) if regions or channels == 1 else ops.log(p)
    return keras.Model(model.inputs, logits, name=f"{model.name}_logits")


def _like_sigmoid(values: np.ndarray) -> bool:
    low, high = float(values.min()), float(values.max())
    return values.size >= 4 and 0 <= low < high <= 1


def _endings(model: keras.Model) -> Iterator[str]:
    """Names of the operations and activations that a network ends in, the last first."""
    tensor = model.outputs[0] if getattr(model, "outputs", None) else None
    if tensor is None:
        yield from _names(model.layers[-1]) if getattr(model, "layers", None) else ()
        return
    while (history := getattr(tensor, "_keras_history", None)) is not None:
        operation = history.operation
        if isinstance(operation, keras.Model):
            yield from _endings(operation)
            return
        yield from _names(operation)
        linear = _activation(operation) == "linear" and isinstance(operation, layers.Activation)
        if not (linear or type(operation).__name__ in _PASSING):
            return
        inputs = operation.input if not isinstance(operation.input, list) else operation.input[0]
        tensor = inputs


def _names(operation: Any) -> Iterator[str]:
    yield type(operation).__name__.lower()
    yield _activation(operation)


def _activation(operation: Any) -> str:
    return str(getattr(getattr(operation, "activation", None), "__name__", ""))
