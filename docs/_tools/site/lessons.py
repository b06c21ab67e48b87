"""The pictures of the theory pages, and the numbers that belong to them.

Most show one slice, that of the temperature lab, and one voxel at a boundary of it: the mask says
foreground, the teacher about 0.55. `docs/_tools/publish_learn.py` writes what is measured.
"""

import base64
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot
from matplotlib.colors import ListedColormap
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from scipy.special import log_softmax, softmax
from studies import imitation, of_seeds, scores

from kdcore._files import read_json
from kdcore.evaluation.statistics import compare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = Path(__file__).parents[2] / "assets" / "pictures"
# Of middle lightness, so that they stand out from a light and from a dark page.
TEACHER, STUDENT, BASELINE, HARD, MARK = "#3b8fd4", "#1fa37b", "#8a939e", "#d9730d", "#f0433a"
CLASSES = {0: BASELINE, 1: "#e69f00", 2: "#c869a5"}
ROLES = {"teacher": TEACHER, "student": STUDENT, "baseline": BASELINE}
SIMULATED = "evidence-simulated-quick-8-labels@present"
REAL = "evidence-hippocampus-quick-8-labels"
SURE = 0.99
EXAMPLE = np.array([6.0, 2.0, -4.0]), np.array([6.0, 2.0, -8.0])  # of page 3
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@lru_cache
def slice_() -> dict[str, Any]:
    """Image, mask and logits `(H, W, C)` of every network, upright."""
    lab, learn = read_json(PICTURES / "lab.json"), read_json(PICTURES / "learn.json")
    assert lab["id"] == learn["id"] and lab["shape"] == learn["shape"]
    height, width = lab["shape"]
    maps = {name: (lab[name], lab["scale"]) for name in ("teacher", "student")}
    maps |= {name: (packed, learn["scale"]) for name, packed in learn["maps"].items()}
    logits = {}
    for name, (packed, scale) in maps.items():
        relative = np.frombuffer(base64.b64decode(packed), "<i2").reshape(height, width, 2)
        logits[name] = np.concatenate([np.zeros((height, width, 1)), relative * scale], axis=-1)
    return {"image": pixels(lab), "mask": digits(lab["labels"], lab["shape"]), "logits": logits}


def pixels(about: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(about["image"]), np.uint8).reshape(about["shape"])


def digits(mask: str, shape: Sequence[int]) -> np.ndarray:
    return np.array(list(map(int, mask))).reshape(shape)


def voxel() -> tuple[int, int]:
    """Of the foreground voxels that whose label has a teacher's probability nearest to 0.55."""
    mask, p = slice_()["mask"], softmax(slice_()["logits"]["teacher"], axis=-1)
    of_label = np.take_along_axis(p, mask[..., None], axis=-1)[..., 0]
    distance = np.where(mask > 0, np.abs(of_label - 0.55), np.inf)
    row, column = np.unravel_index(distance.argmin(), mask.shape)
    return int(row), int(column)


def at_voxel(name: str) -> np.ndarray:
    """Probabilities of a network in the voxel."""
    return softmax(slice_()["logits"][name][voxel()])


def divergence(temperature: float) -> np.ndarray:
    """T² · KL of the student from the teacher, voxel by voxel."""
    logits = slice_()["logits"]
    log_p, log_q = (
        log_softmax(logits[arm] / temperature, axis=-1) for arm in ("teacher", "student")
    )
    return temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def surely_background() -> np.ndarray:
    return softmax(slice_()["logits"]["teacher"], axis=-1)[..., 0] > SURE


