"""Every page, light and dark, on a desk and on a phone."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import TimeoutError as NoAnswer
from visits import WATCH, accessibility, at_most, faults_of, heard, settle

ROOT = Path(__file__).parents[2]
NAVIGATION = (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:")[1]
SOURCES = re.findall(r"([\w/-]+)\.(?:md|ipynb)$", NAVIGATION, re.MULTILINE)
PAGES = [re.sub(r"(^|/)(index|README)/$", r"\1", f"{name}/") for name in SOURCES]
LATE = (TimeoutError, NoAnswer)
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
MODES = {
    f"{scheme}-{where}": {"color_scheme": scheme, "viewport": viewport}
    for scheme in ("light", "dark")
    for where, viewport in (("desk", DESK), ("phone", PHONE))
}


class Tab:
    """One tab for all pages, since to open one costs more than a visit."""

    def __init__(self, launch, mode):
        self.launch, self.mode = launch, mode
        self.open()

    def open(self):
        """Anew; a browser that hangs is left to Playwright, which ends it with its own end."""
        self.browser = self.launch()
        context = self.browser.new_context(**self.mode, reduced_motion="reduce")
        context.add_init_script(WATCH)
        self.page = context.new_page()


@pytest.fixture(scope="module", params=MODES)
def tab(request, launch, site_folder):
    tab = Tab(launch, MODES[request.param])
    yield tab
    tab.browser.close()


@pytest.mark.parametrize("path", PAGES)
def test_page(tab, path, site_url, axe):
    try:
        faults = visit(tab.page, path, site_url, axe, seconds=40)
    except LATE as error:  # Chromium itself hangs now and then; a page that does so hangs again
        print(f"{path}: {error}; once more, in a new browser")
        tab.open()
        faults = visit(tab.page, path, site_url, axe, seconds=120)
    assert not faults, "\n".join(faults)


def visit(page, path, site_url, axe, seconds):
    with at_most(seconds), heard(page, site_url) as faults:
        page.goto(site_url + path)
        settle(page)
        faults += faults_of(page)
        if page.viewport_size == DESK:
            faults += accessibility(page, axe)
    return faults
