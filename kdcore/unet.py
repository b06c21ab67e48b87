"""U-Net in 2-D and 3-D: the teacher and, with fewer filters, the student."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from kdcore._kernels import BatchNormalization

Tensor = Any


@keras.saving.register_keras_serializable("kdcore")
class UNet(keras.Model):
    """A functional U-Net that names the size it cannot work with. Build it with `unet`."""

    def __init__(
        self,
        input_shape: Sequence[int | None],
        num_classes: int,
        filters: int = 16,
        depth: int = 3,
        **kwargs: Any,
    ) -> None:
        shape = _check_arguments(input_shape, num_classes, filters, depth)
        inputs = keras.Input(shape, name="image")
        super().__init__(
            inputs, _layers(inputs, len(shape) - 1, num_classes, filters, depth), **kwargs
        )
        self.depth = depth
        self._arguments = {
            "input_shape": list(shape),
            "num_classes": num_classes,
            "filters": filters,
            "depth": depth,
        }

    def call(self, inputs: Tensor, training: bool | None = None, mask: Any = None) -> Tensor:
        check_sizes(inputs.shape[1:-1], self.depth)
        return super().call(inputs, training=training, mask=mask)

    def get_config(self) -> dict[str, Any]:
        return {**self._arguments, "name": self.name, "trainable": self.trainable}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "UNet":
        trainable = config.pop("trainable", True)
        model = cls(**config)
        model.trainable = trainable
        return model


def unet(
    input_shape: Sequence[int | None],
    num_classes: int,
    filters: int = 16,
    depth: int = 3,
    name: str | None = None,
) -> keras.Model:
    """A U-Net with raw float32 logits.

    Two 3-wide convolutions with batch normalization and ReLU a level, `depth` times
    halved by max pooling and doubled again by transposed convolution. A quarter of the
    filters is a sixteenth of the parameters: 16 filters have 0.48 M in 2-D, 4 have 31 k.

    Args:
        input_shape: `(height, width, sequences)` for 2-D, `(depth, height, width,
            sequences)` for 3-D. Sizes may be `None`; they must be multiples of
            2**`depth`.
        num_classes: Output channels, the background included; 1 means Bernoulli.
        filters: Filters of the first level; each next level has twice as many.
        depth: Number of times the image is halved.
        name: Name of the model.

    Returns:
        A `keras.Model`: `(B, ..., sequences)` -> `(B, ..., num_classes)` logits.

    Raises:
        ValueError: If an argument is impossible, or a size no multiple of 2**`depth`.

    Reference: Ronneberger et al. 2015, section 2, https://arxiv.org/abs/1505.04597; 3-D:
    Çiçek et al. 2016, https://arxiv.org/abs/1606.06650
    """
    return UNet(input_shape, num_classes, filters, depth, name=name or "unet")


def check_sizes(sizes: Sequence[int | None], depth: int) -> None:
    """Raise if a known size cannot be halved `depth` times."""
    multiple = 2**depth
    for axis, size in enumerate(sizes):
        if size is not None and (size % multiple or size == 0):
            raise ValueError(
                f"Spatial axis {axis} has size {size}, but a U-Net of depth {depth} halves "
                f"every axis {depth} times, so sizes must be multiples of {multiple}. "
                f"Pad or crop to {max(multiple, -(-size // multiple) * multiple)}, "
                "or lower `depth`."
            )


def _check_arguments(
    input_shape: Sequence[int | None], num_classes: int, filters: int, depth: int
) -> tuple[int | None, ...]:
    shape = tuple(input_shape)
    if len(shape) not in (3, 4):
        raise ValueError(
            "input_shape must be (height, width, sequences) or (depth, height, width, "
            f"sequences). Received: {shape}."
        )
    if not shape[-1]:
        raise ValueError(f"The number of sequences must be known. Received: {shape}.")
    for key, value, least in (
        ("num_classes", num_classes, 1),
        ("filters", filters, 1),
        ("depth", depth, 0),
    ):
        if int(value) != value or value < least:
            raise ValueError(f"{key} must be an integer ≥ {least}. Received: {value}.")
    check_sizes(shape[:-1], depth)
    return shape


def _layers(x: Tensor, rank: int, num_classes: int, filters: int, depth: int) -> Tensor:
    pool = {2: layers.MaxPooling2D, 3: layers.MaxPooling3D}[rank]
    upsample = {2: layers.Conv2DTranspose, 3: layers.Conv3DTranspose}[rank]
    conv = {2: layers.Conv2D, 3: layers.Conv3D}[rank]
    skips = []
    for level in range(depth):
        x = _block(x, conv, filters * 2**level, f"encoder{level}")
        skips.append(x)
        x = pool(2, name=f"pool{level}")(x)
    x = _block(x, conv, filters * 2**depth, "bottleneck")
    for level in reversed(range(depth)):
        x = upsample(filters * 2**level, 2, strides=2, name=f"upsample{level}")(x)
        x = layers.Concatenate(name=f"skip{level}")([x, skips[level]])
        x = _block(x, conv, filters * 2**level, f"decoder{level}")
    return conv(num_classes, 1, dtype="float32", name="logits")(x)


def _block(x: Tensor, conv: Any, filters: int, name: str) -> Tensor:
    for i in range(2):
        x = conv(filters, 3, padding="same", use_bias=False, name=f"{name}_conv{i}")(x)
        # Training runs here are hundreds of steps, not hundreds of thousands: with
        # Keras' momentum of 0.99 the moving averages would lag behind the weights.
        x = BatchNormalization(momentum=0.9, name=f"{name}_norm{i}")(x)
        x = layers.ReLU(name=f"{name}_relu{i}")(x)
    return x
