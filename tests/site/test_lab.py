"""The widgets show kdcore's numbers, whatever their dials are turned with."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

import kdcore

expect = pytest.importorskip("playwright.sync_api").expect

PICTURES = Path(__file__).parents[2] / "docs" / "assets" / "pictures"
TEACHER, STUDENT = np.array([6.0, 2.0, -4.0]), np.array([6.0, 2.0, -8.0])
CLASSES = ("background", "anterior", "posterior")


def log_softmax(logits, T=1.0):
    scaled = np.asarray(logits, np.float64) / T
    return scaled - np.logaddexp.reduce(scaled, axis=-1, keepdims=True)


def softmax(logits, T=1.0):
    return np.exp(log_softmax(logits, T))


def kl(v, z, T=1.0):
    return float(np.sum(softmax(v, T) * (log_softmax(v, T) - log_softmax(z, T))))


def slope(loss, z, step=1e-5):
    """Central differences."""
    ways = step * np.eye(len(z))
    return np.array([(loss(z + way) - loss(z - way)) / (2 * step) for way in ways])


@pytest.fixture
def lab(open_page):
    page = open_page("lab/")
    expect(page.locator("[data-curve=now]")).to_have_attribute("d", re.compile("M"))
    return page


@pytest.fixture
def slice_(lab):
    figure = lab.locator("[data-kd-slice]")
    figure.scroll_into_view_if_needed()
    expect(figure.locator("canvas")).to_have_count(2)
    return figure


@pytest.fixture(scope="module")
def data():
    """The lab's slice, unpacked here on its own."""
    content = json.loads((PICTURES / "lab.json").read_text())
    shape = (*content["shape"], 2)
    for arm in ("teacher", "student"):
        values = np.frombuffer(base64.b64decode(content[arm]), "<i2").reshape(shape)
        content[arm] = np.pad(content["scale"] * values, ((0, 0), (0, 0), (1, 0)))
    content["labels"] = np.array([*map(int, content["labels"])]).reshape(content["shape"])
    return content


def call(page, name, *arguments):
    """An exported function of the module, in the browser."""
    return page.evaluate(
        """async ([name, args]) => {
          return (await import(new URL("../assets/lab.mjs", location)))[name](...args);
        }""",
        [name, [np.asarray(a).tolist() for a in arguments]],
    )


def number(root, name):
    """What is shown; a minus sign is not a hyphen."""
    return float(root.locator(f'[data-out="{name}"]').inner_text().replace("−", "-"))


def row(root, name):
    return np.array([number(root, f"{name}{c}") for c in range(3)])


def losses(page):
    """KL, soft, hard and mixed loss as they are shown."""
    text = page.locator('[data-out="losses"]').inner_text()
    return [float(x) for x in re.findall(r"\d+\.\d+", text)]


def turn(page, name, value):
    """A dial by its keys, from its lower end."""
    dial = page.locator(f'[data-in="{name}"]')
    low, step = (float(dial.get_attribute(key) or 1) for key in ("min", "step"))
    dial.press("Home")
    for _ in range(round((value - low) / step)):
        dial.press("ArrowRight")


@pytest.mark.parametrize("seed", range(3))
def test_the_arithmetic_is_that_of_kdcore(lab, seed):
    rng = np.random.default_rng(seed)
    v, z = rng.normal(0, 4, (2, 3))
    T, alpha, y = float(rng.uniform(0.5, 20)), float(rng.random()), int(rng.integers(3))
    soft, hard = T**2 * kl(v, z, T), -log_softmax(z)[y]
    assert call(lab, "softmax", v, T) == pytest.approx(softmax(v, T), abs=1e-12)
    entropy = -np.sum(softmax(v, T) * log_softmax(v, T))
    assert call(lab, "entropy", v, T) == pytest.approx(entropy, abs=1e-12)
    assert call(lab, "kl", v, z, T) == pytest.approx(kl(v, z, T), abs=1e-12)
    assert call(lab, "kdLoss", v, z, T) == pytest.approx(soft, abs=1e-9)
    assert call(lab, "kdLoss", v, z, T) == pytest.approx(
        float(kdcore.kd_loss(v[None], z[None], T)), rel=1e-4, abs=1e-5
    )
    assert call(lab, "hardLoss", z, y) == pytest.approx(hard, abs=1e-12)
    hard_slope = slope(lambda x: -log_softmax(x)[y], z)
    soft_slope = slope(lambda x: T**2 * kl(v, x, T), z)
    assert call(lab, "hardGradient", z, y) == pytest.approx(hard_slope, abs=1e-7)
    assert call(lab, "softGradient", v, z, T) == pytest.approx(soft_slope, abs=1e-6)
    mixed = (1 - alpha) * hard_slope + alpha * soft_slope
    assert call(lab, "mixedGradient", v, z, T, y, alpha) == pytest.approx(mixed, abs=1e-6)
    hot = call(lab, "softGradient", v, z, 1e5)
    assert call(lab, "hotLimit", v, z) == pytest.approx(hot, abs=1e-3)


