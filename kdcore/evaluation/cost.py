"""What a network costs: parameters, multiply-accumulates, milliseconds."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers

from kdcore._kernels import layers_of
from kdcore.unet import check_sizes, size_multiple


def count_macs(model: keras.Model, space: Sequence[int] | None = None) -> int:
    """Multiply-accumulate operations of one forward pass of one sample.

    Counts convolutions, transposed convolutions and dense layers; normalization,
    activation and pooling are left out, as is usual.

    Args:
        model: A functional model, other models within it included.
        space: Spatial sizes, where the model's own are None.

    Raises:
        ValueError: If a size is not known, or the model does not take it.

    Examples:
        >>> import kdcore
        >>> from kdcore.evaluation.cost import count_macs
        >>> count_macs(kdcore.unet((None, None, 1), 3, filters=4), (64, 48))
        6856704
    """
    sizes = tuple(model.input_shape[1:-1] if space is None else space)
    shape = (1, *sizes, model.input_shape[-1])
    if None in shape:
        raise ValueError(
            f"The cost depends on the size, but the input is {model.input_shape}. Pass space=."
        )
    check_sizes(sizes, size_multiple(model) or 1)
    counts: list[int] = []
    with _counted(model, counts):
        model.compute_output_spec(keras.KerasTensor(shape))
    return sum(counts)


@contextmanager
def _counted(model: keras.Model, counts: list[int]) -> Iterator[None]:
    """Every layer with a kernel adds its operations while shapes go through the model."""
    with_kernel = [layer for layer in layers_of(model) if hasattr(layer, "kernel")]
    for layer in with_kernel:
        layer.compute_output_spec = partial(_count, layer, counts)
    try:
        yield
    finally:
        for layer in with_kernel:
            del layer.compute_output_spec


def _count(layer: keras.layers.Layer, counts: list[int], x: Any, *args: Any, **kwargs: Any) -> Any:
    output = type(layer).compute_output_spec(layer, x, *args, **kwargs)
    transposed = isinstance(layer, layers.Conv2DTranspose | layers.Conv3DTranspose)
    grid = (x if transposed else output).shape[1:-1]
    counts.append(math.prod(layer.kernel.shape) * math.prod(grid))
    return output


def space_of(model: keras.Model, volume: Sequence[int]) -> tuple[int, ...]:
    """Spatial sizes a model sees of a `(D, H, W)` volume: its own, where they are fixed."""
    own = model.input_shape[1:-1]
    return tuple(size or have for size, have in zip(own, volume[-len(own) :], strict=True))


def milliseconds_a_slice(model: keras.Model, volume: Sequence[int], repeats: int = 15) -> float:
    """Median time of a volume's forward pass divided by its slices, on this machine, now.

    Args:
        model: 2-D, which sees the slices as a batch, or 3-D.
        volume: `(D, H, W)`.
        repeats: Measurements, after three that do not count.
    """
    batch = volume[0] if len(model.input_shape) == 4 else 1
    shape = (batch, *space_of(model, volume), model.input_shape[-1])
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for _ in range(3):
        model.predict_on_batch(images)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        model.predict_on_batch(images)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times)) / volume[0]
