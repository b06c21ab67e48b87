"""Every page, light and dark, on a desk and on a phone."""

import re
from pathlib import Path

import pytest
from visits import WATCH, accessibility, faults_of, heard, settle

ROOT = Path(__file__).parents[2]
NAVIGATION = (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:")[1]
SOURCES = re.findall(r"([\w/-]+)\.(?:md|ipynb)$", NAVIGATION, re.MULTILINE)
PAGES = [re.sub(r"(^|/)(index|README)/$", r"\1", f"{name}/") for name in SOURCES]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
MODES = {
    f"{scheme}-{where}": {"color_scheme": scheme, "viewport": viewport}
    for scheme in ("light", "dark")
    for where, viewport in (("desk", DESK), ("phone", PHONE))
}


@pytest.fixture(scope="module", params=MODES)
def page(request, browser, site_folder):
    """One tab for all: to open one costs more than a visit."""
    context = browser.new_context(**MODES[request.param], reduced_motion="reduce")
    context.add_init_script(WATCH)
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("path", PAGES)
def test_page(page, path, site_url, axe):
    with heard(page, site_url) as faults:
        page.goto(site_url + path)
        settle(page)
        faults += faults_of(page)
        if page.viewport_size == DESK:
            faults += accessibility(page, axe)
    assert not faults, "\n".join(faults)
