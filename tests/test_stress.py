"""Losses and metrics under stress, against an independent computation in double precision.

Any shape, dtype and size of logits; masks that are empty, full or of one voxel.
"""

import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pytest import approx

import kdcore
from kdcore.evaluation.metrics import evaluate_case, surface_distances
from kdcore.losses import IGNORE

# JAX compiles each operation anew for each shape.
MANY = settings(max_examples=15 if keras.backend.backend() == "jax" else 60, deadline=None)
SCALES = (0.0, 1e-3, 1.0, 30.0, 1e3, 3e4)
DTYPES = ("float16", "float32", "float64", "bfloat16")


@st.composite
def problems(draw, least_axes=0):
    """Two logits arrays, a temperature, and a weight that may be None or 0 here and there."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    space = draw(st.lists(st.integers(1, 5), min_size=least_axes, max_size=3))
    shape = (draw(st.integers(1, 3)), *space, draw(st.integers(1, 4)))
    scales = draw(st.tuples(*[st.sampled_from(SCALES)] * 2))
    logits = [rng.normal(size=shape) * scale + 0.0 for scale in scales]  # no −0
    dtype = draw(st.sampled_from(DTYPES))
    tensors = [keras.ops.cast(np.clip(z, -6e4, 6e4), dtype) for z in logits]
    exact = [double(z) for z in tensors]
    weight = None
    if draw(st.booleans()):
        full = draw(st.booleans())
        weight = rng.integers(0, 3, shape[:-1] if full else shape[:1]).astype("float32")
    return tensors, exact, draw(st.sampled_from((0.5, 1.0, 2.0, 20.0))), weight


def double(tensor):
    """As it is, in double precision, which not every backend has."""
    return np.asarray(keras.ops.convert_to_numpy(tensor)).astype(np.float64)


def log_softmax(z, axis=-1):
    """In double precision; one channel is a Bernoulli's."""
    if axis == -1 and z.shape[-1] == 1:
        z = np.concatenate([np.zeros_like(z), z], axis=-1)
    shifted = z - z.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def weighted(values, weight):
    if weight is None:
        return float(values.mean())
    weight = full_weight(weight, values.shape)
    return float((values * weight).sum() / weight.sum()) if weight.any() else 0.0


def full_weight(weight, shape):
    weight = np.asarray(weight, np.float64)
    return np.broadcast_to(weight.reshape(*weight.shape, *[1] * (len(shape) - weight.ndim)), shape)


def kl(log_p, log_q, axis=-1):
    return (np.exp(log_p) * (log_p - log_q)).sum(axis)


def dice_form(y, p, weight, keep=None):
    """Mean over classes of Σ w (y − p)² / (Σ w (y² + p²) + 10⁻⁶), the largest weight being 1."""
    w = 1.0 if weight is None else full_weight(weight, y.shape[:-1])[..., None]
    w = w / max(np.max(w), 1e-300)
    axes = tuple(range(y.ndim - 1))
    each = (w * (y - p) ** 2).sum(axes) / ((w * (y**2 + p**2)).sum(axes) + 1e-6)
    keep = np.ones(len(each), bool) if keep is None else keep
    return float(each[keep].mean()) if keep.any() else 0.0


def near(expected, exact, temperature=1.0):
    """Single precision: T² times the rounding of a KL between logits / T of this size."""
    largest = max(np.abs(z).max() for z in exact)
    return approx(expected, rel=1e-4, abs=1e-6 * temperature * (temperature + largest))


@MANY
@given(problems())
def test_kd_loss(problem):
    tensors, exact, temperature, weight = problem
    log_p, log_q = (log_softmax(z / temperature) for z in exact)
    expected = temperature**2 * weighted(kl(log_p, log_q), weight)
    received = float(kdcore.kd_loss(*tensors, temperature, weight))
    assert received == near(expected, exact, temperature)


@MANY
@given(problems())
def test_regional_loss(problem):
    tensors, exact, temperature, weight = problem
    log_p, log_q = (log_softmax(z / temperature) for z in exact)
    expected = temperature**2 * weighted(kl(log_p, log_q), weight)
    p, q = (np.exp(log_softmax(z))[..., 1:] for z in exact)
    expected += dice_form(p, q, weight)
    received = float(kdcore.regional_kd_loss(*tensors, temperature, weight))
    assert received == near(expected, exact, temperature)


