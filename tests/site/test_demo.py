"""The live demo: its networks are Keras', it is silent, and refuses what it cannot read."""

import gzip
import json
import random
import re
import statistics
import struct
import sys
import zlib

import nibabel
import numpy as np
import pytest
from conftest import ROOT

expect = pytest.importorskip("playwright.sync_api").expect

NUM_SLICES = 6
CONNECT = """
const folder = new URL("../assets/demo/", location);
const fetched = async (name) => fetch(new URL(name, folder));
const worker = new Worker(new URL("../unet-worker.mjs", folder), {type: "module"});
const ask = (action, request) => new Promise((resolve, reject) => {
  worker.onmessage = ({data}) => data.error ? reject(new Error(data.error)) : resolve(data.answer);
  worker.onerror = () => reject(new Error("worker"));
  worker.postMessage({id: 0, action, ...request});
});
"""


@pytest.fixture
def page(open_page):
    page = open_page("demo/")
    done(page)  # the first slice runs by itself
    return page


def in_worker(page, body, *arguments):
    """What a function returns that may `await ask(action, request)` of a worker of its own."""
    return page.evaluate(f"async (args) => {{ {CONNECT} {body} }}", list(arguments))


def choose(page, number):
    """Choose a test slice and wait for its time."""
    page.get_by_label(f"Slice {number}", exact=True).check()
    return done(page)


def done(page):
    status = page.get_by_role("status").and_(page.locator(".demo-status"))
    expect(status).to_have_text(re.compile(r"student [\d.]+ ms.*\.$"), timeout=30_000)
    return status.inner_text()


def give(page, name, content):
    page.locator("#demo-file").set_input_files(
        {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    )


def nifti(shape, values, kind="h", order="<", slope=0.0, intercept=0.0, spacing=1.0, affine=None):
    """A NIfTI-1 file of int16 ("h") or float32 ("f") voxels, the first axis fastest."""
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, len(shape), *shape, *[1] * (7 - len(shape)))
    struct.pack_into(f"{order}hh", header, 70, {"h": 4, "f": 16}[kind], 16)
    struct.pack_into(f"{order}8f", header, 76, 1, *[spacing] * 7)
    struct.pack_into(f"{order}3f", header, 108, 352, slope, intercept)
    header[344:348] = b"n+1\0"
    if affine is not None:
        struct.pack_into(f"{order}h", header, 254, 1)
        struct.pack_into(f"{order}12f", header, 280, *np.asarray(affine)[:3].ravel())
    return bytes(header) + struct.pack(f"{order}{len(values)}{kind}", *values)


