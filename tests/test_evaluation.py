"""Anybody's folder, anybody's network file."""

import json
import shutil
from pathlib import Path

import keras
import nibabel
import numpy as np
import pytest
from conftest import acdc_volume, write_h5
from nibabel import orientations

import kdcore
from kdcore._files import read_sealed
from kdcore.evaluation.folder import doubts, load_network, main, score_table, trained_on
from kdcore.training import weights_digest


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
        (broken, msd_folder, "b.keras is damaged, or no file that Keras has written"),
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


@pytest.mark.job
def test_other_voxels_and_other_labels_are_said(weights, msd_folder, capsys):
    """The case of half a millimetre, and front and back exchanged."""
    trained = {"spacing_mm": [0.5, 0.5, 0.5], "label_names": {"1": "posterior"}}
    index = weights.with_name("weights.json")
    digest = weights_digest(load_network(weights))
    index.write_text(json.dumps({"of any name": {"model_digest": digest, **trained}}))
    arguments = ["--weights", str(weights), "--data", str(msd_folder)]
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert "10 of 10 scans have voxels of another size than the 0.5 × 0.5 × 0.5 mm" in said
    assert "case_000 with 1 × 1 × 1 mm" in said
    assert "label 1 is 'posterior' for the network and 'Anterior' in dataset.json" in said
    index.write_text(json.dumps({"x": {"model_digest": digest, "spacing_mm": [1, 1, 1]}}))
    assert main(arguments) == 0 and "Note" not in capsys.readouterr().err
    index.write_text(json.dumps({weights.name: {"model_digest": "another's", **trained}}))
    assert main(arguments) == 0 and "Note" not in capsys.readouterr().err
    index.unlink()


@pytest.mark.job
def test_the_scores_do_not_depend_on_how_a_scan_is_stored(weights, msd_folder, tmp_path, capsys):
    """Axes swapped and turned round, image and mask alike: the same scan."""
    folder = tmp_path / "turned"
    shutil.copytree(msd_folder, folder)
    for path in [*folder.glob("images*/*.nii.gz"), *folder.glob("labels*/*.nii.gz")]:
        scan = nibabel.load(path)
        turn = orientations.ornt_transform(
            orientations.io_orientation(scan.affine), orientations.axcodes2ornt(("P", "I", "R"))
        )
        nibabel.save(scan.as_reoriented(turn), path)
    known = {"model_digest": weights_digest(load_network(weights)), "orientation": "RAS"}
    weights.with_name("weights.json").write_text(json.dumps({"x": known}))
    written = []
    for data in (msd_folder, folder):
        out = tmp_path / f"{data.name}.json"
        assert main(["--weights", str(weights), "--data", str(data), "--out", str(out)]) == 0
        written.append(json.loads(out.read_text())["per_case"])
    weights.with_name("weights.json").unlink()
    assert "10 of 10 scans are turned" in capsys.readouterr().err
    for case_id, entry in written[0].items():
        assert written[1][case_id]["1"]["dice"] == pytest.approx(entry["1"]["dice"], abs=1e-6)


def test_voxels_are_compared_as_they_lie_after_turning():
    image, affine = np.zeros((2, 3, 4, 1)), np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 3, 1, 1, 1  # axes run to S, A, R
    case = kdcore.Case("a", image, None, (3, 1, 1), affine=affine)
    turned, *others = doubts({"orientation": "RAS", "spacing_mm": [1, 1, 3]}, [case], {})
    assert "those of a run to SAR" in turned and not others
    assert len(list(doubts({"orientation": "RAS", "spacing_mm": [3, 1, 1]}, [case], {}))) == 2


def test_larger_scans_and_labels_that_no_mask_holds_are_said():
    mask = np.zeros((4, 6, 8), np.uint8)
    mask[0, 0, 0] = 1
    case = kdcore.Case("a", np.zeros((4, 6, 8, 1)), mask, (1, 1, 2))
    trained = {"extent_mm": [4, 4, 16], "label_names": {"1": "x", "2": "y"}}
    (label,) = doubts(trained, [case], {})
    assert "no mask holds label 2, 'y'" in label
    larger, _ = doubts(trained | {"extent_mm": [4, 3.9, 16]}, [case], {})
    assert "1 of 1 scans show more" in larger
    assert "4 × 3.9 × 16 mm at most, among them a with 4 × 6 × 16 mm" in larger


