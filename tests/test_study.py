"""A study goes on from what is kept, and its arms differ in what they should."""

import json
import pickle
import shutil
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy import special

import kdcore
from kdcore._provenance import stands_on
from kdcore.ensemble import ensemble, fit_temperature
from kdcore.evaluation import read_results
from kdcore.study import __main__ as study
from kdcore.study import queue
from kdcore.study import settings as config
from kdcore.study.experiment import Experiment, train
from kdcore.study.settings import STUDIES, Distillation, Training

SMALL = Training(filters=2, steps=2, learning_rate=1e-2, shape=(8, 8), batch_size=4)
FLAT = replace(SMALL, filters=3)
ARMS = {
    "teacher": FLAT,
    "teacher-1": replace(FLAT, member=1),
    "ensemble": replace(FLAT, steps=0, members=("teacher", "teacher-1")),
    "baseline": SMALL,
    "student": replace(SMALL, distillation=Distillation()),
    "of-ensemble": replace(SMALL, distillation=Distillation("ensemble")),
    "online": replace(SMALL, distillation=Distillation(online=True)),
    "hints": replace(
        SMALL, distillation=Distillation(hints=(("bottleneck_relu1", "bottleneck_relu1"),))
    ),
}

pytestmark = pytest.mark.job


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """All kinds of arms, as small as can be."""
    folder = tmp_path_factory.mktemp("study")
    smoke = STUDIES["main"]["simulated"]["smoke"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDCORE_CACHE", str(folder / "cache"))
        patch.setattr("kdcore.study.settings.SIMULATION", kdcore.Simulation(spacing_mm=6.0))
        few = replace(smoke, arms=ARMS, num_cases=6, num_validation=1, num_test=2)
        yield Experiment(few, root=folder / "runs")


def jobs(experiment, records, arms=ARMS):
    return [study.Job(experiment, arm, records) for arm in arms]


def test_every_kind_of_arm_is_done_once_and_kept(small, tmp_path, monkeypatch, capsys):
    study.work(jobs(small, tmp_path))
    kept = sorted(tmp_path.glob("*.json"))
    assert len(kept) == len(ARMS)
    assert "8 of 8 runs" in capsys.readouterr().out
    # On another machine, without run folders, nothing is done again.
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: pytest.fail("trained again"))
    elsewhere = Experiment(small.config, root=tmp_path / "elsewhere")
    elsewhere.cases = small.cases
    study.work(jobs(elsewhere, tmp_path))
    assert sorted(tmp_path.glob("*.json")) == kept
    digests = {json.loads(path.read_text())["model_digest"] for path in kept}
    assert len(digests) == len(ARMS)  # no two arms are the same network
    student = json.loads(next(tmp_path.glob("student-*.json")).read_text())
    assert len(student["agreement"]) == len(student["per_case"]) == 2
    assert "agreement" not in json.loads(next(tmp_path.glob("baseline-*.json")).read_text())
    assert max(path.stat().st_size for path in kept) < 10_000


def test_a_key_depends_on_the_teacher_before_it_is_trained(small):
    other = small.with_seed(0)
    assert other.key("student") == small.key("student")
    longer = replace(FLAT, steps=4)
    other.config = replace(small.config, arms={**ARMS, "teacher": longer})
    assert other.key("student") != small.key("student")
    assert other.key("of-ensemble") != small.key("of-ensemble")
    assert other.key("baseline") == small.key("baseline")
    assert small.with_seed(1).key("baseline") != small.key("baseline")


def test_an_ensemble_is_the_calibrated_mean_of_its_members(small):
    run = train(small, "ensemble")
    members = [train(small, name) for name in ("teacher", "teacher-1")]
    assert run.load().count_params() == 2 * members[0].load().count_params()
    digests = {member.arm: member.result["model_digest"] for member in members}
    assert run.result["member_digests"] == digests
    assert members[0].result["model_digest"] != members[1].result["model_digest"]
    images, _ = small.batches("teacher")[0]
    said = [special.softmax(m.load().predict_on_batch(images), axis=-1) for m in members]
    model = run.load()
    mean = ensemble([member.load() for member in members])
    temperature = fit_temperature(mean, small.take("validation", "teacher"))
    expected = np.log(np.mean(said, axis=0)) / temperature
    received = special.softmax(model.predict_on_batch(images), axis=-1)
    np.testing.assert_allclose(received, special.softmax(expected, axis=-1), atol=1e-5)


