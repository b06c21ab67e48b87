"""An ensemble is a network: the mean of probabilities, tempered."""

import keras
import numpy as np
import pytest
from conftest import make_case
from keras import ops
from scipy import special

import kdcore
from kdcore._provenance import teacher_digest
from kdcore.ensemble import ensemble, fit_temperature
from kdcore.evaluation.cost import count_macs

SHAPE = (16, 16, 1)


def networks(count=3, classes=3, shape=SHAPE):
    keras.utils.set_random_seed(0)
    return [kdcore.unet(shape, classes, 2, 1, name=f"n{i}") for i in range(count)]


def probabilities(logits):
    return special.softmax(ops.convert_to_numpy(logits), axis=-1)


def test_it_is_the_mean_of_probabilities(rng):
    x = rng.random((2, *SHAPE)).astype(np.float32)
    members = networks()
    expected = np.mean([probabilities(m(x)) for m in members], axis=0)
    np.testing.assert_allclose(probabilities(ensemble(members)(x)), expected, atol=1e-6)
    tempered = special.softmax(np.log(expected) / 2, axis=-1)
    np.testing.assert_allclose(probabilities(ensemble(members, 2.0)(x)), tempered, atol=1e-6)


def test_one_channel_is_the_mean_of_sigmoids(rng):
    x = rng.random((2, *SHAPE)).astype(np.float32)
    members = networks(classes=1)
    expected = np.mean([special.expit(ops.convert_to_numpy(m(x))) for m in members], axis=0)
    np.testing.assert_allclose(
        special.expit(ops.convert_to_numpy(ensemble(members)(x))), expected, atol=1e-6
    )


def test_it_is_saved_evaluated_and_counted_like_any_network(tmp_path):
    members = networks(2, shape=(None, None, None, 1))
    model = ensemble(members, 1.5)
    model.save(tmp_path / "e.keras")
    loaded = keras.saving.load_model(tmp_path / "e.keras")
    case = make_case(0, (5, 9, 8))
    expected = kdcore.predict_probabilities(model, case)
    np.testing.assert_allclose(kdcore.predict_probabilities(loaded, case), expected, atol=1e-6)
    assert model.count_params() == 2 * members[0].count_params()
    assert count_macs(model, (8, 8, 8)) == 2 * count_macs(members[0], (8, 8, 8))


def test_soft_targets_know_its_temperature_and_no_names():
    """Operations between the layers hold their constants in the graph."""
    first, again = networks(2), networks(2)
    keras.utils.set_random_seed(0)
    renamed = [kdcore.unet(SHAPE, 3, 2, 1, name=f"other{i}") for i in range(2)]
    digest = teacher_digest(ensemble(first, 1.5))
    assert (
        digest
        == teacher_digest(ensemble(again, 1.5, name="b"))
        == teacher_digest(ensemble(renamed, 1.5))
    )
    assert digest != teacher_digest(ensemble(first, 2.0))


def test_what_cannot_be_one_network_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        ensemble([])
    with pytest.raises(ValueError, match="different names"):
        ensemble(networks(1) * 2)
    with pytest.raises(ValueError, match="agree in input and classes"):
        ensemble([*networks(1), kdcore.unet(SHAPE, 2, 2, 1, name="other")])


def test_the_temperature_of_a_network_that_is_too_sure_is_found():
    """Labels are drawn from softmax(z); a network that says 3 z must be divided by 3."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(8, 32, 32, 1)).astype(np.float32)
    chance = special.expit(image[..., 0])
    case = kdcore.Case("a", image, (rng.random(chance.shape) < chance).astype(np.uint8), (1, 1, 1))
    for sureness in (3.0, 0.5):
        inputs = keras.Input((32, 32, 1))
        network = keras.Model(inputs, keras.layers.Rescaling(sureness)(inputs))
        found = fit_temperature(network, [case], normalization=None)
        assert found == pytest.approx(sureness, rel=0.1)


def test_calibration_needs_labels():
    network = networks(1)[0]
    with pytest.raises(ValueError, match="no mask"):
        fit_temperature(network, [make_case(0, labelled=False)])
    with pytest.raises(ValueError, match="at least one case"):
        fit_temperature(network, [])
