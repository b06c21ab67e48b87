"""Run by test_distiller: the same steps on 1 and on 2 devices of JAX (virtual CPUs)."""

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import keras
import numpy as np

import kdcore

rng = np.random.default_rng(0)
x = rng.normal(size=(8, 8, 8, 1)).astype("float32")
y = rng.integers(0, 3, (8, 8, 8)).astype("int32")
y[:4] = -1  # no label in what the first device is given
log_p = np.log(rng.dirichlet([1, 1, 1], (8, 8, 8))).astype("float32")


def train(soft_loss, dice_weight, distribution):
    keras.distribution.set_distribution(distribution)
    keras.utils.set_random_seed(0)
    student = kdcore.unet((8, 8, 1), 3, filters=2, depth=1)  # with batch normalization
    distiller = kdcore.Distiller(student, soft_loss=soft_loss)
    loss = kdcore.DiceCrossEntropy(dice_weight=dice_weight)
    distiller.compile(keras.optimizers.SGD(0.5), loss=loss)
    history = distiller.fit(
        x, {"mask": y, "soft_targets": log_p}, batch_size=8, epochs=3, verbose=0, shuffle=False
    ).history
    return student.get_weights(), history


devices = keras.distribution.list_devices()
assert len(devices) == 2, devices
both = keras.distribution.DataParallel(devices=devices)
for soft_loss, dice_weight in ((kdcore.kd_loss, 0.0), (kdcore.regional_kd_loss, 0.5)):
    one, history_one = train(soft_loss, dice_weight, None)
    two, history_two = train(soft_loss, dice_weight, both)
    largest = max(np.abs(a - b).max() for a, b in zip(one, two, strict=True))
    print(soft_loss.__name__, "largest difference", largest)
    assert largest < 1e-5, largest
    for key in ("loss", "hard_loss", "soft_loss"):
        np.testing.assert_allclose(history_one[key], history_two[key], rtol=1e-4, err_msg=key)
