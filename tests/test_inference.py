import keras
import numpy as np
import pytest
from conftest import make_case

import kdcore


def identity(shape, sequences=1, classes=2):
    """Logits (0, 10 · image): what comes out says where it came from."""
    inputs = keras.Input((*shape, sequences))
    rank = len(shape)
    conv = {2: keras.layers.Conv2D, 3: keras.layers.Conv3D}[rank]
    layer = conv(classes, 1, use_bias=False)
    model = keras.Model(inputs, layer(inputs))
    kernel = np.zeros((*[1] * rank, sequences, classes), "float32")
    kernel[..., 0, -1] = 10
    layer.set_weights([kernel])
    return model


@pytest.mark.parametrize(
    "shape",
    [(None, None), (32, 24), (16, 8), (None, None, None), (8, 32, 24), (4, 16, 8)],
)
def test_slices_windows_and_padding_come_back_in_place(shape):
    case = make_case(0, (9, 26, 20))
    p = kdcore.predict_probabilities(identity(shape), case)
    expected = 1 / (1 + np.exp(-10 * kdcore.normalize(case.image)[..., 0]))
    assert p.shape == (9, 26, 20, 2) and p.dtype == np.float32
    np.testing.assert_allclose(p[..., 1], expected, atol=1e-5)
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "window"),
    [((None, None), (16, 8)), ((None, None, None), (4, 16, 8)), ((None, 24), (16, 24))],
)
def test_a_window_changes_nothing_that_a_voxel_alone_decides(shape, window):
    case, model = make_case(0, (9, 26, 20)), identity(shape)
    whole = kdcore.predict_probabilities(model, case)
    parts = kdcore.predict_probabilities(model, case, window=window)
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    masks = [kdcore.predict_mask(model, case, window=w) for w in (None, window)]
    np.testing.assert_array_equal(*masks)


def sizes_seen(network, **how):
    """The sizes in space that a network is called with, for a scan of 9 × 29 × 43 voxels."""
    seen, predict = set(), network.predict_on_batch
    network.predict_on_batch = lambda x: (seen.add(x.shape[1:-1]), predict(x))[1]
    kdcore.predict_probabilities(network, make_case(0, (9, 29, 43)), **how)
    return seen


def halved(times, rank, by=2):
    """A network that needs sizes of which `by ** times` is a divisor."""
    pool = {2: keras.layers.MaxPooling2D, 3: keras.layers.MaxPooling3D}[rank]
    grow = {2: keras.layers.UpSampling2D, 3: keras.layers.UpSampling3D}[rank]
    x = inputs = keras.Input((None,) * rank + (1,))
    for _ in range(times):
        x = pool(by)(x)
    for _ in range(times):
        x = grow(by)(x)
    conv = {2: keras.layers.Conv2D, 3: keras.layers.Conv3D}[rank]
    return keras.Model(inputs, conv(3, 1)(keras.layers.Concatenate()([inputs, x])))


@pytest.mark.parametrize(
    ("network", "how", "expected"),
    [
        ((5, 2), {}, (32, 64)),
        ((6, 2), {}, (64, 64)),
        ((1, 2, 7), {}, (35, 49)),
        ((5, 2), {"window": (16, 16)}, (32, 32)),
        ((2, 3), {}, (12, 32, 44)),
        ((2, 3), {"window": (8, 10, 100)}, (8, 12, 44)),
    ],
)
def test_open_sizes_are_what_the_network_needs(network, how, expected):
    assert sizes_seen(halved(*network), **how) == {expected}


def test_a_window_that_does_not_fit():
    for shape, window in (((None, None), (8, 8, 8)), ((32, 24), (16, 24)), ((None, None), (8, 0))):
        with pytest.raises(ValueError, match=r"takes images of .* \(None is open\)"):
            kdcore.predict_mask(identity(shape), make_case(0), window=window)


def test_windows_of_soft_targets_and_scores(tmp_path):
    model, case = identity((None, None, None), classes=3), make_case(0)
    scores = [kdcore.evaluate(model, [case], window=w) for w in (None, (4, 16, 8))]
    np.testing.assert_equal(*scores)
    kdcore.SoftTargets.write(model, [case], tmp_path, window=(4, 16, 8))
    with pytest.raises(ValueError, match=r"another window .*was \[4, 16, 8\], is None"):
        kdcore.SoftTargets.write(model, [case], tmp_path)