def lesson(what: str, temperature: float = 1) -> str:
    """A number of the pictures, for the prose."""
    sure, wrong = surely_background(), read_json(PICTURES / "learn.json")["errors"]
    share = divergence(temperature)[sure].sum() / divergence(temperature).sum()
    values = {
        "sure voxels": lambda: percent(sure.mean()),
        "sure": lambda: percent(share),
        "teacher at voxel": lambda: f"{at_voxel('teacher')[label()]:.2f}",
        "student at voxel": lambda: f"{at_voxel('student')[label()]:.2f}",
        "baseline at voxel": lambda: f"{at_voxel('baseline')[label()]:.2f}",
        "unlabelled": lambda: str(wrong["cases"]),
        "fidelity": lambda: f"{correlation(SIMULATED):.2f}".replace("-", "−"),
        "fidelity, real": lambda: f"{correlation(REAL):.2f}".replace("-", "−"),
        "most lost": lambda: f"{-min(lost for _, lost in imitation(SIMULATED).values()):.1f}",
        "most lost, real": lambda: f"{-min(lost for _, lost in imitation(REAL).values()):.1f}",
        "wrong": lambda: percent(wrong["wrong"] / (wrong["wrong"] + wrong["right"]), 1),
        "repeated": lambda: percent(wrong["repeated"] / wrong["wrong"]),
        "shared": lambda: percent(wrong["shared"] / wrong["wrong"]),
    }
    return values[what]()


def percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f}\u00a0%"


def label() -> int:
    return int(slice_()["mask"][voxel()])


def pane(axis: "Axes", shown: np.ndarray, title: str = "", **kwargs: Any) -> Any:
    image = axis.imshow(shown, interpolation="none", **kwargs)
    axis.set_title(title)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    return image


def grey(axis: "Axes", image: np.ndarray, title: str = "") -> None:
    pane(axis, image, title, cmap="gray", vmin=0, vmax=255)


def heat(axis: "Axes", shown: np.ndarray, title: str = "", most: float | None = 1) -> Any:
    return pane(axis, shown, title, cmap="magma", vmin=0, vmax=most)


def filled(axis: "Axes", mask: np.ndarray) -> None:
    """A mask's labels over an image."""
    shown = np.ma.masked_equal(mask, 0)
    colors = ListedColormap([CLASSES[1], CLASSES[2]])
    axis.imshow(shown, cmap=colors, vmin=1, vmax=2, alpha=0.75, interpolation="none")


def marked(axis: "Axes", size: float = 8) -> None:
    """A frame around the voxel."""
    row, column = voxel()
    axis.plot(column, row, "s", mfc="none", mec=MARK, mew=1.8, ms=size)


def foreground(name: str) -> np.ndarray:
    return 1 - softmax(slice_()["logits"][name], axis=-1)[..., 0]


def panes(rows: int, columns: int, width: float = 4.8, height: float = 3.6) -> Any:
    return pyplot.subplots(rows, columns, figsize=(width, height), layout="constrained")


def example() -> "Figure":
    figure, axes = panes(2, 2)
    image, mask = slice_()["image"], slice_()["mask"]
    grey(axes[0, 0], image, "the scan")
    grey(axes[0, 1], image, "the mask")
    filled(axes[0, 1], mask)
    heat(axes[1, 0], foreground("teacher"), "teacher: foreground")
    bar = heat(axes[1, 1], foreground("student"), "student: foreground")
    for axis in axes.flat:
        marked(axis)
    figure.colorbar(bar, ax=axes[1, :], label="probability", shrink=0.9)
    return figure


def flow() -> "Figure":
    figure = pyplot.figure(figsize=(4.8, 4.3))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 4.8), ylim=(0, 4.3))
    axis.axis("off")
    rows = {"teacher": 3.55, "student": 2.05, "baseline": 0.75}
    words = {
        "teacher": "teacher\nlarge, frozen",
        "student": "student\nsmall",
        "baseline": "baseline\nsmall,\nno teacher",
    }
    thumbnail(figure, 0.03, rows["student"], lambda a: grey(a, slice_()["image"]))
    axis.text(0.53, rows["student"] - 0.5, "scan", ha="center")
    for arm, y in rows.items():
        arrow(axis, (1.06, rows["student"]), (1.3, y), BASELINE)
        box = FancyBboxPatch(
            (1.34, y - 0.32), 0.9, 0.64, "round,pad=0.02", fc="none", ec=ROLES[arm], lw=2.2
        )
        axis.add_patch(box)
        axis.text(1.79, y, words[arm], ha="center", va="center")
        arrow(axis, (2.28, y), (2.46, y), ROLES[arm])
        thumbnail(figure, 2.48, y, lambda a, arm=arm: heat(a, foreground(arm)))
    thumbnail(
        figure, 3.75, 1.4, lambda a: (grey(a, slice_()["image"]), filled(a, slice_()["mask"]))
    )
    axis.text(4.72, 0.86, "mask", ha="right")
    for arm, way in (("student", 1.76), ("baseline", 1.04)):
        arrow(axis, (4.1, way), (3.51, rows[arm]), HARD, both=True)
    axis.text(3.86, 2.02, "hard loss", ha="left")
    axis.text(3.6, 0.6, "hard loss", ha="left")
    arrow(axis, (2.98, rows["teacher"] - 0.38), (2.98, rows["student"] + 0.38), TEACHER, both=True)
    axis.text(3.1, 2.8, "soft loss", va="center")
    return figure