def png(width, height, claimed=None):
    """A grey ramp."""
    rows = b"".join(b"\0" + bytes((x + y) % 256 for x in range(width)) for y in range(height))

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    size = struct.pack(">IIBBBBB", *(claimed or (width, height)), 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def volume(**kwargs):
    shape = (5, 20, 15)
    values = [random.Random(n).randrange(1000) for n in range(5 * 20 * 15)]
    return shape, values, nifti(shape, values, **kwargs)


NETWORKS = ["baseline", "student", "teacher"]


@pytest.mark.parametrize("network", NETWORKS)
def test_the_networks_are_the_studys(page, network):
    index = in_worker(page, "return (await fetched('demo.json')).json()")
    origin = index["networks"][network]
    arm = "baseline" if network == "baseline" else f"{network}-2d"
    assert origin.get("arm") == arm, "publish the trained runs: docs/_tools/publish_demo.py"
    assert origin["test_dice"] > 0.7 and re.fullmatch("[0-9a-f]{64}", origin["model_digest"])


@pytest.mark.parametrize("network", NETWORKS)
def test_logits_are_those_of_keras(page, network):
    found = in_worker(
        page,
        """
        const [name] = args;
        const {slices} = await (await fetched("demo.json")).json();
        const logits = await (await fetched("logits.bin")).arrayBuffer();
        const results = [];
        for (const [number, slice] of slices.entries()) {
          await ask("openSample", {number});
          const result = await ask("segment", {name, plane: 0});
          const count = result.logits.length;
          const keras = new Float32Array(logits, slice.logits[name], count);
          const worst = Math.max(...keras.map((value, i) => Math.abs(value - result.logits[i])));
          const labels = new Set(Array.from({length: count / 3}, (_, i) => {
            const scores = keras.subarray(3 * i, 3 * i + 3);
            return scores.indexOf(Math.max(...scores));
          }));
          results.push({worst, pixels: count / 3, size: slice.shape, labels: labels.size});
        }
        return results;
        """,
        network,
    )
    assert len(found) == NUM_SLICES
    for result in found:
        assert result["worst"] <= 1e-3, result
        assert result["pixels"] == result["size"][0] * result["size"][1]
        assert result["labels"] == 3, "a network that says one thing everywhere tests nothing"


def test_the_benchmark_times_both_networks(browser):
    """How fast they are is for `nox -s bench` to say: a busy machine proves nothing."""
    sys.path.insert(0, str(ROOT / "docs/_tools/benchmark"))
    from browser import milliseconds

    times = milliseconds(browser, repeats=1, passes=2)
    assert {name: values.shape for name, values in times.items()} == {
        "student": (1, 2),
        "teacher": (1, 2),
    }
    assert all((values > 0).all() for values in times.values())


def test_the_first_slice_runs_by_itself_and_the_teacher_when_asked(page):
    fetched = []
    page.on("request", lambda request: fetched.append(request.url))
    page.reload(wait_until="networkidle")
    done(page)
    expect(page.get_by_label("Slice 1", exact=True)).to_be_checked()
    names = {url.rsplit("/", 1)[1] for url in fetched}
    assert {"student.bin", "baseline.bin"} <= names and "teacher.bin" not in names
    page.get_by_role("button", name="Compare with the teacher").click()
    expect(page.get_by_role("row", name=re.compile("teacher"))).to_be_visible()
    assert [url for url in fetched if url.endswith("teacher.bin")]
    assert {url.split("/")[2] for url in fetched} == {page.url.split("/")[2]}


def test_a_slice_is_shown_beside_its_reference(page):
    text = choose(page, 3)
    assert text.startswith("hippocampus_")
    expect(page.get_by_role("img", name=re.compile("^Reference: anterior [1-9]"))).to_be_visible()
    for who in ("baseline", "student"):
        expect(page.get_by_role("img", name=re.compile(f"^{who.title()}: ant"))).to_be_visible()
        assert all(0 <= dice <= 1 for dice in dices(page, who))
    expect(page.locator("[data-panel=teacher]")).to_be_hidden()


def dices(page, who):
    """Of a network, anterior and posterior, as the table has them."""
    row = page.get_by_role("row", name=re.compile(who))
    return [float(text) for text in row.get_by_role("cell").all_inner_texts()[-3:-1]]


def test_probability_and_doubt(page):
    """Seen of a network; a reference has no doubt."""
    picture = "(who) => document.querySelector(`[data-panel=${who}] canvas`).toDataURL()"
    seen = {who: [page.evaluate(picture, who)] for who in ("reference", "baseline", "student")}
    for view in ("probability", "doubt"):
        page.get_by_label(view, exact=True).check()
        for who, pictures in seen.items():
            pictures.append(page.evaluate(picture, who))
    assert all(len(set(pictures)) == 3 for pictures in seen.values())
    page.get_by_label("Opacity").fill("0")
    assert page.evaluate(picture, "reference") == seen["reference"][2]  # the image alone
    assert page.evaluate(picture, "student") == seen["reference"][2]


def test_opacity_changes_the_picture(page):
    choose(page, 1)
    picture = "() => document.querySelector('[data-panel=reference] canvas').toDataURL()"
    before = page.evaluate(picture)
    page.get_by_label("Opacity").fill("0")
    assert page.evaluate(picture) != before


def test_it_works_with_the_keyboard_alone(page):
    page.get_by_label("Slice 1", exact=True).focus()
    one = done(page)
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("Slice 2", exact=True)).to_be_checked()
    expect(page.locator(".demo-status")).not_to_have_text(one)
    done(page)
    names = []
    for _ in range(9):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.name || document.activeElement.id"))
    assert {"view", "demo-file", "opacity", "compare"} <= set(names)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_volume_is_normalized_as_a_whole(page, packed, order):
    shape, values, content = volume(order=order, slope=0.5, intercept=-3.0)
    found = in_worker(
        page,
        """
        const [bytes] = args;
        const file = new File([new Uint8Array(bytes)], "scan.nii");
        const scan = await ask("openFile", {file});
        const {image, height, width} = await ask("segment", {name: "student", plane: 2});
        return {scan, image: [...image], size: [height, width]};
        """,
        list(gzip.compress(content) if packed else content),
    )
    scaled = sorted(0.5 * value - 3 for value in values)

    def percentile(share):
        place = share * (len(scaled) - 1)
        low = scaled[int(place)]
        return low + (scaled[int(place) + 1] - low) * (place % 1)

    low, high = percentile(0.005), percentile(0.995)
    assert found["scan"]["shape"] == list(shape) and found["size"] == [20, 15]
    for h in range(20):
        for w in range(15):
            voxel = 0.5 * values[2 + 5 * (h + 20 * w)] - 3
            expected = min(1, max(0, (voxel - low) / (high - low)))
            assert found["image"][15 * h + w] == pytest.approx(expected, abs=1e-6)