def test_a_large_logit_does_not_overflow(lab):
    assert call(lab, "softmax", [1000.0, 0.0, -1000.0]) == [1, 0, 0]
    assert call(lab, "kdLoss", [1000.0, 0.0, 0.0], [0.0, 1000.0, 0.0], 1.0) == pytest.approx(1000)


def test_what_the_dials_show_at_the_start(lab):
    T, alpha = number(lab.locator("[data-kd-voxel]"), "T"), number(lab, "alpha")
    soft, hard = float(kdcore.kd_loss(TEACHER[None], STUDENT[None], T)), -log_softmax(STUDENT)[0]
    mixed = (1 - alpha) * hard + alpha * soft
    assert losses(lab) == pytest.approx([kl(TEACHER, STUDENT, T), soft, hard, mixed], abs=6e-5)
    assert row(lab, "pv") == pytest.approx(softmax(TEACHER, T), abs=6e-4)
    assert row(lab, "pz") == pytest.approx(softmax(STUDENT, T), abs=6e-4)
    assert row(lab, "hard") == pytest.approx(softmax(STUDENT) - np.eye(3)[0], abs=6e-4)
    gradient = T * (softmax(STUDENT, T) - softmax(TEACHER, T))
    assert row(lab, "soft") == pytest.approx(gradient, abs=6e-4)
    assert number(lab, "squared") == pytest.approx(np.linalg.norm(gradient), rel=6e-3)
    assert number(lab, "plain") == pytest.approx(np.linalg.norm(gradient) / T**2, rel=6e-3)


@pytest.mark.parametrize(("stop", "T"), [(0, 0.5), (20, 2.0), (55, 20.0)])
def test_temperature_by_keyboard(lab, stop, T):
    voxel = lab.locator("[data-kd-voxel]")
    turn(voxel, "T", stop)
    assert number(voxel, "T") == T
    assert voxel.locator('[data-in="T"]').get_attribute("aria-valuetext") == f"{T:g}"
    soft = float(kdcore.kd_loss(TEACHER[None], STUDENT[None], T))
    assert losses(lab)[1] == pytest.approx(soft, abs=1e-4)


def test_the_stops_of_temperature_are_evenly_spread(lab):
    stops = lab.evaluate(
        'async () => (await import(new URL("../assets/lab.mjs", location))).TEMPERATURES'
    )
    ratios = np.divide(stops[1:], stops[:-1])
    assert (stops[0], stops[-1]) == (0.5, 20) and {1, 2, 4, 8} < set(stops)
    assert ratios.min() > 1.04 and ratios.max() < 1.12


def test_logits_and_label_by_keyboard(lab):
    turn(lab, "z2", 1.0)
    lab.get_by_role("radio", name="background").first.press("ArrowRight")
    z = np.array([6.0, 2.0, 1.0])
    assert row(lab, "z") == pytest.approx(z)
    assert row(lab, "hard") == pytest.approx(softmax(z) - np.eye(3)[1], abs=6e-4)


def test_alpha_by_pointer(lab):
    box = lab.locator('[data-in="alpha"]').bounding_box()
    middle = box["y"] + box["height"] / 2
    lab.mouse.move(box["x"] + 0.9 * box["width"], middle)
    lab.mouse.down()
    lab.mouse.move(box["x"] + box["width"] + 20, middle, steps=4)
    lab.mouse.up()
    assert number(lab, "alpha") == 1
    assert row(lab, "mixed") == pytest.approx(row(lab, "soft"))


def test_a_logit_by_touch(open_page):
    page = open_page("lab/", has_touch=True, viewport={"width": 390, "height": 844})
    dial = page.locator('[data-in="z0"]')
    dial.scroll_into_view_if_needed()
    box = dial.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert number(page, "z0") == pytest.approx(0, abs=0.3)


def test_the_slice_says_what_is_in_its_data(slice_, data):
    place = np.array(data["start"])
    stage = slice_.get_by_role("application")
    for key, step in (("ArrowDown", (1, 0)), ("ArrowLeft", (0, -1)), ("ArrowUp", (-1, 0))):
        stage.press(key)
        place += step
        check_voxel(slice_, data, tuple(place), T=1.0)
    turn(slice_, "T", 30)
    check_voxel(slice_, data, tuple(place), T=4.0)