def thumbnail(figure: "Figure", x: float, y: float, draw: Callable[[Any], Any]) -> None:
    width, height = figure.get_size_inches()
    axis = figure.add_axes((x / width, (y - 0.345) / height, 1.0 / width, 0.69 / height))
    draw(axis)


def arrow(
    axis: "Axes", a: tuple[float, float], b: tuple[float, float], color: str, both: bool = False
) -> None:
    style = "<|-|>" if both else "-|>"
    axis.add_patch(FancyArrowPatch(a, b, arrowstyle=style, mutation_scale=11, color=color, lw=1.6))


def divergences() -> "Figure":
    """The loss of one voxel and its gradient, by what the student says."""
    figure, (loss, slope) = panes(1, 2, height=2.9)
    p, q = float(at_voxel("teacher")[label()]), np.linspace(0.005, 0.995, 400)
    kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    loss.plot(q, -np.log(q), color=HARD, lw=2, label="mask: 1")
    loss.plot(q, kl, color=TEACHER, lw=2, label=f"teacher: {p:.2f}")
    loss.plot([p], [0], "o", color=TEACHER)
    loss.set(title="loss", ylim=(-0.08, 2.2), xlabel="student's probability")
    slope.plot(q, q - 1, color=HARD, lw=2)
    slope.plot(q, q - p, color=TEACHER, lw=2)
    slope.plot([p], [0], "o", color=TEACHER)
    slope.axhline(0, color=BASELINE, lw=0.8)
    slope.set(title="gradient", xlabel="student's probability")
    loss.legend(frameon=False)
    return figure


def bars() -> "Figure":
    """Softmax at four temperatures, of a sure voxel and of the one at the boundary."""
    temperatures = (1, 2, 4, 8)
    figure, axes = panes(2, 4, height=3.3)
    rows = {
        "a sure voxel": EXAMPLE[0],
        "the boundary voxel": slice_()["logits"]["teacher"][voxel()],
    }
    for axis_row, (name, v) in zip(axes, rows.items(), strict=True):
        for axis, temperature in zip(axis_row, temperatures, strict=True):
            p = softmax(v / temperature)
            axis.bar(range(3), p, color=TEACHER)
            for place, height in enumerate(p):
                text = f"{height:.2f}".removeprefix("0")
                axis.text(place, height + 0.03, text, ha="center", fontsize=8)
            axis.set(ylim=(0, 1.15), xticks=range(3), yticks=[])
            axis.spines["left"].set_visible(False)
        axis_row[0].set_ylabel(name)
    for axis, temperature in zip(axes[0], temperatures, strict=True):
        axis.set_title(f"T = {temperature}")
    figure.supxlabel("class", fontsize=10)
    return figure


def square() -> "Figure":
    """KL with and without T², for logits that differ much and little."""
    figure, axes = panes(1, 2, height=2.9)
    temperatures = np.geomspace(1, 64, 100)
    for axis, factor, title in zip(
        axes, (1, 0.1), ("logits 10 apart", "logits 1 apart"), strict=True
    ):
        v, z = (factor * logits for logits in EXAMPLE)
        kl = np.array([kl_of(v / t, z / t) for t in temperatures])
        axis.plot(temperatures, kl / kl[0], color=HARD, lw=2, label="KL")
        with_square = temperatures**2 * kl
        axis.plot(temperatures, with_square / kl[0], color=TEACHER, lw=2, label="T² · KL")
        axis.set(xscale="log", yscale="log", title=title, xlabel="temperature T")
        axis.set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
        axis.minorticks_off()
    axes[0].set_ylabel("relative to T = 1")
    axes[0].legend(frameon=False, loc="lower right")
    return figure


