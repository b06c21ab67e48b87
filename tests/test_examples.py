"""Every example runs, in order, at smoke size; what the examples may import."""

import ast
import json
import runpy
from itertools import product
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import make_brain, make_case, write_brats, write_h5

import kdcore
from kdcore.data import acdc_patient, acdc_split
from kdcore.data.splits import PARTS
from kdcore.evaluation import read_results
from kdcore.study import experiment
from kdcore.study import settings as studies

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("0[1-9]*.py"))
MAIN_JOB = EXAMPLES[:5]
ALLOWED = {"kdcore", "kdcore.data", "kdcore.evaluation", "settings"}
LIBRARIES = {"dataclasses", "keras", "matplotlib", "numpy", "pandas", "pathlib"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def arguments(msd_folder, runs):
    data = ["--data", "hippocampus", "--data-dir", str(msd_folder)]
    return [*data, "--tier", "smoke", "--runs", str(runs)]


def run(path, options, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(path), *map(str, options)])
    monkeypatch.syspath_prepend(str(path.parent))
    try:
        return runpy.run_path(str(path), run_name="__main__")
    finally:
        plt.close("all")


def imported(path):
    """(module, names) of every import."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node.module, [name.name for name in node.names]
        elif isinstance(node, ast.Import):
            yield from ((name.name, []) for name in node.names)


def code_lines(path):
    """Lines that hold code: no prose, no blank ones."""
    tree = ast.parse(path.read_text("utf-8"))
    return {line for node in ast.walk(tree) if hasattr(node, "lineno")
            for line in range(node.lineno, node.end_lineno + 1)}  # fmt: skip


def test_there_are_examples():
    assert [path.name[:2] for path in EXAMPLES] == [f"0{n}" for n in range(1, 9)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_can_be_lifted(path):
    """Keras, kdcore's public names and `settings`; no name but what these export."""
    for module, names in imported(path):
        if module.split(".")[0] in ("kdcore", "settings"):
            assert module in ALLOWED, module
            assert not [name for name in names if name.startswith("_")]
        else:
            assert module.split(".")[0] in LIBRARIES, module


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_is_in_py_percent_format(path):
    import jupytext

    notebook = jupytext.read(path)
    kinds = {cell.cell_type for cell in notebook.cells}
    assert kinds == {"markdown", "code"} and notebook.cells[0].cell_type == "markdown"


@pytest.mark.parametrize("number", ["02", "04", "05"])
def test_the_recipe_is_in_sight(number):
    """Network, loss, optimizer and its rate, fit; temperature and alpha as numbers."""
    text = next(path for path in EXAMPLES if path.name.startswith(number)).read_text("utf-8")
    for step in ("split(cases", "unet(", "compile(", "optimizers.Adam(", "warmup_cosine(", "fit("):
        assert step in text, step
    assert ("Distiller(student, temperature=2.0, alpha=0.9)" in text) == (number == "04")


def test_test_scans_are_looked_at_once():
    looking = [path.name[:2] for path in EXAMPLES if 'split.take(cases, "test")' in path.read_text()
               and "evaluate(" in path.read_text()]  # fmt: skip
    assert looking == ["05"]


def test_the_appendix_is_short():
    appendix = EXAMPLES[-1]
    assert len(code_lines(appendix)) <= 150
    assert "exec(" not in appendix.read_text("utf-8")


def test_nothing_trains_in_the_settings():
    text = (FOLDER / "settings.py").read_text("utf-8")
    assert ".fit(" not in text and "compile(" not in text


