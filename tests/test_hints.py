"""Hints teach the student's features, in the same pass, and leave the teacher as it is."""

import keras
import numpy as np
import pytest
from keras import ops

import kdcore

PAIRS = {"bottleneck_relu1": "bottleneck_relu1"}
SHAPE = (16, 16, 1)


@pytest.fixture
def networks():
    keras.utils.set_random_seed(0)
    return kdcore.unet(SHAPE, 3, 2, 1), kdcore.unet(SHAPE, 3, 4, 1)


def data(rng, n=8):
    x = rng.random((n, *SHAPE)).astype(np.float32)
    return x, rng.integers(0, 3, (n, 16, 16)).astype(np.int32)


def weights(model):
    return [ops.convert_to_numpy(w).copy() for w in model.weights]


def test_only_student_and_projector_learn(networks, rng):
    student, teacher = networks
    distiller = kdcore.Distiller(student, teacher, hints=PAIRS)
    distiller.compile(keras.optimizers.Adam(1e-2))
    before = weights(teacher), weights(student), weights(distiller.hints.projectors[0])
    distiller.fit(*data(rng), batch_size=4, epochs=2, verbose=0)
    for old, new in zip(before[0], weights(teacher), strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(
        np.any(a != b)
        for a, b in zip(before[2], weights(distiller.hints.projectors[0]), strict=True)
    )
    assert any(np.any(a != b) for a, b in zip(before[1], weights(student), strict=True))
    assert student.count_params() == kdcore.unet(SHAPE, 3, 2, 1).count_params()


@pytest.mark.job
def test_features_come_to_agree(networks, rng):
    student, teacher = networks
    x, _ = data(rng)
    unlabelled = np.full((8, 16, 16), -1, np.int32)
    distiller = kdcore.Distiller(student, teacher, alpha=0.5, hints=PAIRS, hint_weight=10)
    distiller.compile(keras.optimizers.Adam(1e-2))
    history = distiller.fit(x, unlabelled, batch_size=8, epochs=40, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]


def test_the_loss_can_be_computed_by_hand(networks, rng):
    student, teacher = networks
    x, _ = data(rng, 4)
    distiller = kdcore.Distiller(student, teacher, alpha=0.3, hints=PAIRS, hint_weight=2.0)
    distiller.compile("sgd")
    logits, loss = distiller.hints(x, x)
    wanted = keras.Model(teacher.inputs, teacher.get_layer("bottleneck_relu1").output)(x)
    ours = keras.Model(student.inputs, student.get_layer("bottleneck_relu1").output)
    kernel = ops.convert_to_numpy(distiller.hints.projectors[0].kernel)
    features = ops.convert_to_numpy(ours(x, training=True))
    wanted = ops.convert_to_numpy(wanted)
    expected = 2.0 * np.mean((features @ kernel - wanted) ** 2) / wanted.var()
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert logits.shape == (4, 16, 16, 3)


def test_evaluation_knows_no_hints(networks, rng):
    student, teacher = networks
    x, y = data(rng)
    distiller = kdcore.Distiller(student, teacher, hints=PAIRS)
    distiller.compile("sgd")
    student.compile("sgd", kdcore.DiceCrossEntropy())
    loss = distiller.evaluate(x, y, verbose=0)
    loss = loss[0] if isinstance(loss, list) else loss
    assert loss == pytest.approx(student.evaluate(x, y, verbose=0), abs=1e-5)


@pytest.mark.job
def test_saved_and_loaded_it_trains_on(networks, rng, tmp_path):
    distiller = kdcore.Distiller(*networks, hints=PAIRS, hint_weight=0.5)
    distiller.compile(keras.optimizers.Adam(1e-3))
    distiller.fit(*data(rng), verbose=0)
    distiller.save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras")
    assert loaded.hints.pairs == PAIRS and loaded.hints.weight == 0.5
    for a, b in zip(weights(distiller), weights(loaded), strict=True):
        np.testing.assert_array_equal(a, b)
    loaded.fit(*data(rng), verbose=0)


@pytest.mark.parametrize(
    ("pairs", "arguments", "message"),
    [
        ({"nothing": "logits"}, {}, r"student has no layer \['nothing'\]"),
        ({"logits": "nothing"}, {}, r"teacher has no layer \['nothing'\]"),
        ({"bottleneck_relu1": "logits"}, {}, "same sizes in space"),
        (PAIRS, {"hint_weight": 0}, "hint_weight must be"),
        (PAIRS, {"teacher": None}, "exactly one teacher"),
    ],
)
def test_impossible_hints_are_refused(networks, pairs, arguments, message):
    student, teacher = networks
    with pytest.raises(ValueError, match=message):
        kdcore.Distiller(student, **{"teacher": teacher, "hints": pairs, **arguments})