@pytest.mark.parametrize(
    "wrong",
    [
        {"orientation": 5},
        {"spacing_mm": 2.0},
        {"extent_mm": [1, 2]},
        {"label_names": {"x": "a"}},
        {"label_names": ["a"]},
        {"seen": "case_000"},
    ],
)
def test_an_index_of_another_form_is_named(weights, msd_folder, wrong):
    known = {"model_digest": weights_digest(load_network(weights)), **wrong}
    weights.with_name("weights.json").write_text(json.dumps({"x": known}))
    with pytest.raises(SystemExit, match=f"weights.json: {next(iter(wrong))} of this network"):
        main(["--weights", str(weights), "--data", str(msd_folder)])
    weights.with_name("weights.json").unlink()


def test_cases_the_network_has_seen_are_said_and_left_out(weights, msd_folder, capsys):
    digest = weights_digest(load_network(weights))
    known = {"x": {"model_digest": digest, "seen": ["case_000", "case_001", "another"]}}
    weights.with_name("weights.json").write_text(json.dumps(known))
    assert main(["--weights", str(weights), "--data", str(msd_folder)]) == 0
    weights.with_name("weights.json").unlink()
    told = capsys.readouterr()
    assert "2 of 10 cases are called as those the network was trained on" in told.err
    first, second = told.out.split("Without the cases it has seen")
    assert "| 10    |" in first and "| 8     |" in second


def test_scans_without_a_mask_need_not_be_there(weights, msd_folder, tmp_path):
    folder = tmp_path / "part"
    shutil.copytree(msd_folder, folder, ignore=shutil.ignore_patterns("imagesTs"))
    description = json.loads((folder / "dataset.json").read_text())
    description["test"] = ["./imagesTs/not_here.nii.gz"]
    (folder / "dataset.json").write_text(json.dumps(description))
    assert main(["--weights", str(weights), "--data", str(folder)]) == 0
    with pytest.raises(SystemExit, match=r"is a folder\. Expected a file"):
        main(["--weights", str(weights), "--data", str(folder), "--out", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="not_here"):
        kdcore.read_msd(folder)


def test_a_folder_of_acdc_is_scored_on_its_own_voxels(tmp_path, capsys):
    for frame in (1, 12):
        image, label = acdc_volume(frame, (3, 20, 18))
        write_h5(tmp_path / "acdc" / f"patient001_frame{frame:02d}.h5", image, label)
    network = kdcore.unet((16, 16, 1), num_classes=4, filters=2, depth=1)
    network.save(tmp_path / "w.keras")
    entry = {"model_digest": weights_digest(network), "slice_shape": [16, 16], "seen": []}
    (tmp_path / "weights.json").write_text(json.dumps({"w": entry}))
    out = tmp_path / "scores.json"
    arguments = ["--weights", str(tmp_path / "w.keras"), "--data", str(tmp_path / "acdc")]
    assert main([*arguments, "--out", str(out)]) == 0
    assert "2, myocardium" in capsys.readouterr().out
    scores = read_sealed(out)["per_case"]
    cases = kdcore.data.read_acdc(tmp_path / "acdc")
    masks = [kdcore.predict_mask(network, case, slice_shape=(16, 16)) for case in cases]
    expected = [kdcore.dice(c.mask, m, 3) for c, m in zip(cases, masks, strict=True)]
    found = [scores[case.case_id]["3"]["dice"] for case in cases]
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.job
def test_the_published_networks_say_what_they_were_trained_on():
    folder = Path(__file__).parents[1] / "docs" / "weights"
    for path in folder.glob("*.keras"):
        trained = trained_on(load_network(path), folder / "weights.json")
        if path.name.startswith("acdc"):  # 7 or 70 of 70 training patients, 10 for validation
            assert len(trained["seen"]) in (34, 160) and trained["slice_shape"] == [128, 128]
            assert trained["licence"] == "CC BY-NC-SA 4.0"
            continue
        if path.name.startswith("lgg"):  # 10 or 45 of 45 training patients, 10 for validation
            assert len(trained["seen"]) in (20, 55) and trained["slice_shape"] == [128, 128]
            assert trained.get("sequences") == (None if "teacher" in path.name else ["T1"])
            assert trained["licence"] == "CC BY-NC-SA 4.0"
            continue
        assert trained["orientation"] == "RAS" and len(trained["seen"]) in (28, 140)
        assert trained["spacing_mm"] == [1.0, 1.0, 1.0]
        assert all(40 <= edge <= 60 for edge in trained["extent_mm"])
        assert trained["label_names"] == {"1": "anterior", "2": "posterior"}
