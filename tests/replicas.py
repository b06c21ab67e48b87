"""Run by test_distiller: the same steps on 1 and on 2 replicas of TensorFlow (logical CPUs)."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import kdcore

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

rng = np.random.default_rng(0)
x = rng.normal(size=(8, 8, 8, 1)).astype("float32")
y = rng.integers(0, 3, (8, 8, 8)).astype("int32")
y[:4] = -1  # no label in what the first replica is given
y[7][y[7] == 2] = 1
y[4:6][y[4:6] == 2] = 0  # and a class in one image only
log_p = np.log(rng.dirichlet([1, 1, 1], (8, 8, 8))).astype("float32")
weight = rng.uniform(0.5, 2, 8).astype("float32")


def train(soft_loss, hard_loss, sample_weight, strategy):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 1))
        z = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
        z = keras.layers.BatchNormalization(synchronized=True)(z)
        z = keras.layers.Conv2D(3, 1, kernel_regularizer=keras.regularizers.L2(0.1))(z)
        student = keras.Model(inputs, z)
        distiller = kdcore.Distiller(student, soft_loss=soft_loss)
        distiller.compile(keras.optimizers.SGD(0.5), loss=hard_loss)
    history = distiller.fit(
        x,
        {"mask": y, "soft_targets": log_p},
        sample_weight=sample_weight,
        batch_size=8,
        epochs=3,
        verbose=0,
        shuffle=False,
    ).history
    return student.get_weights(), history


# One strategy for all: another would count its collective sums from 1 again, as TensorFlow has it.
replicated = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
keras_own = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
for soft_loss, hard_loss, sample_weight in (
    (kdcore.kd_loss, kdcore.DiceCrossEntropy(dice_weight=0.0), None),
    (kdcore.regional_kd_loss, kdcore.DiceCrossEntropy(), None),
    (kdcore.regional_kd_loss, kdcore.DiceCrossEntropy(), weight),
    (kdcore.channel_wise_loss, keras_own, None),
):
    settings = soft_loss, hard_loss, sample_weight
    one, history_one = train(*settings, tf.distribute.OneDeviceStrategy("/cpu:0"))
    two, history_two = train(*settings, replicated)
    largest = max(np.abs(a - b).max() for a, b in zip(one, two, strict=True))
    print(soft_loss.__name__, hard_loss.name, "largest difference", largest)
    assert largest < 1e-5, largest
    for key in ("loss", "hard_loss", "soft_loss"):
        np.testing.assert_allclose(history_one[key], history_two[key], rtol=1e-4, err_msg=key)
