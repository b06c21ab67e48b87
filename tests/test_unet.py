import keras
import numpy as np
import pytest

import kdcore


def test_a_quarter_of_the_filters_is_a_fifteenth_of_the_parameters():
    teacher, student = (kdcore.unet((64, 48, 1), 3, filters=f) for f in (16, 4))
    assert teacher.count_params() == 483_891
    assert student.count_params() == 30_831
    assert teacher.count_params() >= 15 * student.count_params()


@pytest.mark.parametrize("shape", [(16, 24, 2), (8, 16, 8, 1)])
def test_raw_float32_logits_of_the_input_size(shape, rng):
    model = kdcore.unet(shape, 3, filters=2, depth=2)
    logits = model.predict(rng.normal(size=(2, *shape)).astype("float32"), verbose=0)
    assert logits.shape == (2, *shape[:-1], 3) and logits.dtype == np.float32
    assert not np.allclose(logits.sum(-1), 1)


def test_sizes_may_be_unknown(rng):
    model = kdcore.unet((None, None, 1), 2, filters=2, depth=2)
    for size in (8, 12):
        assert model.predict(np.zeros((1, size, 8, 1)), verbose=0).shape == (1, size, 8, 2)


def test_wrong_size_is_named():
    with pytest.raises(ValueError, match="axis 1 has size 50.*multiples of 8.*to 56"):
        kdcore.unet((64, 50, 1), 3)
    model = kdcore.unet((None, None, 1), 3, filters=2)
    with pytest.raises(ValueError, match="axis 0 has size 20.*multiples of 8"):
        model.predict(np.zeros((1, 20, 16, 1)), verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (64, 48)}, "input_shape must be"),
        ({"input_shape": (64, 48, None)}, "number of sequences"),
        ({"num_classes": 0}, "num_classes"),
        ({"filters": 0}, "filters"),
        ({"depth": -1}, "depth"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kdcore.unet(**{"input_shape": (64, 48, 1), "num_classes": 3, **arguments})


def test_saves_and_loads_in_safe_mode(tmp_path, rng):
    model = kdcore.unet((16, 16, 1), 3, filters=2, depth=2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = rng.normal(size=(1, 16, 16, 1)).astype("float32")
    np.testing.assert_array_equal(model.predict(x, verbose=0), again.predict(x, verbose=0))


def test_logits_stay_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = kdcore.unet((16, 16, 1), 3, filters=2, depth=1)
        assert keras.backend.standardize_dtype(model(np.zeros((1, 16, 16, 1))).dtype) == "float32"
    finally:
        keras.config.set_dtype_policy("float32")
