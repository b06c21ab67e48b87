"""Put a simulated slice and what kdcore makes of the playground's steps into its folder.

slice.json      T1, FLAIR and labels of the slice, for `docs/assets/playground`
kdcore.json     each step of story.json with ten seeds, trained here with `kdcore.Distiller`
step-N.webp     its first seed as a picture, for readers without JavaScript

What is drawn here are the very numbers that `networks.mjs` draws, so the page must find the same.
`python docs/_tools/publish_playground.py`; takes some minutes.
"""

import base64
import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from scipy import ndimage

import kdcore
from kdcore._files import replacing, write_json
from kdcore.data.cases import Case
from kdcore.evaluation import figures
from kdcore.losses import IGNORE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parents[1] / "assets" / "playground"
SUBJECT, SEQUENCES = 5, ("T1", "FLAIR")
COLORS = ("#CC79A7", "#E69F00", "#56B4E9")  # tissue, oedema, core, as on the page
OUTSIDE = 3
STEPS, POOL, SEEDS = 400, 180, 10
LABELLED, UNLABELLED = 24, 48
NETWORKS = ("teacher", "student", "baseline")
STREAMS = {"voxels": 0, "noise": 1, "narrow": 2, "wide": 3, "batches": 4, "teacher": 5}
DEFAULTS = {
    "labels": 3, "unlabelled": True, "T": 2.0, "alpha": 0.0, "width": 4, "teacherWidth": 24,
    "sees": "both", "pseudo": False, "noise": 0.0, "teacherLabels": POOL, "seed": 0,
}  # fmt: skip
Arrays = dict[str, np.ndarray]
Draw = Callable[[], float]


def main() -> int:
    case = kdcore.simulate_cases(SUBJECT + 1, 0, SEQUENCES)[SUBJECT]
    content, data = slice_of(case)
    write_json(FOLDER / "slice.json", content, indent=None)
    story, found = json.loads((FOLDER / "story.json").read_text()), []
    for number, step in enumerate(story, 1):
        settings = DEFAULTS | step["settings"]
        runs = [trained(data, settings | {"seed": seed}) for seed in range(SEEDS)]
        scores = [scores_of(data, settings | {"seed": s}, run) for s, run in enumerate(runs)]
        found.append({"title": step["title"], "accuracy": scores})
        write_picture(FOLDER / f"step-{number}.webp", picture(data, settings, runs[0], scores[0]))
        print(step["title"], {who: np.mean([s[who] for s in scores]).round(3) for who in NETWORKS})
    write_json(FOLDER / "kdcore.json", found, indent=None)
    return 0


# The slice.


def slice_of(case: Case) -> tuple[dict[str, Any], Arrays]:
    """The plane with most core: intensities from 0 to 255 over the brain, labels, 3 outside."""
    assert case.mask is not None
    plane = int((case.mask == 2).sum(axis=(1, 2)).argmax())
    image = figures.upright(np.array(case.image[plane], np.float64), case)
    mask = figures.upright(case.mask[plane], case)
    inside = brain(image[..., 0])
    rows, columns = (slice(a.min() - 1, a.max() + 2) for a in np.nonzero(inside))
    image, mask, inside = (a[rows, columns] for a in (image, mask, inside))
    low, high = image[inside].min(axis=0), image[inside].max(axis=0)
    grey = np.rint(255 * np.clip((image - low) / (high - low), 0, 1)).astype(np.uint8)
    labels = np.where(inside, mask, OUTSIDE).astype(np.uint8)
    parts = {"t1": grey[..., 0], "flair": grey[..., 1]}
    content = {
        "id": case.case_id,
        "slice": plane + 1,
        "shape": labels.shape,
        "labels": "".join(map(str, labels.ravel())),
        **{name: base64.b64encode(part.tobytes()).decode() for name, part in parts.items()},
    }
    return content, {"labels": labels, **parts}


def brain(t1: np.ndarray) -> np.ndarray:
    """Its largest bright part, with the holes in it."""
    bright = ndimage.binary_opening(t1 > 0.22 * np.percentile(t1, 99.5))
    parts, count = ndimage.label(ndimage.binary_fill_holes(bright))
    sizes = ndimage.sum(bright, parts, range(1, count + 1))
    return parts == 1 + np.argmax(sizes)


