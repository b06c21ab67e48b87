"""The playground learns what kdcore learns, says so in words, and stays in bounds."""

import importlib.util
import json
import re

import numpy as np
import pytest
from conftest import ROOT

expect = pytest.importorskip("playwright.sync_api").expect

FOLDER = ROOT / "docs/assets/playground"
STORY = json.loads((FOLDER / "story.json").read_text())
KDCORE = json.loads((FOLDER / "kdcore.json").read_text())
STEPS = 50
SETTINGS = {"labels": 30, "alpha": 0.7, "T": 3.0, "noise": 0.2, "seed": 4}


@pytest.fixture(scope="module")
def kd():
    """The script that trains the same with kdcore."""
    path = ROOT / "docs/_tools/publish_playground.py"
    spec = importlib.util.spec_from_file_location("publish_playground", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def playground(open_page):
    """`playground(query)`: the page, ready; nothing moves, so it is quick."""

    def open_(query="", **options):
        page = open_page(f"playground/{query}", **{"reduced_motion": "reduce", **options})
        expect(page.locator('[data-out="progress"]')).to_have_text("The teacher's step 0 of 400")
        return page

    return open_


def in_browser(page, function, argument):
    """What `function(N, data, argument)` returns, where N is networks.mjs."""
    script = f"""async ([url, slice, argument]) => {{
      const N = await import(new URL("networks.mjs", url));
      const data = {{shape: slice.shape, labels: Uint8Array.from(slice.labels, Number)}};
      for (const name of ["t1", "flair"])
        data[name] = Uint8Array.from(atob(slice[name]), (letter) => letter.charCodeAt(0));
      return ({function})(N, data, argument);
    }}"""
    url = page.url.partition("playground/")[0] + "assets/playground/"
    return page.evaluate(script, [url, json.loads((FOLDER / "slice.json").read_text()), argument])


def out(page, name):
    return page.locator(f'[data-out="{name}"]').inner_text()


def share(page, name):
    """A number in per cent that is shown; a minus sign is not a hyphen."""
    return float(out(page, name).replace("−", "-").removesuffix(" %")) / 100


def play(page):
    page.get_by_role("button", name="Play").press("Enter")
    expect(page.locator('[data-out="progress"]')).to_have_text("Step 400 of 400")
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def job_of(kd, who, **changes):
    settings = {**kd.DEFAULTS, **SETTINGS, **changes}
    job = kd.task(kd.read_slice(), settings, who, STEPS)
    teacher_logits = 2 * np.random.default_rng(0).normal(size=(kd.POOL, 3)).astype(np.float32)
    return job, teacher_logits, kd.soft_targets(teacher_logits, settings["pseudo"])


LEARN = """(N, data, job) => {
  const layers = N.network(job.width, () => 0);
  layers.forEach(({kernel, bias}, i) => {
    kernel.set(job.weights[2 * i].flat());
    bias.set(job.weights[2 * i + 1]);
  });
  const advance = N.adam(layers);
  const found = job.x.map((x, i) => {
    const labels = job.mask[i].filter((label) => label >= 0);
    const teacher = Float32Array.from(job.teacher[i].flat());
    const batch = {x: Float32Array.from(x.flat()), labels, teacher};
    return N.step(layers, advance, batch, {T: job.temperature, alpha: job.alpha});
  });
  return {found, weights: layers.flatMap(({kernel, bias}) => [[...kernel], [...bias]])};
}"""


@pytest.mark.parametrize(
    ("who", "changes"),
    [
        ("student", {}),
        ("student", {"pseudo": True}),
        ("student", {"labels": 0, "alpha": 1.0}),
        ("student", {"sees": "T1", "unlabelled": False}),
        ("baseline", {}),
        ("teacher", {}),
    ],
)
def test_losses_and_weights_are_those_of_kdcore(playground, kd, who, changes):
    """From the same weights, with the same batches, over 50 steps of Adam."""
    job, teacher_logits, log_p = job_of(kd, who, **changes)
    expected = list(kd.losses(job, log_p))
    distiller = kd.compiled(job["width"], job["temperature"], job["alpha"], 1)
    target = log_p if changes.get("pseudo") else teacher_logits
    numbers = {key: np.asarray(job[key]).tolist() for key in ("x", "mask")}
    given = {
        **numbers,
        "weights": [w.tolist() for w in job["weights"]],
        "teacher": target[job["places"]].tolist(),
        **{key: job[key] for key in ("width", "temperature", "alpha")},
    }
    learned = in_browser(playground(), LEARN, given)
    for name in ("loss", "hard", "soft"):
        key = name if name == "loss" else f"{name}_loss"
        if key not in expected[0] or (name == "hard" and not changes.get("labels", 1)):
            continue
        found = [step[name] for step in learned["found"]]
        assert found == pytest.approx([float(step[key]) for step in expected], abs=1e-5), name
    for found, weight in zip(learned["weights"], distiller.student.get_weights(), strict=True):
        assert found == pytest.approx(weight.ravel(), abs=1e-5)


DRAW = """(N, data, settings) => {
  const experiment = new N.Experiment(data, {...N.DEFAULTS, ...settings});
  const weights = experiment.networks.student.flatMap(({kernel, bias}) => [[...kernel], [...bias]]);
  const all = {...N.DEFAULTS, ...settings};
  const batches = Array.from({length: 3}, () => N.batchOf(experiment.draw, all).flat());
  return {...experiment.voxels, weights, batches, defaults: N.DEFAULTS};
}"""


@pytest.mark.parametrize("changes", [{}, {"seed": 999, "labels": 0}, {"unlabelled": False}])
def test_what_is_drawn_is_what_kdcore_is_given(playground, kd, changes):
    settings = {**kd.DEFAULTS, **SETTINGS, **changes}
    drawn = in_browser(playground(), DRAW, {**SETTINGS, **changes})
    parts = kd.parts_of(kd.read_slice(), settings)
    for who in ("student", "teacher"):
        assert drawn[who]["voxels"] == parts[who].tolist()
        assert drawn[who]["labels"] == parts[f"{who}_labels"].tolist()
    assert drawn["test"] == parts["test"].tolist()
    job = kd.task(kd.read_slice(), settings, "student", 3)
    assert drawn["batches"] == job["places"].tolist()
    for found, weight in zip(drawn["weights"], job["weights"], strict=True):
        assert found == pytest.approx(weight.ravel(), abs=1e-7)
    assert drawn["defaults"] == kd.DEFAULTS


@pytest.mark.parametrize("number", range(6))
def test_each_step_of_the_story_ends_where_kdcore_does(playground, number):
    page = playground()
    radio = page.get_by_role("radio", name=f"{number + 1} {STORY[number]['title']}")
    radio.evaluate("radio => radio.click()")
    assert out(page, "watch") == STORY[number]["watch"]
    if number == 0:  # it is chosen at the start, so nothing has changed
        play(page)
    expect(page.locator('[data-out="progress"]')).to_have_text("Step 400 of 400")
    for who, accuracy in KDCORE[number]["accuracy"][0].items():
        assert share(page, f"now-accuracy-{who}") == pytest.approx(accuracy, abs=0.006), who


def test_ten_seeds_agree_with_ten_of_kdcore(playground):
    page = playground("?alpha=0.9")
    page.get_by_role("button", name="Repeat with ten seeds").press("Enter")
    strip = page.locator('[data-out="strip"]')
    expect(strip).to_contain_text("The interval", timeout=120_000)
    numbers = re.findall(r"[+−]?\d+\.\d", strip.inner_text())
    numbers = [float(text.replace("−", "-")) for text in numbers]
    (mean, half, *each), means = numbers[:12], numbers[12:]
    scores = KDCORE[1]["accuracy"]
    for who, found in zip(("teacher", "student", "baseline"), means, strict=True):
        assert found == pytest.approx(100 * np.mean([row[who] for row in scores]), abs=0.5), who
    expected = np.array([100 * (row["student"] - row["baseline"]) for row in scores])
    assert each == pytest.approx(expected, abs=1.5)
    assert abs(mean - expected.mean()) < 0.5 < half
    assert half == pytest.approx(2.262 * expected.std(ddof=1) / np.sqrt(10), rel=0.1)
    assert page.locator(".kd-seeds circle").count() == 10


@pytest.mark.parametrize(
    ("query", "dials", "said"),
    [
        ("?labels=9999&T=1e9", {"labels": "180", "T": "20"}, "labels=9999 is not on the dial"),
        ("?alpha=-3&T=0", {"alpha": "0", "T": "0.5"}, "alpha=-3 is not on the dial; 0 is used"),
        ("?width=wide&seed=", {"width": "4", "seed": "0"}, "width=wide is not understood"),
        ("?labels=2.6&sees=<b>", {"labels": "3"}, "sees=<b> is not understood"),
        ("?pseudo=yes&seed=Infinity", {"seed": "999"}, "pseudo=yes is not understood"),
        ("?__proto__=1&constructor=2&q=x", {"labels": "3"}, ""),
        ("?labels=0", {"labels": "0"}, "the baseline learns nothing"),
        ("?labels=1", {"labels": "1"}, "Nobody tells the baseline of oedema and core"),
        ("?teacherLabels=2&alpha=1", {"teacherLabels": "2"}, "The teacher knows nothing of core"),
        ("?labels=0&unlabelled=0", {"labels": "0"}, "The student has nothing to learn from"),
        ("?T=20&alpha=1", {"T": "20"}, ""),
    ],
)
def test_bad_input_stays_in_bounds_and_is_told(playground, query, dials, said):
    page = playground(query)
    assert {name: out(page, name) for name in dials} == dials
    assert said in out(page, "notes") and bool(out(page, "notes")) == bool(said)
    play(page)
    shown = [share(page, f"now-accuracy-{who}") for who in ("teacher", "student", "baseline")]
    assert all(0 <= accuracy <= 1 for accuracy in shown)
    assert "NaN" not in page.locator(".kd-play-view").inner_text()


def test_the_address_holds_the_setting(playground):
    page = playground()
    page.locator('[data-set="labels"]').press("ArrowRight")
    page.get_by_role("checkbox", name="hard pseudo-labels").press("Space")
    assert page.url.endswith("playground/?labels=4&pseudo=1")
    page.reload()
    assert out(page, "labels") == "4"
    expect(page.locator('[data-set="T"]')).to_be_disabled()  # a choice has none
    assert out(page, "watch").startswith("Your own setting")


def test_play_step_and_reset_by_keyboard(playground):
    page = playground("?alpha=0.9", reduced_motion="no-preference")
    progress = page.locator('[data-out="progress"]')
    page.get_by_role("button", name="Step").press("Enter")
    expect(progress).to_have_text("Step 1 of 400")
    curve = page.locator('[data-curve="accuracy-teacher"]')
    expect(curve).to_have_attribute("d", re.compile(r"^M36.0 \S+L290.0 \S+$"))  # to its end
    page.get_by_role("button", name="Play").press("Enter")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.get_by_role("button", name="Pause").press("Enter")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    page.get_by_role("button", name="Reset").press("Enter")
    expect(progress).to_have_text("The teacher's step 0 of 400")


def test_a_voxel_by_keyboard_and_by_touch(playground, kd):
    page = playground(has_touch=True, viewport={"width": 390, "height": 844})
    before = out(page, "place")
    stage = page.get_by_role("application")
    stage.press("ArrowDown")
    stage.press("ArrowRight")
    moved = out(page, "place")
    assert moved != before
    slice_ = page.locator('[data-brain="student"]')
    slice_.scroll_into_view_if_needed()
    box = slice_.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.5)
    data = kd.read_slice()
    rows, columns = data["labels"].shape
    place = int(rows * 0.5), int(columns * 0.7)
    t1, flair = (data[name][place] for name in ("t1", "flair"))
    assert f"T1 {t1}, FLAIR {flair}" in out(page, "place")
    p = [float(out(page, f"student{c}")) for c in range(3)]
    assert sum(p) == pytest.approx(1, abs=2e-3)


