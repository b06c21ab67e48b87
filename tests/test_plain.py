"""What kdcore builds and saves is Keras alone: it loads where there is no kdcore."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import kdcore
from kdcore._files import file_digest, read_json
from kdcore._provenance import weights_digest
from kdcore.ensemble import ensemble

pytestmark = pytest.mark.job
WEIGHTS = Path(__file__).parents[1] / "docs/weights"
# Elsewhere those of one study: JAX compiles a network for half a minute.
WHICH = "*" if keras.backend.backend() == "tensorflow" else "hippocampus-quick-8*"
PUBLISHED = sorted(path.name for path in WEIGHTS.glob(f"{WHICH}.keras"))
NAMES = ["flat", "solid", "compiled", "student", "ensemble", "sigmoids"]


def images(network, count=2):
    sizes = [size or 16 for size in network.input_shape[1:]]
    return np.random.default_rng(0).normal(size=(count, *sizes)).astype("float32")


def compiled():
    """With a loss, metric and optimizer, after a step of training."""
    network = kdcore.unet((16, 16, 1), 3, 2, 2)
    network.compile("adam", loss=kdcore.DiceCrossEntropy(), metrics=[kdcore.ForegroundDice(3)])
    network.fit(images(network), np.zeros((2, 16, 16), "int32"), verbose=0)
    return network


def student(folder):
    """As the checkpoint of a distillation saves it."""
    distiller = kdcore.Distiller(
        kdcore.unet((16, 16, 1), 3, 2, 1), kdcore.unet((16, 16, 1), 3, 4, 1)
    )
    distiller.compile("adam")
    checkpoint = kdcore.StudentCheckpoint(folder / "student.keras")
    x, y = images(distiller.student), np.zeros((2, 16, 16), "int32")
    distiller.fit(x, y, verbose=0, callbacks=[checkpoint])
    return distiller.student


def members(classes):
    return [kdcore.unet((None, None, 1), classes, 2, 1, name=f"n{i}") for i in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Networks, and what they put out in a process that has no kdcore."""
    folder = tmp_path_factory.mktemp("plain")
    networks = {
        "flat": kdcore.unet((None, None, 2), 3, 2, 3),
        "solid": kdcore.unet((None, None, None, 1), 1, 2, 2),
        "compiled": compiled(),
        "student": student(folder),
        "ensemble": ensemble(members(3), 1.7),
        "sigmoids": ensemble(members(1)),
    }
    for name in PUBLISHED:
        networks[Path(name).stem] = keras.saving.load_model(WEIGHTS / name)
    for name, network in networks.items():
        if name != "student":
            network.save(folder / f"{name}.keras")
        np.save(folder / f"{name}.input.npy", images(network))
        np.save(folder / f"{name}.expected.npy", network.predict(images(network), verbose=0))
    script = Path(__file__).with_name("without_kdcore.py")
    env = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("name", [*NAMES, *(Path(name).stem for name in PUBLISHED)])
def test_it_loads_without_kdcore_and_puts_out_the_same_bits(folder, name):
    expected, found = (np.load(folder / f"{name}.{what}.npy") for what in ("expected", "output"))
    assert found.dtype == np.float32 and np.ptp(found) > 0
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_are_those_of_the_study_and_name_no_kdcore(name):
    entry = read_json(WEIGHTS / "weights.json")[name]
    assert file_digest(WEIGHTS / name) == entry["file_digest"]
    network = keras.saving.load_model(WEIGHTS / name)
    assert weights_digest(network) == entry["model_digest"]
    with zipfile.ZipFile(WEIGHTS / name) as file:
        assert b"kdcore" not in file.read("config.json")


def test_a_loss_of_keras_own_is_kept(tmp_path):
    network = kdcore.unet((16, 16, 1), 3, 2, 1)
    network.compile("adam", loss="mse")
    network.save(tmp_path / "m.keras")
    assert keras.saving.load_model(tmp_path / "m.keras").loss == "mse"
    network.compile("adam", loss=kdcore.cross_entropy)
    network.save(tmp_path / "m.keras")
    assert not keras.saving.load_model(tmp_path / "m.keras").compiled
    with zipfile.ZipFile(tmp_path / "m.keras") as file:
        assert "kdcore" not in json.dumps(json.loads(file.read("config.json")))


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="it exports")
def test_a_backend_that_does_not_export_says_where_it_can_be_done(tmp_path):
    network = kdcore.unet((16, 16, 1), 2, filters=2, depth=1)
    with pytest.raises((ImportError, ValueError), match="with KERAS_BACKEND=tensorflow"):
        kdcore.export(network, tmp_path / "network.tflite")
    assert not list(tmp_path.iterdir())
