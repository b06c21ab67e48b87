"""Whole cases through a network: cut, predict, put back together."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import keras
import numpy as np
from scipy import special

from kdcore.data.cases import Case
from kdcore.data.grid import resize, resize_map
from kdcore.heads import check_head, check_input, check_values, received
from kdcore.normalization import Normalization, apply_normalization
from kdcore.unet import size_multiple

_VOXELS_A_BATCH = 64 * 64 * 48
_UNKNOWN_MULTIPLE = 16  # suits most networks that cannot be asked


def predict_probabilities(
    model: keras.Model,
    case: Case,
    normalization: Normalization = "percentile",
    slice_shape: tuple[int, int] | None = None,
    window: Sequence[int] | None = None,
) -> np.ndarray:
    """Class probabilities of every voxel of a case.

    A 2-D network sees each slice along the first axis, a 3-D network the volume. Sizes
    are padded with the border's values to what the network takes (its graph is asked for the
    multiple it needs); where its input is smaller than the scan, overlapping windows are averaged.

    Args:
        model: Raw logits out; one channel means Bernoulli. A `Distiller` works too.
        case: The scan; its mask is not looked at.
        normalization: The one the network was trained with.
        slice_shape: `(height, width)` that slices are brought to, for a network that was trained
            on scans from `kdcore.data.resize`; its probabilities are brought back.
        window: Sizes that a network of open ones is given at once, `(height, width)` or `(depth,
            height, width)`, for scans that are too large for the memory; None gives it all. They
            are rounded up to what the network takes.

    Returns:
        `(D, H, W, C)` float32 that sum to 1, of the case's own voxels; a Bernoulli network gives
        C = 2. Of a case with `regions` `(D, H, W, R)`, each region's own probability: the network
        then has a logit a region, as before a sigmoid.

    Raises:
        ValueError: If the network takes another number of sequences, or puts out NaN or
            probabilities; if a window does not fit it.

    Examples:
        >>> import kdcore
        >>> cases = kdcore.simulate_cases(2, seed=0, simulation=kdcore.Simulation(spacing_mm=6.0))
        >>> model = kdcore.unet((None, None, 4), num_classes=3, filters=2, depth=1)
        >>> probabilities = kdcore.predict_probabilities(model, cases[0])
        >>> probabilities.shape == (*cases[0].mask.shape, 3)
        True
    """
    if slice_shape is not None and isinstance(case, Case):
        small = resize(replace(case, mask=None), slice_shape)
        found = predict_probabilities(model, small, normalization, window=window)
        return resize_map(found, case.image.shape[1:3])
    network = getattr(model, "student", model)
    if not hasattr(network, "predict_on_batch"):
        raise ValueError(f"Expected a keras.Model or an exported network. {received(network)}")
    if not isinstance(case, Case):
        raise ValueError(
            "Expected a kdcore.Case (kdcore.read_case reads one from a file). "
            f"Received: {type(case).__name__}."
        )
    check_head(network)
    check_input(network)
    logits = _logits(network, apply_normalization(case.image, normalization), case, window)
    check_values(logits, network, case.case_id, case.regions is not None)
    if case.regions is not None and logits.shape[-1] != len(case.regions):
        raise ValueError(
            f"{case.case_id} has the regions {case.regions}; the network {network.name} puts out "
            f"{logits.shape[-1]} channels. Expected a logit a region."
        )
    if case.regions is None and logits.shape[-1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    highest = logits.max(axis=-1, keepdims=True)
    if not np.isfinite(highest).all():
        raise ValueError(
            f"{case.case_id}: the network {network.name} puts out NaN or infinity. Its training "
            "diverged, or its weights are damaged: train it again, with a smaller learning rate."
        )
    if case.regions is not None:
        return np.asarray(special.expit(logits))
    logits -= highest
    np.exp(logits, out=logits)
    return logits / logits.sum(axis=-1, keepdims=True)


def predict_mask(
    model: keras.Model,
    case: Case,
    normalization: Normalization = "percentile",
    slice_shape: tuple[int, int] | None = None,
    window: Sequence[int] | None = None,
) -> np.ndarray:
    """Most probable label of every voxel, `(D, H, W)` uint8; arguments as above.

    Of a case with `regions` `(D, H, W, R)`: 1 where a region's probability is above ½.

    Examples:
        >>> import kdcore
        >>> cases = kdcore.simulate_cases(2, seed=0, simulation=kdcore.Simulation(spacing_mm=6.0))
        >>> model = kdcore.unet((None, None, 4), num_classes=3, filters=2, depth=1)
        >>> mask = kdcore.predict_mask(model, cases[0])
        >>> mask.shape == cases[0].mask.shape, mask.dtype
        (True, dtype('uint8'))
    """
    probabilities = predict_probabilities(model, case, normalization, slice_shape, window)
    return most_probable(probabilities, case).astype(np.uint8)


def most_probable(probabilities: np.ndarray, case: Case) -> np.ndarray:
    """Labels of `(D, H, W, C)` probabilities, or 0 and 1 of each region."""
    return probabilities.argmax(axis=-1) if case.regions is None else probabilities > 0.5


def as_answers(
    mask: np.ndarray, probabilities: np.ndarray, case: Case
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of each voxel; of regions each is a question of yes or no.

    Returns:
        `(n,)` labels, −1 where there is none, and `(n, C)` probabilities that sum to 1.
    """
    if case.regions is None:
        return mask.reshape(-1), probabilities.reshape(-1, probabilities.shape[-1])
    p = probabilities.reshape(-1)
    return mask.reshape(-1), np.stack([1 - p, p], axis=-1)