def test_no_memory_left_says_what_to_pass():
    model = identity((None, None))

    def exhausted(images):
        raise RuntimeError("RESOURCE_EXHAUSTED: OOM when allocating tensor")

    model.predict_on_batch = exhausted
    with pytest.raises(MemoryError, match="Pass a smaller window="):
        kdcore.predict_mask(model, make_case(0))


def test_one_channel_gives_background_and_foreground():
    p = kdcore.predict_probabilities(identity((None, None), classes=1), make_case(0))
    assert p.shape[-1] == 2
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-6)


def test_slices_of_another_size_come_back_where_they_were():
    """A square in slices of 24 × 36, seen at 12 × 12: thirds and halves meet in the middle."""
    image = np.zeros((2, 24, 36, 1), np.float32)
    image[:, 6:18, 9:27] = 1
    case = kdcore.Case("a", image, (image[..., 0] > 0).astype(np.uint8), (1.0, 1.0, 1.0))
    inputs = keras.Input((12, 12, 1))
    darker = keras.layers.Rescaling(1.0, offset=-0.5)(inputs)  # foreground from 0.5 on
    model = keras.Model(inputs, identity((12, 12))(darker))
    p = kdcore.predict_probabilities(model, case, slice_shape=(12, 12))
    assert p.shape == (2, 24, 36, 2)
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(p, p[:, ::-1, ::-1], atol=1e-5)  # about the same centre
    inner, outer = p[:, 8:16, 12:24, 1], p[:, :3, :, 1]
    assert inner.min() > 0.99 and outer.max() < 0.01
    scores = kdcore.evaluate(model, [case], slice_shape=(12, 12))
    assert scores["a"]["1"]["dice"] > 0.85
    mask = kdcore.predict_mask(model, case, slice_shape=(12, 12))
    assert mask.shape == case.mask.shape and mask[:, 12, 18].all() and not mask[:, 0].any()


def test_mask_is_the_most_probable_label():
    model, case = identity((None, None)), make_case(0)
    mask = kdcore.predict_mask(model, case)
    assert mask.dtype == np.uint8 and mask.shape == case.mask.shape
    np.testing.assert_array_equal(mask, kdcore.predict_probabilities(model, case).argmax(-1))


def test_wrong_number_of_sequences_is_refused():
    with pytest.raises(ValueError, match="has 1 sequences .* takes 4. If it was made for colour "):
        kdcore.predict_probabilities(identity((None, None), 4), make_case(0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_that_diverged_is_no_network_of_background(value):
    model, case = identity((None, None)), make_case(0)
    model.set_weights([np.full_like(model.get_weights()[0], value)])
    for use in (kdcore.predict_mask, lambda m, c: kdcore.evaluate(m, [c])):
        with pytest.raises(ValueError, match="case_000: the network .* puts out NaN or infinity"):
            use(model, case)


def test_soft_targets_of_a_network_that_diverged_are_not_written(tmp_path):
    model = identity((None, None))
    model.set_weights([np.full_like(model.get_weights()[0], np.nan)])
    with pytest.raises(ValueError, match="puts out NaN"):
        kdcore.SoftTargets.write(model, [make_case(0)], tmp_path)


def test_what_is_no_network_and_what_is_no_case_is_said():
    model, case = kdcore.unet((32, 24, 1), 3, 2, 1), make_case(0)
    with pytest.raises(ValueError, match=r"Received: a path. Load it first: keras.saving.load_mod"):
        kdcore.predict_mask("student.keras", case)
    with pytest.raises(ValueError, match=r"Expected a kdcore\.Case .*Received: ndarray"):
        kdcore.predict_mask(model, case.image)
    with pytest.raises(ValueError, match=r"pass \[case\]"):
        kdcore.evaluate(model, case)


def test_what_is_no_segmentation_network_is_refused():
    inputs = keras.Input((32, 24, 1))
    flat = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(inputs))
    coarse = keras.layers.Conv2D(3, 1, strides=2)(inputs)
    voxels = "Expected .*'classes'.*: logits of every voxel"
    for outputs, told in ((flat, voxels), (coarse, voxels), ([coarse, coarse], "has 2 outputs")):
        with pytest.raises(ValueError, match=told):
            kdcore.predict_mask(keras.Model(inputs, outputs), make_case(0))
