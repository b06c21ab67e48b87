"""What is written is what was measured."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import kdcore
from kdcore.evaluation import equivalence, gap_closed, holm, per_patient, per_seed, read_results

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "docs" / "results").glob("*.json"))
STUDIES = sorted((ROOT / "docs" / "results").glob("*.csv.gz"))


def test_studies_are_tables_with_a_description():
    described = [path for path in RESULTS if "arms" in json.loads(path.read_text())]
    assert [path.stem for path in described] == [path.name[:-7] for path in STUDIES]


def test_no_page_holds_a_table_of_results():
    """Neither typed nor copied: pages ask for them in `{$ … $}`, the README links."""
    assert "| 95 % interval |" not in (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert "<!-- begin:" not in page.read_text("utf-8"), page


@pytest.mark.job
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name[:-7])
def test_every_comparison_can_be_computed_again(path):
    table, about = read_results(path)
    if "patients" in about:
        table = per_patient(table, about["patients"])
    for row in about["comparisons"]:
        again = kdcore.compare(table, row["a"], row["b"], label=row["label"])
        same(again, {k: v for k, v in row.items() if k != "p_holm"})
    for row in about.get("equivalence", []):
        same(equivalence(table, row["a"], row["b"], row["margin"], label=row["label"]), row)
    for row in about.get("gap_closed", []):
        arms = row["student"], row["baseline"], row["teacher"]
        again = gap_closed(table, *arms, label=row["label"])
        same({key: again[key] for key in row}, row)  # older files know fewer
    for label in {row["label"] for row in about["comparisons"]}:
        family = [r for r in about["comparisons"] if r["label"] == label and "p_holm" in r]
        assert [r["p_holm"] for r in family] == pytest.approx(holm([r["p"] for r in family]))


def same(new, old):
    assert set(new) == set(old)
    for key, value in old.items():
        exact = not isinstance(value, float | list)
        assert new[key] == (value if exact else pytest.approx(value, rel=0, abs=1e-12)), key


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_are_strict_json_without_paths(path):
    def refuse(name):
        raise AssertionError(name)

    text = path.read_text()
    json.loads(text, parse_constant=refuse)
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)


@pytest.mark.job
def test_the_lines_on_the_page_compute_the_headline_numbers(monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "results" / "index.md").read_text("utf-8")
    lines = {}
    exec(re.search(r"```python\n(.*?)print\(", page, re.DOTALL)[1], lines)
    for name in ("tutorial-simulated-quick-8-labels", "benchmark-acdc-quick-7-labels"):
        rows = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())["comparisons"]
        arms = ("student", "baseline", "mean")
        [row] = [row for row in rows if (row["a"], row["b"], row["label"]) == arms]
        points, interval = lines["gain"](name)
        assert points == pytest.approx(100 * row["difference"], abs=1e-9)
        # Drawn anew, and fewer times.
        published = 100 * np.array(row["interval_seeds"])
        assert interval == pytest.approx(published, abs=0.1 * np.ptp(published))


def test_the_published_main_job():
    table, study = read_results(ROOT / "docs" / "results" / "hippocampus-quick.csv.gz")
    arms = study["arms"]
    assert arms["teacher"]["params"] >= 15 * arms["student"]["params"]
    for arm in ("student", "baseline"):
        assert per_seed(table, arm).index.tolist() == arms[arm]["seeds"] == list(range(10))
    assert len(study["split"]["test"]) >= 40 and study["collapsed"] == []
    assert len(study["split"]["labelled"]["0"]) == 8


def test_what_is_listed_as_absent_is_where_a_dice_says_nothing():
    path = ROOT / "docs/results/evidence-simulated-quick-8-labels.csv.gz"
    table, study = read_results(path)
    assert set(study["absent"]) == {"1", "2", "whole tumour"} and study["absent"]["2"]
    dice = table[table["metric"] == "dice"]
    lacks = [row.case in study["absent"][row.label] for row in dice.itertuples()]
    assert dice["value"][lacks].fillna(0).eq(0).all()
    assert dice["value"][[not each for each in lacks]].notna().all()


def test_the_readme_names_sessions_that_exist():
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    sessions = set(re.findall(r"nox -s ([a-z_-]+)", text))
    source = (ROOT / "noxfile.py").read_text()
    defined = set(re.findall(r"@nox\.session[^\n]*\ndef (\w+)", source))
    defined |= set(re.findall(r'@nox\.session\(name="([\w-]+)"', source))
    assert sessions and sessions <= defined


def test_the_readmes_python_names_what_exists():
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"kdcore\.(\w+)", text):
        assert hasattr(kdcore, name), name


@pytest.mark.job
def test_the_readmes_code_runs(tmp_path, monkeypatch):
    """At a smaller size: fewer cases, filters and epochs, otherwise as it stands."""
    from conftest import write_msd

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDCORE_DATA", str(tmp_path))
    write_msd(tmp_path / "Task04_Hippocampus", 6)
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    for long, short in {
        "num_labelled=8": "num_labelled=2",
        "num_validation=20": "num_validation=1",
        "num_test=60": "num_test=1",
        "filters=16": "filters=2",
        "filters=4": "filters=2",
        "epochs=60": "epochs=1",
        "epochs=5": "epochs=1",
    }.items():  # fmt: skip
        assert long in code
        code = code.replace(long, short)
    scope = {}
    exec(code, scope)
    assert len(scope["results"]) == 1 and (tmp_path / "student.keras").exists()


def test_ci_calls_the_readmes_test_command():
    command = re.search(
        r"passes the unit tests:\n\n```sh\n(.*?)\n```", (ROOT / "README.md").read_text()
    )[1]
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()
    assert "bash .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