def test_what_another_process_does_is_waited_for(small, tmp_path, monkeypatch):
    (job,) = jobs(small, tmp_path / "kept", ["baseline"])
    study.work([job])
    (mine,) = jobs(small, tmp_path, ["baseline"])

    def until_the_other_is_done(path):
        shutil.copy(job.path, mine.path)
        return nullcontext()

    monkeypatch.setattr(queue, "lock", until_the_other_is_done)
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: pytest.fail("trained again"))
    study.work([mine])
    assert mine.record() == job.record()


def test_an_experiment_for_another_process_leaves_its_data_behind(small):
    assert small.cases
    other = pickle.loads(pickle.dumps(small))
    assert "cases" not in vars(other) and other.root == small.root
    other.share_data(small)
    assert other.cases is small.cases and other.key("student") == small.key("student")


def test_a_killed_record_leaves_nothing_half(small, tmp_path, monkeypatch):
    (job,) = jobs(small, tmp_path, ["baseline"])

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            job.run()
    assert not list(tmp_path.iterdir())
    job.run()
    assert job.record()["arm"] == "baseline"


def test_what_was_done_is_added_up(msd_folder, tmp_path):
    options = ["--data", "hippocampus", "--tier", "smoke", "--data-dir", str(msd_folder)]
    options += ["--runs", str(tmp_path / "runs"), "--seeds", "1"]
    assert study.main([*options, "--records", str(tmp_path / "kept"), "--out", str(tmp_path)]) == 0
    assert len(list((tmp_path / "kept").glob("*.json"))) == 3
    table, results = read_results(tmp_path / "hippocampus-smoke-2-labels.csv.gz")
    assert set(table["arm"]) == set(results["arms"]) == {"teacher", "student", "baseline"}
    students = [row for row in results["comparisons"] if row["b"] == "baseline"]
    assert all(row["p_holm"] >= row["p"] for row in students)
    assert results["equivalence"][0]["a"] == "student"


