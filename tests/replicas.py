"""Run by test_distiller: the same step on 1 and on 2 replicas (logical CPUs)."""

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
log_p = np.log(rng.dirichlet([1, 1, 1], (8, 8, 8))).astype("float32")


def train(strategy):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 1))
        z = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
        z = keras.layers.Conv2D(3, 1, kernel_regularizer=keras.regularizers.L2(0.1))(z)
        student = keras.Model(inputs, z)
        distiller = kdcore.Distiller(student, soft_loss=kdcore.kd_loss)
        distiller.compile(keras.optimizers.SGD(0.5), loss=kdcore.DiceCrossEntropy(dice_weight=0.0))
    history = distiller.fit(
        x, {"mask": y, "soft_targets": log_p}, batch_size=8, epochs=3, verbose=0, shuffle=False
    ).history
    return student.get_weights(), history


one, history_one = train(tf.distribute.OneDeviceStrategy("/cpu:0"))
two, history_two = train(tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]))
largest = max(np.abs(a - b).max() for a, b in zip(one, two, strict=True))
print("largest difference", largest)
assert largest < 1e-6, largest
for key in ("loss", "hard_loss", "soft_loss"):
    np.testing.assert_allclose(history_one[key], history_two[key], rtol=1e-4, err_msg=key)
