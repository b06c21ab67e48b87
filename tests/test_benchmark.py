"""The benchmark compares like with like."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import kdcore

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "docs/_tools/benchmark"))


@pytest.fixture(scope="module")
def networks():
    from torch_unet import from_keras

    keras.utils.set_random_seed(0)
    model = kdcore.unet((32, 24, 1), 3, filters=2, depth=2)
    for variable in model.non_trainable_variables:  # moving averages of a trained network
        variable.assign(keras.random.uniform(variable.shape, 0.5, 1.5))
    return model, from_keras(model)


def test_both_unets_are_the_same_function(networks, rng):
    image = rng.random((3, 32, 24, 1)).astype(np.float32)
    model, other = networks
    expected = keras.ops.convert_to_numpy(model(image, training=False))
    np.testing.assert_allclose(other.predict_on_batch(image), expected, atol=1e-4)
    count = sum(p.numel() for p in other.parameters() if p.requires_grad)
    assert count == sum(np.prod(v.shape) for v in model.trainable_variables)


def test_losses_agree(rng):
    from methods import TEMPERATURE, _soft_loss
    from torch_unet import dice_cross_entropy

    a, b = (rng.normal(size=(2, 8, 6, 3)).astype(np.float32) for _ in range(2))
    mask = rng.integers(0, 3, (2, 8, 6))
    nchw = [torch.from_numpy(z).permute(0, 3, 1, 2) for z in (a, b)]
    hard = dice_cross_entropy(torch.from_numpy(mask), nchw[1])
    assert float(hard) == pytest.approx(float(kdcore.dice_cross_entropy(mask, b)), abs=1e-5)
    expected = float(kdcore.kd_loss(a, b, TEMPERATURE))
    assert float(_soft_loss("plain")(*nchw)) == pytest.approx(expected, abs=1e-5)


def test_torchdistill_is_given_the_form_that_is_right(rng):
    pytest.importorskip("torchdistill")
    from methods import TEMPERATURE, _soft_loss

    a, b = (torch.from_numpy(rng.normal(size=(2, 3, 8, 6))).float() for _ in range(2))
    expected = float(_soft_loss("plain")(a, b))
    assert float(_soft_loss("torchdistill")(a, b)) == pytest.approx(expected, abs=1e-5)
    assert TEMPERATURE != 1
