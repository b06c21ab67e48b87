"""Run by test_plain in a process that cannot import kdcore: predicts with saved networks."""

import sys
from pathlib import Path


class NoKdcore:
    """An import finder that refuses kdcore."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "kdcore":
            raise ModuleNotFoundError(f"{name} must not be needed")


sys.meta_path.insert(0, NoKdcore())

import keras  # noqa: E402
import numpy as np  # noqa: E402

folder = Path(sys.argv[1])
for path in folder.glob("*.keras"):
    network = keras.saving.load_model(path)
    image = np.load(path.with_suffix(".input.npy"))
    np.save(path.with_suffix(".output.npy"), network.predict(image, verbose=0))
    assert type(network) is type(keras.Model(network.inputs, network.outputs)), path
    names = {type(x).__module__.split(".")[0] for x in network.operations}
    assert names == {"keras"}, f"{path}: {names}"
