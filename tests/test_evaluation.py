"""Anybody's folder, anybody's network file."""

import json

import keras
import pytest

import kdcore
from kdcore.evaluation import load_network, main


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("w") / "student.keras"
    kdcore.unet((32, 24, 1), 3, 2, 1).save(path)
    return path


def test_scores_are_those_of_evaluate(weights, msd_folder, tmp_path, capsys):
    arguments = ["--weights", str(weights), "--data", str(msd_folder)]
    assert main([*arguments, "--out", str(tmp_path / "s.json")]) == 0
    expected = kdcore.evaluate(load_network(weights), kdcore.read_msd(msd_folder))
    written = json.loads((tmp_path / "s.json").read_text())
    for case_id, entry in expected.items():
        assert written["per_case"][case_id]["1"]["dice"] == pytest.approx(entry["1"]["dice"])
    assert "| mean" in capsys.readouterr().out
    assert str(msd_folder) not in (tmp_path / "s.json").read_text()


def test_bad_input_is_said_in_one_line(weights, msd_folder, tmp_path):
    broken = tmp_path / "b.keras"
    broken.write_bytes(weights.read_bytes()[:500])
    (tmp_path / "w.h5").touch()
    for path, folder, message in (
        (tmp_path / "none.keras", msd_folder, "none.keras does not exist"),
        (broken, msd_folder, "b.keras cannot be loaded"),
        (tmp_path / "w.h5", msd_folder, "is no .keras"),
        (weights, tmp_path, "dataset.json does not exist"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["--weights", str(path), "--data", str(folder)])