def test_a_volume_has_a_slider(page):
    give(page, "my scan.nii.gz", gzip.compress(volume(spacing=3.0)[2]))
    assert done(page).startswith("my scan.nii.gz")
    slider = page.get_by_label(re.compile("^Slice 3 of 5"))
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".demo-plane span")).to_have_text("4 of 5")
    expect(page.locator(".demo-notes")).to_contain_text("3 × 3 × 3 mm")
    expect(page.locator("figcaption").first).to_have_text("Image")
    choose(page, 2)
    expect(slider).to_be_hidden()
    expect(page.locator(".demo-notes li")).to_have_count(0)


def test_a_picture_is_turned_as_the_slices_are(page):
    found = in_worker(
        page,
        """
        await ask("openSample", {number: 0});
        const own = await ask("segment", {name: "student", plane: 0});
        const blob = await (await fetched("slice-1.png")).blob();
        await ask("openFile", {file: new File([blob], "slice.png")});
        const dropped = await ask("segment", {name: "student", plane: 0});
        return [own, dropped].map(({image, height, width}) => [height, width, ...image]);
        """,
    )
    (*own_size, own), (*size, dropped) = ([*values[:2], values[2:]] for values in found)
    assert own_size == size
    assert statistics.correlation(own, dropped) > 0.99


def test_a_large_picture_is_cut(page):
    give(page, "photo.png", png(700, 300))
    done(page)
    expect(page.locator(".demo-notes")).to_contain_text("700 × 300")
    expect(page.locator(".demo-notes")).to_contain_text("normalized by itself")


DROP = """([selector, name, bytes]) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([new Uint8Array(bytes)], name));
  document.querySelector(selector).dispatchEvent(
    new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
}"""


def test_a_file_can_be_dropped(page):
    page.evaluate(DROP, ["body", "dropped.png", list(png(60, 50))])
    assert done(page).startswith("dropped.png")


def test_a_mask_is_dropped_on_its_own_place(page):
    mask = list(nifti((5, 20, 15), [0, 1, 2] * 500))
    page.evaluate(DROP, ["#demo-mask", "mask.nii", mask])
    expect(page.locator(".demo-status")).to_contain_text("Choose a scan (NIfTI) first")
    give(page, "scan.nii", volume()[2])
    done(page)
    page.evaluate(DROP, ["#demo-mask-hint", "mask.nii", mask])
    expect(page.locator("figcaption").first).to_have_text("Reference")
    assert done(page).startswith("scan.nii")


def jpeg_of_two_sizes(real, shown):
    """A marker without a length; who reads one jumps into a comment that shows another size."""

    def frame(size):
        return b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, *size[::-1], 1) + b"\x01\x11\x00"

    jump = b"\xff\xd8\xff\x01\xff\xfe" + struct.pack(">H", 1002) + bytes(1000)
    begin = 4 + 0xFFFE - len(jump) - 4
    comment = bytearray(0xFFFD)
    comment[begin : begin + len(frame(shown))] = frame(shown)
    return jump + b"\xff\xfe" + struct.pack(">H", 0xFFFF) + bytes(comment) + frame(real)


