"""`python -m kdcore.distil`: a raw data set of nnU-Net and its probabilities in, a student out."""

import json
from argparse import Namespace

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import make_case, write_nifti

import kdcore
from kdcore.distil import _sentences, _slices_of, _split, _with_maps, main
from kdcore.evaluation import table_of

pytestmark = pytest.mark.job
SMALL = ["--filters", "2", "--epochs", "2", "--batches", "2"]
AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])


def write_raw(folder, maps, count=5):
    """Thick slices lie along the last axis, as in most files; the last scan has no mask."""
    about = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "front": 1, "back": 2},
        "numTraining": count - 1,
        "file_ending": ".nii.gz",
    }
    folder.mkdir(parents=True)
    maps.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(about))
    for index, case in enumerate(map(make_case, range(count))):
        image, mask = case.image[..., 0].transpose(2, 1, 0), case.mask.transpose(2, 1, 0)
        part = "imagesTr" if index < count - 1 else "imagesTs"
        write_nifti(folder / part / f"{case.case_id}_0000.nii.gz", image, AFFINE)
        if part == "imagesTr":
            write_nifti(folder / "labelsTr" / f"{case.case_id}.nii.gz", mask, AFFINE)
        p = np.eye(3, dtype=np.float32)[mask] * 0.7 + 0.1  # (X, Y, Z, C), right everywhere
        np.savez(maps / f"{case.case_id}.npz", probabilities=p.transpose(3, 2, 1, 0))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run that was killed after the baseline's first epoch, and called again."""
    folder = tmp_path_factory.mktemp("distil")
    write_raw(folder / "Dataset001_Bräin", folder / "maps")
    arguments = ["--data", folder / "Dataset001_Bräin", "--probabilities", folder / "maps"]
    arguments = [*map(str, [*arguments, "--out", folder / "out"]), *SMALL]
    save, killed = kdcore.training._SaveState.on_epoch_end, []

    def kill(self, epoch, logs=None):
        save(self, epoch, logs)
        if self.folder.name == "baseline" and not killed:
            killed.append(epoch)
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kdcore.training._SaveState, "on_epoch_end", kill)
        with pytest.raises(KeyboardInterrupt):
            main(arguments)
        before = (folder / "out" / "student" / "finished.json").read_text()
        main(arguments)
    assert killed == [0]
    assert (folder / "out" / "student" / "finished.json").read_text() == before
    return folder, arguments


def test_a_student_comes_out_beside_its_teacher_and_its_baseline(made):
    out = made[0] / "out"
    table = pd.read_csv(out / "results.csv")
    assert set(table["arm"]) == {"teacher", "student", "baseline"}
    split = kdcore.Split.load(out / "split.json")
    assert (len(split.labelled), len(split.unlabelled), len(split.test)) == (3, 1, 1)
    assert set(table["case"]) == set(split.test)
    teacher = table[(table["arm"] == "teacher") & (table["metric"] == "dice")]
    assert (teacher["value"] == 1).all()  # its maps are turned as the scans are
    student = keras.saving.load_model(out / "student.keras", compile=False)
    assert student.input_shape == (None, None, None, 1) and student.output_shape[-1] == 3
    targets = kdcore.SoftTargets.open(out / "soft-targets")
    assert set(targets) == {*split.labelled, *split.unlabelled}
    assert targets["case_004"].shape == (8, 26, 20, 3)  # slices across the thick axis
    page = (out / "report.html").read_text()
    for told in ("3 labelled and 1 unlabelled", "Dice front", "Student − baseline", "were drawn"):
        assert told in page


def test_both_learn_from_the_same_start(made):
    starts = [
        json.loads((made[0] / "out" / arm / "settings.json").read_text())["network"]
        for arm in ("student", "baseline")
    ]
    assert starts[0] == starts[1]


def test_the_onnx_file_is_the_student(made):
    pytest.importorskip("onnxruntime")
    out = made[0] / "out"
    exported = kdcore.load_exported(out / "student.onnx")
    assert exported.description["sequences"] == ["MRI"] and exported.input_shape[1:3] == (32, 24)
    student = keras.saving.load_model(out / "student.keras", compile=False)
    expected, found = (kdcore.predict_probabilities(m, make_case(0)) for m in (student, exported))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_other_settings_are_refused_in_a_folder_that_has_some(made):
    with pytest.raises(SystemExit, match="TrainingError: .*epochs was 2, is 3"):
        main([*made[1], "--epochs", "3"])
    with pytest.raises(SystemExit, match="split.json is another split"):
        main([*made[1], "--seed", "1"])


def test_the_fold_that_the_teacher_did_not_see_is_the_test(tmp_path):
    cases = [*map(make_case, range(4)), make_case(4, labelled=False)]
    splits = [{"train": ["case_001"], "val": []}, {"val": ["case_003", "case_001"]}]
    (tmp_path / "s.json").write_text(json.dumps(splits))
    split = _split(cases, Namespace(splits=tmp_path / "s.json", fold=1))
    assert split.test == ("case_001", "case_003") and split.labelled == ("case_000", "case_002")
    assert split.unlabelled == ("case_004",)
    with pytest.raises(ValueError, match="fold 0 of .* holds out 0"):
        _split(cases, Namespace(splits=tmp_path / "s.json", fold=0))
    with pytest.raises(ValueError, match="no fold 2.* it has 2"):
        _split(cases, Namespace(splits=tmp_path / "s.json", fold=2))


def test_scans_without_a_map_are_left_out(made):
    cases = [make_case(0), make_case(9)]
    found, left_out = _with_maps(cases, made[0] / "maps")
    assert found == cases[:1] and left_out == ["case_009"]


@pytest.mark.parametrize(("teacher", "told"), [(0.4, True), (0.9, False)])
def test_a_teacher_below_the_baseline_is_told(teacher, told):
    dice = {"teacher": teacher, "student": 0.5, "baseline": 0.8}
    tables = [
        table_of({f"case_{i}": {"front": {"dice": value}} for i in range(4)}, arm=arm)
        for arm, value in dice.items()
    ]
    said = " ".join(_sentences(pd.concat(tables)))
    assert ("The teacher (0.400) is below the baseline (0.800)" in said) == told


def test_what_is_wrong_is_said_in_one_line(made, tmp_path):
    (tmp_path / "maps").mkdir()
    np.savez(tmp_path / "maps" / "x.npz", probabilities=np.zeros(1))
    for option, value, told in (
        ("--data", tmp_path, "dataset.json does not exist"),
        ("--probabilities", tmp_path, "holds no .npz probability maps"),
        ("--probabilities", tmp_path / "maps", r"no map of any scan. Expected .*case_000.npz"),
    ):
        with pytest.raises(SystemExit, match=told):
            main([*made[1], "--out", str(tmp_path / "out"), option, str(value)])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("axis", "axes"), [(0, "RSP"), (1, "PSR"), (2, "SPR"), (None, "SPR")])
def test_slices_lie_across_the_thick_axis(axis, axes):
    edges = [1.2, 1.0, 1.0]
    if axis is not None:
        edges[axis] = 5.0
    case = kdcore.Case("a", np.zeros((4, 5, 6, 1)), None, edges, affine=np.diag([*edges, 1.0]))
    assert _slices_of([case]) == axes