def test_nothing_of_it_loads_on_other_pages(open_page):
    page = open_page("lab/")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    expect(page.locator("[data-kd-voxel] fieldset.kd-panel")).to_have_count(2)
    assert not [url for url in asked if "assets/playground/" in url]
    page.get_by_role("link", name="Playground").first.evaluate("link => link.click()")
    expect(page.locator('[data-out="progress"]')).to_have_text("The teacher's step 0 of 400")
    assert [url for url in asked if "assets/playground/" in url]
    page.go_back()
    expect(page.locator(".kd-play-view")).to_have_count(0)


def test_without_javascript_each_step_is_a_picture(open_page):
    page = open_page("playground/", java_script_enabled=False)
    pictures = page.locator(".kd-pictures img")
    assert pictures.count() == len(STORY)
    assert all(picture.is_visible() for picture in pictures.all())


@pytest.mark.parametrize(
    ("path", "number"), [("learn/unlabelled/", 2), ("results/cross-modal/", 5)]
)
def test_a_scene_loads_in_view_and_plays(open_page, path, number):
    page = open_page(path, reduced_motion="reduce")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload(wait_until="networkidle")
    assert not [url for url in asked if "playground/" in url], "before it is in view"
    page.locator(".kd-scene").scroll_into_view_if_needed()
    expect(page.locator('[data-out="progress"]')).to_have_text("The teacher's step 0 of 400")
    play(page)
    accuracy = KDCORE[number - 1]["accuracy"][0]
    for who, expected in accuracy.items():
        assert share(page, f"accuracy-{who}") == pytest.approx(expected, abs=0.006), who
    assert page.url.endswith(path), "the address is the page's"
    page.locator('[data-set="labels"]').press("ArrowRight")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    page.get_by_role("link", name="All dials").click()
    labels = str(STORY[number - 1]["settings"]["labels"] + 1)
    expect(page.locator('[data-out="labels"]')).to_have_text(labels)
    assert out(page, "watch").startswith("Your own setting")


def test_without_javascript_a_scene_is_a_picture(open_page):
    page = open_page("learn/unlabelled/", java_script_enabled=False)
    assert page.locator(".kd-scene img").is_visible()
