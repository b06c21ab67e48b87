"""Probabilities are refused at every door, however the network hides them; the way out is right."""

import keras
import numpy as np
import pytest
from conftest import make_case
from keras import layers

import kdcore
from kdcore.ensemble import ensemble, fit_temperature

SHAPE = (16, 16, 1)


def network(head, classes=3, name=None):
    """A convolution with a head: what was asked for, or raw logits."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    ending = head if head in ("softmax", "sigmoid") else None
    bias = keras.initializers.Constant(-1.0)  # so that one channel has values below 0
    x = layers.Conv2D(classes, 1, activation=ending, bias_initializer=bias)(inputs)
    heads = {
        "layer": layers.Softmax(),
        "activation": layers.Activation("sigmoid" if classes == 1 else "softmax"),
        "operation": keras.ops.softmax,
        "nested": keras.Sequential([layers.Softmax()]),
        "nested twice": keras.Sequential([keras.Sequential([layers.Softmax()])]),
        "upsampled": lambda z: layers.UpSampling2D(1)(layers.Softmax()(z)),
        "named": lambda z: layers.Activation("linear", dtype="float32")(layers.Softmax()(z)),
        "unseen": lambda z: keras.ops.exp(z) / keras.ops.sum(keras.ops.exp(z), -1, keepdims=True),
        "unseen sigmoid": lambda z: 1 / (1 + keras.ops.exp(-z)),
    }
    return keras.Model(inputs, heads[head](x) if head in heads else x, name=name)


SEEN = ["softmax", "sigmoid", "layer", "activation", "operation", "nested", "nested twice",
        "upsampled", "named"]  # fmt: skip


@pytest.mark.parametrize("head", SEEN)
def test_a_head_that_the_graph_shows_is_refused(head):
    with pytest.raises(ValueError, match="ends in (softmax|sigmoid).*activation=None.*to_logits"):
        kdcore.Distiller(network("none"), network(head))


DOORS = {
    "predict_probabilities": lambda m, c: kdcore.predict_probabilities(m, c),
    "predict_mask": lambda m, c: kdcore.predict_mask(m, c),
    "evaluate": lambda m, c: kdcore.evaluate(m, [c]),
    "SoftTargets.write": lambda m, c: kdcore.SoftTargets.write(m, [c], "soft"),
    "fit_temperature": lambda m, c: fit_temperature(m, [c]),
    "check_teaching": lambda m, c: kdcore.check_teaching(network("none"), m, [c]),
}


@pytest.mark.parametrize("head", ["nested", "unseen"])
@pytest.mark.parametrize("door", DOORS)
def test_at_every_door_that_sees_values(door, head, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"probabilities; .* kdcore.to_logits"):
        DOORS[door](network(head), make_case(0, (3, 16, 16)))


@pytest.mark.parametrize("head", ["sigmoid", "unseen sigmoid"])
def test_one_channel_that_never_leaves_0_to_1(head):
    with pytest.raises(ValueError, match=r"probabilities; .* kdcore.to_logits"):
        kdcore.predict_mask(network(head, classes=1), make_case(0, (3, 16, 16)))


def test_ensembles_and_plain_training(tmp_path):
    with pytest.raises(ValueError, match="ends in softmax"):
        ensemble([network("layer", name="a"), network("layer", name="b")])
    batches = kdcore.Batches([make_case(0, (3, 16, 16))], (16, 16), 2, num_batches=1)
    model = network("nested")
    model.compile("adam", loss=kdcore.DiceCrossEntropy())
    with pytest.raises(ValueError, match="ends in softmax"):
        kdcore.fit(model, batches, 1, tmp_path / "run")


@pytest.mark.skipif(
    keras.backend.backend() == "torch",
    reason="Keras' fit fails: grad_input must be contiguous",
)
def test_probabilities_may_be_trained_with_a_loss_of_probabilities(tmp_path):
    batches = kdcore.Batches([make_case(0, (3, 16, 16))], (16, 16), 2, num_batches=1)
    model = network("softmax")
    model.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy())
    trained = kdcore.fit(model, batches, 1, tmp_path / "run", verbose=0)
    assert kdcore.to_logits(trained).output_shape == (None, *SHAPE[:2], 3)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX's arrays cannot be marked")
@pytest.mark.parametrize("head", ["softmax", "layer"])
def test_keras_own_fit_with_a_loss_of_ours(head):
    model = network(head)
    model.compile("adam", loss=kdcore.DiceCrossEntropy())
    x, y = np.zeros((2, *SHAPE), "float32"), np.zeros((2, 16, 16), "int32")
    with pytest.raises(ValueError, match="expects logits"):
        model.fit(x, y, verbose=0)


@pytest.mark.parametrize(("head", "classes"), [("softmax", 3), ("nested", 3), ("sigmoid", 1)])
def test_the_way_out_gives_the_same_as_logits(head, classes, tmp_path):
    case = make_case(0, (3, 16, 16))
    plain, wrapped = network("none", classes), kdcore.to_logits(network(head, classes))
    wrapped.set_weights(plain.get_weights())
    expected = kdcore.predict_probabilities(plain, case)
    np.testing.assert_allclose(kdcore.predict_probabilities(wrapped, case), expected, atol=1e-5)
    targets = kdcore.SoftTargets.write(wrapped, [case], tmp_path / "soft")
    np.testing.assert_allclose(np.exp(targets["case_000"][..., 1]), expected[..., 1], atol=2e-3)
    kdcore.Distiller(network("none", classes), wrapped)


def test_what_only_resembles_probabilities_passes():
    """Logits that are positive, that sum to 1, or that are all the same."""
    case = make_case(0, (3, 16, 16))
    inputs = keras.Input(SHAPE)
    for outputs in (
        layers.Concatenate()([inputs * 0 + 5, inputs * 0 - 4]),
        layers.Concatenate()([inputs, inputs + 1]),
        inputs * 0,
    ):
        assert kdcore.predict_mask(keras.Model(inputs, outputs), case).shape == (3, 16, 16)


def test_small_positive_logits_of_a_linear_layer_are_no_probabilities():
    """A network that has hardly learnt may stay between 0 and 1; its graph says what they are."""
    inputs = keras.Input(SHAPE)
    last = layers.Conv2D(1, 1, kernel_initializer="zeros", bias_initializer="ones")
    last.build((None, *SHAPE))
    model = keras.Model(inputs, last(inputs))
    last.set_weights([np.full((1, 1, SHAPE[-1], 1), 0.01), np.full(1, 0.4)])
    mask = kdcore.predict_mask(model, make_case(0, (3, 16, 16)))
    assert mask.all()  # a logit above 0 is foreground


@pytest.mark.parametrize("door", [*sorted({*DOORS} - {"check_teaching"}), "ensemble", "export"])
def test_a_network_of_several_inputs_is_told_to_split_a_case(door, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    t1, flair = (keras.Input((16, 16, 1), name=name) for name in ("T1", "FLAIR"))
    both = layers.Conv2D(3, 1)(layers.Concatenate()([t1, flair]))
    two = keras.Model([t1, flair], both)
    case = make_case(0)
    case = kdcore.Case("a", np.repeat(case.image, 2, -1), case.mask, (1, 1, 1), ("T1", "FLAIR"))
    doors = {
        **DOORS,
        "ensemble": lambda m, c: ensemble([m]),
        "export": lambda m, c: kdcore.export(m, "x.onnx"),
    }
    with pytest.raises(ValueError, match=r"has 2 inputs, \['T1', 'FLAIR'\].*one that splits it"):
        doors[door](two, case)
    image = keras.Input((16, 16, 2))
    whole = keras.Model(image, two([image[..., :1], image[..., 1:]]))
    assert kdcore.predict_mask(whole, case).shape == case.mask.shape


def test_a_dict_of_outputs_is_refused_in_words():
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, {"main": layers.Conv2D(3, 1)(inputs)})
    for call in (lambda: kdcore.Distiller(model), lambda: kdcore.predict_mask(model, make_case(0))):
        with pytest.raises(ValueError, match=r"a dict of \['main'\].*network.output\[name\]"):
            call()
    kdcore.Distiller(keras.Model(model.inputs, model.output["main"]))


def test_a_sequential_network():
    parts = [keras.Input(SHAPE), layers.Conv2D(3, 1)]
    plain = keras.Sequential(parts)
    assert kdcore.predict_mask(plain, make_case(0, (3, 16, 16))).shape == (3, 16, 16)
    kdcore.Distiller(plain, network("none"))
    with pytest.raises(ValueError, match="ends in softmax"):
        kdcore.Distiller(keras.Sequential([*parts, layers.Softmax()]))


def test_a_softmax_in_the_middle_is_no_head():
    inputs = keras.Input(SHAPE)
    gate = layers.Conv2D(3, 1, activation="softmax")(inputs)
    kdcore.Distiller(network("none"), keras.Model(inputs, layers.Conv2D(3, 1)(gate)))


def test_a_network_that_is_not_built_cannot_be_wrapped():
    with pytest.raises(ValueError, match="is not built"):
        kdcore.to_logits(keras.Sequential([layers.Softmax()]))
