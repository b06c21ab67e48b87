"""U-Net in 2-D and 3-D: the teacher and, with fewer filters, the student."""

from collections.abc import Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import keras
from keras import layers

from kdcore._kernels import fuse_normalization

Tensor = Any


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
        A functional `keras.Model` of Keras' own layers, `(B, ..., sequences)` ->
        `(B, ..., num_classes)` logits. What `model.save` writes loads without kdcore.

    Raises:
        ValueError: If an argument is impossible, or a size no multiple of 2**`depth`.

    Examples:
        >>> import kdcore
        >>> student = kdcore.unet((64, 48, 1), num_classes=3, filters=4)
        >>> student.count_params(), student.output_shape
        (30831, (None, 64, 48, 3))

    Reference: Ronneberger et al. 2015, section 2, https://arxiv.org/abs/1505.04597; 3-D:
    Çiçek et al. 2016, https://arxiv.org/abs/1606.06650
    """
    shape = _check_arguments(input_shape, num_classes, filters, depth)
    image = keras.Input(shape, name="image")
    logits = _layers(image, len(shape) - 1, num_classes, filters, depth)
    model = keras.Model(image, logits, name=name or "unet")
    fuse_normalization(model)
    leave_out_own_losses(model)
    return model


def leave_out_own_losses(model: keras.Model) -> None:
    """Let a model's file say nothing of losses and metrics of kdcore, without which it then loads.

    The network loaded from it has to be compiled again. What Keras has itself is kept.
    """

    def get_compile_config() -> dict[str, Any]:
        config = type(model).get_compile_config(model)
        return {} if "kdcore" in str(config) else config

    model.get_compile_config = get_compile_config


def size_multiple(network: keras.Model) -> int | None:
    """What sizes in space must be multiples of, so that a network puts out the size it was given.

    The network itself is asked: sizes go through its graph as shapes, without any voxel. So
    strides, pooling, patches and networks within it count, and an attention branch that
    pools everything away does not.

    Args:
        network: Functional, `(B, ..., S)` -> `(B, ..., C)`.

    Returns:
        A power of two, or 3, 5 or 7 times one, up to 64; `None` if none of them does, if the
        sizes are fixed, or if the network's graph cannot be seen.

    Examples:
        >>> import kdcore
        >>> from kdcore.unet import size_multiple
        >>> size_multiple(kdcore.unet((None, None, 1), num_classes=3, depth=3))
        8
    """
    if network not in _known:
        _known[network] = next((m for m in _MULTIPLES if _takes(network, m)), None)
    return _known[network]


_MULTIPLES = [odd * 2**k for odd in (1, 3, 5, 7) for k in range(7) if odd * 2**k <= 64]
_known: WeakKeyDictionary[keras.Model, int | None] = WeakKeyDictionary()


def _takes(network: keras.Model, multiple: int) -> bool:
    """Whether it takes eleven times the multiple, of which nothing else is a divisor."""
    own = getattr(network, "input_shape", None)
    if not isinstance(own, tuple) or None not in own[1:-1]:
        return False
    sizes = tuple(size or 11 * multiple for size in own[1:-1])
    try:
        output = _Traced(network).compute_output_spec(
            keras.KerasTensor((1, *sizes, own[-1] or 1), network.inputs[0].dtype)
        )
    except Exception:  # whatever the layers and the backend raise
        return False
    return getattr(output, "shape", ())[1:-1] == sizes


class _Traced(layers.Layer):
    """Its shapes are those that the backend finds: some layers of Keras do not compare theirs."""

    def __init__(self, network: keras.Model) -> None:
        super().__init__(dtype=network.dtype_policy)
        self.network = network

    def call(self, image: Tensor) -> Tensor:
        return self.network(image, training=False)


def check_sizes(sizes: Sequence[int | None], multiple: int) -> None:
    """Raise if a known size is no multiple of what a network needs."""
    for axis, size in enumerate(sizes):
        if size is not None and (size % multiple or size == 0):
            raise ValueError(
                f"Spatial axis {axis} has size {size}, but sizes must be multiples of "
                f"{multiple}: a U-Net of depth d halves them d times, so 2**d. Pad or crop to "
                f"{max(multiple, -(-size // multiple) * multiple)}, or lower its `depth`."
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
    check_sizes(shape[:-1], 2**depth)
    return shape


def _layers(x: Tensor, rank: int, num_classes: int, filters: int, depth: int) -> Tensor:
    pool, upsample, conv = (
        partial(layer, data_format="channels_last")  # whatever ~/.keras/keras.json says
        for layer in {
            2: (layers.MaxPooling2D, layers.Conv2DTranspose, layers.Conv2D),
            3: (layers.MaxPooling3D, layers.Conv3DTranspose, layers.Conv3D),
        }[rank]
    )
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
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm{i}")(x)
        x = layers.ReLU(name=f"{name}_relu{i}")(x)
    return x
