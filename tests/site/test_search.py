"""The search finds what a reader looks for; pages work after instant navigation."""

import pytest
from playwright.sync_api import expect

WANTED = {"temperature": "Temperature", "soft Dice": "million voxels", "kd_loss": "Losses"}
FIRST = {"install": "Quickstart", "own data": "Your own scans", "pretrained": "Model card"}


@pytest.mark.parametrize("query", WANTED)
def test_the_search_finds(open_page, query):
    results = search(open_page, query)
    expect(results).to_contain_text(WANTED[query])


@pytest.mark.parametrize("query", FIRST)
def test_a_word_that_a_page_does_not_use_finds_it_first(open_page, query):
    best = search(open_page, query).locator(".md-search-result__item").first
    expect(best.get_by_role("heading").first).to_have_text(FIRST[query])


def search(open_page, query):
    page = open_page("")
    page.wait_for_load_state("networkidle")
    box = page.get_by_role("textbox", name="Search")
    box.click()
    expect(page.locator(".md-search-result__meta")).to_have_text("Type to start searching")
    box.press_sequentially(query)
    expect(page.locator(".md-search-result__item").first).to_be_visible(timeout=15_000)
    return page.locator(".md-search-result__list")


def test_equations_and_policy_survive_instant_navigation(open_page):
    page = open_page("learn/")
    page.evaluate("window.stays = true")
    page.locator(".md-content").get_by_role("link", name="Temperature", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Temperature")
    expect(page.locator(".katex-display").first).to_be_visible()
    assert page.evaluate("window.stays"), "the page was loaded anew"


def test_the_home_page_is_light(open_page, site_url, browser):
    context = browser.new_context()
    page, sizes = context.new_page(), {}
    page.on("response", lambda r: sizes.update({r.url: int(r.headers.get("content-length", 0))}))
    page.goto(site_url, wait_until="networkidle")
    assert sum(sizes.values()) < 400_000, sizes
    assert len(sizes) > 5
    assert not [url for url in sizes if "katex.min.js" in url or "lab.mjs" in url]
    context.close()
