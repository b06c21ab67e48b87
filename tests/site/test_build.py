"""What is broken fails the build, and the message names the page.

Each build has the pages that read the broken file alone: links to the others are none of its
concern, and all pages take a minute.
"""

import gzip
import json
import shutil

import pytest
from conftest import ROOT, build

STUDY = "evidence-hippocampus-quick-8-labels.json"
TABLE = "evidence-hippocampus-quick-8-labels.csv.gz"
PARTS = ("docs", "kdcore", "examples", "mkdocs.yml", "CHANGELOG.md", "README.md")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of what the build reads."""
    folder = tmp_path_factory.mktemp("project")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    if (ROOT / ".cache").is_dir():
        shutil.copytree(ROOT / ".cache", folder / ".cache")
    return folder


def some_pages(project, *pages):
    """The build of these pages alone."""
    (project / "some.yml").write_text(
        json.dumps(
            {
                "INHERIT": "mkdocs.yml",
                "exclude_docs": "\n".join(["*", *(f"!/{page}" for page in pages)]),
                "nav": list(pages),
            }
        )
    )
    return build(project, project / "site", "--config-file", "some.yml")


@pytest.fixture
def spoilt(project):
    """`spoilt(path, text, page, ...)`: what the build of the pages says of that file changed."""
    before = {}

    def spoil(name, change, *pages):
        path = project / name
        before[path] = path.read_bytes()
        packed = name.endswith(".gz")
        text = (gzip.decompress(before[path]) if packed else before[path]).decode()
        changed = change(text)
        if changed is None:
            path.unlink()
        else:
            path.write_bytes(gzip.compress(changed.encode()) if packed else changed.encode())
        done = some_pages(project, *pages)
        assert done.returncode != 0, "the build succeeded"
        return done.stdout + done.stderr

    yield spoil
    for path, content in before.items():
        path.write_bytes(content)


def test_pages_that_nobody_spoilt(project):
    done = some_pages(project, "index.md", "pitfalls.md", "glossary.md", "results/hippocampus.md")
    assert done.returncode == 0, done.stderr


def test_a_missing_results_file(spoilt):
    output = spoilt(f"docs/results/{STUDY}", lambda text: None, "results/hippocampus.md")
    assert "results/hippocampus.md: " in output and STUDY.removesuffix(".json") in output


def test_a_broken_results_file(spoilt):
    output = spoilt(f"docs/results/{STUDY}", lambda text: text[: len(text) // 2], "demo.md")
    assert "demo.md: " in output and STUDY in output


def test_a_claim_that_its_file_contradicts(spoilt):
    def turned(text):
        study = json.loads(text)
        for row in study["comparisons"]:
            row["difference"] *= -1
        study.pop("kdcore_sha256", None)
        return json.dumps(study)

    output = spoilt(f"docs/results/{STUDY}", turned, "index.md")
    assert "index.md: ValueError: a claim in the prose" in output


def test_a_notebook_with_an_error(spoilt):
    def failed(text):
        notebook = json.loads(text)
        cell = next(c for c in notebook["cells"] if c["cell_type"] == "code")
        error = {"output_type": "error", "ename": "KeyError", "evalue": "'x'", "traceback": []}
        cell["outputs"] = [error]
        return json.dumps(notebook)

    output = spoilt("docs/tutorial/02_teacher.ipynb", failed, "tutorial/02_teacher.ipynb")
    assert "tutorial/02_teacher.ipynb" in output and "KeyError" in output


def test_a_dead_reference(spoilt):
    with_it = "\n[gone](learn/gone.md)\n"
    output = spoilt("docs/glossary.md", lambda text: text + with_it, "glossary.md")
    assert "glossary.md" in output and "gone.md" in output


def test_a_dead_anchor(spoilt):
    with_it = "\n[gone](learn/why.md#gone)\n"
    pages = "glossary.md", "learn/why.md"
    output = spoilt("docs/glossary.md", lambda text: text + with_it, *pages)
    assert "glossary.md" in output and "#gone" in output


def test_a_number_changed_by_hand(spoilt):
    output = spoilt(
        "docs/results/pitfalls.json", lambda text: text.replace("0.", "1.", 3), "pitfalls.md"
    )
    assert "pitfalls.md" in output and "its digest changed" in output


def test_a_score_changed_by_hand(spoilt):
    output = spoilt(
        f"docs/results/{TABLE}",
        lambda text: text.replace("0.8", "0.9", 1),
        "results/hippocampus.md",
    )
    assert TABLE in output and "its digest changed" in output


def test_a_missing_table(spoilt):
    assert TABLE in spoilt(f"docs/results/{TABLE}", lambda text: None, "results/hippocampus.md")