def kl_of(v: np.ndarray, z: np.ndarray) -> float:
    log_p, log_q = log_softmax(v), log_softmax(z)
    return float((np.exp(log_p) * (log_p - log_q)).sum())


def background() -> "Figure":
    """Where the divergence lies, at a low and at a high temperature."""
    figure, axes = panes(2, 2, height=3.9)
    sure = surely_background()
    grey(axes[0, 0], slice_()["image"], "the mask")
    filled(axes[0, 0], slice_()["mask"])
    heat(axes[0, 1], foreground("teacher"), "teacher: foreground")
    for axis, temperature in zip(axes[1], (1, 4), strict=True):
        share = divergence(temperature)[sure].sum() / divergence(temperature).sum()
        title = f"T² · KL, T = {temperature}\noutside: {100 * share:.0f} %"
        heat(axis, np.sqrt(divergence(temperature)), title, most=None)
    for axis in axes.flat:
        axis.contour(sure, levels=[0.5], colors=[STUDENT], linewidths=1.2)
    return figure


def discs() -> "Figure":
    """Dice of two discs, and three soft Dice losses where the target is one half."""
    figure, (left, right) = panes(1, 2, height=2.9)
    left.add_patch(Circle((-0.3, 0), 1, color=HARD, alpha=0.45, lw=0))
    left.add_patch(Circle((0.3, 0), 1, color=STUDENT, alpha=0.45, lw=0))
    overlap = 2 * np.arccos(0.3) - 0.6 * np.sqrt(1 - 0.09)
    left.set(xlim=(-1.4, 1.4), ylim=(-1.35, 1.35), aspect="equal", xticks=[], yticks=[])
    left.set_title(f"two discs: Dice {overlap / np.pi:.2f}")
    left.set_xlabel("2 · overlap / both sizes")
    left.spines[:].set_visible(False)
    q = np.linspace(0.001, 1, 300)
    right.plot(q, 1 - q / (0.5 + q), color=HARD, lw=2, label="linear")
    right.plot(q, (0.5 - q) ** 2 / (0.25 + q**2), color=STUDENT, lw=2, label="squared")
    right.plot(q, np.abs(0.5 - q) / (0.5 + q), color=TEACHER, lw=2, ls="--", label="DML")
    right.plot([1], [1 / 3], "o", color=HARD)
    right.plot([0.5], [0], "o", color=STUDENT)
    right.set(title="target 0.5 everywhere", xlabel="student says", ylabel="soft Dice loss")
    right.legend(frameon=False)
    return figure


def space() -> "Figure":
    """Softmax over classes, and over space at three temperatures."""
    figure, axes = panes(2, 2)
    log_p = log_softmax(slice_()["logits"]["teacher"], axis=-1)[..., label()]
    heat(axes[0, 0], np.exp(log_p), "over classes")
    for axis, temperature in zip(axes.flat[1:], (1, 4, 16), strict=True):
        spread = softmax(log_p / temperature)
        heat(axis, spread, f"over space, T = {temperature}", most=None)
        on = spread[slice_()["mask"] == label()].sum()
        axis.set_xlabel(f"on the structure: {100 * on:.0f} %")
    axes[0, 0].set_xlabel("each voxel by itself")
    return figure


def members() -> "Figure":
    figure, axes = panes(2, 2, height=3.5)
    names = [name for name in slice_()["logits"] if name.startswith("seed")]
    for axis, name in zip(axes.flat, names, strict=False):
        heat(axis, foreground(name), name)
    mean = np.mean([foreground(name) for name in names], axis=0)
    bar = heat(axes[1, 1], mean, "their mean")
    figure.colorbar(bar, ax=axes, label="foreground probability", shrink=0.8)
    return figure