def test_what_the_page_says_of_the_slice(data):
    """Doubt along the border at T = 1, everywhere at 4; each network is right somewhere."""
    labels = data["labels"]

    def doubtful(T):
        log_p = log_softmax(data["teacher"], T)
        return -(np.exp(log_p) * log_p).sum(axis=-1) > 0.3

    inner = (slice(1, -1), slice(1, -1))
    shifts = [(0, 1), (0, -1), (1, 0), (-1, 0)]
    near = np.any([np.roll(labels, by, (0, 1)) != labels for by in shifts], axis=0)
    narrow, wide = doubtful(1.0), doubtful(4.0)
    assert narrow.mean() < 0.1 and wide.mean() > 0.95
    assert near[inner][narrow[inner]].mean() > 3 * near[inner].mean()
    teacher, student = data["teacher"].argmax(-1), data["student"].argmax(-1)
    differ = teacher != student
    assert (teacher == labels)[differ].any() and (student == labels)[differ].any()


def check_voxel(root, data, place, T):
    text = root.locator('[data-out="place"]').inner_text()
    assert text.startswith(f"Row {place[0] + 1}, column {place[1] + 1}:")
    assert f"label is {CLASSES[data['labels'][place]]}," in text
    v, z = data["teacher"][place], data["student"][place]
    assert row(root, "teacher") == pytest.approx(softmax(v, T), abs=6e-4)
    assert row(root, "student") == pytest.approx(softmax(z, T), abs=6e-4)
    shown = float(re.search(r"KL (\d+\.\d+)", text)[1])
    assert shown == pytest.approx(float(kdcore.kd_loss(v[None], z[None], T)), rel=1e-3, abs=1e-4)


def test_the_pointer_shows_a_voxel_and_stays_when_pressed(slice_, data):
    rows, columns = data["shape"]
    canvas = slice_.locator("canvas").first
    box = canvas.bounding_box()

    def over(row_, column):
        x = (column + 0.5) * box["width"] / columns
        return {"position": {"x": x, "y": (row_ + 0.5) * box["height"] / rows}}

    canvas.hover(**over(5, 7))
    check_voxel(slice_, data, (5, 7), T=1.0)
    canvas.click(**over(9, 20))
    canvas.hover(**over(2, 2))
    check_voxel(slice_, data, (9, 20), T=1.0)


def test_temperature_spreads_the_map(slice_):
    def picture():
        return slice_.locator("canvas").first.evaluate("canvas => canvas.toDataURL()")

    pictures = {picture()}
    turn(slice_, "T", 45)
    pictures.add(picture())
    slice_.get_by_role("radio", name="doubt").press("Space")
    pictures.add(picture())
    assert len(pictures) == 3


def test_the_dials_take_over_a_voxel(slice_, lab, data):
    slice_.get_by_role("button").press("Enter")
    place = tuple(data["start"])
    voxel = lab.locator("[data-kd-voxel]")
    assert row(voxel, "pv") == pytest.approx(softmax(data["teacher"][place]), abs=0.02)
    assert row(voxel, "pz") == pytest.approx(softmax(data["student"][place]), abs=0.02)
    assert number(voxel, "T") == 1
    label = voxel.locator('[name="kd-y"]:checked').get_attribute("value")
    assert int(label) == data["labels"][place]


def test_the_slice_on_the_page_on_temperature(open_page, data):
    page = open_page("learn/temperature/")
    figure = page.locator("[data-kd-slice]")
    figure.scroll_into_view_if_needed()
    expect(figure.locator("canvas")).to_have_count(2)
    figure.get_by_role("application").press("ArrowDown")
    place = (data["start"][0] + 1, data["start"][1])
    turn(figure, "T", 30)
    check_voxel(figure, data, place, T=4.0)
    widths = [
        float(figure.locator(f'[data-bar="teacher{c}"]').get_attribute("width")) for c in range(3)
    ]
    assert widths == pytest.approx(softmax(data["teacher"][place], 4.0), abs=1e-9)
    expect(figure.get_by_role("button")).to_have_count(0)  # there are no dials to turn to it
    dial = figure.locator('[data-in="T"]')
    figure.locator("table").evaluate("table => table.scrollIntoView({block: 'center'})")
    expect(dial).to_be_in_viewport()


def test_the_lab_works_when_opened_from_another_page(open_page):
    page = open_page("learn/temperature/")
    page.locator('a[href*="lab/"]').first.evaluate("link => link.click()")
    expect(page.locator("[data-kd-voxel] fieldset.kd-panel")).to_have_count(2)
    page.go_back()
    expect(page.locator("[data-kd-voxel]")).to_have_count(0)
    page.go_forward()
    expect(page.locator("[data-kd-voxel] fieldset.kd-panel")).to_have_count(2)