def _logits(
    network: keras.Model, image: np.ndarray, case: Case, window: Sequence[int] | None
) -> np.ndarray:
    try:
        expected = tuple(network.input_shape[1:])
    except AttributeError as error:
        raise ValueError(
            f"{network.name} does not say its input shape, so a case cannot be cut for "
            "it. Wrap it: "
            "keras.Model(inputs, model(inputs)) with inputs = keras.Input((None, None, sequences))."
        ) from error
    if expected[-1] not in (None, image.shape[-1]):
        raise ValueError(
            f"{case.case_id} has {image.shape[-1]} sequences {case.sequences}, the network "
            f"takes {expected[-1]}. {_way_out(expected[-1], image.shape[-1])}"
        )
    rank = len(expected) - 1
    items = image if rank == 2 else image[None]  # (N, *space, S)
    space = items.shape[1:-1]
    sizes = _sizes_at_once(network, expected[:-1], space, window)
    padded_space = [max(have, want) for have, want in zip(space, sizes, strict=True)]
    items = np.stack([pad_to(item, padded_space) for item in items])
    total, count = None, np.zeros((*padded_space, 1), np.float32)
    for place in _places(padded_space, sizes):
        part = _run(network, items[(slice(None), *place)])
        if total is None:
            total = np.zeros((*items.shape[:-1], part.shape[-1]), np.float32)
        total[(slice(None), *place)] += part
        count[place] += 1
    assert total is not None
    total /= count
    keep = tuple(
        slice((p - h) // 2, (p - h) // 2 + h) for p, h in zip(padded_space, space, strict=True)
    )
    total = total[(slice(None), *keep)]
    return np.array(total if rank == 2 else total[0])


def _way_out(wanted: int, there: int) -> str:
    if there == 1:
        return (
            "If it was made for colour images, repeat the scan: dataclasses.replace(case, image="
            f"np.repeat(case.image, {wanted}, axis=-1), sequences=({wanted} names))."
        )
    return "Pass cases with just those sequences."


def _sizes_at_once(
    network: keras.Model,
    own: Sequence[int | None],
    space: Sequence[int],
    window: Sequence[int] | None,
) -> list[int]:
    """The network's own sizes, and where they are open the window's or the scan's, rounded up."""
    if window is not None:
        fits = len(window) == len(own) and all(edge >= 1 for edge in window)
        pairs = zip(own, window, strict=False)
        if not fits or any(size not in (None, edge) for size, edge in pairs):
            raise ValueError(
                f"{network.name} takes images of {tuple(own)} voxels (None is open). A window has "
                f"as many sizes, each 1 or more. Received: {tuple(window)}."
            )
    multiple = size_multiple(network) or _UNKNOWN_MULTIPLE
    wanted = space if window is None else [min(pair) for pair in zip(space, window, strict=True)]
    return [size or -(-edge // multiple) * multiple for size, edge in zip(own, wanted, strict=True)]


def _places(space: Sequence[int], window: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Windows that cover the space, overlapping by at least half a window."""
    starts = []
    for have, want in zip(space, window, strict=True):
        steps = -(-(have - want) // max(1, want // 2)) + 1
        starts.append(sorted({round(s) for s in np.linspace(0, have - want, steps)}))
    for corner in product(*starts):
        yield tuple(slice(s, s + w) for s, w in zip(corner, window, strict=True))


def _run(network: keras.Model, items: np.ndarray) -> np.ndarray:
    """Batches of one size, the last one filled up, so that little is compiled twice."""
    most = max(1, _VOXELS_A_BATCH // int(np.prod(items.shape[1:-1])))
    size = min(most, -(-len(items) // 16) * 16 if len(items) > 1 else 1)
    outputs = []
    for start in range(0, len(items), size):
        batch = items[start : start + size]
        filler = np.repeat(batch[-1:], size - len(batch), axis=0)
        filled = np.concatenate([batch, filler])
        try:
            logits = network.predict_on_batch(filled)
        except Exception as error:  # of each backend's own kind
            if not re.search(
                r"exhausted|out of memory|\bOOM\b", f"{type(error).__name__} {error}", re.I
            ):
                raise
            raise MemoryError(
                f"{network.name} runs out of memory on {filled.shape}. Pass a smaller window=, "
                f"such as {tuple(min(edge, 64) for edge in filled.shape[1:-1])}, to predict_mask, "
                "evaluate or SoftTargets.write."
            ) from error
        shape = getattr(logits, "shape", (type(logits).__name__,))  # a list of several outputs
        if tuple(shape[:-1]) != filled.shape[:-1]:
            raise ValueError(
                f"{network.name} puts out {tuple(shape)} for images of shape {filled.shape}. "
                f"Expected {(*filled.shape[:-1], 'classes')}: logits of every voxel."
            )
        outputs.append(np.asarray(logits, np.float32)[: len(batch)])
    return np.concatenate(outputs)


def pad_to(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Pad the leading axes to `shape` around the middle, with the border's values."""
    missing = [target - size for target, size in zip(shape, array.shape, strict=False)]
    if not any(missing):
        return array
    before_after = [(m // 2, m - m // 2) for m in missing]
    before_after += [(0, 0)] * (array.ndim - len(shape))
    return np.pad(array, before_after, mode="edge")
