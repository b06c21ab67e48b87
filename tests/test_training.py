import functools
import shutil
import tempfile
import zipfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import make_case

import kdcore
from kdcore._files import read_json, write_json
from kdcore._provenance import settings_digest
from kdcore.training import TrainingError, finished, load

SPLIT = kdcore.Split(("case_000",), ("case_001",), (), ("case_002",))
X = np.ones((1, 16, 16, 1), "float32")


def network(filters=2, rate=0.01, seed=0):
    keras.utils.set_random_seed(seed)
    model = kdcore.unet((16, 16, 1), 3, filters=filters, depth=1)
    model.compile(keras.optimizers.Adam(rate), loss=kdcore.DiceCrossEntropy())
    return model


def batches(*cases, **settings):
    settings = {"augmentation": kdcore.Augmentation(), "num_batches": 3, **settings}
    return kdcore.Batches(cases or [make_case(0)], (16, 16), 2, **settings)


class StopAfter(keras.callbacks.Callback):
    """Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch, batch=1):
        super().__init__()
        self.epoch_to_stop, self.batch_to_stop, self.epoch = epoch, batch, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (self.epoch_to_stop, self.batch_to_stop):
            raise KeyboardInterrupt


class Refuse(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        raise AssertionError("trained again")


def interrupted(folder, epoch=1, **settings):
    """`steps_per_execution=2`, so that three batches are no whole number of executions."""
    model = network(**settings)
    with pytest.raises(KeyboardInterrupt):
        kdcore.fit(model, batches(), 4, folder, verbose=0, callbacks=[StopAfter(epoch, batch=2)])


def trained(folder, interrupts=()):
    for epoch in interrupts:
        interrupted(folder, epoch)
    return kdcore.fit(network(), batches(), 4, folder, verbose=0)


@functools.cache
def _example(make):
    """A folder that many tests copy: what they are about comes after the training."""
    folder = tempfile.TemporaryDirectory()
    make(Path(folder.name))
    return folder


def copy_of(make, folder):
    shutil.copytree(_example(make).name, folder, dirs_exist_ok=True)


@pytest.mark.job
def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path):
    whole = trained(tmp_path / "a")
    broken = trained(tmp_path / "b", interrupts=(0, 2, 3))
    for one, other in zip(whole.get_weights(), broken.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    histories = [finished(tmp_path / name)["history"] for name in "ab"]
    assert histories[0] == histories[1] and len(histories[0]["loss"]) == 4
    table = pd.read_csv(tmp_path / "b" / "history.csv")
    assert list(table["epoch"]) == [1, 2, 3, 4]
    np.testing.assert_allclose(table["loss"], histories[1]["loss"])


@pytest.mark.job
def test_it_is_plain_fit_with_a_folder(tmp_path):
    """The same weights as Keras' own fit, epoch by epoch."""
    plain, data = network(), batches()
    in_step = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(data, "epoch", epoch)
    )
    plain.fit(data, epochs=4, shuffle=False, verbose=0, callbacks=[in_step])
    for one, other in zip(trained(tmp_path).get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.job
def test_what_is_finished_is_loaded_and_not_trained(tmp_path):
    first = trained(tmp_path)
    again = kdcore.fit(network(), batches(), 4, tmp_path, verbose=0, callbacks=[Refuse()])
    np.testing.assert_array_equal(again.predict(X, verbose=0), first.predict(X, verbose=0))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "settings.json", "state.json", "history.csv", "network.keras", "finished.json",
    }  # fmt: skip
    known = finished(tmp_path)
    assert known["params"] == first.count_params() and known["training_seconds"] > 0
    assert {"versions", "hardware", "backend", "commit"} <= set(known)


@pytest.mark.job
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch runs one step at a time")
def test_more_than_one_step_at_a_time_changes_no_number(tmp_path):
    model = network()
    model.compile(
        keras.optimizers.Adam(0.01), loss=kdcore.DiceCrossEntropy(), steps_per_execution=2
    )
    kdcore.fit(model, batches(), 4, tmp_path / "two", verbose=0)
    assert model.steps_per_execution == 2  # as compiled
    for one, other in zip(trained(tmp_path / "a").get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.job
@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"rate": 0.5}, "optimizer.learning_rate was 0.00999.*, is 0.5"),
        ({"seed": 1}, "network was"),
        ({"filters": 4}, "network was"),
    ],
)
def test_another_network_or_optimizer_is_refused(tmp_path, other, told):
    copy_of(trained, tmp_path)
    with pytest.raises(TrainingError, match=f"holds a training with other settings: .*{told}"):
        kdcore.fit(network(**other), batches(), 4, tmp_path)


