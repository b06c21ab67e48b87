"""Run and measure the mistakes of the 2020 recipe: `python docs/_tools/measure_recipe.py`.

Runs example 8 first, takes its networks and functions, and writes docs/results/recipe-2020.json.
Options are those of the example.
"""

import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import kdcore
from kdcore._files import write_json
from kdcore._provenance import provenance

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "08_recipe_2020.py"
OUT = ROOT / "docs" / "results" / "recipe-2020.json"
COLUMNS = ["what the text has", "what happens", "measured", "correct"]
WORDS = {
    "Dice": "Dice {:.3f}",
    "KD": "KD moves {:.0%} of the student's weights",
    "soft_dice": "soft Dice moves {:.0%} of the student's weights",
    "teacher": "{:.0%} of the teacher's weights changed",
    "teacher_dice": "teacher's Dice {:.3f}",
}
# Fragments with the text's mistakes that end in an error.
STOPS = [
    ("a closing bracket too many", "metrics = {'soft_preds': [])}", "parses"),
    ("`concat_out_layer…` defined, `concat_last_layer…` used",
     "concat_out_layer = layers.Concatenate()([image, image]); concat_last_layer", "one name"),
    ("`α` and `T` used in KD, defined nowhere", "α * (T * T)", "arguments of KD"),
    ("layer named `soft_outputss`, loss for `soft_preds`",
     "output = layers.Identity(name='output_student')(image)\n"
     "soft = layers.Concatenate(name='soft_outputss')([image, image])\n"
     "model = keras.Model(image, [output, soft])\n"
     "model.compile(loss={'output_student': soft_dice, 'soft_preds': KD(5.0, 0.1)})\n"
     "model.train_on_batch(np.zeros((1, 8, 8, 1)), [np.zeros((1, 8, 8, 1))] * 2)", "one name"),
    ("the teacher's graph has its own input",
     "own = keras.Input((8, 8, 1), name='teachers_image')\n"
     "keras.Model(image, layers.Concatenate()([own, image]))", "one shared input"),
    ("`K.cast` as a slice's bound", "image[..., : keras.backend.cast(1, 'int32')]", "ops.split"),
    ("`lr` for the optimizer", "keras.optimizers.SGD(lr=0.01)", "learning_rate"),
]  # fmt: skip


def stopping(recipe: dict[str, Any]) -> list[list[str]]:
    """A row for each fragment: the error it ends in."""
    rows = []
    for text, code, correct in STOPS:
        happens, measured = "runs", "no error"
        scope = {**recipe, "image": keras.Input((8, 8, 1), name="image"), "layers": layers}
        try:
            exec(code, scope)  # noqa: S102 - the fragments above
        except Exception as error:
            happens = "stops"
            measured = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        rows.append([text, happens, measured, correct])
    return rows