@MANY
@given(problems(least_axes=1))
def test_channel_wise_loss(problem):
    tensors, exact, temperature, weight = problem
    images = exact[0].shape[0]
    maps = [(z / temperature).reshape(images, -1, z.shape[-1]) for z in exact]
    w = full_weight(1.0 if weight is None else weight, exact[0].shape[:-1]).reshape(images, -1)
    each, of_image = [], w.max(axis=1)
    for t, s, v in zip(*maps, w, strict=True):
        if not v.any():
            each.append(np.zeros(t.shape[-1]))
            continue
        log_v = np.log(v[v > 0])[:, None]
        each.append(kl(log_softmax(t[v > 0] + log_v, 0), log_softmax(s[v > 0] + log_v, 0), 0))
    values = np.mean(each, axis=1)
    total = of_image.sum()
    expected = temperature**2 * float((values * of_image).sum() / total) if total else 0.0
    received = float(kdcore.channel_wise_loss(*tensors, temperature, weight))
    assert received == near(expected, exact, temperature)


@st.composite
def labelled(draw):
    """Logits, their exact values, a mask that may be empty, full or ignored, and a weight."""
    tensors, exact, _, weight = draw(problems(least_axes=1))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    classes, shape = max(2, exact[0].shape[-1]), exact[0].shape[:-1]
    kind = draw(st.sampled_from(("any", "empty", "full", "one voxel", "ignored", "partly")))
    mask = rng.integers(0, classes, shape)
    if kind in ("empty", "one voxel"):
        mask[:] = 0
    if kind == "one voxel":
        mask.flat[rng.integers(mask.size)] = classes - 1
    if kind == "full":
        mask[:] = classes - 1
    if kind in ("ignored", "partly"):
        mask[rng.random(shape) < (2 if kind == "ignored" else 0.5)] = IGNORE
    return tensors[0], exact[0], mask, weight


@MANY
@given(labelled(), st.sampled_from((0.0, 0.3, 1.0)), st.sampled_from((0.0, 0.2)))
def test_hard_loss(problem, dice_weight, smoothing):
    tensor, exact, mask, weight = problem
    log_p = log_softmax(exact)
    target = np.eye(log_p.shape[-1])[np.maximum(mask, 0)]
    w = (mask != IGNORE) * (1.0 if weight is None else full_weight(weight, mask.shape))
    smooth = (1 - smoothing) * target + smoothing / log_p.shape[-1]
    entropy = weighted(-(smooth * log_p).sum(-1), w)
    keep = (target[..., 1:] * w[..., None]).sum(tuple(range(mask.ndim))) > 0
    dice = dice_form(target[..., 1:], np.exp(log_p[..., 1:]), w, keep)
    received = kdcore.dice_cross_entropy(
        mask, tensor, weight, dice_weight=dice_weight, label_smoothing=smoothing
    )
    assert float(received) == near(dice_weight * dice + (1 - dice_weight) * entropy, [exact])


# --- metrics -------------------------------------------------------------------------------


