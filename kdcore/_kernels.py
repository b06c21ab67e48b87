"""Many small operations in one kernel, where TensorFlow does not do it by itself.

On a CPU the training step of a small network is ruled by the number of operations, not by
arithmetic. This is the only module that calls TensorFlow; the other backends compile the
whole step (JAX) or run the same operations one by one (PyTorch).
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import keras

Tensor = Any
Function = TypeVar("Function", bound=Callable[..., Any])


def one_kernel(function: Function) -> Function:
    """Let XLA make one kernel of a function of tensors, forward and backward.

    Only inside a TensorFlow graph, as `fit` builds one; called eagerly it is the function
    itself, so that values can be checked and stepped through.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    compiled = tf.function(function, jit_compile=True, autograph=False)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (function if tf.executing_eagerly() else compiled)(*args, **kwargs)

    return call  # type: ignore[return-value]


@keras.saving.register_keras_serializable("kdcore")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer, in TensorFlow trained by the kernel that does it in one pass.

    Keras computes mean, variance and their gradients one by one, a third of a small
    network's step. The moving variance is the unbiased one, n / (n − 1) of Keras'.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Any = None) -> Tensor:
        learns = training and self.trainable and mask is None and not self.synchronized
        if not (learns and keras.backend.backend() == "tensorflow" and _fits(inputs)):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        shape = keras.ops.shape(inputs)
        flat = keras.ops.reshape(inputs, (-1, *shape[-3:]))  # the kernel knows two axes of space
        output, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=flat,
            scale=keras.ops.cast(self.gamma, "float32"),
            offset=keras.ops.cast(self.beta, "float32"),
            mean=self.moving_mean,
            variance=self.moving_variance,
            epsilon=self.epsilon,
            exponential_avg_factor=1 - self.momentum,
            is_training=True,
        )
        self.moving_mean.assign(mean)
        self.moving_variance.assign(variance)
        return keras.ops.reshape(output, shape)


def _fits(inputs: Tensor) -> bool:
    return len(inputs.shape) >= 4 and keras.backend.standardize_dtype(inputs.dtype) != "float64"
