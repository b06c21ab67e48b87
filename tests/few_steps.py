"""Run by test_determinism: a student distilled for a few steps; prints its weights and losses."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json

import keras
import numpy as np
from conftest import make_case

import kdcore
from kdcore._files import digest
from kdcore.batches import Batches


def few_steps():
    """Losses of six steps, and the weights that were learned, whatever the backend."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    student = kdcore.unet((16, 16, 1), 3, filters=4, depth=1)
    for weight in student.trainable_variables:  # each backend would draw others
        if len(weight.shape) > 1:
            weight.assign(rng.normal(size=weight.shape, scale=0.2))
    distiller = kdcore.Distiller(student, temperature=2.0, alpha=0.5)
    distiller.compile(keras.optimizers.Adam(1e-2), steps_per_execution=1)
    batches = Batches(
        [make_case(0)], (16, 16), 8, augmentation=kdcore.Augmentation(), num_batches=1
    )
    losses = []
    for epoch in range(6):
        batches.epoch = epoch
        x, mask = batches[0]
        soft = np.log(rng.dirichlet([1, 1, 1], mask.shape)).astype("float32")
        y = {"mask": mask, "soft_targets": soft}
        distiller.reset_metrics()  # older Keras reports the mean of all steps so far
        losses.append(float(distiller.train_on_batch(x, y, return_dict=True)["loss"]))
    return losses, [np.asarray(keras.ops.convert_to_numpy(w)) for w in student.trainable_variables]


if __name__ == "__main__":
    losses, weights = few_steps()
    flat = np.concatenate([w.ravel() for w in weights]).tolist()
    print(json.dumps({"losses": losses, "digest": digest(*weights), "weights": flat}))