class Trainings:
    """Variants of the recipe, trained as the example trains it."""

    def __init__(self, recipe: dict[str, Any]) -> None:
        self.recipe = recipe
        self.teacher_dice = self.dice(recipe["teacher"])
        self.of_teacher = [np.array(w) for w in recipe["teacher"].get_weights()]
        self.correct = {
            "student": self.student(lambda: self.joint()),
            "baseline": {"Dice": self.dice(recipe["baseline"])},
        }

    def dice(self, network: keras.Model, normalization: Any = None) -> float:
        scale = normalization or self.recipe["scale"]
        return kdcore.mean_dice(self.recipe["score"](network, scale))

    def joint(
        self,
        seed: int | None = None,
        *,
        frozen: bool = True,
        training: bool | None = False,
        output: Any = "sigmoid",
        soft: Any = "sigmoid",
        **weights: float,
    ) -> keras.Model:
        """The joint model, wired as told; the defaults are what is correct."""
        recipe = self.recipe
        seed = recipe["settings"].seed if seed is None else seed
        student = recipe["network"]("student", 4, seed)
        teacher = keras.models.clone_model(recipe["teacher"])
        teacher.set_weights(self.of_teacher)
        teacher.trainable = not frozen
        image = keras.Input(student.input_shape[1:], name="image")
        logits = teacher(image, training=training), student(image)
        named = layers.Activation(output, name="output_student")(logits[1])
        softened = [layers.Rescaling(1 / recipe["temperature"])(z) for z in logits]
        halves = [layers.Activation(soft)(z) for z in softened]
        both = layers.Concatenate(name="soft_preds")(halves)
        model = keras.Model(image, {"output_student": named, "soft_preds": both})
        return self.compile(model, **weights)

    def compile(
        self, model: keras.Model, hard: float | None = None, soft: float = 1.0, **kwargs: Any
    ) -> keras.Model:
        recipe = self.recipe
        kd = recipe["KD"](recipe["temperature"], recipe["alpha"])
        loss = {"output_student": recipe["soft_dice"], "soft_preds": kd}
        hard = 1 - recipe["alpha"] if hard is None else hard
        weights = {"output_student": hard, "soft_preds": soft}
        return recipe["compiled"](model, loss, loss_weights=weights, **kwargs)

    def student(
        self, build: Callable[[], keras.Model], seed: int | None = None
    ) -> dict[str, float]:
        """Dice of the student, and what each loss and the training move."""
        recipe, model = self.recipe, build()
        batches = recipe["slices"](seed=recipe["settings"].seed if seed is None else seed)
        batches.outputs = ("output_student", "soft_preds")
        model.fit(batches, epochs=recipe["epochs"], shuffle=False, verbose=0)
        student, teacher = model.get_layer("student"), model.layers[1]
        teacher = next(m for m in model.layers if isinstance(m, keras.Model) and m is not student)
        found = {"Dice": self.dice(student), "teacher": changed(self.of_teacher, teacher.weights)}
        found["teacher_dice"] = self.dice(teacher) if found["teacher"] else self.teacher_dice
        return found | self.moved(model, student, batches[0])

    def moved(self, model: keras.Model, student: keras.Model, batch: Any) -> dict[str, float]:
        """Share of the student's weights that one step on either loss alone changes."""
        weights, found = model.get_weights(), {}
        before = [np.array(variable) for variable in student.trainable_variables]
        for name, only in {"soft_dice": (1, 0), "KD": (0, 1)}.items():
            self.compile(model, *only, run_eagerly=True)
            model.optimizer.learning_rate = 1.0
            model.train_on_batch(*batch)
            found[name] = changed(before, student.trainable_variables)
            model.set_weights(weights)
        return found

    def baseline(self, normalization: Any) -> dict[str, float]:
        recipe = self.recipe
        model = keras.Sequential([recipe["network"]("b", 4), layers.Activation("sigmoid")])
        recipe["compiled"](model, recipe["soft_dice"])
        batches = recipe["slices"](normalization=normalization)
        model.fit(batches, epochs=recipe["epochs"], shuffle=False, verbose=0)
        return {"Dice": self.dice(model.layers[0], normalization)}


def changed(before: list[np.ndarray], after: list[Any]) -> float:
    pairs = [(a, ops.convert_to_numpy(b)) for a, b in zip(before, after, strict=True)]
    return float(sum((a != b).sum() for a, b in pairs) / sum(a.size for a, _ in pairs))


def beside(text: str, found: dict[str, float], correct: dict[str, float]) -> list[str]:
    """A row: Dice, and the probes that differ (all of them, if nothing does)."""
    both = found, correct
    pairs = [[WORDS[key].format(f[key]) for f in both] for key in WORDS if key in found]
    words = [pair for pair in pairs[1:] if pair[0] != pair[1]]
    words = pairs if pairs[0][0] == pairs[0][1] and not words else pairs[:1] + words
    happens = f"trains, Dice {found['Dice'] - correct['Dice']:+.3f}"
    print(f"{text}: {happens}", flush=True)
    return [text, happens, *("; ".join(column) for column in zip(*words, strict=True))]