@pytest.mark.job
@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"seed": 1}, "batches.seed was 0, is 1"),
        ({"augmentation": None}, "batches.augmentation was"),
        ({"num_batches": 4}, "batches.num_batches was 3, is 4"),
        ({"foreground_share": 0.5}, "batches.foreground_share was None, is 0.5"),
    ],
)
def test_other_batches_are_refused(tmp_path, other, told):
    copy_of(trained, tmp_path)
    with pytest.raises(TrainingError, match=told):
        kdcore.fit(network(), batches(**other), 4, tmp_path)


@pytest.mark.job
def test_other_scans_epochs_temperatures_and_losses_are_refused(tmp_path):
    copy_of(trained, tmp_path / "a")
    with pytest.raises(TrainingError, match="batches.cases was"):
        kdcore.fit(network(), batches(make_case(1)), 4, tmp_path / "a")
    with pytest.raises(TrainingError, match="epochs was 4, is 5"):
        kdcore.fit(network(), batches(), 5, tmp_path / "a")
    other = network()
    other.compile(keras.optimizers.Adam(0.01), loss=kdcore.DiceCrossEntropy(dice_weight=1.0))
    with pytest.raises(TrainingError, match="loss.dice_weight was 0.5, is 1.0"):
        kdcore.fit(other, batches(), 4, tmp_path / "a")
    for temperature in (2.0, 3.0):
        distiller = kdcore.Distiller(network(), network(4), temperature)
        distiller.compile(keras.optimizers.Adam(0.01))
        if temperature == 2.0:
            kdcore.fit(distiller, batches(), 1, tmp_path / "b", verbose=0)
    with pytest.raises(TrainingError, match="distillation.temperature was 2.0, is 3.0"):
        kdcore.fit(distiller, batches(), 1, tmp_path / "b", verbose=0)
    distiller = kdcore.Distiller(network(), network(4), known_classes=(0, 1))
    distiller.compile(keras.optimizers.Adam(0.01))
    with pytest.raises(TrainingError, match="known_classes was None, is"):
        kdcore.fit(distiller, batches(), 1, tmp_path / "b", verbose=0)
    with pytest.raises(TrainingError, match="weights at the start count: .*set_random_seed"):
        kdcore.fit(network(seed=5), batches(), 4, tmp_path / "a")


@pytest.mark.job
def test_of_a_distiller_the_student_comes_back(tmp_path):
    student = network()
    distiller = kdcore.Distiller(student, network(4), soft_loss=kdcore.kd_loss)
    distiller.compile(keras.optimizers.Adam(0.01))
    assert kdcore.fit(distiller, batches(), 2, tmp_path, verbose=0) is student
    assert load(tmp_path).count_params() == student.count_params()
    assert set(finished(tmp_path)["history"]) == {"loss", "hard_loss", "soft_loss"}


