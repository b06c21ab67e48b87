"""Tasks, settings of arms, and what the command line makes of them."""

from dataclasses import replace

import pytest
from conftest import acdc_volume, write_h5

import kdcore
from kdcore.evaluation.scores import read_results
from kdcore.soft_targets import SoftTargetsError
from kdcore.study import __main__ as study
from kdcore.study import experiment
from kdcore.study.__main__ import from_arguments
from kdcore.study.experiment import Experiment
from kdcore.study.settings import STUDIES, TASKS, Distillation, Training

SMALL = Training(filters=2, steps=2, learning_rate=1e-2, shape=(16, 16), batch_size=4)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A small cross-modal experiment at 6 mm."""
    folder = tmp_path_factory.mktemp("simulated")
    arms = {
        "teacher": SMALL,
        "baseline": replace(SMALL, sequences=("T1",)),
        "student": replace(SMALL, sequences=("T1",), distillation=Distillation()),
    }
    smoke = STUDIES["cross-modal"]["simulated"]["smoke"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDCORE_CACHE", str(folder / "cache"))
        patch.setattr("kdcore.study.settings.SIMULATION", kdcore.Simulation(spacing_mm=6.0))
        yield Experiment(replace(smoke, arms=arms, num_cases=8), root=folder / "runs")


@pytest.mark.job
def test_a_teacher_that_saw_more(simulated):
    run = experiment.train(simulated, "student")
    assert run.load().input_shape == (None, 16, 16, 1)
    assert experiment.train(simulated, "teacher").load().input_shape == (None, 16, 16, 4)
    for entry in run.result["per_case"].values():
        assert set(entry) == {"1", "2", "whole tumour"}


@pytest.mark.job
def test_the_students_sequence_must_be_the_labelled_one(simulated):
    soft_targets = simulated.soft_targets("student")
    case = simulated.take("labelled", "student")[0]
    assert case.sequences == ("T1",)
    soft_targets.check_images([case], "percentile")
    other = replace(case, image=case.image + 1)
    with pytest.raises(SoftTargetsError, match=r"not the one that was labelled \(T1 changed\)"):
        soft_targets.check_images([other], "percentile")
    renamed = replace(case, sequences=("PET",))
    with pytest.raises(SoftTargetsError, match=r"the sequences \['PET'\] of .* were not there"):
        soft_targets.check_images([renamed], "percentile")


@pytest.mark.job
def test_arms_of_one_seed_start_alike_and_see_the_same_split(simulated):
    student, baseline = (simulated.network(arm) for arm in ("student", "baseline"))
    for a, b in zip(student.get_weights(), baseline.get_weights(), strict=True):
        assert (a == b).all()
    other = simulated.with_seed(1)
    assert other.split.test == simulated.split.test
    assert other.split.labelled != simulated.split.labelled
    assert len(simulated.with_seed(1, 3).split.labelled) == 3


@pytest.mark.job
def test_a_student_without_unlabelled_cases(simulated):
    training = simulated.training("student")
    alone = replace(training, distillation=Distillation(unlabelled=False))
    config = replace(simulated.config, arms={**simulated.config.arms, "student": alone})
    job = Experiment(config, root=simulated.root.parent)
    batches = job.batches("student", job.soft_targets("student"))
    assert set(batches.case_ids) == set(job.split.labelled)
    assert set(simulated.batches("student").case_ids) > set(job.split.labelled)


def test_a_teacher_must_stand_before_its_student():
    config = STUDIES["main"]["hippocampus"]["quick"]
    arms = dict(reversed(config.arms.items()))
    with pytest.raises(ValueError, match=r"student needs \['teacher'\], which are none"):
        replace(config, arms=arms)
    with pytest.raises(ValueError, match=r"arm must be one of \['teacher'"):
        Experiment(config).training("tutor")


def test_tasks_name_their_labels():
    for tiers_of in STUDIES.values():
        for name, tiers in tiers_of.items():
            assert set(tiers) == {"smoke", "quick", "full"}
            task = TASKS[name]
            assert set(task.labels) == {str(label) for label in range(1, task.num_classes)}
            assert set(task.compared) <= {"mean", *task.scored}


def test_the_command_line(monkeypatch):
    monkeypatch.delenv("KDCORE_DATASET", raising=False)
    job = from_arguments(["--tier", "smoke", "--seed", "3"])
    assert (job.root.name, job.seed) == ("simulated-smoke", 3)
    job = from_arguments(["--data", "hippocampus", "--labelled", "5"])
    assert job.root.name == "hippocampus-quick" and job.config.num_labelled == 5
    monkeypatch.setenv("KDCORE_DATASET", "hippocampus")
    assert from_arguments([]).root.name == "hippocampus-quick"
    assert from_arguments([], study="cross-modal").task is TASKS["simulated"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data-dir", "x"], "Simulated scans are made, not read.*--data hippocampus"),
        (["--data", "brats"], "no default: pass --data-dir"),
        (["--data", "lgg"], "with an account: pass --data-dir"),
    ],
)
def test_data_that_cannot_be_had(arguments, message):
    name = "main" if "--data-dir" in arguments else "cross-modal"
    with pytest.raises(ValueError, match=message):
        _ = from_arguments(arguments, study=name).cases


def test_some_arms_bring_their_teachers():
    settings = STUDIES["cross-modal"]["simulated"]["quick"]
    assert list(study.only(settings, ["baseline"]).arms) == ["baseline"]
    assert list(study.only(settings, ["student"]).arms) == ["teacher", "student"]
    with pytest.raises(ValueError, match=r"no arm \['tutor'\]. There are: \['teacher'"):
        study.only(settings, ["tutor"])


@pytest.mark.job
def test_patients_with_two_scans_and_slices_of_another_size(tmp_path):
    """Networks see 128 × 128; scores are of the scans' own voxels, intervals over patients."""
    for number in range(1, 11):
        for frame in (1, 12):
            image, label = acdc_volume(number + frame, (3, 20, 18))
            write_h5(tmp_path / "h5" / f"patient{number:03d}_frame{frame:02d}.h5", image, label)
    out = ["--records", str(tmp_path / "records"), "--out", str(tmp_path / "out")]
    arguments = ["--study", "benchmark", "--tier", "smoke", "--data-dir", str(tmp_path / "h5")]
    arguments += ["--runs", str(tmp_path / "runs"), "--seeds", "1", *out]
    assert study.main([*arguments, "--arms", "student", "pseudo-labels"]) == 0
    table, about = read_results(tmp_path / "out" / "benchmark-acdc-smoke-2-labels.csv.gz")
    assert len(set(about["patients"].values())) == 3 and len(about["patients"]) == 6
    [row] = [r for r in about["comparisons"] if (r["a"], r["b"]) == ("student", "pseudo-labels")]
    assert row["cases"] <= 3
    assert set(table["arm"]) == {"teacher", "student", "pseudo-labels"}