def test_an_example_opened_alone_says_what_must_run_first(msd_folder, tmp_path, monkeypatch):
    for path, first in ((EXAMPLES[2], "02_teacher.py"), (EXAMPLES[3], "03_soft_targets.py")):
        with pytest.raises(FileNotFoundError, match=f"Run examples/{first} first"):
            run(path, arguments(msd_folder, tmp_path), monkeypatch)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--data", "brats"], "needs --data-dir"),
        (["--data", "lgg"], "needs --data-dir"),
        (["--data-dir", "x"], "simulated scans are made, not read"),
        (["--tier", "huge"], "invalid choice"),
    ],
)
def test_impossible_options_are_told(options, told, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(EXAMPLES[0], options, monkeypatch)
    assert told in capsys.readouterr().err


def test_the_examples_train_what_was_published(monkeypatch):
    """Their numbers are those of the studies they are compared with."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import settings

    for data, study in (("simulated", "tutorial"), ("hippocampus", "main")):
        for tier, change in settings.TIERS.items():
            own, theirs = change(settings.DATA[data]), studies.STUDIES[study][data][tier]
            for name, network in (("teacher", own.teacher), ("student", own.student)):
                arm = theirs.arms[name]
                same = (
                    network.filters,
                    network.shape,
                    network.batch_size,
                    network.learning_rate,
                    network.foreground_share,
                )
                assert same == (
                    arm.filters,
                    arm.shape,
                    arm.batch_size,
                    arm.learning_rate,
                    arm.foreground_share,
                )
                assert network.steps == arm.steps
            counts = (own.num_validation, own.num_test, own.num_cases, own.depth)
            assert counts == (
                theirs.num_validation, theirs.num_test, theirs.num_cases, theirs.depth,
            )  # fmt: skip


# --- whole jobs ----------------------------------------------------------------------------


@pytest.mark.job
@pytest.mark.parametrize("path", MAIN_JOB, ids=lambda path: path.stem)
def test_in_order(path, msd_folder, runs, monkeypatch, capsys):
    run(path, arguments(msd_folder, runs), monkeypatch)
    assert "smoke" in capsys.readouterr().out  # says where its files are


@pytest.mark.job
def test_the_last_one_leaves_results_report_and_figures(runs):
    folder = runs / "hippocampus-smoke"
    table, about = read_results(folder / "results.csv")
    assert set(about["arms"]) == {"teacher", "student", "baseline"}
    assert all(arm["params"] > 0 for arm in about["arms"].values())
    assert {"commit", "versions", "hardware", "backend", "data", "split", "settings"} <= set(about)
    assert {"dice", "surface_dice_1mm", "hd95_mm"} <= set(table["metric"])
    assert table.groupby("arm")["case"].nunique().tolist() == [3, 3, 3]
    assert str(runs.parent) not in (folder / "results.json").read_text()  # no path of a machine
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64") == 2 and "src=" not in page.replace('src="data:', "")
    figures = sorted(path.stem for path in (folder / "figures").iterdir())
    assert figures == [
        "batch", "differences", "normalization", "overlays", "sequences", "soft_targets",
        "student_epochs", "student_losses",
    ]  # fmt: skip


@pytest.mark.job
@pytest.mark.parametrize("path", EXAMPLES[5:7], ids=lambda path: path.stem)
def test_the_others_build_on_these(path, msd_folder, runs, monkeypatch, capsys):
    run(path, arguments(msd_folder, runs), monkeypatch)
    assert "baseline" in capsys.readouterr().out


@pytest.mark.job
def test_an_example_trains_what_the_study_trains(msd_folder, runs, tmp_path):
    """The code shown and `experiment.train` end in the same weights."""
    config = studies.STUDIES["main"]["hippocampus"]["smoke"]
    job = experiment.Experiment(config, "again", tmp_path, msd_folder)
    for arm in ("teacher", "student", "baseline"):
        shown = keras.saving.load_model(runs / "hippocampus-smoke" / arm / "network.keras")
        for a, b in zip(
            shown.get_weights(), experiment.train(job, arm).load().get_weights(), strict=True
        ):
            np.testing.assert_array_equal(a, b)


@pytest.mark.job
def test_finished_trainings_are_not_repeated(msd_folder, runs, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(keras.Model, "fit", refuse)
    for path in MAIN_JOB[1:]:
        run(path, arguments(msd_folder, runs), monkeypatch)


def test_acdc_is_split_as_the_field_does_and_whole_patients_in_smoke(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import settings

    ids = [f"patient{p:03d}_frame{f:02d}" for p in range(1, 101) for f in (1, 12)]
    mask = np.zeros((1, 2, 2), np.uint8)
    cases = [kdcore.Case(name, np.zeros((1, 2, 2, 1)), mask, (1,) * 3) for name in ids]
    assert settings.ACDC.split(cases) == acdc_split(cases, 7)
    assert settings.ACDC.split(cases, all_labelled=True) == acdc_split(cases, 70)
    split = settings.smoke(settings.ACDC).split(cases[:20])
    sizes = {part: len(getattr(split, part)) for part in PARTS}
    assert sizes == {"labelled": 4, "unlabelled": 6, "validation": 4, "test": 6}
    for part in PARTS:
        patients = [acdc_patient(name) for name in getattr(split, part)]
        assert {patients.count(patient) for patient in patients} == {2}


@pytest.mark.job
def test_the_main_job_on_acdc(monkeypatch, tmp_path, capsys):
    """Volumes that do not say how large their voxels are, two of each patient."""
    for patient, frame in product(range(1, 11), (1, 12)):
        case = make_case(2 * patient + frame % 2, (3, 40, 30))
        name = f"patient{patient:03d}_frame{frame:02d}.h5"
        write_h5(tmp_path / "ACDC_training_volumes" / name, case.image[..., 0], case.mask)
    options = ["--data", "acdc", "--data-dir", tmp_path, "--tier", "smoke", "--runs", tmp_path]
    for path in MAIN_JOB:
        run(path, options, monkeypatch)
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().out
    table, about = read_results(tmp_path / "acdc-smoke" / "results.csv")
    assert table["case"].nunique() == 6 and about["licence"] == "CC BY-NC-SA 4.0"


@pytest.mark.job
def test_the_main_job_on_a_folder_of_ones_own(monkeypatch, tmp_path):
    """A teacher of four sequences, a student of T1; as on simulated scans, but for the reading."""
    folder = write_brats(tmp_path / "mine", [make_brain(i) for i in range(8)])
    options = ["--data", "brats", "--data-dir", folder, "--tier", "smoke", "--runs", tmp_path]
    for path in MAIN_JOB:
        run(path, options, monkeypatch)
    place = tmp_path / "brats-smoke"
    assert keras.saving.load_model(place / "teacher" / "network.keras").input_shape[-1] == 4
    assert keras.saving.load_model(place / "student" / "network.keras").input_shape[-1] == 1
    table = pd.read_csv(place / "results.csv")
    assert "whole tumour" in set(table["label"])
    assert json.loads((place / "results.json").read_text())["settings"]["data"] == "brats"