def test_labels_without_a_channel_are_told_before_training(tmp_path):
    case = make_case(0)
    wrong = kdcore.data.relabel(case, {1: 3})
    with pytest.raises(ValueError, match=r"labels from 0 to 3. With 3 output channels.*relabel"):
        kdcore.fit(network(), batches(wrong), 4, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_network_that_was_not_compiled_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not compiled. Call model.compile"):
        kdcore.fit(kdcore.unet((16, 16, 1), 3, 2, 1), batches(), 1, tmp_path)


def test_training_on_held_out_cases_is_refused(tmp_path):
    with pytest.raises(kdcore.LeakageError, match="Training may use labelled or unlabelled.*test"):
        kdcore.fit(network(), batches(make_case(0), make_case(2)), 1, tmp_path, split=SPLIT)
    with pytest.raises(kdcore.LeakageError, match="Training with masks may use labelled cases"):
        kdcore.fit(network(), batches(make_case(0), make_case(1)), 1, tmp_path, split=SPLIT)
    assert not list(tmp_path.iterdir())


@pytest.mark.job
def test_the_files_hold_no_path_or_user(tmp_path, monkeypatch):
    monkeypatch.setenv("USER", "somebody-secret")
    trained(tmp_path)
    text = "".join(path.read_text() for path in tmp_path.glob("*.json"))
    assert str(tmp_path) not in text and "somebody-secret" not in text


def test_the_rate_rises_and_falls():
    rate = kdcore.warmup_cosine(0.01, 1500)
    told = [float(rate(step)) for step in (0, 50, 100, 800, 1500)]
    np.testing.assert_allclose(told, [0, 0.005, 0.01, 0.00505, 0.0001], rtol=1e-4, atol=1e-9)
    assert float(kdcore.warmup_cosine(0.01, 4)(1)) == pytest.approx(0.01)  # a smoke run


# --- files damaged or changed behind its back ------------------------------------------------


@pytest.mark.job
def test_damaged_and_unfinished_folders_are_named(tmp_path):
    copy_of(interrupted, tmp_path)
    with pytest.raises(TrainingError, match="holds no finished training"):
        load(tmp_path)
    weights = tmp_path / "epoch-0001.weights.h5"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1  # HDF5 has no checksum
    weights.write_bytes(content)
    with pytest.raises(TrainingError, match="epoch-0001.weights.h5 is damaged"):
        trained(tmp_path)
    weights.rename(tmp_path / "elsewhere")
    with pytest.raises(TrainingError, match="epoch-0001.weights.h5 is missing"):
        trained(tmp_path)


@pytest.mark.parametrize("change", [{"epoch": 3}, {"weights": None}, {"epoch": "x"}, {}])
def test_a_state_that_was_changed_is_refused(tmp_path, change):
    copy_of(interrupted, tmp_path)
    path = tmp_path / "state.json"
    write_json(path, {**read_json(path), **change})
    with pytest.raises(TrainingError, match="state.json is not as it was written: it lacks its d"):
        trained(tmp_path)


def test_another_network_in_its_place_is_refused(tmp_path):
    copy_of(trained, tmp_path)
    other = load(tmp_path)
    other.set_weights([w + 0.01 for w in other.get_weights()])
    other.save(tmp_path / "network.keras")
    with pytest.raises(TrainingError, match="network.keras is not the network that was trained"):
        load(tmp_path)
    (tmp_path / "network.keras").write_bytes(b"PK")
    with pytest.raises(TrainingError, match="network.keras cannot be loaded"):
        load(tmp_path)
    (tmp_path / "network.keras").unlink()
    with pytest.raises(TrainingError, match="network.keras is missing"):
        load(tmp_path)
    (tmp_path / "finished.json").write_text("{}")
    with pytest.raises(TrainingError, match="finished.json is not as it was written"):
        load(tmp_path)


def test_other_settings_with_the_same_weights_are_another_network(tmp_path):
    copy_of(trained, tmp_path)
    path = tmp_path / "network.keras"
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    changed = parts["config.json"].replace(b'"name": "', b'"name": "other', 1)
    assert changed != parts["config.json"]
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {**parts, "config.json": changed}.items():
            file.writestr(name, content)
    with pytest.raises(TrainingError, match="is not the network that was trained here"):
        load(tmp_path)


def test_the_digest_of_settings_is_of_the_network_alone(tmp_path):
    """Not of what was built before it in the process, nor of how it was trained."""
    digests, policies = [], []
    for rate, ending in ((0.01, None), (0.1, None), (0.1, "relu")):
        policies.append(keras.DTypePolicy("float32"))  # the file holds its address in memory
        inputs = x = keras.Input((16, 16, 1))
        for activation in (None, ending):
            x = keras.layers.Conv2D(3, 1, activation=activation, dtype=policies[-1])(x)
        model = keras.Model(inputs, x)
        model.compile(keras.optimizers.Adam(rate), loss=kdcore.DiceCrossEntropy())
        model.save(tmp_path / "m.keras")
        digests.append(settings_digest(tmp_path / "m.keras"))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.job
def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    (tmp_path / ".part-x").mkdir()
    (tmp_path / ".part-x" / "epoch-0001.weights.h5").write_bytes(b"half")
    trained(tmp_path)
    assert not list(tmp_path.glob(".part-*"))
