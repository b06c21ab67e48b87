"""The committed notebooks are the examples, executed; the reference covers the interface."""

import json
import re
from pathlib import Path

import jupytext
import pytest

import kdcore

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "examples").glob("0*.py"))


def load(script: Path) -> dict:
    return json.loads((ROOT / "docs" / "tutorial" / f"{script.stem}.ipynb").read_text("utf-8"))


def text(cell: dict) -> str:
    return "".join(cell["source"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_is_its_script(script):
    cells = jupytext.read(script, fmt="py:percent").cells
    notebook = load(script)["cells"]
    assert [text(c) for c in notebook] == [c.source for c in cells], "run nox -s examples"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_was_executed_without_error_and_says_how(script):
    notebook = load(script)
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert all(c["execution_count"] for c in code)
    outputs = [o for c in code for o in c["outputs"]]
    assert outputs and not [o for o in outputs if o["output_type"] == "error"]
    made = notebook["metadata"]["kdcore"]
    assert made["script"] == script.name and made["tier"] == "quick"
    assert made["seconds"] > 0 and made["commit"] and made["versions"]["keras"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_names_no_path_of_a_machine(script):
    path = ROOT / "docs" / "tutorial" / f"{script.stem}.ipynb"
    assert path.stat().st_size < 2_000_000
    without_images = re.sub(r"base64,[^\"\\]+", "", path.read_text("utf-8"))
    assert not re.search(r"/(home|root|tmp|work|Users)/", without_images)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_figure_has_a_text(script):
    shown = [o.get("data", {}) for c in load(script)["cells"] for o in c.get("outputs", [])]
    assert not [data for data in shown if "image/png" in data]
    html = "".join("".join(data.get("text/html", "")) for data in shown)
    assert len(re.findall(r'<img alt="[^"]{20,}"', html)) == html.count("<picture")


def test_the_reference_covers_the_public_interface():
    pages = "".join(p.read_text("utf-8") for p in (ROOT / "docs" / "api").glob("*.md"))
    listed = {name.rsplit(".", 1)[-1] for name in re.findall(r"^::: (\S+)$", pages, re.M)}
    assert set(kdcore.__all__) <= listed
