import keras
import numpy as np
import pytest
from conftest import make_case
from keras import layers

import kdcore
from kdcore.unet import size_multiple


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
    distiller = kdcore.Distiller(kdcore.unet((None, None, 1), 3, filters=2), alpha=0)
    distiller.compile("sgd")
    x, y = np.zeros((1, 20, 16, 1), "float32"), np.zeros((1, 20, 16), "int32")
    for use in (distiller.fit, distiller.evaluate, lambda x, y, **_: distiller(x)):
        with pytest.raises(ValueError, match="axis 0 has size 20.*multiples of 8.*to 24"):
            use(x, y, verbose=0)


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


def open_image(rank=2):
    return keras.Input((*[None] * rank, 1))


def conv(x, filters=2, **settings):
    return layers.Conv2D(filters, 3, padding="same", **settings)(x)


def strided(x):
    """Two convolutions of stride 2, up again by transposed convolution and interpolation."""
    down = conv(conv(x, strides=2), strides=2)
    return layers.UpSampling2D()(layers.Conv2DTranspose(2, 2, strides=2)(down))


def with_attention(x):
    """Squeeze and excitation: a branch that pools everything away counts for nothing."""
    y = layers.AveragePooling2D(2)(conv(x))
    shares = layers.Dense(2)(layers.GlobalAveragePooling2D(keepdims=True)(y))
    return layers.UpSampling2D()(layers.Multiply()([y, shares]))


def with_encoder(x):
    """A network within a network, by thirds, and a skip connection."""
    image = open_image()
    encoder = keras.Model(image, layers.MaxPooling2D(3)(conv(conv(image, strides=2))))
    up = layers.UpSampling2D(6)(encoder(x))
    return layers.Concatenate()([x, up])


@pytest.mark.parametrize(
    ("network", "multiple"),
    [
        (lambda x: conv(conv(x, dilation_rate=2)), 1),
        (strided, 4),
        (with_attention, 2),
        (with_encoder, 6),
        (lambda x: layers.Concatenate()([x, strided(x)]), 4),
        (lambda x: layers.Add()([strided(x), conv(x)]), 4),
        (lambda x: conv(x, strides=2), None),  # does not come up again
    ],
)
def test_the_multiple_is_found_in_any_graph(network, multiple):
    image = open_image()
    assert size_multiple(keras.Model(image, network(image))) == multiple


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_multiple_of_a_unet(depth):
    network = kdcore.unet((None, None, 1), 2, 1, depth)
    assert size_multiple(network) == 2**depth
    image = open_image()
    assert size_multiple(keras.Model(image, network(image))) == 2**depth
    assert size_multiple(keras.Sequential([image, network])) == 2**depth
    assert size_multiple(kdcore.unet((8, None, 8, 1), 2, 1, depth)) == 2**depth


def test_a_network_that_cannot_be_asked_has_no_multiple():
    assert size_multiple(kdcore.unet((16, 16, 1), 2, 1, 1)) is None  # its size is fixed
    assert size_multiple(keras.layers.Dense(2)) is None


def test_padding_is_as_small_as_the_network_allows(monkeypatch):
    image = open_image()
    network = keras.Model(image, strided(image))
    seen = []
    predict = network.predict_on_batch
    monkeypatch.setattr(
        network, "predict_on_batch", lambda x: (seen.append(x.shape), predict(x))[1]
    )
    kdcore.predict_mask(network, make_case(0, (3, 26, 20)))
    assert seen[0][1:3] == (28, 20)


def test_channels_come_last_whatever_keras_is_set_to():
    expected = kdcore.unet((8, 16, 1), 3, 2, 1).get_config()
    keras.config.set_image_data_format("channels_first")
    try:
        model = kdcore.unet((8, 16, 1), 3, 2, 1)
        assert kdcore.predict_mask(model, make_case(0, (2, 8, 16))).shape == (2, 8, 16)
    finally:
        keras.config.set_image_data_format("channels_last")
    assert model.output_shape == (None, 8, 16, 3)
    formats = [
        [layer["config"].get("data_format") for layer in config["layers"]]
        for config in (expected, model.get_config())
    ]
    assert formats[0] == formats[1]


@pytest.mark.job
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's kernel")
@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8, 4, 1)])
def test_fused_normalization_is_keras_normalization(shape, rng):
    """Same outputs and weights after a step; the moving variance is the unbiased one."""
    keras.utils.set_random_seed(0)
    fused = kdcore.unet(shape, 2, 2, 1)
    plain = keras.models.clone_model(fused)
    plain.set_weights(fused.get_weights())
    x = rng.normal(size=(4, *shape)).astype("float32")
    np.testing.assert_allclose(fused(x, training=True), plain(x, training=True), atol=1e-4)
    voxels = 4 * np.prod(shape)
    for name, n in (
        ("encoder0_norm0", voxels),
        ("bottleneck_norm0", voxels // 2 ** len(shape[:-1])),
    ):
        ours, keras_own = (m.get_layer(name) for m in (fused, plain))
        np.testing.assert_allclose(ours.moving_mean, keras_own.moving_mean, atol=1e-5)
        learned = [np.asarray(x.moving_variance) - 0.9 for x in (ours, keras_own)]
        np.testing.assert_allclose(learned[0], learned[1] * n / (n - 1), rtol=1e-3, atol=1e-6)
    y = rng.integers(0, 2, (4, *shape[:-1]))
    for model in (fused, plain):
        model.compile(keras.optimizers.SGD(0.1), loss=kdcore.DiceCrossEntropy())
        model.fit(x, y, verbose=0)
    for ours, keras_own in zip(fused.trainable_weights, plain.trainable_weights, strict=True):
        np.testing.assert_allclose(ours, keras_own, atol=1e-4)
