"""Many small operations in one kernel, where TensorFlow does not do it by itself.

On a CPU the training step of a small network is ruled by the number of operations, not by
arithmetic. This is the only module that calls TensorFlow; the other backends compile the
whole step (JAX) or run the same operations one by one (PyTorch).
"""

from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import Any, TypeVar

import keras

Tensor = Any
Function = TypeVar("Function", bound=Callable[..., Any])


def one_kernel(function: Function) -> Function:
    """Let XLA make one kernel of a function of tensors, forward and backward.

    Only inside a TensorFlow graph, as `fit` builds one; called eagerly it is the function
    itself, so that values can be checked and stepped through. On several replicas, too, since
    one kernel cannot wait for the others' sums.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    compiled = tf.function(function, jit_compile=True, autograph=False)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        plain = tf.executing_eagerly() or _replicas() is not None
        return (function if plain else compiled)(*args, **kwargs)

    return call  # type: ignore[return-value]


def over_replicas(total: Tensor) -> Tensor:
    """The sum over the replicas of a TensorFlow strategy; elsewhere `total` itself.

    So a ratio of sums is that of the whole batch, whichever replica holds a class or a label.
    JAX needs nothing of the kind: its sums run over all devices anyway.
    """
    if keras.backend.backend() != "tensorflow" or (replicas := _replicas()) is None:
        return total
    return replicas.all_reduce("SUM", total)


def _replicas() -> Any:
    """TensorFlow's context, if this runs on one of several replicas."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def fuse_normalization(model: keras.Model) -> None:
    """Train a model's batch normalizations by the kernel that does it in one pass (TensorFlow).

    With oneDNN that takes a fifth off the step of a small 2-D network and next to nothing off a
    large or 3-D one (docs/design.md). The moving variance is the unbiased one, n / (n − 1) of
    Keras'.

    The layers stay Keras' own, only their `call` is another: a saved file holds nothing of
    kdcore, and what is loaded from it, or cloned, trains by Keras' own operations.
    """
    if keras.backend.backend() == "tensorflow":
        for layer in _normalizations(model):
            layer.call = MethodType(_normalize, layer)


def is_fused(model: keras.Model) -> bool:
    """Whether `fuse_normalization` was called for the model."""
    return any("call" in vars(layer) for layer in _normalizations(model))


def layers_of(model: keras.Model) -> list[keras.layers.Layer]:
    """Every layer of a model once, those of the models within it included."""
    found = {}
    for layer in model.layers:
        found[id(layer)] = layer
        if isinstance(layer, keras.Model):
            found |= {id(inner): inner for inner in layers_of(layer)}
    return list(found.values())


def _normalizations(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    return [x for x in layers_of(model) if isinstance(x, keras.layers.BatchNormalization)]


def _normalize(
    layer: keras.layers.BatchNormalization,
    inputs: Tensor,
    training: bool | None = None,
    mask: Any = None,
) -> Tensor:
    learns = training and layer.trainable and mask is None and not layer.synchronized
    if not (learns and _fits(inputs)):
        return type(layer).call(layer, inputs, training=training, mask=mask)
    import tensorflow as tf

    shape = keras.ops.shape(inputs)
    flat = keras.ops.reshape(inputs, (-1, *shape[-3:]))  # the kernel knows two axes of space
    output, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=flat,
        scale=keras.ops.cast(layer.gamma, "float32"),
        offset=keras.ops.cast(layer.beta, "float32"),
        mean=layer.moving_mean,
        variance=layer.moving_variance,
        epsilon=layer.epsilon,
        exponential_avg_factor=1 - layer.momentum,
        is_training=True,
    )
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
    return keras.ops.reshape(output, shape)


def _fits(inputs: Tensor) -> bool:
    return len(inputs.shape) >= 4 and keras.backend.standardize_dtype(inputs.dtype) != "float64"