def reliability() -> "Figure":
    figure, axis = panes(1, 1, width=4.4, height=3.6)
    axis.plot([0.3, 1], [0.3, 1], "--", color=BASELINE, lw=1)
    axis.text(
        0.62, 0.655, "calibrated", rotation=40, ha="center", va="bottom", rotation_mode="anchor"
    )
    markers = {"teacher": "o", "student": "s", "baseline": "^"}
    for arm, bins in read_json(PICTURES / "learn.json")["reliability"].items():
        kept = np.array(bins["voxels"]) >= 100
        x, y = (np.array(bins[key])[kept] for key in ("confidence", "right"))
        axis.plot(x, y, marker=markers[arm], color=ROLES[arm], lw=1.8, label=arm)
    axis.set(xlabel="confidence", ylabel="share that is right", xlim=(0.3, 1.02), ylim=(0.2, 1.02))
    axis.legend(frameon=False)
    return figure


def wrong() -> "Figure":
    """Errors of teacher, student and baseline in a slice that the teacher labelled."""
    about = read_json(PICTURES / "learn.json")["errors"]["slice"]
    masks = {name: digits(mask, about["shape"]) for name, mask in about["masks"].items()}
    figure, axes = panes(2, 2, height=4.2)
    for axis in axes.flat:
        grey(axis, pixels(about))
    filled(axes[0, 0], masks["reference"])
    axes[0, 0].set_title("what experts drew")
    for axis, arm in zip(axes.flat[1:], ROLES, strict=True):
        errors = masks[arm] != masks["reference"]
        shown = np.ma.masked_equal(errors, 0)
        axis.imshow(shown, cmap=ListedColormap([MARK]), alpha=0.85, interpolation="none")
        axis.set_title(f"errors of the {arm}: {errors.sum()}")
    return figure


def forest() -> "Figure":
    """Differences from the baseline: over cases, over cases and trainings, and each seed's."""
    arms = ("teacher", "hints-2d", "channel-wise", "student", "student-labelled", "self")
    figure, axis = panes(1, 1, height=3.5)
    for place, arm in enumerate(arms):
        found = compare(scores(SIMULATED), arm, "baseline")
        both, cases = (100 * np.array(found[key]) for key in ("interval_seeds", "interval"))
        axis.plot(both, [place, place], color=STUDENT, lw=1.4)
        axis.plot(cases, [place, place], color=STUDENT, lw=5, solid_capstyle="butt")
        axis.plot(100 * found["difference"], place, "D", color=TEACHER, ms=6)
        seeds = of_seeds(SIMULATED, arm, "baseline")
        axis.plot(seeds, [place + 0.28] * len(seeds), "o", color=HARD, ms=4)
    axis.axvline(0, color=BASELINE, lw=1)
    axis.set_yticks(range(len(arms)), arms)
    axis.invert_yaxis()
    axis.set_xlabel("Dice points above the baseline")
    axis.tick_params(left=False)
    axis.spines["left"].set_visible(False)
    return figure


def correlation(name: str) -> float:
    """Pearson's, of the soft loss at the end of training and Dice below the teacher, over arms."""
    return float(np.corrcoef(list(zip(*imitation(name).values(), strict=True)))[0, 1])


def fidelity() -> "Figure":
    """Each arm's soft loss at the end of training, and how far it stays below its teacher."""
    figure, axis = panes(1, 1, height=3.4)
    for name, color, told in ((SIMULATED, TEACHER, "simulated"), (REAL, BASELINE, "hippocampus")):
        arms = imitation(name)
        soft, lost = zip(*arms.values(), strict=True)
        axis.plot(soft, lost, "o", color=color, ms=6, label=told)
        if name == SIMULATED:
            for arm in ("hints-2d", "student-150k", "self", "student"):
                axis.annotate(arm, arms[arm], (-7, 0), textcoords="offset points",
                              ha="right", va="center", fontsize=8)  # fmt: skip
    axis.axhline(0, color=BASELINE, lw=0.8)
    axis.set(xlabel="soft loss at the end of training", ylabel="Dice points, student − its teacher")
    axis.set_xlim(0.04, 0.15)
    axis.legend(frameon=False, loc="lower left")
    return figure


DRAWN = {
    f"learn-{function.__name__}": function
    for function in (
        example, flow, divergences, bars, square, background, discs, space, members, reliability,
        wrong, forest, fidelity,
    )
}  # fmt: skip
