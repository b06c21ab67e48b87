"""What a network costs: parameters, multiply-accumulates, milliseconds."""

import time
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from kdcore.unet import UNet


def count_macs(model: keras.Model, space: Sequence[int] | None = None) -> int:
    """Multiply-accumulate operations of one forward pass of one sample.

    Counts convolutions, transposed convolutions and dense layers; normalization,
    activation and pooling are left out, as is usual.

    Args:
        model: A functional model.
        space: Spatial sizes, for a `kdcore.unet` whose own are None.

    Raises:
        ValueError: If a size is not known.
    """
    members = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    if members:  # an ensemble
        return sum(count_macs(member, space) for member in members)
    if space is not None and isinstance(model, UNet):
        model = UNet(**{**model.get_config(), "input_shape": (*space, model.input_shape[-1])})
    if None in model.input_shape[1:]:
        raise ValueError(
            f"The cost depends on the size, but the input is {model.input_shape}. Build the "
            "same network with known sizes."
        )
    total = 0
    for layer in model.layers:
        kernel = getattr(layer, "kernel", None)
        if kernel is None:
            continue
        transposed = isinstance(layer, layers.Conv2DTranspose | layers.Conv3DTranspose)
        grid = (layer.input if transposed else layer.output).shape[1:-1]
        total += int(np.prod(kernel.shape)) * int(np.prod(grid))
    return total


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