def read_slice() -> Arrays:
    """What `main` wrote."""
    content = json.loads((FOLDER / "slice.json").read_text())
    labels = np.array([*map(int, content["labels"])], np.uint8).reshape(content["shape"])
    grey = {
        name: np.frombuffer(base64.b64decode(content[name]), np.uint8).reshape(labels.shape)
        for name in ("t1", "flair")
    }
    return {"labels": labels, **grey}


# What is drawn, as in networks.mjs.


def draws(seed: int, stream: str) -> Draw:
    """Numbers in [0, 1) of the generator mulberry32."""
    state = ((seed + 1) * 0x9E3779B1 ^ (STREAMS[stream] + 1) * 0x85EBCA6B) & 0xFFFFFFFF

    def draw() -> float:
        nonlocal state
        state = (state + 0x6D2B79F5) & 0xFFFFFFFF
        t = (state ^ state >> 15) * (1 | state) & 0xFFFFFFFF
        t ^= (t + ((t ^ t >> 7) * (61 | t) & 0xFFFFFFFF)) & 0xFFFFFFFF
        return (t ^ t >> 14) / 2**32

    return draw


def parts_of(data: Arrays, settings: dict[str, Any]) -> Arrays:
    """Voxels of student, teacher and test, and the labels that the first two are told."""
    draw, chance = draws(settings["seed"], "voxels"), draws(settings["seed"], "noise")
    flat = data["labels"].ravel()
    order = [shuffled(np.flatnonzero(flat == label).tolist(), draw) for label in range(3)]
    each = POOL // 3
    parts = {
        "student": np.array([order[i % 3][i // 3] for i in range(POOL)]),
        "teacher": np.array([order[i % 3][each + i // 3] for i in range(POOL)]),
        "test": np.concatenate([voxels[2 * each :] for voxels in order]),
    }
    for who in ("student", "teacher"):
        told = []
        for voxel in parts[who]:
            wrong, other = chance() < settings["noise"], 1 + int(2 * chance())
            told.append((int(flat[voxel]) + wrong * other) % 3)
        parts[f"{who}_labels"] = np.array(told)
    return parts


def shuffled(values: list[int], draw: Draw) -> list[int]:
    for i in range(len(values) - 1, 0, -1):
        j = int(draw() * (i + 1))
        values[i], values[j] = values[j], values[i]
    return values


def weights_of(width: int, draw: Draw) -> list[np.ndarray]:
    """Glorot's uniform start, kernels and biases as `set_weights` takes them."""
    weights = []
    for inputs, outputs in ((2, width), (width, width), (width, 3)):
        limit = np.sqrt(6 / (inputs + outputs))
        kernel = [limit * (2 * draw() - 1) for _ in range(inputs * outputs)]
        weights += [np.array(kernel, np.float32).reshape(inputs, outputs), np.zeros(outputs)]
    return weights


def batches(draw: Draw, labels: int, until: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """`(steps, voxels)`: places in the pool, and which of them carry a label."""

    def some(count: int, low: int, high: int) -> list[int]:
        return [low + int(draw() * (high - low)) for _ in range(count)] if high > low else []

    rows = [[some(LABELLED, 0, labels), some(UNLABELLED, labels, until)] for _ in range(steps)]
    places = np.array([[*own, *others] for own, others in rows], int)
    labelled = np.zeros(places.shape, bool)
    labelled[:, : LABELLED if labels else 0] = True
    return places, labelled


def inputs(data: Arrays, voxels: np.ndarray, sees: str = "both") -> np.ndarray:
    x = np.stack([data["t1"].ravel()[voxels], data["flair"].ravel()[voxels]], axis=-1)
    x = (x.astype(np.float32) - 128) / 64
    return x * np.float32([1, 0]) if sees == "T1" else x


# Training, by kdcore.


@lru_cache
def compiled(width: int, temperature: float, alpha: float, at_once: int) -> kdcore.Distiller:
    """A network with its losses; `at_once` steps are one call to TensorFlow."""
    layers = [keras.layers.Dense(width, activation="tanh") for _ in range(2)]
    network = keras.Sequential([keras.Input((2,)), *layers, keras.layers.Dense(3)])
    distiller = kdcore.Distiller(
        network, temperature=temperature, alpha=alpha, soft_loss=kdcore.kd_loss
    )
    distiller.compile(
        keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=at_once,
    )
    return distiller


def start(distiller: kdcore.Distiller, weights: list[np.ndarray]) -> None:
    distiller.student.set_weights(weights)
    for variable in distiller.optimizer.variables:
        if "learning_rate" not in variable.path:
            variable.assign(np.zeros(variable.shape))


def task(
    data: Arrays, settings: dict[str, Any], who: str, steps: int = STEPS
) -> dict[str, Any] | None:
    """What a network starts from and is shown, step by step; None if there is nothing."""
    parts, seed, teacher = parts_of(data, settings), settings["seed"], who == "teacher"
    labels = settings["teacherLabels" if teacher else "labels"]
    until = POOL if settings["unlabelled"] and not teacher else labels
    draw = draws(seed, "teacher" if teacher else "batches")
    places, labelled = batches(draw, labels, until, steps)
    pool = "teacher" if teacher else "student"
    sees = "both" if teacher else settings["sees"]
    width = settings["teacherWidth" if teacher else "width"]
    return {
        "weights": weights_of(width, draws(seed, "wide" if teacher else "narrow")),
        "width": width,
        "x": inputs(data, parts[pool], sees)[places],
        "mask": np.where(labelled, parts[f"{pool}_labels"][places], IGNORE),
        "places": places,
        "temperature": 1.0 if settings["pseudo"] else settings["T"],
        "alpha": settings["alpha"] if who == "student" else 0.0,
    }


def soft_targets(logits: np.ndarray, pseudo: bool) -> np.ndarray:
    """The teacher's log-probabilities, or its choices as such."""
    if pseudo:
        return np.where(logits == logits.max(axis=-1, keepdims=True), 0, -1000).astype(np.float32)
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def learn(job: dict[str, Any], log_p: np.ndarray | None, at_once: int = 100) -> list[np.ndarray]:
    """The weights after all steps."""
    distiller = compiled(job["width"], job["temperature"], job["alpha"], at_once)
    start(distiller, job["weights"])
    size = job["places"].shape[1]
    if size:
        y: Any = job["mask"].ravel()
        if job["alpha"]:
            assert log_p is not None
            y = {"mask": y, "soft_targets": log_p[job["places"].ravel()]}
        x = job["x"].reshape(-1, 2)
        distiller.fit(x, y, batch_size=size, epochs=1, shuffle=False, verbose=0)
    return distiller.student.get_weights()


def losses(job: dict[str, Any], log_p: np.ndarray | None) -> Iterator[dict[str, float]]:
    """The losses of each step, each before the step; the weights are then the student's."""
    distiller = compiled(job["width"], job["temperature"], job["alpha"], 1)
    start(distiller, job["weights"])
    for x, mask, places in zip(job["x"], job["mask"], job["places"], strict=True):
        soft = {} if log_p is None or not job["alpha"] else {"soft_targets": log_p[places]}
        distiller.reset_metrics()
        yield distiller.train_on_batch(x, {"mask": mask, **soft}, return_dict=True)


def logits_of(weights: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        x = np.tanh(x @ kernel + bias)
    return x @ weights[-2] + weights[-1]


def trained(data: Arrays, settings: dict[str, Any]) -> dict[str, list[np.ndarray]]:
    """Weights of the three networks."""
    teacher = taught(data, settings)
    pool = inputs(data, parts_of(data, settings)["student"])
    log_p = soft_targets(logits_of(teacher, pool), settings["pseudo"])
    others = {who: learn(task(data, settings, who), log_p) for who in NETWORKS[1:]}
    return {"teacher": teacher, **others}


_TAUGHT: dict[str, list[np.ndarray]] = {}


def taught(data: Arrays, settings: dict[str, Any]) -> list[np.ndarray]:
    """The teacher's weights; it is the same in many steps of the story."""
    own = json.dumps([settings[k] for k in ("teacherLabels", "teacherWidth", "noise", "seed")])
    if own not in _TAUGHT:
        _TAUGHT[own] = learn(task(data, settings, "teacher"), None)
    return _TAUGHT[own]


def scores_of(
    data: Arrays, settings: dict[str, Any], weights: dict[str, list[np.ndarray]]
) -> dict[str, float]:
    """Held-out accuracy: the mean over the classes of the share that is right."""
    test = parts_of(data, settings)["test"]
    truth = data["labels"].ravel()[test]
    found = {}
    for who, own in weights.items():
        x = inputs(data, test, "both" if who == "teacher" else settings["sees"])
        right = logits_of(own, x).argmax(axis=-1) == truth
        found[who] = float(np.mean([right[truth == label].mean() for label in range(3)]))
    return found


# Pictures.


def picture(
    data: Arrays,
    settings: dict[str, Any],
    weights: dict[str, list[np.ndarray]],
    scores: dict[str, float],
) -> "Figure":
    """Above what each network says of every pair of intensities, below of the slice's voxels."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(7.2, 5.2), layout="constrained")
    values = (np.arange(0, 256, 2, dtype=np.float32) - 128) / 64
    grid = np.stack(np.meshgrid(values, values), axis=-1)
    parts = parts_of(data, settings)
    voxels = np.arange(data["labels"].size)
    for (plane, below), who in zip(axes.T, NETWORKS, strict=True):
        sees = "both" if who == "teacher" else settings["sees"]
        seen = grid * np.float32([1, 0]) if sees == "T1" else grid
        extent = (0, 255, 0, 255)
        plane.imshow(shaded(logits_of(weights[who], seen)), origin="lower", extent=extent)
        own = "teacher" if who == "teacher" else "student"
        labels = settings["teacherLabels" if who == "teacher" else "labels"]
        heard = POOL if who == "student" and settings["unlabelled"] else labels
        scatter(plane, data, parts[own][:heard], parts[f"{own}_labels"], labels)
        plane.set_title(f"{who}: {100 * scores[who]:.1f} %")
        plane.set(xlabel="T1", xticks=[], yticks=[])
        logits = logits_of(weights[who], inputs(data, voxels, sees)).reshape(
            *data["labels"].shape, 3
        )
        below.imshow(tinted(data, logits))
        below.contour(data["labels"] % OUTSIDE > 0, [0.5], colors="white", linewidths=0.8)
        below.axis("off")
    axes[0, 0].set_ylabel("FLAIR")
    return figure


def rgb(color: str) -> np.ndarray:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255


PALETTE = np.array([rgb(color) for color in COLORS])


def shaded(logits: np.ndarray) -> np.ndarray:
    """The colour of the likeliest class, the paler the more doubt."""
    sure = certainty(logits)[..., None]
    return 1 - 0.75 * sure * (1 - PALETTE[logits.argmax(axis=-1)])


def certainty(logits: np.ndarray) -> np.ndarray:
    """1 less the entropy, as a share of the highest."""
    log_p = soft_targets(logits, pseudo=False)
    return 1 + (np.exp(log_p) * log_p).sum(axis=-1) / np.log(3)


def tinted(data: Arrays, logits: np.ndarray) -> np.ndarray:
    grey = np.repeat(data["flair"][..., None] / 255, 3, axis=-1)
    label = logits.argmax(axis=-1)
    share = 0.7 * certainty(logits) * (label > 0) * (data["labels"] != OUTSIDE)
    return grey + share[..., None] * (PALETTE[label] - grey)


def scatter(axis: Any, data: Arrays, voxels: np.ndarray, labels: np.ndarray, labelled: int) -> None:
    t1, flair = (data[name].ravel()[voxels] for name in ("t1", "flair"))
    axis.scatter(t1[labelled:], flair[labelled:], s=3, color="0.35", linewidths=0)
    colors = PALETTE[labels[:labelled]]
    axis.scatter(t1[:labelled], flair[:labelled], s=18, c=colors, edgecolors="black", linewidths=1)


def write_picture(path: Path, figure: "Figure") -> None:
    from matplotlib import pyplot

    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, pil_kwargs={"quality": 80})
    pyplot.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
