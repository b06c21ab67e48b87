"""Anybody's folder, anybody's network file."""

import json
from pathlib import Path

import keras
import pytest

import kdcore
from kdcore.evaluation import load_network, main, score_table, trained_on


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


def test_a_metric_tells_how_many_cases_it_is_of():
    scores = {"a": {"1": score(0.8, 1.0)}, "b": {"1": score(0.6, float("nan"))}}
    row = score_table(scores, {"1": "anterior"}).splitlines()[2]
    assert "1, anterior" in row and "0.700" in row and "1.000 (1 of 2 cases)" in row
    nothing = {"a": {"1": score(float("nan"), float("nan"))}}
    assert "| – " in score_table(nothing)


def score(dice, hd95_mm):
    return {"dice": dice, "surface_dice_1mm": dice, "hd95_mm": hd95_mm}


def test_other_voxels_and_other_labels_are_said(weights, msd_folder, capsys):
    """The case of half a millimetre, and front and back exchanged."""
    trained = {"spacing_mm": [0.5, 0.5, 0.5], "label_names": {"1": "posterior"}}
    index = weights.with_name("weights.json")
    index.write_text(json.dumps({weights.name: trained}))
    arguments = ["--weights", str(weights), "--data", str(msd_folder)]
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert "10 of 10 scans have voxels of another size than the 0.5 × 0.5 × 0.5 mm" in said
    assert "case_000 with 1 × 1 × 1 mm" in said
    assert "label 1 is 'posterior' for the network and 'Anterior' in dataset.json" in said
    index.write_text(json.dumps({weights.name: {"spacing_mm": [1, 1, 1]}}))
    assert main(arguments) == 0 and "Note" not in capsys.readouterr().err
    index.unlink()


def test_the_published_networks_say_what_they_were_trained_on():
    folder = Path(__file__).parents[1] / "docs" / "weights"
    for path in folder.glob("*.keras"):
        trained = trained_on(path)
        assert trained["spacing_mm"] == [1.0, 1.0, 1.0]
        assert trained["label_names"] == {"1": "anterior", "2": "posterior"}