@st.composite
def masks(draw):
    """Two masks of one shape, each of any kind."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=3, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    pair = []
    for _ in range(2):
        kind = draw(st.sampled_from(("empty", "full", "one voxel", "thin", "any")))
        mask = (rng.random(shape) < rng.random()).astype(np.uint8)
        if kind != "any":
            mask[:] = kind == "full"
        if kind == "one voxel":
            mask.flat[rng.integers(mask.size)] = 1
        if kind == "thin":
            mask[rng.integers(shape[0])] = 1
        pair.append(mask)
    return pair


@settings(max_examples=150, deadline=None)
@given(masks())
def test_dice_is_that_of_the_sets(pair):
    a, b = ({*zip(*np.nonzero(mask), strict=True)} for mask in pair)
    received = kdcore.dice(*pair, 1)
    if a or b:
        assert received == approx(2 * len(a & b) / (len(a) + len(b)))
    else:
        assert np.isnan(received)


@settings(max_examples=80, deadline=None)
@given(masks(), st.tuples(*[st.sampled_from((0.5, 1.0, 3.0))] * 3))
def test_surface_distances_of_any_masks(pair, spacing):
    a, b = pair
    surface_dice, hd95 = surface_distances(a, b, 1, spacing)
    if not (a.any() and b.any()):
        assert np.isnan(hd95) and (surface_dice == 0) == bool(a.any() or b.any())
        return
    longest = np.linalg.norm(np.array(a.shape) * spacing)
    assert 0 <= surface_dice <= 1 and 0 <= hd95 <= longest
    swapped = surface_distances(b, a, 1, spacing)
    assert swapped == approx((surface_dice, hd95), abs=1e-6)
    if np.array_equal(a, b):
        assert (surface_dice, hd95) == (1, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(0, 6)] * 3),
    st.tuples(*[st.integers(1, 3)] * 3),
    st.tuples(*[st.sampled_from((0.5, 1.0, 3.0))] * 3),
)
def test_a_small_structure_elsewhere_is_that_far_away(step, size, spacing):
    """A box of a few voxels, or of one, and the same box moved."""
    a, b = np.zeros((2, 12, 12, 12), np.uint8)
    a[tuple(slice(2, 2 + s) for s in size)] = 1
    b[tuple(slice(2 + m, 2 + m + s) for m, s in zip(step, size, strict=True))] = 1
    moved = np.linalg.norm(np.multiply(step, spacing))
    assume(moved == 0 or any(m >= s for m, s in zip(step, size, strict=True)))
    surface_dice, hd95 = surface_distances(a, b, 1, spacing)
    assert abs(hd95 - moved) <= np.linalg.norm(np.multiply(size, spacing)) + 1e-6
    if moved > 1 + np.linalg.norm(np.multiply(np.add(size, 1), spacing)):
        assert surface_dice == 0


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.tuples(*[st.integers(1, 5)] * 3), st.integers(2, 4), st.booleans())
def test_calibration(seed, shape, classes, certain):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.2] * classes, shape)
    p = np.eye(classes)[p.argmax(-1)] if certain else p
    labels = rng.integers(0, classes, shape)
    gaps, brier, nll = np.zeros(15), 0.0, 0.0
    for index in np.ndindex(shape):
        top = p[index].max()
        gaps[min(int(top * 15), 14)] += (p[index].argmax() == labels[index]) - top
        brier += ((p[index] - np.eye(classes)[labels[index]]) ** 2).sum()
        nll -= np.log(max(p[index][labels[index]], 1e-12))
    received = kdcore.calibration(labels, p)
    expected = {"ece": np.abs(gaps).sum(), "brier": brier, "nll": nll}
    assert received == approx({k: v / labels.size for k, v in expected.items()}, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(labelled())
def test_foreground_dice(problem):
    tensor, exact, mask, _ = problem
    channels = exact.shape[-1]
    said = (exact[..., 0] > 0).astype(int) if channels == 1 else exact.argmax(-1)
    counted = mask != IGNORE
    values = [kdcore.dice(mask[counted], said[counted], k) for k in range(1, max(2, channels))]
    defined = [value for value in values if not np.isnan(value)]
    metric = kdcore.ForegroundDice(channels)
    metric.update_state(mask, tensor)
    assert float(metric.result()) == approx(np.mean(defined) if defined else 0.0, abs=1e-5)


@pytest.mark.parametrize("kind", ["empty", "full", "one voxel"])
def test_a_whole_case_of_an_extreme_kind(kind):
    mask = np.zeros((3, 4, 5), np.uint8)
    if kind == "full":
        mask[:] = 1
    if kind == "one voxel":
        mask[1, 2, 3] = 1
    case = kdcore.Case("a", mask[..., None] + 1.0, mask, (1, 1, 1))
    right = evaluate_case(case, np.eye(2)[mask])["1"]
    wrong = evaluate_case(case, np.eye(2)[1 - mask])["1"]
    assert right.pop("volume_ml") == approx(mask.sum() / 1000)
    if kind == "empty":
        assert np.isnan(list(right.values())).all()
    else:
        assert (right["dice"], right["surface_dice_1mm"], right["hd95_mm"]) == (1, 1, 0)
    assert wrong["dice"] == 0
