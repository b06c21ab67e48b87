import json
import zipfile

import keras
import numpy as np
import pytest
from conftest import make_case

import kdcore
from kdcore._files import digest, read_json, replacing, write_json
from kdcore.batches import Batches
from kdcore.data.splits import LeakageError
from kdcore.training import Run, RunError, settings_digest

SPLIT = kdcore.Split(("case_000",), ("case_001",), (), ("case_002",))


def open_run(root, **config):
    return Run(root, "baseline", 0, {"steps": 4, **config}, SPLIT)


def network(filters=2):
    keras.utils.set_random_seed(0)
    model = kdcore.unet((16, 16, 1), 3, filters=filters, depth=1)
    model.compile(keras.optimizers.Adam(0.01), loss=kdcore.DiceCrossEntropy())
    return model


def batches():
    return Batches([make_case(0)], (16, 16), 2, augmentation=kdcore.Augmentation(), num_batches=3)


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


def finished(root, interrupts=()):
    for epoch in interrupts:
        with pytest.raises(KeyboardInterrupt):
            open_run(root).fit(network(), batches(), 4, verbose=0, callbacks=[StopAfter(epoch)])
    run, model = open_run(root), network()
    run.fit(model, batches(), 4, verbose=0)
    run.finish(model, {"case_002": {"1": {"dice": 0.5}}}, note="extra")
    return run


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path):
    whole = finished(tmp_path / "a")
    broken = finished(tmp_path / "b", interrupts=(0, 2, 3))
    assert whole.result["model_digest"] == broken.result["model_digest"]
    assert whole.result["history"] == broken.result["history"]
    assert len(whole.result["history"]["loss"]) == 4


def test_a_finished_run_is_whole(tmp_path):
    run = finished(tmp_path)
    assert run.finished and open_run(tmp_path).finished
    result = run.result
    assert result["params"] == network().count_params() and result["note"] == "extra"
    assert result["per_case"] == {"case_002": {"1": {"dice": 0.5}}}
    assert {"versions", "hardware", "backend", "commit", "training_seconds"} <= set(result)
    names = sorted(path.name for path in run.folder.iterdir())
    assert names == ["config.json", "model.keras", "result.json", "split.json", "state.json"]
    x = np.ones((1, 16, 16, 1), "float32")
    assert run.load().predict(x, verbose=0).shape == (1, 16, 16, 3)


def test_results_hold_no_path_or_user(tmp_path, monkeypatch):
    monkeypatch.setenv("USER", "somebody-secret")
    text = json.dumps(finished(tmp_path).result)
    assert str(tmp_path) not in text and "somebody-secret" not in text


def test_another_config_is_another_folder(tmp_path):
    run = finished(tmp_path)
    other = open_run(tmp_path, learning_rate=0.5)
    assert other.folder != run.folder and not other.finished


def test_a_folder_of_another_config_is_refused(tmp_path):
    run = finished(tmp_path)
    write_json(run.folder / "config.json", {**run.config, "steps": 99})
    with pytest.raises(RunError, match="another configuration: steps differ"):
        open_run(tmp_path)


def test_weights_of_another_architecture_are_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        open_run(tmp_path).fit(network(), batches(), 4, verbose=0, callbacks=[StopAfter(1)])
    with pytest.raises(RunError, match="epoch-0001.weights.h5 does not fit this network"):
        open_run(tmp_path).fit(network(filters=4), batches(), 4, verbose=0)


def test_unfinished_and_damaged_runs_say_so(tmp_path):
    run = open_run(tmp_path)
    with pytest.raises(RunError, match="is not finished"):
        _ = run.result
    with pytest.raises(RunError, match="no trained network yet"):
        run.load()
    run = finished(tmp_path)
    (run.folder / "model.keras").write_bytes(b"PK")
    with pytest.raises(RunError, match="model.keras cannot be loaded"):
        run.load()
    (run.folder / "result.json").write_text('{"arm": "base')
    with pytest.raises(ValueError, match="result.json is not valid JSON"):
        _ = run.result


def test_training_on_held_out_cases_is_refused(tmp_path):
    leaking = Batches([make_case(0), make_case(2)], (16, 16), 2)
    with pytest.raises(LeakageError, match="Training may use labelled or unlabelled.*in test"):
        open_run(tmp_path).fit(network(), leaking, 1)


def test_hidden_masks_and_results_of_training_cases_are_refused(tmp_path):
    seen = Batches([make_case(0), make_case(1)], (16, 16), 2)  # 1 is to be unlabelled
    with pytest.raises(LeakageError, match="Training with masks may use labelled cases only"):
        open_run(tmp_path).fit(network(), seen, 1)
    with pytest.raises(LeakageError, match="A result may use test cases only"):
        open_run(tmp_path).finish(network(), {"case_000": {}})


def test_damaged_run_folders_are_named(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        open_run(tmp_path).fit(network(), batches(), 4, verbose=0, callbacks=[StopAfter(1)])
    run = open_run(tmp_path)
    weights = run.folder / "epoch-0001.weights.h5"
    weights.rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="epoch-0001.weights.h5 is missing"):
        run.fit(network(), batches(), 4, verbose=0)
    for text in ("{}", "[]"):
        (run.folder / "state.json").write_text(text)
        with pytest.raises(RunError, match="state.json is not as it was written"):
            run.fit(network(), batches(), 4, verbose=0)
    (run.folder / "config.json").write_text("[]")
    with pytest.raises(RunError, match="another configuration"):
        open_run(tmp_path)
    with pytest.raises(RunError, match="must do as a file name"):
        Run(tmp_path, "a/b", 0, {}, SPLIT)


