"""The overlays of the home page, and what is there where a widget cannot be."""

import json
from pathlib import Path

import pytest

expect = pytest.importorskip("playwright.sync_api").expect

PICTURES = Path(__file__).parents[2] / "docs" / "assets" / "pictures"
NETWORKS = ("teacher", "student", "baseline")


@pytest.fixture
def compare(open_page):
    figure = open_page("").locator("[data-kd-compare]")
    figure.scroll_into_view_if_needed()
    expect(figure.locator("canvas")).to_be_visible()
    return figure


@pytest.fixture(scope="module")
def cases():
    return json.loads((PICTURES / "compare.json").read_text())["cases"]


def test_overlays_by_keyboard_and_pointer(compare, cases):
    canvas, seen = compare.locator("canvas"), set()
    chosen = compare.get_by_role("radio", checked=True).nth(1)
    for arm in ("student", "baseline", "image", "reference", "teacher"):
        assert chosen.get_attribute("value") == arm
        assert arm in canvas.get_attribute("aria-label")
        seen.add(canvas.evaluate("canvas => canvas.toDataURL()"))
        chosen.press("ArrowRight")
    assert len(seen) == 5
    for one in cases:
        compare.get_by_role("radio", name=one["name"]).click()
        for arm in NETWORKS:
            shown = compare.locator(f'[data-dice="{arm}"]').inner_text()
            assert shown == f"{one['dice'][arm]['mean']:.3f}"
        text = compare.locator("output").inner_text()
        assert one["id"] in text and f"anterior {one['dice']['student']['1']:.3f}" in text


def test_cases_are_in_order_and_their_dice_is_a_mean(cases):
    scores = [one["dice"]["student"]["mean"] for one in cases]
    assert scores == sorted(scores, reverse=True) and len(scores) == 3
    for one in cases:
        for dice in one["dice"].values():
            assert dice["mean"] == pytest.approx((dice["1"] + dice["2"]) / 2, abs=2e-4)
        height, width = one["shape"]
        assert {len(mask) for mask in one["masks"].values()} == {height * width}


def test_pictures_are_light():
    size = {path.name: path.stat().st_size for path in PICTURES.iterdir()}
    assert size["compare.json"] + size["compare.webp"] <= 120_000
    assert size["lab.json"] <= 60_000


@pytest.mark.parametrize("path", ["lab/", ""])
def test_without_javascript_the_picture_and_the_numbers_are_there(open_page, path):
    page = open_page(path, java_script_enabled=False)
    picture = page.locator("[data-kd-slice] img, [data-kd-compare] img")
    picture.scroll_into_view_if_needed()
    expect(picture).to_be_visible()
    assert len(picture.get_attribute("alt")) > 40
    if path:
        assert "0.323" in page.locator("table").first.inner_text()


@pytest.mark.parametrize("path", ["lab/", ""])
def test_without_its_data_the_picture_stays(open_page, path):
    page = open_page("learn/")
    page.route("**/pictures/*.json", lambda route: route.abort())
    page.goto(page.url.replace("learn/", path))
    figure = page.locator("[data-kd-slice], [data-kd-compare]")
    figure.scroll_into_view_if_needed()
    expect(figure.locator("img")).to_be_visible()


@pytest.mark.parametrize("path", ["lab/", ""])
def test_a_narrow_screen_is_wide_enough(open_page, path):
    page = open_page(path, viewport={"width": 390, "height": 844})
    page.locator("[data-kd-slice], [data-kd-compare]").scroll_into_view_if_needed()
    expect(page.locator("canvas").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_slider_shows_student_or_baseline(open_page):
    page = open_page("")
    slider = page.get_by_role("slider", name="Student or baseline, scan 2")
    slider.press("End")
    expect(slider).to_have_attribute("aria-valuetext", "100 % of the width is the student's")
    student, baseline = (page.locator(".kd-pair").nth(1).locator("img").nth(i) for i in (0, 1))
    clip = "image => getComputedStyle(image).clipPath"
    assert student.evaluate(clip) == "inset(0px 0% 0px 0px)"
    slider.press("Home")
    assert student.evaluate(clip) == "inset(0px 100% 0px 0px)"
    assert "calc(0% + 1px)" in baseline.evaluate(clip)


def test_without_javascript_student_and_baseline_are_two_pictures(open_page):
    page = open_page("", java_script_enabled=False)
    pictures = page.locator(".kd-pair").first.locator("img")
    left, right = (picture.bounding_box() for picture in pictures.all())
    assert left["x"] + left["width"] <= right["x"]