BAD_FILES = {
    "notes.txt": (b"hello " * 100, "none of the files that can be read here"),
    "nothing.png": (b"", "is empty"),
    "cut.png": (png(40, 40)[:60], "damaged picture"),
    "bomb.png": (png(40, 40, claimed=(60_000, 60_000)), "60000 × 60000 pixels"),
    "two.jpg": (jpeg_of_two_sizes((5000, 6000), shown=(100, 100)), "5000 × 6000 pixels"),
    "cut.jpg": (b"\xff\xd8\xff\xe0", "damaged picture"),
    "cut.nii": (volume()[2][:-1], "shorter than its header says"),
    "cut.nii.gz": (gzip.compress(volume()[2])[:-20], "damaged gzip file"),
    "bomb.nii.gz": (gzip.compress(bytes(2**28), 1), "unpacks to more than 128 MB"),
    "huge.nii": (nifti((2000, 2000, 2000), [1, 2, 3]), "At most 16777216"),
    "turned.nii": (nifti((-4, 4, 4), [1, 2, 3]), "damaged NIfTI file"),
    "nan.nii": (nifti((2, 2, 1), [1.0, 2.0, 3.0, float("nan")], kind="f"), "NaN"),
    "flat.nii": (nifti((3, 3, 1), [7] * 9), "same value"),
    "movie.nii": (nifti((2, 2, 2, 2), list(range(16))), "several images"),
    "x\u202egnp.<img src=x>": (b"?", "none of the files"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_what_cannot_be_read_is_refused_by_name(page, name):
    content, reason = BAD_FILES[name]
    choose(page, 1)
    give(page, name, content)
    status = page.locator(".demo-status")
    expect(status).to_contain_text(reason, timeout=30_000)
    expect(status).to_contain_text(name.replace("\u202e", ""))
    expect(status).to_have_text(re.compile(r"(Expected|Fetch|Crop|crop|Repair|Choose|save).*\.$"))
    assert page.locator(".demo-status *").count() == 0
    expect(page.get_by_label("Slice 1", exact=True)).to_be_checked()  # what is shown stays
    expect(page.locator("[data-panel=student]")).to_be_visible()
    choose(page, 2)  # and it goes on


def test_a_newer_choice_wins(page):
    give(page, "notes.txt", b"hello")
    for number in (1, 2, 3, 4):
        page.get_by_label(f"Slice {number}", exact=True).check()
    fourth = done(page)
    expect(page.locator(".demo-error")).to_have_count(0)
    choose(page, 1)
    assert choose(page, 4).split(":")[0] == fourth.split(":")[0]


def test_a_failed_download_can_be_tried_again(page):
    page.context.route("**/student.bin", lambda route: route.abort())
    page.reload()
    expect(page.locator(".demo-status")).to_contain_text("student.bin could not be fetched")
    page.context.unroute("**/student.bin")
    choose(page, 1)


def test_without_javascript_there_is_a_picture(open_page):
    page = open_page("demo/", java_script_enabled=False)
    expect(page.get_by_role("img", name=re.compile("Two test slices"))).to_be_visible()
    expect(page.locator("#demo")).to_be_hidden()


def test_it_fits_a_phone(open_page):
    page = open_page("demo/", viewport={"width": 390, "height": 844})
    done(page)
    choose(page, 2)
    shift = """() => new Promise((resolve) => new PerformanceObserver((list) => resolve(
      list.getEntries().filter((one) => !one.hadRecentInput).reduce((a, one) => a + one.value, 0)
    )).observe({type: "layout-shift", buffered: true}) || setTimeout(() => resolve(0), 500))"""
    assert page.evaluate(shift) < 0.1
    expect(page.locator("[data-panel=student]")).to_be_in_viewport(ratio=1)
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("row", name=re.compile("teacher"))).to_be_visible()
    give(page, "a" * 300 + ".txt", b"?")
    expect(page.locator(".demo-status")).to_contain_text("…")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def slab(copies=3):
    """Planes of a test slice as int16, the voxels of a volume of 1 mm."""
    folder = ROOT / "docs/assets/demo"
    slice = json.loads((folder / "demo.json").read_text())["slices"][2]
    height, width = slice["shape"]
    image = np.frombuffer(
        (folder / "slices.bin").read_bytes(), "<f4", height * width, slice["image"]
    )
    return np.stack([(1000 * image.reshape(height, width)).astype(int)] * copies)


LPS = np.diag([-1.0, -1, 1, 1])


def test_a_mask_is_saved_with_the_scans_header_and_taken_again(page, tmp_path):
    """What the student says of a scan that lies otherwise agrees with itself, voxel for voxel."""
    scan = slab()[::-1, ::-1]
    give(page, "head.nii", nifti(scan.shape, scan.ravel("F").tolist(), affine=LPS))
    done(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the student’s mask").click()
    assert download.value.suggested_filename == "head-student.nii.gz"
    path = tmp_path / "head-student.nii.gz"
    download.value.save_as(path)
    saved = nibabel.load(path)
    assert saved.shape == scan.shape and saved.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(saved.affine, LPS)
    assert set(np.unique(saved.dataobj)) == {0, 1, 2}
    expect(page.locator(".demo-status")).to_contain_text("is saved")
    page.locator("#demo-mask").set_input_files(path)
    done(page)
    assert dices(page, "student") == [1.0, 1.0]
    assert max(dices(page, "baseline")) < 1
    expect(page.locator("figcaption").first).to_have_text("Reference")


BAD_MASKS = {
    "other.nii": (nifti((2, 3, 4), [0] * 23 + [1]), "has 2 × 3 × 4 voxels"),
    "labels.nii": (nifti((5, 20, 15), [7] * 1500), "holds 7"),
    "mask.png": (png(20, 20), "is no NIfTI file"),
    "notes.txt": (b"hello" * 100, "none of the files"),
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_a_mask_that_is_none_is_refused_and_the_scan_stays(page, name):
    give(page, "scan.nii", volume()[2])
    done(page)
    empty = nifti((5, 20, 15), [0] * 1500)
    for label, bytes_ in (("mask.nii", empty), (name, BAD_MASKS[name][0])):
        file = {"name": label, "mimeType": "application/octet-stream", "buffer": bytes_}
        page.locator("#demo-mask").set_input_files(file)
        if label == "mask.nii":
            expect(page.locator("figcaption").first).to_have_text("Reference")
    reason = BAD_MASKS[name][1]
    expect(page.locator(".demo-status")).to_contain_text(reason)
    expect(page.locator("[data-panel=student]")).to_be_visible()
    expect(page.locator("figcaption").first).to_have_text("Image")


def test_what_has_no_header_has_neither_mask_nor_file(page):
    save, mask = page.get_by_role("button", name="Save the"), page.locator("#demo-mask")
    expect(save).to_be_hidden()
    expect(mask).to_be_disabled()
    give(page, "scan.nii", volume()[2])
    done(page)
    expect(save).to_be_visible()
    expect(mask).to_be_enabled()
    give(page, "photo.png", png(60, 50))
    expect(save).to_be_hidden()
    expect(mask).to_be_disabled()


def demo_workers(page):
    return [worker for worker in page.workers if "unet-worker" in worker.url]


def test_it_ends_and_begins_again_with_the_page(page):
    choose(page, 1)
    assert len(demo_workers(page)) == 1
    page.get_by_role("link", name="the study", exact=True).click()
    expect(page.locator("#demo")).to_have_count(0)
    assert demo_workers(page) == []
    page.go_back()
    choose(page, 2)
    assert len(demo_workers(page)) == 1


ORIENTATIONS = {"LPS": (-1, -2, 3), "PIR": (-2, -3, 1), "SAL": (3, 2, -1)}


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_scan_is_segmented_as_its_header_says_it_lies(page, codes):
    """The same scan with other axes in the file gives the same logits, and it is told."""
    ras = np.random.default_rng(0).integers(0, 1000, (6, 20, 15))
    world = [abs(axis) - 1 for axis in ORIENTATIONS[codes]]  # where each axis of the file runs
    against = [i for i, axis in enumerate(ORIENTATIONS[codes]) if axis < 0]
    turned = np.flip(ras.transpose(world), against)
    affine = np.zeros((4, 4))
    for axis, sign in enumerate(np.sign(ORIENTATIONS[codes])):
        affine[world[axis], axis] = sign
    files = [
        nifti(ras.shape, ras.ravel("F").tolist(), affine=np.eye(4)),
        nifti(turned.shape, turned.ravel("F").tolist(), affine=affine),
    ]
    found = in_worker(
        page,
        """
        const found = [];
        for (const bytes of args) {
          const file = new File([new Uint8Array(bytes)], "scan.nii");
          const {shape, notes} = await ask("openFile", {file});
          const {logits} = await ask("segment", {name: "student", plane: 2});
          found.push({shape, notes, logits: [...logits]});
        }
        return found;
        """,
        *map(list, files),
    )
    plain, other = found
    assert plain["shape"] == other["shape"] == list(ras.shape)
    assert other["logits"] == plain["logits"]
    assert not plain["notes"]
    assert [note for note in other["notes"] if f"Its axes run {codes}; it was turned" in note]


def test_a_scan_turned_by_its_quaternion(page):
    """Half a turn about the body's axis: left, posterior, superior."""
    content = bytearray(volume()[2])
    struct.pack_into("<h", content, 252, 1)
    struct.pack_into("<3f", content, 256, 0, 0, 1)
    give(page, "scan.nii", bytes(content))
    done(page)
    expect(page.locator(".demo-notes")).to_contain_text("Its axes run LPS")


def test_a_whole_head_is_told(page):
    values = [n % 97 for n in range(30 * 30 * 30)]
    give(page, "head.nii", nifti((30, 30, 30), values, spacing=6.0, affine=np.eye(4) * 6))
    done(page)
    expect(page.locator(".demo-notes")).to_contain_text("180 × 180 × 180 mm, perhaps a whole head")