def training(recipe: dict[str, Any], runs: Trainings) -> list[list[str]]:
    """A row for each mistake that trains; the first is another seed."""

    def thresholded(logits: Any) -> Any:
        return ops.cast(logits > 0, "float32")

    def two_classes(logits: Any) -> Any:
        return ops.softmax(ops.concatenate([ops.zeros_like(logits), logits], axis=-1))

    other, alpha = recipe["settings"].seed + 1, recipe["alpha"]
    wirings: dict[str, dict[str, Any]] = {
        "teacher not frozen, not in inference mode": {"frozen": False, "training": None},
        "teacher frozen, but not in inference mode": {"training": None},
        "softmax over the one channel": {"soft": "softmax"},
        "binary cross-entropy on a softmax over two channels": {"soft": two_classes},
        "thresholded outputs into soft Dice": {"output": thresholded},
        "logits into soft Dice": {"output": "linear"},
        "1 − α in the equation, missing in the code": {"hard": 1.0},
        "α = 0.75, as in an earlier version": {"hard": 0.25, "soft_weight": 0.75 / alpha},
    }
    correct = runs.correct["student"]
    text = "another seed; the text has none"
    rows = [beside(text, runs.student(lambda: runs.joint(other), other), correct)]
    for text, wiring in wirings.items():
        weights = {key: wiring.pop(key) for key in ("hard",) if key in wiring}
        if "soft_weight" in wiring:
            weights["soft"] = wiring.pop("soft_weight")

        def build(wiring: Any = wiring, weights: Any = weights) -> keras.Model:
            model = runs.joint(**wiring)
            return runs.compile(model, **weights) if weights else model

        rows.append(beside(text, runs.student(build), correct))
    everything = [case for some in recipe["cases"].values() for case in some]
    wide, narrow = minmax(everything), recipe["scale"]
    wider = max(wide.maximum) / max(narrow.maximum)
    text = f"range over validation scans too, {wider:.2f} times that of the training scans"
    return [*rows, beside(text, runs.baseline(wide), runs.correct["baseline"])]


def minmax(cases: list[kdcore.Case]) -> Any:
    """`fit_minmax` refuses the wrong cases, so a false split has to call them labelled."""
    return kdcore.fit_minmax(cases, kdcore.Split(tuple(c.case_id for c in cases), (), (), ()))


def without_training(recipe: dict[str, Any], runs: Trainings) -> list[list[str]]:
    """A constant sequence, ranges of each part, and binary cross-entropy on a softmax."""
    cases = recipe["cases"]
    flat = replace(cases["labelled"][0], image=np.zeros_like(cases["labelled"][0].image))
    low, high = flat.image.min((0, 1, 2)), flat.image.max((0, 1, 2))
    with np.errstate(invalid="ignore"):
        both = (flat.image - low) / (high - low), minmax([flat])(flat.image)
    nan = [f"{np.isnan(image).mean():.0%} of the voxels NaN" for image in both]
    own = runs.dice(recipe["student"], minmax(cases["validation"]))
    correct = f"Dice {runs.dice(recipe['student']):.3f}"
    # The angle between the gradients of both losses, for random logits of three classes.
    logits = np.random.default_rng(0).normal(0.0, 3.0, (2, 1000, 3)) / recipe["temperature"]
    p, q = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    entropy, slope = q - p, (q - p) / (1 - q)  # gradient of the cross-entropy; q · ∂BCE/∂q
    binary = slope - q * slope.sum(-1, keepdims=True)
    cosine = (entropy * binary).sum(-1)
    cosine /= np.linalg.norm(entropy, axis=-1) * np.linalg.norm(binary, axis=-1)
    measured = f"cosine {cosine.mean():.3f} on average, {cosine.min():.3f} at the least"
    return [
        ["a constant sequence divided by its range", "runs", *nan],
        ["each part scaled by its own range", "runs", f"Dice {own:.3f}", correct],
        ["binary cross-entropy on a softmax over three channels", "runs", measured, "1"],
    ]


def main(path: Path = OUT) -> int:
    sys.path.insert(0, str(EXAMPLE.parent))
    recipe = runpy.run_path(str(EXAMPLE))
    runs = Trainings(recipe)
    rows = [*stopping(recipe), *training(recipe, runs), *without_training(recipe, runs)]
    settings = {
        key: recipe[key]
        for key in ("temperature", "alpha", "learning_rate", "epochs", "steps_per_epoch")
    }
    about = {"settings": settings, "validation_cases": len(recipe["cases"]["validation"])}
    write_json(path, {"columns": COLUMNS, "rows": rows, **about, **provenance()}, sealed=True)
    print(f"results: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
