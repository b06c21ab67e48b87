"""The theory pages name code and tests that exist, and refer to equations that exist."""

import importlib
import re
from pathlib import Path

import pytest

import kdcore

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "learn").glob("*.md"))
OTHERS = [ROOT / "docs" / "pitfalls.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
BOX = re.compile(r'^!!! kdcore "Computed by (.+) · checked by (.+)"$', re.MULTILINE)


def found(name: str) -> bool:
    """Whether a dotted name such as `kdcore.Batches` or `kdcore.metrics.agreement` exists."""
    *path, last = name.split(".")
    if len(path) > 1:
        try:
            return hasattr(importlib.import_module(".".join(path)), last)
        except ModuleNotFoundError:
            return False
    return hasattr(kdcore, last)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_code_and_tests_beside_an_equation_exist(path):
    text = path.read_text()
    boxes = BOX.findall(text)
    assert len(boxes) == text.count("!!! kdcore")
    for code, tests in boxes:
        for name in re.findall(r"`([^`]+)`", code):
            assert found(name), name
        for file, test in re.findall(r"`(tests/\w+\.py)::(\w+)`", tests):
            assert f"def {test}(" in (ROOT / file).read_text(), test


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_equations_are_numbered_and_referred_to(path):
    text = path.read_text()
    anchors = re.findall(r'<a id="eq-(\d+)-(\d+)"></a>', text)
    assert anchors == re.findall(r"\\tag\{(\d+)\.(\d+)\}", text)
    assert [int(n) for _, n in anchors] == list(range(1, len(anchors) + 1))
    for number, file, anchor in re.findall(r"\[\((\d+\.\d+)\)\]\(([\w-]*\.?m?d?)#([\w-]+)\)", text):
        target = path.with_name(file) if file else path
        assert f'id="{anchor}"' in target.read_text() and anchor == f"eq-{number.replace('.', '-')}"


@pytest.mark.parametrize("path", PAGES + OTHERS, ids=lambda path: path.stem)
def test_snippets_are_python(path):
    for snippet in re.findall(r"^( *)```python\n(.*?)^\1```", path.read_text(), re.M | re.S):
        compile(
            "\n".join(line.removeprefix(snippet[0]) for line in snippet[1].splitlines()),
            str(path),
            "exec",
        )


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_links_and_tests_named_in_other_pages_exist(path):
    text = path.read_text()
    for file, test in re.findall(r"`(tests/\w+\.py)::(\w+)`", text):
        assert f"def {test}(" in (ROOT / file).read_text(), test
    for file, anchor in re.findall(r"\]\(([\w./-]+\.md)(?:#([\w-]+))?\)", text):
        target = path.parent / file
        assert target.exists(), file
        assert not anchor.startswith("eq-") or f'id="{anchor}"' in target.read_text(), anchor


def test_there_are_pages():
    assert len(PAGES) == 13


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_ends_in_one_sentence(path):
    text = path.read_text()
    (sentence,) = re.findall(r"^## In one sentence\n\n(.+?)\n\n## ", text, re.M | re.S)
    assert sentence.endswith(".") and not re.search(r"[.!?] [A-Z]", sentence)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_with_exercises_has_a_picture_that_is_described(path):
    text = path.read_text()
    pictures = re.findall(r'^\{\$ figure\("learn-\w+", alt="(.+)"\) \$\}$', text, re.M)
    assert pictures or "## Exercises" not in text
    assert len(pictures) == text.count("figure(")
    assert text.count("<figure") == text.count("<figcaption") >= len(pictures)
    assert all(len(alt) > 60 for alt in pictures)
