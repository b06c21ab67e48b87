"""A notebook's page begins with its result, and folds what few will read."""

import pytest

pytest.importorskip("playwright.sync_api")
bs4 = pytest.importorskip("bs4")


@pytest.fixture(scope="module")
def read(site_folder):
    def read_(name):
        html = (site_folder / "tutorial" / name / "index.html").read_text("utf-8")
        return bs4.BeautifulSoup(html, "html.parser").select_one("article")

    return read_


def summaries(page):
    return [summary.get_text() for summary in page.select("details > summary")]


def test_the_result_comes_first(read):
    page = read("05_baseline_and_comparison")
    alts = [image["alt"] for image in page.select("img")]
    assert alts[0] == alts[-1] != alts[2]  # a light and a dark picture each
    assert page.find("figure").find_next("div", class_="kd-run"), "before what the run was"


def test_a_training_is_one_line(read):
    page = read("05_baseline_and_comparison")
    assert any(s.startswith("15 epochs, loss 0.58 → 0.0") for s in summaries(page))
    log = page.find("summary", string=lambda s: s and s.startswith("15 epochs")).parent
    assert "Epoch 15/15" in log.get_text() and "open" not in log.attrs


def test_a_summary_and_the_run_are_folded(read):
    found = summaries(read("02_teacher"))
    assert "The network, layer by layer: 121,971 parameters" in found
    assert any(text.startswith("Run on ") for text in found)


def test_tables_are_tables(read):
    page = read("05_baseline_and_comparison")
    heads = [[th.get_text() for th in table.select("th")] for table in page.select("table")]
    assert ["arm", "parameters", "Dice", "− baseline, Dice points"] in heads
    assert "| ---" not in page.get_text()


def test_outputs_have_no_button(open_page):
    page = open_page("tutorial/05_baseline_and_comparison/")
    page.locator(".highlight .md-clipboard, .highlight .md-code__button").first.wait_for()
    assert page.locator(".kd-output .md-clipboard, .kd-output .md-code__nav").count() == 0