def test_files_can_be_read_by_others(tmp_path):
    write_json(tmp_path / "a.json", 1)
    (tmp_path / "plain").write_text("")
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a.json", "plain")]
    assert modes[0] == modes[1]


def test_a_distiller_leaves_its_student(tmp_path):
    student = network()
    distiller = kdcore.Distiller(student, network(4), soft_loss=kdcore.kd_loss)
    distiller.compile(keras.optimizers.Adam(0.01))
    run = open_run(tmp_path)
    run.fit(distiller, batches(), 2, verbose=0)
    run.finish(distiller, {})
    assert run.result["params"] == student.count_params()
    assert set(run.result["history"]) == {"loss", "hard_loss", "soft_loss"}


def test_replacing_keeps_the_old_file_after_an_error(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"old": 1} and len(list(tmp_path.iterdir())) == 1


def test_json_has_null_and_never_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": [np.nan, np.float32(0.5), np.int64(3), np.bool_(True)]})
    assert read_json(tmp_path / "a.json") == {"x": [None, 0.5, 3, True]}


def test_digest_sees_dtype_shape_and_bytes():
    a = np.arange(4, dtype="float32")
    assert digest(a) == digest(a.copy())
    others = (a.reshape(2, 2), a.astype("float64"), a[::-1])
    assert all(digest(a) != digest(b) for b in others)


# --- changed behind its back ---------------------------------------------------------------


def test_another_network_in_its_place_is_refused(tmp_path):
    run = finished(tmp_path)
    other = network()
    other.set_weights([w + 0.01 for w in other.get_weights()])
    other.save(run.folder / "model.keras")
    with pytest.raises(RunError, match="model.keras is not the network that was trained here"):
        run.load()


def test_one_changed_bit_of_the_weights_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        open_run(tmp_path).fit(network(), batches(), 4, verbose=0, callbacks=[StopAfter(1)])
    path = open_run(tmp_path).folder / "epoch-0001.weights.h5"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1  # HDF5 has no checksum
    path.write_bytes(content)
    with pytest.raises(RunError, match="epoch-0001.weights.h5 is damaged"):
        open_run(tmp_path).fit(network(), batches(), 4, verbose=0)


def test_a_changed_or_damaged_result_is_refused(tmp_path):
    run = finished(tmp_path)
    path = run.folder / "result.json"
    path.write_text(path.read_text().replace('"dice": 0.5', '"dice": 0.6'))
    with pytest.raises(ValueError, match="result.json is not as it was written"):
        _ = run.result
    path.write_text("{}")
    with pytest.raises(RunError, match="result.json is not as it was written"):
        _ = run.result


def test_a_finished_run_stays_as_it_is(tmp_path):
    run = finished(tmp_path)
    before = (run.folder / "result.json").read_bytes()
    open_run(tmp_path).finish(network(), {"case_002": {"1": {"dice": 0.9}}})
    assert (run.folder / "result.json").read_bytes() == before


@pytest.mark.parametrize("change", [{"epoch": 3}, {"weights": None}, {"epoch": "x"}, {}])
def test_a_state_that_was_changed_or_has_no_digest_is_refused(tmp_path, change):
    with pytest.raises(KeyboardInterrupt):
        open_run(tmp_path).fit(network(), batches(), 4, verbose=0, callbacks=[StopAfter(1)])
    path = open_run(tmp_path).folder / "state.json"
    write_json(path, {**read_json(path), **change})
    with pytest.raises(ValueError, match="state.json is not as it was written: it lacks its dig"):
        open_run(tmp_path).fit(network(), batches(), 4, verbose=0)


def test_other_settings_with_the_same_weights_are_another_network(tmp_path):
    run, model = open_run(tmp_path), network()
    run.fit(model, batches(), 1, verbose=0)
    run.finish(model, {"case_002": {}})
    path = run.folder / "model.keras"
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    assert open_run(tmp_path).load().count_params() == model.count_params()
    changed = parts["config.json"].replace(b'"name": "', b'"name": "other', 1)
    assert changed != parts["config.json"]
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {**parts, "config.json": changed}.items():
            file.writestr(name, content)
    with pytest.raises(RunError, match="is not the network that was trained here"):
        open_run(tmp_path).load()


def test_the_digest_of_settings_is_of_the_network_alone(tmp_path):
    """Not of what was built before it in the process, nor of how it was trained."""
    digests = []
    for rate, ending in ((0.01, None), (0.1, None), (0.1, "relu")):
        inputs = keras.Input((16, 16, 1))
        model = keras.Model(inputs, keras.layers.Conv2D(3, 1, activation=ending)(inputs))
        model.compile(keras.optimizers.Adam(rate), loss=kdcore.DiceCrossEntropy())
        model.save(tmp_path / "m.keras")
        digests.append(settings_digest(tmp_path / "m.keras"))
    assert digests[0] == digests[1] != digests[2]


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    run = open_run(tmp_path)
    (run.folder / ".part-x").mkdir()
    (run.folder / ".part-x" / "epoch-0001.weights.h5").write_bytes(b"half")
    run.fit(network(), batches(), 1, verbose=0)
    assert not list(run.folder.glob(".part-*"))
