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


def test_one_channel_gives_background_and_foreground():
    p = kdcore.predict_probabilities(identity((None, None), classes=1), make_case(0))
    assert p.shape[-1] == 2
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-6)


def test_mask_is_the_most_probable_label():
    model, case = identity((None, None)), make_case(0)
    mask = kdcore.predict_mask(model, case)
    assert mask.dtype == np.uint8 and mask.shape == case.mask.shape
    np.testing.assert_array_equal(mask, kdcore.predict_probabilities(model, case).argmax(-1))


def test_wrong_number_of_sequences_is_refused():
    with pytest.raises(ValueError, match="has 1 sequences .* takes 4"):
        kdcore.predict_probabilities(identity((None, None), 4), make_case(0))
