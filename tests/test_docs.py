"""What is written is what was measured."""

import json
import re
import runpy
from pathlib import Path

import pytest

import kdcore
from kdcore.evaluation.statistics import equivalence, holm
from kdcore.study.results import KEYS, load_results

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "docs" / "results").glob("*.json"))
STUDIES = [p for p in RESULTS if "arms" in json.loads(p.read_text())]


@pytest.fixture(scope="module")
def tables():
    return runpy.run_path(str(ROOT / "docs" / "make_tables.py"))


def test_tables_are_those_of_the_results_files(tables):
    for page in tables["PAGES"]:
        text = page.read_text("utf-8")
        assert tables["filled"](text) == text, f"{page.name}: run docs/make_tables.py"


def test_a_stale_table_is_noticed(tables):
    text = (ROOT / "docs" / "design.md").read_text("utf-8")
    block = tables["BLOCK"].search(text)
    stale = text.replace(block[0], block[0].replace("0.", "1.", 1), 1)
    assert stale != text and tables["filled"](stale) == text


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_comparison_can_be_computed_again(path):
    study = load_results(path)
    assert set(KEYS) <= set(study)
    for row in study["comparisons"]:
        again = kdcore.compare(study, row["a"], row["b"], label=row["label"])
        assert again.pop("interval") == pytest.approx(row["interval"])
        rest = {k: v for k, v in row.items() if k not in ("interval", "p_holm")}
        assert again == pytest.approx(rest)
    for row in study.get("equivalence", []):
        again = equivalence(study, row["a"], row["b"], row["margin"], label=row["label"])
        assert again == pytest.approx(row)
    for label in {row["label"] for row in study["comparisons"]}:
        family = [r for r in study["comparisons"] if r["label"] == label and "p_holm" in r]
        assert [r["p_holm"] for r in family] == pytest.approx(holm([r["p"] for r in family]))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_are_strict_json_without_paths(path):
    def refuse(name):
        raise AssertionError(name)

    text = path.read_text()
    json.loads(text, parse_constant=refuse)
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)


def test_the_published_main_job():
    study = load_results(ROOT / "docs" / "results" / "hippocampus-quick.json")
    arms = study["arms"]
    assert arms["teacher"]["params"] >= 15 * arms["student"]["params"]
    assert arms["student"]["seeds"] == arms["baseline"]["seeds"] == list(range(10))
    assert len(study["split"]["test"]) >= 40 and study["collapsed"] == []
    assert len(study["split"]["labelled"]["0"]) == 8


def test_what_is_listed_as_absent_is_where_a_dice_says_nothing():
    study = load_results(ROOT / "docs/results/evidence-simulated-quick-8-labels.json")
    assert set(study["absent"]) == {"1", "2", "whole tumour"} and study["absent"]["2"]
    for arm in study["arms"].values():
        for case_id, seeds in arm["per_case"].items():
            for label, scores in ((k, v) for run in seeds.values() for k, v in run.items()):
                lacks = case_id in study["absent"][label]
                assert (scores["dice"] in (0, None)) if lacks else (scores["dice"] is not None)


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