def test_after_some_runs_it_goes_on_in_another_process(msd_folder, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(study, "RUNS_A_PROCESS", 1)
    options = ["--data", "hippocampus", "--tier", "smoke", "--data-dir", str(msd_folder)]
    options += ["--arms", "baseline", "--seeds", "2", "--records", str(tmp_path / "kept")]
    assert study.main([*options, "--runs", str(tmp_path / "runs")]) == 0
    assert len(list((tmp_path / "kept").glob("*.json"))) == 2
    told = capfd.readouterr().out
    assert "0 of 2 runs are finished" in told and "1 of 2 runs are finished" in told


def test_each_fold_is_trained_and_all_are_summed_up_together(msd_folder, tmp_path):
    options = ["--study", "cross-validation", "--tier", "smoke", "--data-dir", str(msd_folder)]
    options += ["--budgets", "2", "--seeds", "1", "--runs", str(tmp_path)]
    [(_, jobs)] = study._by_budget(list(study._stages(study._parse(options))))
    assert len(jobs) == len({job.path for job in jobs}) == len({job.name for job in jobs}) == 15
    assert len({job.group for job in jobs}) == 5
    teachers = [job.experiment.split.test for job in jobs if job.arm == "teacher"]
    assert len(set(sum(teachers, ()))) == sum(map(len, teachers)) == 10


def test_a_failing_process_is_not_passed_over(small, tmp_path):
    options = ["--data", "hippocampus", "--tier", "smoke", "--data-dir", str(tmp_path / "none")]
    with pytest.raises(SystemExit, match="A run failed"):
        study._go_on([*options, "--runs", str(tmp_path)], jobs(small, tmp_path))


def test_several_at_once_need_ray(msd_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    options = ["--data", "hippocampus", "--tier", "smoke", "--data-dir", str(msd_folder)]
    with pytest.raises(SystemExit, match=r"Ray is not installed.*pip install 'kdcore\[ray\]'"):
        study.main([*options, "--runs", str(tmp_path), "--workers", "2"])


def test_no_test_case_is_scored_before_the_plan(monkeypatch):
    monkeypatch.setattr(study, "stands_on", lambda tag: False)
    options = ["--study", "cross-modal", "--data", "lgg"]
    with pytest.raises(ValueError, match="the tag plan-lgg, .* git fetch --tags"):
        study._check_plan("plan-lgg", study._parse(options))
    for free in (["--unplanned"], ["--tier", "smoke"], ["--workers", "0"]):
        study._check_plan("plan-lgg", study._parse(options + free))
    monkeypatch.setattr(study, "stands_on", lambda tag: tag == "plan-lgg")
    study._check_plan("plan-lgg", study._parse(options))


def test_a_plan_is_a_commit_of_this_history():
    assert not stands_on("no-such-tag")
    if not (Path(config.__file__).parents[2] / ".git").exists():
        pytest.skip("kdcore does not run from a checkout")
    assert stands_on("HEAD")


def test_published_plans_name_arms_that_exist():
    for name, plan in config.PLANS.items():
        for settings in STUDIES[name].values():
            for _, arms in plan:
                study.only(settings["quick"], arms or [])


def test_a_record_of_another_run_is_refused(small, tmp_path):
    student, baseline = jobs(small, tmp_path, ["student", "baseline"])
    study.work([baseline])
    shutil.copy(baseline.path, student.path)
    with pytest.raises(ValueError, match=r"student-.*json is no record of this run"):
        student.record()
    other = study.Job(small.with_seed(0, 3), "baseline", tmp_path)  # other labelled cases
    shutil.copy(baseline.path, other.path)
    with pytest.raises(ValueError, match="is no record of this run"):
        other.record()
    baseline.path.write_text("{}")
    with pytest.raises(ValueError, match="is not as it was written"):
        baseline.record()


def test_what_is_finished_is_added_up_without_training(msd_folder, tmp_path, monkeypatch, capsys):
    options = ["--data", "hippocampus", "--tier", "smoke", "--data-dir", str(msd_folder)]
    options += [
        "--runs",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "out"),
        "--arms",
        "baseline",
    ]
    assert study.main([*options, "--seeds", "1"]) == 0
    assert "0 of 1 runs are finished." in capsys.readouterr().out
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: pytest.fail("trained"))
    assert study.main([*options, "--seeds", "3", "--budgets", "2", "3", "--workers", "0"]) == 0
    told = capsys.readouterr().out
    assert "3 labels: no run is finished." in told and "minutes left" not in told
    assert json.loads((tmp_path / "out/hippocampus-smoke-2-labels.json").read_text())["arms"]


def test_damaged_records_and_folders_are_told_before_training(msd_folder, tmp_path, monkeypatch):
    options = ["--data", "hippocampus", "--tier", "smoke", "--data-dir", str(msd_folder)]
    options += ["--runs", str(tmp_path), "--arms", "baseline", "--seeds"]
    study.main([*options, "1", "--quiet"])
    [record] = (tmp_path / "hippocampus-smoke/records").glob("*.json")
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(SystemExit, match="FileExistsError"):
        study.main([*options, "2", "--out", str(record)])
    record.write_bytes(record.read_bytes()[:500])
    with pytest.raises(SystemExit, match=f"ValueError: .*{record.name}"):
        study.main([*options, "2"])


@pytest.mark.parametrize("wrong", [["--seeds", "0"], ["--budgets", "0"], ["--budgets", "few"]])
def test_counts_start_at_one(wrong, capsys):
    with pytest.raises(SystemExit):
        study._parse(wrong)
    assert "expected a whole number from 1 on" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name, data in STUDIES.items() if "hippocampus" in data])
def test_every_study_fits_its_smoke_data(name, msd_folder):
    options = ["--study", name, "--data", "hippocampus", "--tier", "smoke"]
    options += ["--data-dir", str(msd_folder)]
    for experiment, jobs in study._stages(study._parse(options)):
        assert jobs and len(experiment.split.test) == experiment.config.num_test


def test_costs_are_those_of_the_arm():
    class Known:
        def __init__(self, name, arm, seconds=None):
            self.name, self.arm, self.seconds = name, arm, seconds

        def record(self):
            return {"training_seconds": self.seconds}

    done = [Known("0", "teacher", 90), Known("1", "student", 10), Known("2", "student", 20)]
    left = [Known("3", "teacher"), Known("4", "student"), Known("5", "other")]
    expected = {"0": 90, "1": 15, "2": 15, "3": 90, "4": 15, "5": 40}
    assert queue._costs(done + left, done) == expected
