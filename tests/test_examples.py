"""Every example runs, in order and on its own, at smoke size."""

import runpy
from pathlib import Path

import keras
import pytest
from conftest import make_brain, write_brats

from kdcore.evaluation import read_results
from kdcore.evaluation.scores import by_seed
from kdcore.study import __main__ as study
from kdcore.study import experiment
from kdcore.study.arguments import from_arguments

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("0*.py"))
MAIN_JOB = EXAMPLES[:5]
SECTION = "# %%"

pytestmark = pytest.mark.job


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def arguments(msd_folder, runs):
    data = ["--data", "hippocampus", "--data-dir", str(msd_folder)]
    return [*data, "--tier", "smoke", "--runs", str(runs)]


def run(path, msd_folder, runs, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(path), *arguments(msd_folder, runs)])
    return runpy.run_path(str(path), run_name="__main__")


def test_there_are_examples():
    numbers = [path.name[:2] for path in EXAMPLES]
    assert numbers == ["01", "02", "03", "04", "05", "06", "07", "08"]


@pytest.mark.parametrize("path", MAIN_JOB, ids=lambda path: path.stem)
def test_in_order(path, msd_folder, runs, monkeypatch, capsys):
    run(path, msd_folder, runs, monkeypatch)
    assert "smoke" in capsys.readouterr().out  # says where its files are


def test_the_last_one_leaves_results_and_figures(runs):
    folder = runs / "hippocampus-smoke"
    _, results = read_results(folder / "results.csv")
    assert set(results["arms"]) == {"teacher", "student", "baseline"}
    for arm in results["arms"].values():
        assert arm["params"] > 0 and arm["seeds"] == [0] and len(arm["per_case"]) == 3
        for seeds in arm["per_case"].values():
            assert {"dice", "surface_dice_1mm", "hd95_mm"} <= set(seeds["0"]["1"])
    assert [row["a"] for row in results["comparisons"]] == ["student", "student", "teacher"]
    figures = sorted(path.stem for path in (folder / "figures").iterdir())
    assert figures == ["loss_curves", "normalization", "overlays", "sequences", "soft_targets"]


def test_the_label_budget_is_told_from_both_ends(msd_folder, runs, monkeypatch, capsys):
    run(EXAMPLES[5], msd_folder, runs, monkeypatch)
    folder = runs / "hippocampus-smoke"
    few, everything = (read_results(folder / f"budget-{n}.csv")[1] for n in (2, 5))
    assert len(few["split"]["labelled"]["0"]) == 2
    assert len(everything["split"]["labelled"]["0"]) == 5
    assert few["split"]["test"] == everything["split"]["test"]
    assert "| 2 " in capsys.readouterr().out
    assert (folder / "figures" / "label_budgets.png").exists()


@pytest.mark.parametrize("number", ["02", "04"])
def test_an_example_trains_what_the_study_trains(number, msd_folder, runs, tmp_path):
    """The code shown in the example and `experiment.train` end in the same weights."""
    arm = {"02": "teacher", "04": "student"}[number]
    shown = from_arguments(arguments(msd_folder, runs))
    again = from_arguments(arguments(msd_folder, tmp_path))
    by_example = shown.run(arm, shown.soft_targets(arm))
    by_study = experiment.train(again, arm)
    assert by_example.result["model_digest"] == by_study.result["model_digest"]


@pytest.mark.parametrize("path", MAIN_JOB[3:], ids=lambda path: path.stem)
def test_on_its_own(path, msd_folder, tmp_path, monkeypatch):
    run(path, msd_folder, tmp_path, monkeypatch)


def test_finished_runs_are_not_repeated(msd_folder, runs, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(keras.Model, "fit", refuse)
    for path in MAIN_JOB[1:]:
        run(path, msd_folder, runs, monkeypatch)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_is_in_py_percent_format(path):
    import jupytext

    notebook = jupytext.read(path)
    kinds = {cell.cell_type for cell in notebook.cells}
    assert kinds == {"markdown", "code"} and notebook.cells[0].cell_type == "markdown"


def test_a_study_over_seeds(msd_folder, tmp_path, capsys):
    options = ["--seeds", "2", "--budgets", "3", *arguments(msd_folder, tmp_path)]
    assert study.main([*options, "--out", str(tmp_path)]) == 0
    table, results = read_results(tmp_path / "hippocampus-smoke-3-labels.csv.gz")
    assert {n: arm["seeds"] for n, arm in results["arms"].items()} == {
        "teacher": [0, 1], "student": [0, 1], "baseline": [0, 1],
    }  # fmt: skip
    drawn = results["split"]["labelled"]
    assert len(drawn["0"]) == len(drawn["1"]) == 3
    assert drawn["0"] != drawn["1"]  # a seed redraws which cases are labelled
    nll = by_seed(table, "student", "all", "nll")
    assert (nll[0] != nll[1]).any()
    assert "collapsed runs" in capsys.readouterr().out


# --- cross-modal; example 08 is tested in test_recipe.py ---------------------------------


def test_cross_modal_on_a_folder_of_ones_own(monkeypatch, tmp_path):
    """As on simulated scans, but for the reading; see also test_tasks.py."""
    folder = write_brats(tmp_path / "mine", [make_brain(i) for i in range(8)])
    path = next(path for path in EXAMPLES if path.name.startswith("07"))
    options = ["--data", "brats", "--data-dir", str(folder), "--tier", "smoke"]
    monkeypatch.setattr("sys.argv", [str(path), *options, "--runs", str(tmp_path)])
    runpy.run_path(str(path), run_name="__main__")
    folder = tmp_path / "cross-modal-brats-smoke"
    _, results = read_results(folder / "results.csv")
    assert set(results["arms"]) == {"teacher", "baseline", "student", "student-labelled"}
    compared = {(row["a"], row["b"], row["label"]) for row in results["comparisons"]}
    assert {("student", "baseline", "whole tumour"), ("teacher", "baseline", "2")} <= compared
    assert keras.saving.load_model(folder / "student_t1.keras").input_shape[-1] == 1
    assert {path.stem for path in (folder / "figures").iterdir()} == {"sequences", "overlays"}
